"""The step under proof: any ``(state, batch) -> (state, metrics)``, traced in one way.

Reads from: errors, protocols, placement, testing.dataflow. Used by: the checks beside it.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.errors import ConfigError
from jaxdl.placement import PlacedStep, PmappedStep
from jaxdl.protocols import PyTree, TrainState, TrainStep
from jaxdl.testing.dataflow import Flow, flow_of

__all__ = ["Subject", "is_array", "part_of", "split_static", "subject_of"]

Update = Callable[..., Any]


def is_array(leaf: Any) -> bool:
    """Whether a leaf is data of a program: an array or a number, and no function or string.

    Args:
        leaf: of any pytree.
    """
    return isinstance(leaf, jax.Array | np.ndarray | np.generic | float | int | bool | complex)


def split_static(tree: PyTree) -> tuple[PyTree, PyTree]:
    """The arrays of a tree, and its other leaves, each with ``None`` for those of the other.

    Args:
        tree: any pytree; Equinox keeps functions among its leaves.
    """
    return _where(tree, is_array), _where(tree, lambda x: not is_array(x))


def _where(tree: PyTree, wanted: Callable[[Any], bool]) -> PyTree:
    """A tree with ``None`` for what is not wanted; numbers in an Equinox module are no arrays."""

    def kept(node: Any) -> Any:
        inside = _is_module(node)

        def one(leaf: Any) -> Any:
            number = inside and isinstance(leaf, bool | int | float | complex)
            return leaf if wanted(None if number else leaf) else None

        return jax.tree.map(one, node)

    return jax.tree.map(kept, tree, is_leaf=_is_module)


def _is_module(node: Any) -> bool:
    return any(base.__module__.startswith("equinox.") for base in type(node).__mro__)


def _joined(arrays: PyTree, others: PyTree) -> PyTree:
    return jax.tree.map(
        lambda a, b: b if a is None else a, arrays, others, is_leaf=lambda x: x is None
    )


class Subject:
    """A step, a way to its first state, and batches.

    Attributes:
        name: of the step.
        given: what the user calls, compiled or not.
        function: the Python function below it, which every check traces.
        batches: at least one.
        mapped: ``function`` under a mapped axis, called with ``axis_name``; ``None`` where it takes
            no such argument.
        frozen: patterns of parameters that must not move.
        library: the step is one of jaxdl's, whose state keeps a key that it need not use.
    """

    def __init__(
        self,
        name: str,
        *,
        given: Update,
        function: Update,
        state: PyTree,
        batches: Sequence[PyTree],
        frozen: Sequence[str] = (),
        params: Callable[[PyTree], PyTree] | None = None,
        library: bool = False,
    ):
        self.name, self.given, self.function = name, given, function
        self.batches = tuple(batches)
        self.frozen = tuple(frozen)
        self.library = library
        self._params = params
        self._arrays, self._others = split_static(state)
        takes = inspect.signature(function).parameters
        self.mapped = function if "axis_name" in takes and not _is_pmapped(function) else None

    def state(self) -> PyTree:
        """A copy of the first state's arrays, of its own buffers, numbers left as they are."""
        return jax.tree.map(lambda x: jnp.copy(x) if isinstance(x, jax.Array) else x, self._arrays)

    def whole(self, arrays: PyTree) -> PyTree:
        """Arrays of a state with what is no array put back.

        Args:
            arrays: as ``state()``.
        """
        # A state that has nothing else may change its structure, which is a finding of its own.
        return _joined(arrays, self._others) if jax.tree.leaves(self._others) else arrays

    def batch(self, index: int = 0) -> PyTree:
        """A batch in containers of its own: a step that changes them changes nobody else's.

        Args:
            index: which.
        """
        return jax.tree.map(lambda x: x, self.batches[index])

    def update(self, state: PyTree, batch: PyTree, **options: Any) -> tuple[PyTree, PyTree]:
        """The step on arrays alone: it can be traced, compiled and differentiated.

        Args:
            state: as ``state()``.
            batch: one of ``batches``.
            **options: handed to the step, such as ``axis_name``.
        """
        out = self.function(self.whole(state), batch, **options)
        if not isinstance(out, tuple) or len(out) != 2:  # pyright: ignore[reportUnknownArgumentType]
            raise ConfigError(
                f"{self.name} returned {type(out).__name__}",
                expected="a pair (state, metrics)",
                do="wrap the step: lambda state, batch: (new_state, {'loss': loss})",
            )
        return split_static(out[0])[0], split_static(out[1])[0]

    @functools.cached_property
    def traced(self) -> Any:
        """The step as a closed jaxpr, and the shape of what it returns."""
        return jax.make_jaxpr(self.update, return_shape=True)(self.state(), self.batches[0])

    @functools.cached_property
    def flow(self) -> Flow:
        """What the step does with its keys, and what each of its outputs depends on."""
        return flow_of(self.traced[0])

    @functools.cached_property
    def compiled(self) -> Any:
        """``update`` under ``jax.jit``: one for all checks, so that it is compiled once."""
        return jax.jit(self.update)

    @functools.cached_property
    def after_one(self) -> tuple[PyTree, PyTree]:
        """State and metrics after the first batch, compiled, on one device."""
        return self.compiled(self.state(), self.batches[0])

    def params(self, state: PyTree) -> PyTree:
        """The parameters in a state: ``state.params``, ``state["params"]``, or all of it.

        Args:
            state: as ``state()``.
        """
        if self._params is not None:
            return split_static(self._params(self.whole(state)))[0]
        return part_of(state, "params", state)


def part_of(state: PyTree, name: str, default: Any) -> Any:
    """An attribute or a key of a state.

    Args:
        state: a pytree.
        name: of the part.
        default: where there is none.
    """
    if isinstance(state, Mapping):
        return state.get(name, default)  # pyright: ignore[reportUnknownMemberType]
    return getattr(state, name, default)


def subject_of(
    step: Any,
    batches: Sequence[PyTree],
    *,
    state: PyTree = None,
    init: Callable[[Any, PyTree], PyTree] | None = None,
    seed: int = 0,
    frozen: Sequence[str] = (),
    params: Callable[[PyTree], PyTree] | None = None,
) -> Subject:
    """Reads a step of any kind.

    Args:
        step: a ``TrainStep``, one that is placed, or a function of ``(state, batch)``, compiled or
            not.
        batches: a few batches, as the loop gives them.
        state: the first state.
        init: ``(key, batch) -> state``, in place of a state. A ``TrainStep`` has its own.
        seed: of the key that ``init`` is given.
        frozen: patterns of parameters that must not move.
        params: where a state has its parameters.

    Raises:
        ConfigError: there is no batch, no first state, or the step is no function.
    """
    batches = [dict(b) if isinstance(b, Mapping) else b for b in batches]
    if not batches:
        raise ConfigError(
            "there is no batch", expected="at least one", do="give a list of a few batches"
        )
    given = step
    if isinstance(step, PlacedStep | PmappedStep):
        step = step.pure
    if isinstance(step, TrainStep):
        given = step.update if given is step else given
        init = init or jax.jit(step.init)
        step = step.update
    if not callable(step):
        raise ConfigError(
            f"the step is a {type(step).__name__}",
            expected="a function (state, batch) -> (state, metrics), or a TrainStep",
            do="hand over the function itself, not what it returns",
        )
    if state is None:
        if init is None:
            raise ConfigError(
                "there is no first state",
                expected="state=..., or init=(key, batch) -> state",
                do="give what your loop starts from",
            )
        state = init(jax.random.key(seed), batches[0])
    return Subject(
        getattr(step, "__name__", type(step).__name__),
        given=given,
        function=_function_below(step),
        state=state,
        batches=batches,
        frozen=frozen,
        params=params,
        library=isinstance(state, TrainState),
    )


def _function_below(step: Any) -> Any:
    """What is compiled, without the compiling of jax.jit, Equinox or NNX; other layers stay."""
    while hasattr(step, "lower") and hasattr(step, "__wrapped__") and not _is_pmapped(step):
        step = step.__wrapped__
    return step


def _is_pmapped(step: Any) -> bool:
    # What jax.pmap returns is a function of Python; below it the mapped axis has no name.
    return inspect.isfunction(step) and hasattr(step, "lower")

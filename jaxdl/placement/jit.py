"""A pure step as one global program over a mesh: sharded from birth, compiled once, donating.

Reads from: errors, protocols, models, layouts, step, placement.guard, placement.batches. Used by:
fit, evaluation, recipe, and by hand.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial, wraps
from typing import Any, overload

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jaxdl.errors import ConfigError
from jaxdl.layouts import Layout, activation_rules, data_parallel, state_shardings
from jaxdl.models.activations import activations_on
from jaxdl.placement.batches import BatchPlacer
from jaxdl.placement.guard import Guarded, Recompile
from jaxdl.protocols import Batch, PyTree, Sums, TrainStep
from jaxdl.step import PredictStep

__all__ = ["PlacedFunction", "PlacedStep", "jit", "seeded"]


@overload
def jit(
    step: TrainStep,
    *,
    layout: Layout | None = None,
    devices: Sequence[Any] | None = None,
    pad: bool = True,
    recompile: Recompile = "error",
) -> PlacedStep: ...
@overload
def jit(
    step: Callable[..., Any],
    *,
    layout: Layout | None = None,
    devices: Sequence[Any] | None = None,
    pad: bool = True,
    recompile: Recompile = "error",
) -> PlacedFunction: ...
def jit(
    step: TrainStep | Callable[..., Any],
    *,
    layout: Layout | None = None,
    devices: Sequence[Any] | None = None,
    pad: bool = True,
    recompile: Recompile = "error",
) -> PlacedStep | PlacedFunction:
    """Places a step: one program, over the layout's mesh, compiled at its first call.

    On the CPU backend with several devices each call waits for its result: XLA aborts the process
    when queued collectives of virtual devices starve each other.

    Args:
        step: a ``TrainStep``, or a function of ``(state, batch)`` such as an eval or predict step.
        layout: where arrays lie; ``data_parallel()`` when ``None``.
        devices: the devices to use; all of ``jax.devices()`` when ``None``.
        pad: pad and mask batches whose rows do not divide over the devices. Otherwise they are
            an error.
        recompile: what to do when arguments come that need another program: ``"error"`` says
            which and how, ``"allow"`` compiles it.

    Returns:
        A ``PlacedStep`` for a ``TrainStep``, else a ``PlacedFunction``.

    Raises:
        LayoutError: the layout does not fit the devices.
    """
    layout = data_parallel() if layout is None else layout
    if isinstance(step, TrainStep):
        return PlacedStep(step, layout, devices, pad=pad, recompile=recompile)
    return PlacedFunction(step, layout, devices, pad=pad, recompile=recompile)


class _Placed:
    """What placed steps and functions share: a mesh, a way onto it, and one program."""

    def __init__(
        self, layout: Layout, devices: Sequence[Any] | None, *, pad: bool, recompile: Recompile
    ):
        self.layout = layout
        self.mesh = layout.make_mesh(jax.devices() if devices is None else devices)
        self._recompile: Recompile = recompile
        shards = layout.batch_shards(self.mesh)
        self._batch_sharding = NamedSharding(self.mesh, layout.batch_spec())
        self._replicated = NamedSharding(self.mesh, PartitionSpec())
        self._batches = BatchPlacer(
            self._batch_sharding, max(1, shards // jax.process_count()), pad=pad
        )
        # Queued programs of several virtual CPU devices can deadlock in their rendezvous.
        first = self.mesh.devices.flat[0]
        self._blocks = first.platform == "cpu" and self.mesh.devices.size > 1

    def put(self, batch: Batch) -> Batch:
        """Moves a host batch onto the mesh: checked, padded, masked, divided.

        Safe to call from another thread. A batch that lies there already is given back as it is.

        Raises:
            BatchError: a field is no array or the fields' rows differ.
            LayoutError: the rows do not divide and padding is off.
        """
        return self._batches.put(batch)

    def shardings(self, state: PyTree) -> PyTree:
        """The sharding of each leaf of a state, from arrays or ``jax.ShapeDtypeStruct``."""
        return state_shardings(self.layout, self.mesh, state)

    def place(self, state: PyTree) -> PyTree:
        """Moves a state from anywhere (host, another mesh) to where this step wants it.

        A leaf that lies there already is given back itself; any other is copied.
        """

        def move(leaf: Any, sharding: NamedSharding) -> jax.Array:
            if not isinstance(leaf, jax.Array):
                return jax.device_put(leaf, sharding)
            if leaf.sharding == sharding:
                return leaf
            # device_put may alias the old buffers, which die when the new state is donated.
            return jnp.copy(jax.device_put(leaf, sharding))

        return jax.tree.map(move, state, self.shardings(state))

    def _traced(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, with its activations where the layout wants them."""
        rules = activation_rules(self.layout, self.mesh)

        @wraps(function)
        def placed(*args: Any, **options: Any) -> Any:
            with activations_on(self.mesh, rules):
                return function(*args, **options)

        return placed

    def _wait(self, outputs: Any) -> None:
        if self._blocks:
            jax.block_until_ready(outputs)


class PlacedStep(_Placed):
    """A ``TrainStep`` on a mesh. Made by ``jaxdl.jit``.

    Attributes:
        pure: the step itself.
        layout: its layout.
        mesh: its ``jax.sharding.Mesh``.
    """

    def __init__(
        self,
        step: TrainStep,
        layout: Layout,
        devices: Sequence[Any] | None,
        *,
        pad: bool,
        recompile: Recompile,
    ):
        super().__init__(layout, devices, pad=pad, recompile=recompile)
        self.pure = step
        self._guarded: Guarded | None = None

    @property
    def program(self) -> jax.stages.Compiled | None:
        """The compiled update, once there is one."""
        return None if self._guarded is None else self._guarded.program

    def init(self, key: Any, batch: Batch) -> PyTree:
        """A new ``TrainState`` (or what the step's own ``init`` makes), born in its final place.

        Args:
            key: a PRNG key, or an integer seed from 0 to 2**32 - 1 (the key is then made inside).
            batch: any batch of the run; only its shapes and dtypes matter.

        Raises:
            ConfigError: the seed is out of range.
        """
        batch = self.put(batch)
        init, key = seeded(self._traced(self.pure.init), key)
        shardings = self.shardings(jax.eval_shape(init, key, batch))
        # The batch's values are never read: shapes are passed, so that nothing is moved.
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch)
        state = jax.jit(_with_shapes(init, shapes), out_shardings=shardings)(key)
        self._wait(state)
        return state

    def logical(self, state: PyTree) -> PyTree:
        """The state as it is stored: itself."""
        return state

    def abstract_state(self, batch: Batch) -> PyTree:
        """The state's shapes, dtypes and shardings, with nothing allocated."""
        batch = self.put(batch)
        shapes = jax.eval_shape(self.pure.init, jax.eval_shape(jax.random.key, 0), batch)
        return jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
            shapes,
            self.shardings(shapes),
        )

    def compile(self, state: PyTree, batch: Batch) -> jax.stages.Compiled:
        """Compiles the update for a state (abstract or real) and a batch; runs nothing.

        Raises:
            DonationError: the update does not give back every leaf of the state.
        """
        batch = self.put(batch)
        jitted = self._jitted(state)
        self._guarded = Guarded(jitted, donates=True, recompile=self._recompile, put=self.put)
        return self._guarded.compile(state, batch)

    def trace(self, state: PyTree, batch: Batch) -> jax.stages.Traced:
        """The update as a jaxpr, which ``lower`` takes further; nothing is compiled.

        Args:
            state: abstract or real.
            batch: a host batch, or ``jax.ShapeDtypeStruct`` for one of all hosts.
        """
        return self._jitted(state).trace(state, self.put(batch))

    def _jitted(self, state: PyTree) -> Any:
        shardings = self.shardings(state)
        update = self._traced(self.pure.update)
        if "batch_sharding" in inspect.signature(update).parameters:
            update = partial(update, batch_sharding=self._batch_sharding)
        return jax.jit(
            update,
            in_shardings=(shardings, self._batch_sharding),
            out_shardings=(shardings, self._replicated),
            donate_argnums=0,
            # A leaf that is overwritten unread is still a buffer to reuse.
            keep_unused=True,
        )

    def __call__(self, state: PyTree, batch: Batch) -> tuple[PyTree, Sums]:
        """One update. The state given is consumed: use only the one returned.

        Args:
            state: from ``init``, ``place`` or the last call.
            batch: a host batch, or one that ``put`` returned.

        Returns:
            ``(state, sums)``, both on the devices; reading the sums waits for the step.

        Raises:
            RecompileError: the arguments need another program.
            DonationError: the state was consumed by an earlier call.
        """
        if self._guarded is None:
            state, batch = self.place(state), self.put(batch)
            self.compile(state, batch)
        guarded: Any = self._guarded
        state, sums = guarded(state, batch)
        self._wait(sums)
        return state, sums

    update = __call__


class PlacedFunction(_Placed):
    """An eval or predict step on a mesh. Made by ``jaxdl.jit``.

    Attributes:
        layout: its layout.
        mesh: its ``jax.sharding.Mesh``.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        layout: Layout,
        devices: Sequence[Any] | None,
        *,
        pad: bool,
        recompile: Recompile,
    ):
        super().__init__(layout, devices, pad=pad, recompile=recompile)
        self._function = function
        self._by_row = isinstance(function, PredictStep)
        self._guarded: Guarded | None = None

    @property
    def program(self) -> jax.stages.Compiled | None:
        """The compiled function, once there is one."""
        return None if self._guarded is None else self._guarded.program

    def compile(self, state: PyTree, batch: Batch) -> jax.stages.Compiled:
        """Compiles the function for a state (abstract or real) and a batch; runs nothing."""
        function = self._traced(self._function)

        def apply(state: PyTree, batch: Batch) -> Any:
            return function(state, batch)

        jitted = jax.jit(
            apply,
            in_shardings=(self.shardings(state), self._batch_sharding),
            out_shardings=self._batch_sharding if self._by_row else self._replicated,
        )
        self._guarded = Guarded(jitted, donates=False, recompile=self._recompile)
        return self._guarded.compile(state, self.put(batch))

    def __call__(self, state: PyTree, batch: Batch) -> Any:
        """Runs it. The state is kept.

        Args:
            state: from a ``PlacedStep`` of the same layout, or any state at the first call.
            batch: a host batch, or one that ``put`` returned.

        Returns:
            What the function returns; of a predict step, the rows of ``batch`` without padding.

        Raises:
            RecompileError: the arguments need another program.
        """
        rows = jax.tree.leaves(batch)[0].shape[0]
        placed = self.put(batch)
        if self._guarded is None:
            state = self.place(state)
            self.compile(state, placed)
        guarded: Any = self._guarded
        outputs = guarded(state, placed)
        self._wait(outputs)
        if self._by_row and rows != jax.tree.leaves(placed)[0].shape[0]:
            return jax.tree.map(lambda x: x[:rows], outputs)
        return outputs


def seeded(init: Callable[..., Any], key: Any) -> tuple[Callable[..., Any], Any]:
    """Lets an init take an integer seed, whose key is then made inside the program.

    Args:
        init: ``(key, batch) -> state``.
        key: a PRNG key or an integer.

    Returns:
        ``(init, argument)``; the argument is the key, or the seed as a numpy uint32.

    Raises:
        ConfigError: the integer is not from 0 to 2**32 - 1.
    """
    if not isinstance(key, (int, np.integer)):
        return init, key
    if not 0 <= key < 2**32:
        raise ConfigError(
            f"the seed is {key}",
            expected="an integer from 0 to 2**32 - 1",
            do="choose another seed, or pass a PRNG key",
        )
    return (lambda seed, batch: init(jax.random.key(seed), batch)), np.uint32(key)


def _with_shapes(init: Callable[..., Any], shapes: PyTree) -> Callable[[Any], Any]:
    """``init`` of the key alone, fed zeros of the batch's shapes that the compiler drops."""

    def from_key(key: Any) -> Any:
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        return init(key, zeros)

    return from_key

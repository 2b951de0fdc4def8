"""One compile: a program that refuses other arguments by name, and proves that it donates.

A placed step is compiled ahead of time for the arguments of its first call. The compiled program
checks later arguments itself, at no cost to a call that matches; only a mismatch comes here.

Reads from: errors, tree_paths. Used by: placement.jit, placement.pmap.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxdl.errors import DonationError, RecompileError
from jaxdl.protocols import PyTree, TrainState
from jaxdl.tree_paths import leaf_paths

__all__ = ["Guarded", "Recompile", "leaf_bytes"]

Recompile = Literal["error", "allow"]
Signature = dict[str, tuple[tuple[int, ...], str, Any]]

_UNUSED_DONATION = "Some donated buffers were not usable"


class Guarded:
    """A jitted function of ``(state, batch)``, compiled once.

    Args:
        jitted: what ``jax.jit`` or ``jax.pmap`` returned.
        donates: whether its first argument is donated, which is then verified.
        recompile: ``"error"`` raises when other arguments come, ``"allow"`` compiles again.
        put: brings a batch onto the devices. The compiled program takes one that fits as it is, so
            batches are put only from the first that does not fit.
    """

    def __init__(
        self,
        jitted: Any,
        *,
        donates: bool,
        recompile: Recompile,
        put: Callable[[PyTree], PyTree] | None = None,
    ):
        self._jitted = jitted
        self._put = put
        self._puts = False
        self._donates = donates
        self._recompile = recompile
        self._signature: Signature = {}
        self._program: Any = None
        self._others: list[tuple[Signature, Any]] = []

    @property
    def program(self) -> jax.stages.Compiled | None:
        """The compiled program, once there is one."""
        return self._program

    def compile(self, state: PyTree, batch: PyTree) -> jax.stages.Compiled:
        """Compiles for these arguments, arrays or ``jax.ShapeDtypeStruct`` with shardings.

        Raises:
            DonationError: the program does not reuse all of the state's memory.
        """
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            lowered = self._jitted.lower(state, batch)
        _reissue(caught)
        program = lowered.compile()
        if self._donates:
            _check_donation(state, batch, program, caught)
        self._signature = _signature(state, batch)
        self._program = program
        return program

    def __call__(self, state: PyTree, batch: PyTree) -> Any:
        """Runs the program, compiling it at the first call.

        Raises:
            RecompileError: the arguments are not those it was compiled for.
            DonationError: the state was given to an earlier call.
        """
        program = self._program or self.compile(state, batch)
        if self._donates:
            _check_alive(state)
        if self._puts and self._put is not None:
            batch = self._put(batch)
        try:
            return program(state, batch)
        except (TypeError, ValueError) as error:
            if self._put is not None and not self._puts:
                self._puts = True
                return self(state, batch)
            changes = _changes(self._signature, _signature(state, batch))
            if not changes:
                raise
            if self._recompile == "allow":
                return self._other_program(state, batch)(state, batch)
            raise RecompileError(
                "the step was compiled for other arguments:\n    " + "\n    ".join(changes),
                expected="the same fields, shapes, dtypes and shardings in every call",
                do=_advice(changes) + ", or pass recompile='allow' to compile again",
            ) from error

    def _other_program(self, state: PyTree, batch: PyTree) -> Any:
        """Makes the program for these arguments the present one, compiled once for each kind."""
        self._others.append((self._signature, self._program))
        wanted = _signature(state, batch)
        for signature, program in self._others:
            if not _changes(signature, wanted):
                self._signature, self._program = signature, program
                return program
        return self.compile(state, batch)


def _check_alive(state: PyTree) -> None:
    """XLA ends the process when a donated buffer is given to several devices again."""
    # One leaf tells, and this runs at every step: do not walk the tree where it can be helped.
    known = isinstance(state, TrainState)
    first = state.step if known else next(iter(jax.tree.leaves(state)), None)
    if isinstance(first, jax.Array) and first.is_deleted():
        raise DonationError(
            f"the state was already consumed by an earlier step: {leaf_paths(state)[0]} is gone",
            expected="the state that the last call returned",
            do="write `state, sums = step(state, batch)` and keep no older state; to keep one, "
            "copy it first with jax.tree.map(jax.numpy.copy, state)",
        )


def leaf_bytes(leaf: Any) -> int:
    """Bytes of one array, or of its shard on one device when it has a sharding.

    Args:
        leaf: an array, a typed key array or a ``jax.ShapeDtypeStruct``.
    """
    sharding = getattr(leaf, "sharding", None)
    shape = leaf.shape if sharding is None else sharding.shard_shape(leaf.shape)
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        one = jax.eval_shape(jax.random.key_data, jax.ShapeDtypeStruct((), leaf.dtype))
        return math.prod(shape) * one.size * one.dtype.itemsize
    return math.prod(shape) * leaf.dtype.itemsize


def _check_donation(state: PyTree, batch: PyTree, program: Any, caught: list[Any]) -> None:
    told = [str(w.message) for w in caught if _UNUSED_DONATION in str(w.message)]
    needed = sum(leaf_bytes(leaf) for leaf in jax.tree.leaves(state))
    memory: Any = program.memory_analysis()
    if memory is None:
        needed = reused = 0
    else:
        reused = memory.alias_size_in_bytes
        # pmap drops arguments that are never read; those hold no memory to reuse.
        passed = memory.argument_size_in_bytes
        needed = min(needed, passed - sum(leaf_bytes(leaf) for leaf in jax.tree.leaves(batch)))
    if told or reused < needed:
        raise DonationError(
            f"the step reuses {reused} of the state's {needed} bytes on each device"
            + (f" ({told[0].splitlines()[0]})" if told else ""),
            expected="every leaf of the state given back with its shape, dtype and sharding",
            do="return each leaf of the state as it came; a leaf that the update drops or casts "
            "cannot be donated",
        )


def _reissue(caught: list[Any]) -> None:
    for each in caught:
        if _UNUSED_DONATION not in str(each.message):
            warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)


def _signature(state: PyTree, batch: PyTree) -> Signature:
    found: Signature = {}
    for name, tree in (("state", state), ("batch", batch)):
        for path, leaf in zip(leaf_paths(tree), jax.tree.leaves(tree), strict=True):
            sharding = getattr(leaf, "sharding", None)
            found[f"{name}/{path}"] = (tuple(leaf.shape), str(leaf.dtype), sharding)
    return found


def _changes(old: Signature, new: Signature) -> list[str]:
    """One line for every leaf that is new, gone or different."""
    lines = [f"{path}: not there before" for path in new if path not in old]
    lines += [f"{path}: missing" for path in old if path not in new]
    for path in old.keys() & new.keys():
        (shape, dtype, sharding), (new_shape, new_dtype, new_sharding) = old[path], new[path]
        if (shape, dtype) != (new_shape, new_dtype):
            lines.append(f"{path}: {dtype}{list(shape)} became {new_dtype}{list(new_shape)}")
        elif not _same_sharding(sharding, new_sharding, len(shape)):
            lines.append(f"{path}: was placed as {_spec(sharding)}, now {_spec(new_sharding)}")
    return sorted(lines)


def _advice(changes: list[str]) -> str:
    if any(line.startswith("state/") for line in changes):
        return "give back the state that init or the last call returned, or step.place(state)"
    if any("/mask: not there before" in line for line in changes):
        return (
            "give every batch, the first too, a mask and one size: data.Batches does, "
            "or data.pad_batch(batch, size)"
        )
    return "make every batch like the first (data.pad_batch gives short ones its size)"


def _same_sharding(old: Any, new: Any, ndim: int) -> bool:
    return old is None or new is None or old.is_equivalent_to(new, ndim)


def _spec(sharding: Any) -> Callable[..., str] | str:
    return f"{getattr(sharding, 'spec', sharding)} on {len(sharding.device_set)} device(s)"

"""The classic data-parallel map, for code that still lives there: same step, same numbers.

A pmapped state has a leading axis with one copy for each device. New code has no reason to use
it; this module can be deleted in one commit.

Reads from: errors, protocols, placement.guard, placement.batches, placement.jit. Used by: hand.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, overload

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from jaxdl.errors import LayoutError
from jaxdl.placement.batches import BatchPlacer
from jaxdl.placement.guard import Guarded, Recompile
from jaxdl.placement.jit import seeded
from jaxdl.protocols import Batch, PyTree, Sums, TrainStep
from jaxdl.tree_paths import leaf_paths

__all__ = ["PmappedFunction", "PmappedStep", "from_pmap_state", "pmap"]

AXIS = "data"


@overload
def pmap(
    step: TrainStep,
    *,
    devices: Sequence[Any] | None = None,
    pad: bool = True,
    recompile: Recompile = "error",
) -> PmappedStep: ...
@overload
def pmap(
    step: Callable[..., Any],
    *,
    devices: Sequence[Any] | None = None,
    pad: bool = True,
    recompile: Recompile = "error",
) -> PmappedFunction: ...
def pmap(
    step: TrainStep | Callable[..., Any],
    *,
    devices: Sequence[Any] | None = None,
    pad: bool = True,
    recompile: Recompile = "error",
) -> PmappedStep | PmappedFunction:
    """Maps a step over devices with ``jax.pmap``; the mapped axis is named ``"data"``.

    Gradients, metrics and weights are summed over the axis inside the step, so the result is that
    of ``jit``. Statistics that a model computes from its batch are those of each device, averaged
    by weight, unless the model sums them over the axis itself.

    Args:
        step: a ``TrainStep``, or an eval step ``(state, batch, *, axis_name) -> sums``.
        devices: local devices to map over; all of them when ``None``.
        pad: pad and mask batches whose rows do not divide over the devices.
        recompile: as in ``jit``.

    Returns:
        A ``PmappedStep`` for a ``TrainStep``, else a ``PmappedFunction``.
    """
    chosen = list(jax.local_devices() if devices is None else devices)
    if isinstance(step, TrainStep):
        return PmappedStep(step, chosen, pad=pad, recompile=recompile)
    return PmappedFunction(step, chosen, pad=pad, recompile=recompile)


class _Pmapped:
    def __init__(self, devices: list[Any], *, pad: bool):
        self.devices = devices
        count = len(devices)
        mesh = Mesh(np.asarray(devices, dtype=object), (AXIS,))
        self._sharding = NamedSharding(mesh, PartitionSpec(AXIS))
        self._batches = BatchPlacer(
            self._sharding,
            count,
            pad=pad,
            shape=lambda x: x.reshape(count, x.shape[0] // count, *x.shape[1:]),
        )
        self._blocks = devices[0].platform == "cpu" and count > 1

    def put(self, batch: Batch) -> Batch:
        """Moves a host batch ``[B, ...]`` to the devices as ``[devices, B / devices, ...]``.

        Raises:
            BatchError: a field is no array or the fields' rows differ.
            LayoutError: the rows do not divide and padding is off.
        """
        return self._batches.put(batch)

    def place(self, state: PyTree) -> PyTree:
        """A copy of an unmapped state for every device, on a new leading axis."""
        count = len(self.devices)
        return jax.tree.map(
            lambda x: jax.device_put(
                jax.numpy.broadcast_to(x[None], (count, *x.shape)), self._sharding
            ),
            state,
        )

    def _wait(self, outputs: Any) -> None:
        if self._blocks:
            jax.block_until_ready(outputs)


class PmappedStep(_Pmapped):
    """A ``TrainStep`` mapped over devices. Made by ``jaxdl.pmap``.

    Attributes:
        pure: the step itself.
        devices: the devices it is mapped over.
    """

    def __init__(self, step: TrainStep, devices: list[Any], *, pad: bool, recompile: Recompile):
        super().__init__(devices, pad=pad)
        self.pure = step
        mapped = jax.pmap(
            partial(step.update, axis_name=AXIS),
            axis_name=AXIS,
            out_axes=(0, None),
            donate_argnums=0,
            devices=devices,
        )
        self._guarded = Guarded(mapped, donates=True, recompile=recompile)

    @property
    def program(self) -> jax.stages.Compiled | None:
        """The compiled update, once there is one."""
        return self._guarded.program

    def init(self, key: Any, batch: Batch) -> PyTree:
        """A new state, one copy a device. Arguments and errors as ``PlacedStep.init``."""
        batch = self.put(batch)
        init, key = seeded(self.pure.init, key)
        mapped = jax.pmap(init, in_axes=(None, 0), axis_name=AXIS, devices=self.devices)
        state = mapped(key, batch)
        self._wait(state)
        return state

    def logical(self, state: PyTree) -> PyTree:
        """The state as it is stored: the first device's copy, on the host.

        Raises:
            LayoutError: the state has no leading axis of this many devices.
        """
        _check_mapped(state, len(self.devices))
        return jax.tree.map(_first_copy, state)

    def abstract_state(self, batch: Batch) -> PyTree:
        """The unmapped state's shapes, dtypes and shardings; ``place`` maps a state of them.

        Args:
            batch: any host batch of the run.
        """
        key = jax.eval_shape(jax.random.key, 0)
        one = SingleDeviceSharding(self.devices[0])
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=one),
            jax.eval_shape(self.pure.init, key, batch),
        )

    def __call__(self, state: PyTree, batch: Batch) -> tuple[PyTree, Sums]:
        """One update. The state given is consumed; the sums are global and unmapped.

        Raises:
            RecompileError: the arguments need another program.
            DonationError: the state was consumed by an earlier call.
            LayoutError: the state has no leading axis of this many devices.
        """
        _check_mapped(state, len(self.devices))
        state, sums = self._guarded(state, self.put(batch))
        self._wait(sums)
        return state, sums

    update = __call__


class PmappedFunction(_Pmapped):
    """An eval step mapped over devices. Made by ``jaxdl.pmap``.

    Attributes:
        devices: the devices it is mapped over.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        devices: list[Any],
        *,
        pad: bool,
        recompile: Recompile,
    ):
        super().__init__(devices, pad=pad)
        mapped = jax.pmap(
            partial(function, axis_name=AXIS), axis_name=AXIS, out_axes=None, devices=devices
        )
        self._guarded = Guarded(mapped, donates=False, recompile=recompile)

    @property
    def program(self) -> jax.stages.Compiled | None:
        """The compiled function, once there is one."""
        return self._guarded.program

    def __call__(self, state: PyTree, batch: Batch) -> Sums:
        """Runs it; the sums are global and unmapped. The state is kept.

        Raises:
            RecompileError: the arguments need another program.
            LayoutError: the state has no leading axis of this many devices.
        """
        _check_mapped(state, len(self.devices))
        sums = self._guarded(state, self.put(batch))
        self._wait(sums)
        return sums


def _check_mapped(state: PyTree, count: int) -> None:
    first = jax.tree.leaves(state)[0]
    if first.shape[:1] != (count,):
        raise LayoutError(
            f"the state's {leaf_paths(state)[0]} has shape {list(first.shape)}",
            expected=f"a mapped state, with a leading axis of {count} devices",
            do="make it with step.init, or place an unmapped state with step.place(state)",
        )


def _first_copy(leaf: Any) -> Any:
    """Indexing the array would compile a program for every shape; its first shard is at hand."""
    if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        words = _first_copy(jax.random.key_data(leaf))
        return jax.random.wrap_key_data(words, impl=jax.random.key_impl(leaf))
    return np.asarray(leaf.addressable_shards[0].data)[0]


def from_pmap_state(state: PyTree) -> PyTree:
    """The one state behind a pmapped one: the first device's copy, without the leading axis.

    ``jaxdl.jit(...).place`` then moves it onto a mesh.

    Args:
        state: each leaf of shape ``[devices, ...]``, all copies equal.

    Raises:
        LayoutError: a leaf has no leading axis.
    """
    if any(leaf.ndim == 0 for leaf in jax.tree.leaves(state)):
        raise LayoutError(
            "the state has leaves without a leading axis",
            expected="a state made by jaxdl.pmap(step).init or returned by it",
            do="pass the pmapped state; an unmapped one needs no conversion",
        )
    return jax.tree.map(lambda x: x[0], state)

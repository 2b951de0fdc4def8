"""The layouts to choose from, and the way to one of your own.

Reads from: errors, layouts.activations, layouts.placing. Used by: placement, recipes, by choice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jax.sharding import PartitionSpec

from jaxdl.errors import LayoutError
from jaxdl.layouts.activations import SEQUENCE
from jaxdl.layouts.placing import MIN_SIZE, Layout

__all__ = [
    "data_parallel",
    "expert_parallel",
    "fsdp",
    "layout",
    "sequence",
    "single",
    "tensor_parallel",
    "zero1",
]


def data_parallel() -> Layout:
    """Every parameter on every device, the batch's rows divided over all of them."""
    return Layout(axes=(("data", -1),), batch_axes=("data",))


def single() -> Layout:
    """One device, whatever the machine has."""
    return Layout(axes=(("data", 1),), batch_axes=("data",))


def fsdp(size: int = -1, *, data: int | None = None, min_size: int = MIN_SIZE) -> Layout:
    """Parameters, optimizer state and moving average divided over the axis ``fsdp``.

    Each array is divided along its largest dimension that the axis divides; small ones, and those
    with no such dimension, lie on every device. ``layouts.explain`` says which and why. This is
    stage 3 of ZeRO (Rajbhandari et al. 2020, arXiv:1910.02054).

    Args:
        size: of the axis; -1 takes the devices that are left.
        data: size of an outer axis ``data`` with a copy of the state on each of its parts;
            no such axis when ``None``.
        min_size: arrays of fewer elements lie on every device.

    Examples:
        >>> mesh = fsdp().abstract_mesh(8)
        >>> fsdp().place("kernel", (784, 128), mesh).reason
        'fsdp: dimension 0 of 784 over 8'
        >>> fsdp().place("bias", (64,), mesh).reason
        'small: 64 elements, replicated'
    """
    outer = () if data is None else (("data", data),)
    axes = (*outer, ("fsdp", size))
    return Layout(
        axes=axes,
        batch_axes=tuple(name for name, _ in axes),
        shard_axis="fsdp",
        min_size=min_size,
    )


def zero1(*, min_size: int = MIN_SIZE) -> Layout:
    """Parameters on every device; optimizer state and moving average divided as ``fsdp`` does.

    Stage 1 of ZeRO (Rajbhandari et al. 2020, arXiv:1910.02054): with Adam it frees two thirds of
    the state's memory, and every device updates only its part of the parameters.

    Args:
        min_size: arrays of fewer elements lie on every device.
    """
    return Layout(
        axes=(("data", -1),),
        batch_axes=("data",),
        shard_axis="data",
        min_size=min_size,
        sharded="optimizer",
    )


def tensor_parallel(
    rules: Sequence[tuple[str, PartitionSpec]], *, tensor: int, data: int = -1
) -> Layout:
    """Layers divided over the axis ``tensor`` by rules, the batch's rows over ``data``.

    For a third axis that divides what the rules leave whole, see ``layout``.

    Args:
        rules: ``(regular expression, PartitionSpec)`` pairs for parameter paths, first match
            holds; a model ships its own, such as ``models.mlp.tensor_rules``.
        tensor: size of the axis ``tensor``.
        data: size of the outer axis ``data``; -1 takes the devices that are left.
    """
    return layout(mesh={"data": data, "tensor": tensor}, rules=rules, batch_axes=["data"])


def expert_parallel(
    rules: Sequence[tuple[str, PartitionSpec]], *, expert: int, data: int = -1
) -> Layout:
    """Experts divided over the axis ``expert``, the batch's rows over ``data`` and ``expert``.

    Each device has its own rows, as in data parallelism, and some of the experts. Tokens travel to
    their experts and back by an all-to-all over ``expert`` in each layer (Lepikhin et al. 2020,
    arXiv:2006.16668). What no rule finds lies on every device; to divide that too, see ``layout``.

    Args:
        rules: ``(regular expression, PartitionSpec)`` pairs for parameter paths, first match
            holds, such as ``models.mixture.EXPERT_RULES``.
        expert: size of the axis ``expert``; it must divide the number of experts.
        data: size of the outer axis ``data``; -1 takes the devices that are left.

    Examples:
        >>> expert_parallel([("kernel$", PartitionSpec("expert"))], expert=4).batch_axes
        ('data', 'expert')
    """
    mesh = {"data": data, "expert": expert}
    return layout(mesh=mesh, rules=rules, batch_axes=["data", "expert"])


def sequence(size: int, *, data: int = -1) -> Layout:
    """Each row's activations divided along time over the axis ``sequence``, the rows over ``data``.

    For rows too long for one device. Every device computes its part of each row; in attention its
    queries look at the keys and values of the whole row, which are gathered for it. This is context
    parallelism as Llama 3 was trained with (Grattafiori et al. 2024, arXiv:2407.21783, section
    3.3.2). Parameters lie on every device; to divide them as well, see ``layout``.

    It acts where a model says which dimension is time, as ``models.GPT`` does (``models.constrain``
    for one's own), and that dimension divides by ``size``; elsewhere the devices of a part of
    ``data`` compute the same.

    Args:
        size: of the axis ``sequence``.
        data: size of the outer axis ``data``; -1 takes the devices that are left.

    Examples:
        >>> dict(sequence(4).abstract_mesh(8).shape)
        {'data': 2, 'sequence': 4}
    """
    return layout(mesh={"data": data, "sequence": size}, batch_axes=["data"])


def layout(
    *,
    mesh: Mapping[str, int],
    rules: Sequence[tuple[str, PartitionSpec]] = (),
    batch_axes: Sequence[str] | None = None,
    shard_axis: str | None = None,
    min_size: int = MIN_SIZE,
) -> Layout:
    """A layout of one's own.

    Args:
        mesh: size of each named axis, outermost first; one may be -1.
        rules: ``(regular expression, PartitionSpec)`` pairs for parameter paths, first match holds.
        batch_axes: the axes that divide the batch; by default those of ``data`` and ``fsdp`` that
            the mesh has, else the first axis but ``sequence``.
        shard_axis: the axis, as a rule ``"fsdp"``, that divides every array along the largest
            dimension that the rules leave whole. ``None`` replicates what no rule finds.
        min_size: arrays of fewer elements are not divided over ``shard_axis``.

    Raises:
        LayoutError: a batch axis or the shard axis is not in the mesh.

    Examples:
        >>> layout(mesh={"data": -1, "tensor": 2}).batch_axes
        ('data',)
        >>> both = layout(mesh={"fsdp": 4, "tensor": 2}, shard_axis="fsdp",
        ...               rules=[("kernel$", PartitionSpec(None, "tensor"))])
        >>> both.place("kernel", (512, 512), both.abstract_mesh(8)).reason
        "rule 'kernel$'; fsdp: dimension 0 of 512 over 4"
    """
    if batch_axes is None:
        batch_axes = [name for name in ("data", "fsdp") if name in mesh]
        batch_axes = batch_axes or [name for name in mesh if name != SEQUENCE][:1]
    unknown = [name for name in batch_axes if name not in mesh]
    if unknown:
        raise LayoutError(
            f"batch_axes names {unknown}",
            expected=f"axes of the mesh: {', '.join(mesh)}",
            do="name the axes that divide the batch's rows",
        )
    if shard_axis is not None and shard_axis not in mesh:
        raise LayoutError(
            f"shard_axis names {shard_axis!r}",
            expected=f"an axis of the mesh: {', '.join(mesh)}",
            do="name the axis that divides the parameters, or leave shard_axis out",
        )
    return Layout(
        axes=tuple(mesh.items()),
        batch_axes=tuple(batch_axes),
        rules=tuple(rules),
        shard_axis=shard_axis,
        min_size=min_size,
    )

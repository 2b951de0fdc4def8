"""Where activations lie: a model names the axes of what it computes, a layout says what they mean.

Without a word from the model XLA's partitioner chooses: where a device has few rows it may move or
copy activations where the layout meant to gather weights. Flax's logical axis names say it too, but
need the mesh to be JAX's context mesh. In such a context a ``jax.shard_map`` over another mesh is
an error and Flax applies the boxes around a user's parameters, neither of which a layout may do
to a step. So the mesh travels here in a context of its own. It is part of JAX's cache keys: a
function that is jitted once, and called in a placed step and outside of it, is traced for each.

Reads from: nothing. Used by: the models beside it, placement, a user's own modules.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

__all__ = [
    "activations_on",
    "constrain",
    "kernels_can_run",
    "on_each_device",
    "parts",
    "platform",
]


class _Where(NamedTuple):
    """The mesh of the step that is traced, and the mesh axes behind each name."""

    mesh: Mesh
    rules: tuple[tuple[str, tuple[str, ...]], ...]


_where = jax.make_user_context(None)


@contextlib.contextmanager
def activations_on(mesh: Mesh, rules: Sequence[tuple[str, tuple[str, ...]]]) -> Generator[None]:
    """What is traced in this context has its activations placed by ``rules``.

    Args:
        mesh: the mesh of the step.
        rules: ``(name, mesh axes)``, see ``layouts.activation_rules``; a name with no axes is of
            a dimension that every device has whole.
    """
    with _where(_Where(mesh, tuple(rules))):
        yield


def constrain(x: Any, names: Sequence[str | None]) -> Any:
    """Says what the dimensions of an activation are, so that the layout can place them.

    The values are those of ``x``. Outside of a placed step, on one device and within
    ``jax.shard_map`` or ``pmap`` it is ``x`` itself. The compiler decides over a dimension with the
    name ``None``, with a name the layout has no rule for, that does not divide over its axes, or
    whose axes an earlier dimension has taken.

    Args:
        x: an array of any shape.
        names: one for each dimension. Layouts know ``batch``, ``time`` (of what stays divided
            along a row), ``keys`` (of what a query looks at, so whole), ``features`` (of the
            residual path, whole), ``hidden`` and ``heads`` (between the two halves of
            a tensor-parallel pair).

    Raises:
        ValueError: there is not one name for each dimension.

    Examples:
        >>> import jax.numpy as jnp
        >>> constrain(jnp.ones((2, 3)), ("batch", "features")).shape
        (2, 3)
    """
    shape = jax.numpy.shape(x)
    if len(names) != len(shape):
        raise ValueError(f"constrain got {len(names)} names for shape {list(shape)}")
    where: _Where | None = _where.value
    if where is None or where.mesh.size == 1 or jax.sharding.get_abstract_mesh().manual_axes:
        return x
    spec = _spec(shape, names, where)
    if all(entry is PartitionSpec.UNCONSTRAINED for entry in spec):
        return x
    return jax.lax.with_sharding_constraint(x, NamedSharding(where.mesh, spec))


def parts(size: int, name: str) -> int:
    """Over how many devices the layout divides a dimension; 1 where ``constrain`` says nothing.

    Args:
        size: of the dimension.
        name: as for ``constrain``.

    Examples:
        >>> parts(8, "batch")
        1
    """
    where: _Where | None = _where.value
    if where is None or jax.sharding.get_abstract_mesh().manual_axes:
        return 1
    found = math.prod(where.mesh.shape[axis] for axis in dict(where.rules).get(name, ()))
    return 1 if size % found else found


def platform() -> str:
    """What the program that is traced will run on: ``"cpu"``, ``"gpu"`` or ``"tpu"``.

    In a placed step that of its mesh, which may be of devices that are only compiled for.

    Examples:
        >>> platform() in ("cpu", "gpu", "tpu")
        True
    """
    where: _Where | None = _where.value
    return jax.default_backend() if where is None else where.mesh.devices.flat[0].platform


def kernels_can_run() -> bool:
    """Whether ``on_each_device`` knows where arrays lie, or there is but one place for them.

    True in a placed step and in a process with one device. Elsewhere the compiler may divide the
    arrays, and cannot divide a kernel with them. False within ``jax.shard_map`` and ``pmap``, whose
    check of what varies over their axes knows nothing of a kernel's result.

    Examples:
        >>> kernels_can_run() == (jax.device_count() == 1)
        True
    """
    if jax.sharding.get_abstract_mesh().manual_axes:
        return False
    return _where.value is not None or jax.device_count() == 1


def on_each_device(
    fn: Callable[..., jax.Array], args: Sequence[Any], names: Sequence[Sequence[str | None]]
) -> jax.Array:
    """Calls a function on each device's own part, for what the compiler cannot divide: a kernel.

    Outside of a placed step, on one device and within ``jax.shard_map`` or ``pmap`` it is
    ``fn(*args)``. A dimension that does not divide over its axes is whole on every device.

    Args:
        fn: of one array or more; its result is divided as the first.
        args: what it is called on.
        names: of each argument's dimensions, as for ``constrain``; ``None`` is whole.

    Examples:
        >>> import jax.numpy as jnp
        >>> on_each_device(jnp.sin, [jnp.zeros(2)], [("batch",)]).tolist()
        [0.0, 0.0]
    """
    where: _Where | None = _where.value
    if where is None or where.mesh.size == 1 or jax.sharding.get_abstract_mesh().manual_axes:
        return fn(*args)
    free = PartitionSpec.UNCONSTRAINED
    specs = [
        PartitionSpec(*(None if e is free else e for e in _spec(jax.numpy.shape(x), own, where)))
        for x, own in zip(args, names, strict=True)
    ]
    # What a kernel returns does not say over which axes it differs.
    mapped = jax.shard_map(
        fn, mesh=where.mesh, in_specs=tuple(specs), out_specs=specs[0], check_vma=False
    )
    return mapped(*args)


def _spec(shape: Sequence[int], names: Sequence[str | None], where: _Where) -> PartitionSpec:
    rules, taken = dict(where.rules), set[str]()
    entries: list[Any] = []
    for size, name in zip(shape, names, strict=True):
        axes = None if name is None else rules.get(name)
        parts = math.prod(where.mesh.shape[axis] for axis in axes or ())
        if axes is None or taken & set(axes) or size % parts:
            entries.append(PartitionSpec.UNCONSTRAINED)
        else:
            taken |= set(axes)
            entries.append(axes or None)
    return PartitionSpec(*entries)

"""What a layout makes of the names that models give the dimensions of their activations.

Reads from: layouts.placing. Used by: placement.
"""

from __future__ import annotations

from jax.sharding import AbstractMesh, Mesh

from jaxdl.layouts.placing import Layout

__all__ = ["EXPERT", "SEQUENCE", "TENSOR", "activation_rules"]

SEQUENCE, TENSOR, EXPERT = "sequence", "tensor", "expert"
"""The mesh axes that divide activations along their rows, across their layers and by experts."""


def activation_rules(
    layout: Layout, mesh: Mesh | AbstractMesh
) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """The mesh axes behind each name that ``models.constrain`` knows.

    Rows lie over the batch axes and time over ``sequence``, where the mesh has it. Heads and hidden
    features lie over ``tensor`` where a rule of the layout divides parameters over it. What
    is on the residual path, and the keys and values that each query looks at, are whole. Where
    a rule divides parameters over ``expert``, experts lie over it, and what was handed to them
    (``routed``) has its rows over the other batch axes.

    Args:
        layout: the layout.
        mesh: its mesh.

    Returns:
        ``(name, mesh axes)``; no axes for a dimension that every device has whole.

    Examples:
        >>> from jaxdl.layouts import sequence
        >>> chosen = sequence(4)
        >>> for name, axes in activation_rules(chosen, chosen.abstract_mesh(8)):
        ...     print(name, *axes)
        batch data
        time sequence
        keys
        features
        hidden
        heads
    """
    free = [axis for axis in mesh.shape if axis not in layout.batch_axes]
    time = (SEQUENCE,) if SEQUENCE in free else ()
    across = (TENSOR,) if TENSOR in free and _divides(layout, TENSOR) else ()
    rules = (
        ("batch", layout.batch_axes),
        ("time", time),
        ("keys", ()),
        ("features", ()),
        ("hidden", across),
        ("heads", across),
    )
    if EXPERT not in mesh.shape or not _divides(layout, EXPERT):
        return rules
    others = tuple(axis for axis in layout.batch_axes if axis != EXPERT)
    return (*rules, ("experts", (EXPERT,)), ("routed", others), ("slots", ()))


def _divides(layout: Layout, axis: str) -> bool:
    """Whether a rule divides a parameter over the axis."""
    entries = [entry for _, spec in layout.rules for entry in spec]
    return any(entry == axis or (isinstance(entry, tuple) and axis in entry) for entry in entries)

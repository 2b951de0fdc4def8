"""Which axes of a mesh a collective runs over.

Reads from: tpu.programs.hlo. Used by: tpu.plans.planning and what shows a plan.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from jaxdl.tpu.programs.hlo import Collective

__all__ = ["axes_of"]


def axes_of(collective: Collective, mesh: Mapping[str, int]) -> tuple[str, ...]:
    """The mesh axes along which the devices of a collective differ, outermost first.

    A program numbers its partitions along the mesh, the last axis fastest, wherever the devices
    lie in the torus.

    Args:
        collective: one of ``read_collectives``.
        mesh: size of each axis, outermost first, as ``Facts.mesh`` or ``jax.sharding.Mesh.shape``.

    Returns:
        No axis for a group of one device, or of devices that are not in the mesh.

    Examples:
        >>> reduced = Collective("all-reduce", 8, 2, 1, 8, "", (0, 4), ())
        >>> axes_of(reduced, {"data": 2, "fsdp": 4})
        ('data',)
    """
    sizes = tuple(mesh.values())
    group = np.asarray(collective.group, dtype=np.int64)
    if not sizes or not group.size or group.max() >= math.prod(sizes):
        return ()
    places = np.unravel_index(group, sizes)
    return tuple(name for name, along in zip(mesh, places, strict=True) if np.ptp(along) > 0)

"""Meshes of real slices: several slices along the outermost axes, neighbours side by side."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from jaxdl.errors import LayoutError
from jaxdl.layouts import arranging, layout


def chips(sides, slices):
    """TPU devices as ``mesh_utils`` reads them: kind, coordinates, slice, process."""
    return [
        SimpleNamespace(
            id=index * int(np.prod(sides)) + number,
            platform="tpu",
            device_kind="TPU v5 lite",
            coords=(*coords, 0)[:3],
            core_on_chip=0,
            slice_index=index,
            process_index=0,
        )
        for index in range(slices)
        for number, coords in enumerate(np.ndindex(*sides))
    ]


def slices_along(mesh, axis):
    """How many slices one line along an axis meets, at most."""
    index = np.vectorize(lambda device: device.slice_index)(mesh)
    lines = np.moveaxis(index, axis, -1).reshape(-1, mesh.shape[axis])
    return max(len(set(line)) for line in lines.tolist())


@pytest.mark.parametrize(
    ("axes", "slices", "expected"),
    [
        ({"data": 2, "fsdp": 16}, 2, [2, 1]),
        ({"data": 4, "fsdp": 8}, 2, [2, 1]),
        ({"fsdp": 32}, 2, [2]),
        ({"data": 2, "fsdp": 32}, 4, [2, 2]),
        ({"data": 4, "fsdp": 4, "tensor": 4}, 4, [4, 1, 1]),
    ],
)
def test_slices_lie_along_the_outermost_axes(axes, slices, expected):
    mesh = arranging.arrange(chips((4, 4), slices), axes)
    assert mesh.shape == tuple(axes.values())
    assert len({device.id for device in mesh.flat}) == mesh.size
    assert [slices_along(mesh, axis) for axis in range(mesh.ndim)] == expected


@pytest.mark.parametrize(
    ("axes", "slices"), [({"data": 6, "fsdp": 8}, 4), ({"data": 3, "tensor": 16}, 2)]
)
def test_an_inner_axis_does_not_cross_slices(axes, slices):
    count = int(np.prod(list(axes.values())))
    devices = chips((1, count // slices), slices)
    with pytest.raises(LayoutError, match=f"cannot be divided over {slices} slices"):
        arranging.arrange(devices, axes)


def test_neighbours_along_an_axis_are_neighbours_in_the_torus():
    mesh = arranging.arrange(chips((4, 4), 1), {"data": 4, "tensor": 4})
    for line in mesh:
        first = np.array([device.coords for device in line])
        assert (np.ptp(first, axis=0) > 0).sum() == 1


def test_other_devices_keep_their_order(devices):
    mesh = layout(mesh={"data": 2, "tensor": 4}).make_mesh(devices)
    assert list(mesh.devices.flat) == devices

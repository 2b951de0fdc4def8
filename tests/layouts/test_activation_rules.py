"""What each layout makes of the names that models give the dimensions of their activations."""

from __future__ import annotations

import pytest
from jax.sharding import PartitionSpec as P

from jaxdl.layouts import (
    activation_rules,
    data_parallel,
    fsdp,
    layout,
    sequence,
    tensor_parallel,
    zero1,
)

HIDDEN_RULE = ((r"kernel$", P(None, "tensor")),)


@pytest.mark.parametrize(
    ("chosen", "rules"),
    [
        (data_parallel(), {"batch": ("data",)}),
        (zero1(), {"batch": ("data",)}),
        (fsdp(), {"batch": ("fsdp",)}),
        (fsdp(data=2), {"batch": ("data", "fsdp")}),
        (sequence(4), {"batch": ("data",), "time": ("sequence",)}),
        (
            tensor_parallel(HIDDEN_RULE, tensor=2),
            {"batch": ("data",), "hidden": ("tensor",), "heads": ("tensor",)},
        ),
        # No rule divides a layer over it.
        (layout(mesh={"data": 4, "tensor": 2}), {"batch": ("data",)}),
        (layout(mesh={"sequence": 8}), {"batch": (), "time": ("sequence",)}),
        # Rows take the axis.
        (layout(mesh={"tensor": 8}, rules=HIDDEN_RULE), {"batch": ("tensor",)}),
        (
            layout(
                mesh={"data": 2, "sequence": 2, "tensor": 2},
                rules=((r"kernel$", P(("data", "tensor"))),),
            ),
            {
                "batch": ("data",),
                "time": ("sequence",),
                "hidden": ("tensor",),
                "heads": ("tensor",),
            },
        ),
    ],
)
def test_rules_of_each_layout(devices, chosen, rules):
    names = ("batch", "time", "keys", "features", "hidden", "heads")
    expected = tuple((name, rules.get(name, ())) for name in names)
    assert activation_rules(chosen, chosen.abstract_mesh(8)) == expected
    assert activation_rules(chosen, chosen.make_mesh(devices)) == expected


def test_sequence_takes_the_devices_that_are_left(devices):
    assert dict(sequence(2).make_mesh(devices).shape) == {"data": 4, "sequence": 2}
    assert dict(sequence(-1, data=2).make_mesh(devices).shape) == {"data": 2, "sequence": 4}
    assert sequence(2).batch_spec() == P(("data",))
    assert layout(mesh={"sequence": 8}).batch_spec() == P()

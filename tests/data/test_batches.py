"""Batch ``k`` is a function of ``(seed, k)``: on any host count, each row once an epoch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxdl import data
from jaxdl.errors import BatchError, ConfigError, DataError

ROWS = 103


def source(rows: int = ROWS):
    return data.arrays(
        {"x": np.arange(rows, dtype=np.float32)[:, None] * 2, "row": np.arange(rows)}
    )


def real_rows(batches, epoch=0):
    rows = [b["row"][b["mask"] > 0] if "mask" in b else b["row"] for b in batches.epoch(epoch)]
    return np.concatenate(rows)


@given(st.integers(1, 60), st.integers(1, 70), st.integers(0, 2**64 - 1), st.integers(0, 3))
def test_every_row_exactly_once_an_epoch(rows, batch_size, seed, epoch):
    batches = data.Batches(source(rows), batch_size, seed=seed)
    assert sorted(real_rows(batches, epoch)) == list(range(rows))
    shapes = {
        tuple((k, v.shape, v.dtype.str) for k, v in sorted(b.items())) for b in batches.epoch()
    }
    assert len(shapes) == 1, "one structure for all batches"
    assert {k: (s.shape, s.dtype) for k, s in batches.spec.items()} == {
        k: (v.shape, v.dtype) for k, v in batches[0].items()
    }


@given(st.integers(0, 50), st.sampled_from([1, 2, 4]))
def test_batch_k_twice_and_on_any_number_of_hosts(k, hosts):
    batches = data.Batches(source(), 16, seed=5)
    again = data.Batches(source(), 16, seed=5)
    parts = [again.host(i, hosts)[k] for i in range(hosts)]
    for name, value in batches[k].items():
        np.testing.assert_array_equal(np.concatenate([p[name] for p in parts]), value)
        np.testing.assert_array_equal(batches[k][name], value)


def test_rows_stay_together_and_order_changes_by_epoch_and_seed():
    batches = data.Batches(source(), 16)
    for batch in batches.epoch():
        np.testing.assert_array_equal(batch["x"][:, 0], 2 * batch["row"])
    assert not np.array_equal(real_rows(batches, 0), real_rows(batches, 1))
    assert not np.array_equal(real_rows(batches), real_rows(data.Batches(source(), 16, seed=1)))
    plain = data.Batches(source(), 16, shuffle=False)
    np.testing.assert_array_equal(real_rows(plain, 2), np.arange(ROWS))


def test_the_order_is_the_same_on_every_machine():
    """Pinned: a change of the order would break every run that is resumed."""
    assert data.Batches(source(8), 8, seed=3)[0]["row"].tolist() == [6, 1, 5, 2, 7, 4, 3, 0]


def test_padding_repeats_a_real_row_and_a_divisor_needs_no_mask():
    last = data.Batches(source(10), 4, shuffle=False)[2]
    assert last["row"].tolist() == [8, 9, 8, 8]
    assert last["mask"].tolist() == [1, 1, 0, 0]
    assert "mask" not in data.Batches(source(8), 4)[0]


def test_drop_leaves_other_rows_out_in_every_epoch():
    batches = data.Batches(source(10), 4, remainder="drop")
    assert batches.batches_per_epoch == 2
    left_out = [set(range(10)) - set(real_rows(batches, e).tolist()) for e in range(20)]
    assert {len(rows) for rows in left_out} == {2}
    assert set.union(*left_out) == set(range(10))


def test_a_mask_of_the_data_is_kept():
    fields = {"x": np.ones((3, 2)), "mask": np.array([[1, 0], [1, 1], [1, 1]])}
    last = data.Batches(data.arrays(fields), 2, shuffle=False)[1]
    assert last["mask"].tolist() == [[1, 1], [0, 0]]


def noisy(batch, rng):
    return {**batch, "x": batch["x"] + rng.normal(size=batch["x"].shape)}


def test_transforms_are_functions_of_seed_and_k_on_any_host():
    batches = data.Batches(source(), 16, seed=1, transform=noisy)
    parts = [batches.host(i, 4)[3]["x"] for i in range(4)]
    np.testing.assert_array_equal(np.concatenate(parts), batches[3]["x"])
    other = data.Batches(source(), 16, seed=2, transform=noisy)
    assert not np.array_equal(other[3]["x"] - 2 * other[3]["row"][:, None],
                              batches[3]["x"] - 2 * batches[3]["row"][:, None])  # fmt: skip


def test_grain_sees_the_same_batches():
    batches = data.Batches(source(), 16, seed=4)
    through = batches.to_grain(epochs=2)
    assert len(through) == 2 * batches.batches_per_epoch
    for k in (0, 6, 13):
        np.testing.assert_array_equal(through[k]["row"], batches[k]["row"])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: data.Batches(source(), 0), ConfigError, "batch_size is 0"),
        (lambda: data.Batches(source(), 4, remainder="pads"), ConfigError, "did you mean 'pad'"),
        (lambda: data.Batches(source(3), 4, remainder="drop"), DataError, "3 rows do not fill"),
        (lambda: data.Batches(source(), 4, seed=-1), ConfigError, "seed is -1"),
        (lambda: data.Batches(source(), 6).host(0, 4), ConfigError, "6 rows .* over 4 hosts"),
        (lambda: data.Batches(source(), 4).host(4, 4), ConfigError, "host 4 of 4"),
        (lambda: data.Batches(source(), 4)[-1], BatchError, "batch -1"),
        (
            lambda: data.Batches(source(), 4, transform=lambda b, r: {"x": b["x"][:2]})[0],
            BatchError,
            r"transform gave field 'x' the shape \[2, 1\]",
        ),
        (lambda: data.pad_batch({"x": np.ones(5)}, 4), BatchError, "cannot be padded to 4"),
        (lambda: data.pad_batch({"x": np.ones(2), "y": np.ones(3)}, 4), BatchError, "one number"),
    ],
)
def test_wrong_settings_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()

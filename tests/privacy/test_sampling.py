"""Poisson batches: independent draws from (seed, k), padded to a room that they nearly always fit."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from jaxdl import data
from jaxdl.errors import BatchError, ConfigError, DataError

ROWS, EXPECTED, DRAWS = 60, 12, 3000
SOURCE = data.arrays({"row": np.arange(ROWS, dtype=np.int32)})


def batches(**options):
    return data.PoissonBatches(SOURCE, EXPECTED, **{"seed": 5, **options})


@pytest.fixture(scope="module")
def drawn():
    found = np.zeros((DRAWS, ROWS), bool)
    source = batches()
    for k in range(DRAWS):
        found[k, source.rows(k)] = True
    return found


def test_every_row_is_drawn_at_the_rate(drawn):
    counts = drawn.sum(axis=0)
    assert stats.chisquare(counts).pvalue > 1e-4
    rate = drawn.mean()
    assert abs(rate - 0.2) < 5 * np.sqrt(0.2 * 0.8 / drawn.size)


def test_sizes_are_binomial(drawn):
    sizes = np.bincount(drawn.sum(axis=1), minlength=ROWS + 1)
    inner = slice(5, 21)
    expected = stats.binom(ROWS, 0.2).pmf(np.arange(ROWS + 1))[inner]
    found = sizes[inner]
    assert stats.chisquare(found, expected / expected.sum() * found.sum()).pvalue > 1e-4


def test_rows_and_draws_are_independent(drawn):
    between = np.corrcoef(drawn.T)
    np.fill_diagonal(between, 0)
    assert abs(between).max() < 5 / np.sqrt(DRAWS)
    after = np.corrcoef(drawn[:-1].sum(axis=1), drawn[1:].sum(axis=1))[0, 1]
    assert abs(after) < 5 / np.sqrt(DRAWS)


def test_a_batch_is_a_function_of_seed_and_number():
    for k in (0, 7, 10**9):
        np.testing.assert_array_equal(batches().rows(k), batches().rows(k))
    assert not np.array_equal(batches().rows(0), batches(seed=6).rows(0))
    assert not np.array_equal(batches().rows(0), batches().rows(1))


def test_padding_is_masked_and_hosts_split_the_batch():
    whole = batches(multiple_of=4)
    batch = whole[3]
    real = whole.rows(3)
    np.testing.assert_array_equal(batch["row"][: len(real)], real)
    np.testing.assert_array_equal(batch["mask"], np.arange(whole.batch_size) < len(real))
    parts = [whole.host(index, 4)[3] for index in range(4)]
    np.testing.assert_array_equal(np.concatenate([p["row"] for p in parts]), batch["row"])
    np.testing.assert_array_equal(np.concatenate([p["mask"] for p in parts]), batch["mask"])
    assert {name: (x.shape, x.dtype) for name, x in batch.items()} == {
        name: (x.shape, x.dtype) for name, x in whole.spec.items()
    }


def test_a_batch_of_nobody_is_all_padding():
    rare = data.PoissonBatches(SOURCE, 0.01, seed=0)
    empty = next(k for k in range(100) if not len(rare.rows(k)))
    assert not rare[empty]["mask"].any()
    assert len(rare[empty]["row"]) == rare.batch_size


def test_everybody_is_drawn_at_rate_one():
    everybody = data.PoissonBatches(SOURCE, ROWS, seed=0)
    np.testing.assert_array_equal(everybody.rows(4), np.arange(ROWS))
    assert (everybody.rate, everybody.overflow, everybody.batch_size) == (1.0, 0.0, ROWS)


def test_the_room_is_the_least_that_is_rarely_too_small():
    drawn = stats.binom(ROWS, 0.2)
    for overflow in (1e-15, 1e-6, 0.1):
        room = batches(overflow=overflow)
        assert drawn.sf(room.batch_size) <= overflow < drawn.sf(room.batch_size - 1)
        assert room.overflow == pytest.approx(drawn.sf(room.batch_size))
    assert batches(multiple_of=16).batch_size % 16 == 0


def test_what_does_not_fit_is_left_out_and_told():
    tight = batches(capacity=10)
    assert tight.overflow == pytest.approx(stats.binom(ROWS, 0.2).sf(10))
    longer = [k for k in range(50) if len(batches().rows(k)) > 10]
    assert longer
    for k in longer:
        np.testing.assert_array_equal(tight.rows(k), batches().rows(k)[:10])


def test_transforms_see_the_padded_batch_and_a_generator_of_its_number():
    def changed(batch, rng):
        return {"row": batch["row"] + rng.integers(1000, 2000)}

    got = batches(transform=changed)[2]
    plain = batches()[2]
    assert len(set(got["row"] - plain["row"])) == 1
    np.testing.assert_array_equal(got["mask"], plain["mask"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"capacity": 0}, "capacity is 0"),
        ({"overflow": 0.0}, "overflow is 0.0"),
        ({"multiple_of": 0}, "multiple_of is 0"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        batches(**options)


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ConfigError, match="expected_batch_size is 61"):
        data.PoissonBatches(SOURCE, ROWS + 1, seed=0)
    with pytest.raises(ConfigError, match="expected_batch_size is 0"):
        data.PoissonBatches(SOURCE, 0, seed=0)
    with pytest.raises(DataError, match="is empty"):
        data.PoissonBatches(data.arrays({"row": np.zeros(0)}), 1, seed=0)
    with pytest.raises(BatchError, match="batch -1"):
        batches()[-1]
    with pytest.raises(TypeError, match="seed"):
        data.PoissonBatches(SOURCE, 1)

"""Private gradients: each row's own, bounded, and never more than a bound from one row."""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from private_case import BATCH, CLIP, KEY, OBJECTIVE, RNG, ROWS, norm

import jaxdl
from jaxdl import gradients, losses, models
from jaxdl.errors import BatchError, ObjectiveError
from jaxdl.objectives import from_mean, language_model
from jaxdl.protocols import Aux, Mean, Objective
from jaxdl.step.shards import with_example_keys


def run(batch=BATCH, objective=OBJECTIVE, clip_norm=CLIP, divide=False, **options):
    params, state = objective.init(jax.random.key(0), batch)
    estimator = gradients.private(clip_norm, expected_batch_size=4, **options)
    given = {"divisor": lambda weight: 1e9 * weight} if divide else {}
    keyed = with_example_keys(KEY, batch, None)
    return jax.jit(lambda p, b: estimator(objective)(p, state, b, KEY, **given))(params, keyed)


def one_by_one(batch=BATCH, objective=OBJECTIVE):
    """The gradients of all rows, each differentiated by itself."""
    params, state = objective.init(jax.random.key(0), batch)
    keyed = with_example_keys(KEY, batch, None)
    alone = jax.jit(lambda row: gradients.mean()(objective)(params, state, row, KEY)[0])
    return [alone(jax.tree.map(partial(part_of, i), keyed)) for i in range(ROWS)]


def part_of(row, field):
    return field[row : row + 1]


def shortened(tree, bound):
    length = norm(tree)
    return jax.tree.map(lambda x: x * min(1.0, bound / length), tree) if length else tree


def total(trees):
    return jax.tree.map(lambda *leaves: sum(leaves), *trees)


def assert_close(got, expected, rtol=1e-5, atol=1e-6):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), got, expected)


@pytest.fixture(scope="module")
def rows():
    return one_by_one()


# 3 does not divide the rows, and of 20 there are too few.
@pytest.mark.parametrize("microbatches", [1, 3, 20])
def test_the_sum_is_that_of_a_naive_loop(rows, microbatches):
    grads, aux = run(microbatches=microbatches)
    assert_close(grads, total([shortened(row, CLIP) for row in rows]))
    assert float(aux.weight) == BATCH["mask"].sum() == float(aux.metrics["accuracy"].sums.weight)
    long = [norm(row) > CLIP for row in rows]
    assert 0 < sum(long) < 6
    assert jaxdl.report(aux.metrics)["clipped"] == pytest.approx(sum(long) / 6)


def test_a_bound_that_is_never_met_gives_the_plain_gradient_dropout_included():
    params, state = OBJECTIVE.init(jax.random.key(0), BATCH)
    keyed = with_example_keys(KEY, BATCH, None)
    mean = jax.jit(lambda p, b: gradients.mean()(OBJECTIVE)(p, state, b, KEY))
    plain, aux = mean(params, keyed)
    grads, ours = run(clip_norm=1e6, microbatches=2)
    assert_close(grads, plain)
    assert_close(ours.metrics["accuracy"].sums, aux.metrics["accuracy"].sums)


def test_each_array_is_clipped_to_its_share(rows):
    grads, _ = run(per_layer=True)
    share = CLIP / np.sqrt(len(jax.tree.leaves(grads)))
    assert_close(grads, total([jax.tree.map(lambda x: shortened(x, share), row) for row in rows]))
    lonely = {**BATCH, "image": 1e3 * BATCH["image"], "mask": np.eye(ROWS, dtype=np.float32)[1]}
    assert norm(run(lonely, per_layer=True)[0]) <= CLIP * (1 + 1e-6)


@pytest.mark.parametrize("per_layer", [False, True])
def test_optax_clips_alike(rows, per_layer):
    stacked = [jnp.stack(leaves) for leaves in zip(*map(jax.tree.leaves, rows), strict=True)]
    clip = optax.per_example_layer_norm_clip if per_layer else optax.per_example_global_norm_clip
    with jax.numpy_rank_promotion("allow"):
        reference, _ = clip(stacked, CLIP)
    assert_close(jax.tree.leaves(run(per_layer=per_layer)[0]), reference)


@pytest.mark.parametrize("row", [1, 2, 7])
def test_a_row_moves_the_sum_by_no_more_than_the_bound(row):
    loud = {**BATCH, "image": BATCH["image"].copy(), "mask": 100 * BATCH["mask"]}
    loud["image"][row] *= 1e4
    mask = loud["mask"].copy()
    mask[row] = 0
    moved = jax.tree.map(jnp.subtract, run(loud)[0], run({**loud, "mask": mask})[0])
    # Every row that dropout leaves a gradient is far beyond the bound.
    assert norm(moved) == pytest.approx(CLIP if mask.sum() < loud["mask"].sum() else 0, rel=1e-5)


def test_what_padding_holds_does_not_matter_not_even_nan():
    image = BATCH["image"].copy()
    image[6:] = np.nan
    assert_close(run({**BATCH, "image": image})[0], run()[0], rtol=0, atol=0)
    assert int(run({**BATCH, "image": image})[1].metrics["not_finite"]) == 0


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e38])
def test_a_row_that_is_not_finite_is_left_out_and_counted(value):
    image = BATCH["image"].copy()
    image[3] = value
    mask = BATCH["mask"].copy()
    mask[3] = 0
    grads, aux = run({**BATCH, "image": image}, microbatches=2)
    expected, without = run({**BATCH, "mask": mask}, microbatches=2)
    assert_close(grads, expected, rtol=0, atol=0)
    assert int(aux.metrics["not_finite"]) == 1
    assert int(without.metrics["not_finite"]) == 0
    assert float(aux.weight) == float(without.weight)


def test_the_divisor_is_the_expected_batch_size_whatever_was_drawn():
    assert_close(run(divide=True)[0], jax.tree.map(lambda x: x / 4, run()[0]))


def test_a_batch_of_padding_gives_zeros():
    grads, aux = run({**BATCH, "mask": np.zeros(ROWS, np.float32)}, divide=True)
    assert all(not leaf.any() for leaf in jax.tree.leaves(grads))
    assert float(aux.weight) == 0.0


@pytest.mark.slow
def test_the_example_of_a_sequence_is_the_row():
    tokens = RNG.integers(0, 7, (ROWS, 6)).astype(np.int32)
    mask = np.ones((ROWS, 6), np.float32)
    mask[1, 3:] = mask[4] = 0
    batch = {"tokens": tokens, "mask": mask}
    model = models.GPT(vocab_size=7, num_layers=1, num_heads=2, hidden_dim=4, max_length=6)
    objective = language_model(model)
    grads, aux = run(batch, objective, clip_norm=2.0, microbatches=2)
    rows = one_by_one(batch, objective)
    assert any(norm(row) > 2.0 for row in rows)
    assert_close(grads, total([shortened(row, 2.0) for row in rows]), rtol=1e-4)
    params, state = objective.init(jax.random.key(0), batch)
    assert float(aux.weight) == float(
        objective.loss(params, state, batch, KEY, train=True)[1].weight
    )


def test_without_a_mask_and_in_any_pytree_every_row_counts():
    objective = Objective(
        lambda key, batch: (jnp.ones(4), {}),
        lambda p, s, b, k, train: (jnp.sum(b[0] @ p), Aux(np.float32(len(b[0])), s, {})),
    )
    rows = 0.2 * BATCH["image"]
    grads, aux = gradients.private(CLIP, expected_batch_size=8)(objective)(
        jnp.ones(4), {}, (jnp.asarray(rows),), KEY
    )
    assert_close(grads, total([shortened(jnp.asarray(row), CLIP) for row in rows]))
    assert float(aux.weight) == ROWS


def test_a_mean_loss_is_taken_row_by_row():
    objective = from_mean(
        lambda p, b: jnp.mean(jnp.square(b["image"] @ p)), lambda key, b: jnp.ones(4)
    )
    batch = {"image": BATCH["image"]}
    grads, _ = run(batch, objective)
    assert_close(grads, total([shortened(row, CLIP) for row in one_by_one(batch, objective)]))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_clipped_and_summed_in_float32(dtype):
    def loss(p, s, b, k, train):
        return jnp.sum(b["image"].astype(p.dtype) @ p), Aux(np.float32(1), s, {})

    objective = Objective(lambda key, b: (jnp.ones(4, dtype), {}), loss)
    grads, _ = run({"image": BATCH["image"]}, objective)
    assert grads.dtype == jnp.float32
    rows = BATCH["image"].astype(dtype).astype(np.float32)
    assert_close(grads, total([shortened(jnp.asarray(row), CLIP) for row in rows]))


def test_a_loss_scale_keeps_small_gradients_of_float16():
    def loss(p, s, b, k, train):
        return jnp.sum(b["x"] @ p) * jnp.float16(1e-4) * jnp.float16(1e-4), Aux(
            np.float32(1), s, {}
        )

    objective = Objective(lambda key, b: (jnp.ones(4, jnp.float16), {}), loss)
    batch = {"x": np.full((ROWS, 4), 0.5, np.float16)}
    lost, _ = run(batch, objective)
    kept, _ = run(batch, objective, loss_scale=2.0**12)
    assert not lost.any()
    np.testing.assert_allclose(kept, ROWS * 0.5e-8, rtol=0.02)
    assert not getattr(gradients.private(1.0, expected_batch_size=1), "scales_loss", True)


class Statistics(nn.Module):
    """Batch normalisation by statistics of the batch, or by frozen ones."""

    frozen: bool = False

    @nn.compact
    def __call__(self, x, train: bool = False):
        return nn.Dense(3)(nn.BatchNorm(use_running_average=self.frozen or not train)(x))


def test_batch_statistics_are_refused_and_frozen_ones_are_not():
    objective = jaxdl.supervised(Statistics(), losses.softmax_cross_entropy)
    with pytest.raises(ObjectiveError, match=r"depends on the batch: batch_stats/.*mean") as caught:
        run(objective=objective)
    assert "layer, group or RMS" in caught.value.do
    frozen = jaxdl.supervised(Statistics(frozen=True), losses.softmax_cross_entropy)
    grads, aux = run(objective=frozen, microbatches=2)
    assert norm(grads) > 0
    assert jax.tree.structure(aux.model_state) == jax.tree.structure(frozen.init(KEY, BATCH)[1])


def test_batch_statistics_of_nnx_are_refused():
    from flax import nnx

    class Model(nnx.Module):
        def __init__(self, rngs):
            self.norm = nnx.BatchNorm(4, rngs=rngs)
            self.out = nnx.Linear(4, 3, rngs=rngs)

        def __call__(self, x):
            return self.out(self.norm(x))

    objective = jaxdl.from_nnx(Model(nnx.Rngs(0)), losses.softmax_cross_entropy)
    with pytest.raises(ObjectiveError, match="the state of the model depends on the batch"):
        run(objective=objective)


def test_a_counter_that_no_row_has_a_part_in_goes_on():
    def loss(p, s, b, k, train):
        return jnp.sum(b["image"] @ p), Aux(np.float32(1), {"calls": s["calls"] + 1}, {})

    objective = Objective(lambda key, b: (jnp.ones(4), {"calls": jnp.int32(0)}), loss)
    assert int(run(objective=objective, microbatches=4)[1].model_state["calls"]) == 1


def drawing(shape):
    """An objective that draws for itself: from the key, by rows."""

    def loss(p, s, b, k, train):
        drawn = jax.random.normal(k, (len(b["image"]), *shape))
        return jnp.sum(drawn @ p), Aux(np.float32(1), s, {})

    return Objective(lambda key, b: (jnp.ones(4), {}), loss)


def test_every_row_draws_by_itself_and_the_same_in_any_part():
    params, batch = jnp.ones(4), {"image": jnp.asarray(BATCH["image"])}
    for given in (batch, with_example_keys(KEY, batch, None)):

        def gradient(rows, given=given, **options):
            estimator = gradients.private(1e6, expected_batch_size=4, **options)
            part = jax.tree.map(lambda x: x[:rows], given)
            return jax.jit(estimator(drawing((4,))))(params, {}, part, KEY)[0]

        assert_close(gradient(ROWS, microbatches=4), gradient(ROWS))
        two, one = gradient(2), gradient(1)
        assert norm(two - 2 * one) > 0.1
        assert not np.allclose(gradient(ROWS) / ROWS, one)


def test_nnx_dropout_is_each_rows_own():
    from flax import nnx

    class Model(nnx.Module):
        def __init__(self, rngs):
            self.dropout = nnx.Dropout(0.5, rngs=rngs)
            self.out = nnx.Linear(4, 3, rngs=rngs)

        def __call__(self, x):
            return self.out(self.dropout(x))

    same = {"image": np.ones((ROWS, 4), np.float32), "label": np.zeros(ROWS, np.int32)}
    objective = jaxdl.from_nnx(Model(nnx.Rngs(0)), losses.softmax_cross_entropy)
    grads, _ = run(same, objective, clip_norm=1e6)
    shares = np.asarray(grads["out"]["kernel"]).any(axis=1)
    assert shares.all()
    sizes = np.unique(np.round(np.abs(np.asarray(grads["out"]["kernel"])[:, 0]), 5))
    assert len(sizes) > 1


def test_objectives_that_mix_rows_are_refused_whatever_the_parts():
    mixed = OBJECTIVE._replace(mixes_rows=True)
    with pytest.raises(ObjectiveError, match="compares each row with all others"):
        gradients.private(1.0, expected_batch_size=4)(mixed)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clip_norm": 0.0}, r"private\(clip_norm=0.0\)"),
        ({"clip_norm": np.inf}, r"private\(clip_norm=inf\)"),
        ({"expected_batch_size": -1}, r"private\(expected_batch_size=-1\)"),
        ({"loss_scale": float("nan")}, r"private\(loss_scale=nan\)"),
        ({"microbatches": 0}, r"private\(microbatches=0\)"),
    ],
)
def test_numbers_out_of_range_are_refused(options, message):
    with pytest.raises(ObjectiveError, match=message):
        gradients.private(**{"clip_norm": 1.0, "expected_batch_size": 4, **options})


def test_batches_that_do_not_fit_are_refused():
    with pytest.raises(BatchError, match="no row"):
        nobody = {name: field[:0] for name, field in BATCH.items()}
        params, state = OBJECTIVE.init(KEY, BATCH)
        gradients.private(1.0, expected_batch_size=4)(OBJECTIVE)(params, state, nobody, KEY)
    with pytest.raises(BatchError, match="'shared': \\[3\\]"):
        run({**BATCH, "shared": np.zeros(3, np.float32)})
    with pytest.raises(BatchError, match="the fields of the batch have the shapes"):
        run({**BATCH, "scale": np.float32(1)})


def test_a_loss_scale_around_it_is_refused():
    with pytest.raises(ObjectiveError, match="would clip scaled gradients"):
        gradients.scaled(gradients.private(1.0, expected_batch_size=4))


def test_metrics_of_rows_add_up():
    def loss(p, s, b, k, train):
        return jnp.sum(b["image"] @ p), Aux(
            jnp.sum(b["mask"]), s, {"first": Mean(jnp.sum(b["image"][:, 0] * b["mask"]), 1.0)}
        )

    objective = Objective(lambda key, b: (jnp.ones(4), {}), loss)
    _, aux = run(objective=objective, microbatches=2)
    expected = float((BATCH["image"][:, 0] * BATCH["mask"]).sum())
    assert float(aux.metrics["first"].total) == pytest.approx(expected, rel=1e-5)

"""``with_adversary``: what the attack sees, what the update sees, and the same wherever it runs."""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdl
from jaxdl import data, gradients, losses, metrics, models
from jaxdl.errors import BatchError, ObjectiveError
from jaxdl.objectives import (
    contrastive,
    from_mean,
    from_nnx,
    with_adversary,
    with_precision,
    without_adversary,
)
from jaxdl.protocols import EXAMPLE_KEY
from jaxdl.robustness import Corruption, GaussianNoise, fgsm, pgd

ROWS, SHORT, CLASSES = 16, 13, 3
ATTACK = pgd(0.2, steps=2)


def batch_of(rows: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    return {
        "image": rng.uniform(size=(ROWS, 4, 4, 1)).astype(np.float32)[:rows],
        "label": rng.integers(0, CLASSES, ROWS).astype(np.int32)[:rows],
    }


def supervised(model) -> jaxdl.Objective:
    measured = {"accuracy": metrics.accuracy()}
    return jaxdl.supervised(model, losses.softmax_cross_entropy, metrics=measured)


@pytest.fixture(scope="module")
def batch():
    return {**batch_of(ROWS), EXAMPLE_KEY: jax.random.split(jax.random.key(3), ROWS)}


@pytest.fixture(scope="module")
def plain():
    return supervised(models.MLP((8, CLASSES), dropout_rate=0.5))


@pytest.fixture(scope="module")
def variables(plain, batch):
    return plain.init(jax.random.key(0), batch)


def seen_by(objective, variables, batch, *, train=False):
    """The images that the loss is taken of."""
    seen = []
    inner = objective.loss

    def loss(params, state, rows, key, *, train):
        seen.append(rows["image"])
        return inner(params, state, rows, key, train=train)

    def run(attack, **options):
        attacked = with_adversary(objective._replace(loss=loss), attack, **options)
        attacked.loss(*variables, batch, jax.random.key(1), train=train)
        return seen[-1]

    return run


def test_it_is_the_loss_of_the_attacked_images(plain, variables, batch):
    attacked = with_adversary(plain, ATTACK)
    key = jax.random.key(1)
    images = seen_by(plain, variables, batch)(ATTACK)
    assert 0.19 < np.abs(images - batch["image"]).max() <= 0.2
    total, aux = attacked.loss(*variables, batch, key, train=False)
    expected, wanted = plain.loss(*variables, {**batch, "image": images}, key, train=False)
    clean, _ = plain.loss(*variables, batch, key, train=False)
    assert float(total) == pytest.approx(float(expected), rel=1e-6)
    assert total > clean
    np.testing.assert_allclose(aux.outputs, wanted.outputs, rtol=1e-5, atol=1e-6)
    assert float(aux.metrics["accuracy"].sums.total) == float(wanted.metrics["accuracy"].sums.total)


def test_the_gradient_is_that_at_the_attacked_images(plain, variables, batch):
    params, state = variables
    key = jax.random.key(1)
    images = seen_by(plain, variables, batch, train=True)(ATTACK)
    fixed = {**batch, "image": images}

    def gradient(objective, rows):
        return jax.grad(lambda p: objective.loss(p, state, rows, key, train=True)[0])(params)

    found = gradient(with_adversary(plain, ATTACK), batch)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(gradient(plain, fixed)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    # And with respect to the images, for whoever attacks an objective that is attacked.
    whole = with_adversary(plain, ATTACK)
    outer = jax.grad(
        lambda x: whole.loss(params, state, {**batch, "image": x}, key, train=False)[0]
    )(jnp.asarray(batch["image"]))
    assert np.abs(outer).max() > 0


def test_the_attack_sees_no_dropout_and_the_update_does(plain, variables, batch):
    calls = []
    inner = plain.loss

    def loss(*given, train):
        calls.append(train)
        return inner(*given, train=train)

    attacked = with_adversary(plain._replace(loss=loss), pgd(0.1, steps=3))
    attacked.loss(*variables, batch, jax.random.key(1), train=True)
    assert calls == [False, True]
    # The images of an attack are the same whatever the step's key: dropout played no part.
    first, second = (seen_by(plain, variables, {**batch}, train=True)(fgsm(0.1)) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_batch_statistics_move_once(batch):
    objective = supervised(models.CNN(num_classes=CLASSES, norm="batch"))
    params, state = objective.init(jax.random.key(0), batch)
    key = jax.random.key(1)
    run = jax.jit(lambda o, b: o().loss(params, state, b, key, train=True)[1], static_argnums=0)
    images = seen_by(objective, (params, state), batch, train=True)(ATTACK)
    found = run(lambda: with_adversary(objective, ATTACK), batch).model_state
    wanted = run(lambda: objective, {**batch, "image": images}).model_state
    for a, b, old in zip(*map(jax.tree.leaves, (found, wanted, state)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
        assert not np.allclose(a, old)
    _, aux = with_adversary(objective, ATTACK).loss(params, state, batch, key, train=False)
    for a, b in zip(jax.tree.leaves(aux.model_state), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("when", "train", "evaluation"),
    [("always", True, True), ("train", True, False), ("evaluation", False, True)],
)
def test_when(plain, variables, batch, when, train, evaluation):
    for is_train, attacked in ((True, train), (False, evaluation)):
        images = seen_by(plain, variables, batch, train=is_train)(fgsm(0.2), when=when)
        assert np.array_equal(images, batch["image"]) is not attacked


def test_evaluation_is_of_the_image_not_of_its_place(plain, variables, batch):
    """Starts follow from the image: the order, the batch size and the step's key are nothing."""
    rows = batch_of(ROWS)
    start = pgd(0.2, steps=0)
    whole = seen_by(plain, variables, rows)(start)
    back = {name: value[::-1] for name, value in rows.items()}
    np.testing.assert_array_equal(seen_by(plain, variables, back)(start)[::-1], whole)
    part = {name: value[4:9] for name, value in rows.items()}
    np.testing.assert_array_equal(seen_by(plain, variables, part)(start), whole[4:9])
    trained = seen_by(plain, variables, batch, train=True)(start)
    assert not np.array_equal(trained, whole)


def test_toward_and_against(plain, variables, batch):
    target = (batch["label"] + 1) % CLASSES
    rows = {**batch, "target": target}
    key = jax.random.key(1)

    def of_target(images):
        given = {**batch, "label": target, "image": images}
        return plain.loss(*variables, given, key, train=False)[0]

    attack = pgd(0.2, steps=5, targeted=True)
    images = seen_by(plain, variables, rows)(attack, toward={"label": "target"})
    assert of_target(images) < of_target(batch["image"])
    away = supervised(models.MLP((8, CLASSES)))
    negative = away._replace(loss=lambda *given, train: (-away.loss(*given, train=train)[0], None))
    helped = seen_by(plain, variables, batch)(fgsm(0.1), against=negative)
    harmed = seen_by(plain, variables, batch)(fgsm(0.1))
    middle = np.abs(batch["image"] - 0.5) < 0.35
    np.testing.assert_allclose((harmed + helped)[middle], 2 * batch["image"][middle], atol=1e-5)


def test_integers_are_refused_or_scaled(plain, variables, batch):
    whole = {**batch, "image": np.round(255 * batch["image"]).astype(np.uint8)}
    with pytest.raises(BatchError, match="uint8"):
        seen_by(plain, variables, whole)(ATTACK)
    images = seen_by(plain, variables, whole)(fgsm(0.0), integers="scale")
    np.testing.assert_allclose(images, np.float32(whole["image"]) / 255, atol=1e-7)


def test_what_cannot_be_attacked(untyped, plain, variables, batch):
    with pytest.raises(BatchError, match="no field 'pixels'"):
        seen_by(plain, variables, batch)(ATTACK, field="pixels")
    with pytest.raises(BatchError, match="no field 'goal'"):
        seen_by(plain, variables, batch)(ATTACK, toward={"label": "goal"})
    with pytest.raises(BatchError, match=r"the attack made \[16, 4\]"):
        seen_by(plain, variables, batch)(lambda loss, x, keys, rows: x[:, :, 0, 0])
    with pytest.raises(ObjectiveError, match="when='never'"):
        with_adversary(plain, ATTACK, when="never")
    pairs = contrastive(nn.Dense(3), lambda key, x: x)
    assert with_adversary(pairs, ATTACK).mixes_rows
    with pytest.raises(ObjectiveError, match="rows meet"):
        with_adversary(pairs, pgd(0.1, restarts=2))


def test_restarts_ask_for_the_loss_of_each_row(plain, variables, batch):
    key = jax.random.key(1)

    def loss(attack):
        return float(with_adversary(plain, attack).loss(*variables, batch, key, train=False)[0])

    once = pgd(0.3, steps=1, step_size=0.02)
    best = pgd(0.3, steps=1, step_size=0.02, restarts=8)
    assert loss(best) > loss(once)


def test_other_perturbations_and_objectives(batch):
    rows = {**batch, "y": jnp.ones(ROWS)}

    def mean(p, batch):
        return jnp.mean((jnp.sum(batch["image"] * p["w"], axis=(1, 2, 3)) - batch["y"]) ** 2)

    objective = from_mean(mean)
    params = {"w": jnp.full((1, 4, 4, 1), 0.1)}
    key = jax.random.key(0)
    clean = objective.loss(params, {}, rows, key, train=True)[0]
    for attack in (ATTACK, GaussianNoise(0.3), Corruption("cut", 5)):
        total, aux = with_adversary(objective, attack).loss(params, {}, rows, key, train=True)
        assert float(aux.weight) == ROWS
        assert abs(float(total - clean)) > 1e-3
    from flax import nnx

    linear = from_nnx(
        lambda rngs: nnx.Linear(1, 2, rngs=rngs), lambda y, t: jnp.sum(y**2, axis=(1, 2, 3))
    )
    given = linear.init(key, batch)
    attacked = with_adversary(linear, fgsm(0.1))
    before = linear.loss(*given, batch, key, train=True)[0]
    assert attacked.loss(*given, batch, key, train=True)[0] > before


def test_without_adversary_gives_back_what_was_there(plain):
    twice = with_adversary(with_adversary(plain, fgsm(0.1), when="train"), ATTACK)
    assert without_adversary(twice).loss is plain.loss
    assert without_adversary(plain) is plain
    half = with_precision(twice, "bf16")
    assert without_adversary(half).loss.objective.loss is plain.loss
    assert without_adversary(half).loss.policy == half.loss.policy
    narrow = with_adversary(with_precision(plain, "f16"), ATTACK)
    assert narrow.loss.narrow_range
    assert not twice.loss.narrow_range


# One step, the same numbers wherever it runs.

MODELS = {
    "dropout": models.MLP((8, CLASSES), dropout_rate=0.5),
    "batch_norm": models.CNN(num_classes=CLASSES, norm="batch", axis_name="data"),
}


def run(name, *, place=jaxdl.jit, devices=1, gradient=None, rows=SHORT, attack=ATTACK):
    model = MODELS[name]
    if name == "batch_norm" and place is jaxdl.jit:
        model = model.clone(axis_name=None)
    objective = with_adversary(supervised(model), attack)
    pure = jaxdl.make_train_step(objective, optax.sgd(0.1), gradient=gradient)
    step = place(pure, devices=jax.devices()[:devices])
    batch = batch_of(SHORT)
    batch = data.pad_batch(batch, rows) if rows > SHORT else batch
    if rows > SHORT:
        # Padding is whatever it is.
        batch["image"][SHORT:] = 0.7
    state = step.init(3, batch)
    for _ in range(3):
        state, sums = step(state, batch)
    if place is jaxdl.pmap:
        state = jaxdl.from_pmap_state(state)
    return jax.device_get((state.params, state.model_state, sums["loss"]))


@functools.cache
def reference(name):
    return run(name)


PLACES = {
    "padded": {"rows": ROWS},
    "mesh": {"rows": ROWS, "devices": 8},
    "microbatches": {"rows": ROWS, "devices": 2, "gradient": gradients.accumulate(4)},
    "pmap": {"rows": ROWS, "devices": 8, "place": jaxdl.pmap},
}


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("padded", "pmap")]


@pytest.mark.parametrize("place", ["mesh", "microbatches", *SLOW])
@pytest.mark.parametrize("name", [pytest.param("batch_norm", marks=pytest.mark.slow), "dropout"])
def test_same_step_wherever_it_runs(name, place):
    if (name, place) == ("batch_norm", "microbatches"):
        pytest.skip("its statistics are those of microbatches, by definition")
    found = run(name, **PLACES[place])
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(reference(name)), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)


def test_measured_the_same_at_any_batch_size(plain, variables):
    """What ``make_eval_step`` reports under attack, over eight devices and in pieces."""
    attacked = with_adversary(plain, pgd(0.2, steps=2, restarts=2))
    step = jaxdl.make_train_step(plain, optax.sgd(0.1))
    rows = batch_of(ROWS)
    state = step.init(jax.random.key(0), rows)
    measure = jaxdl.make_eval_step(attacked, {"top": metrics.accuracy()})
    whole = jaxdl.report(jax.jit(measure)(state, rows))
    placed = jaxdl.jit(measure, devices=jax.devices())
    pieces = [{name: value[k : k + 8] for name, value in rows.items()} for k in (0, 8)]
    parts = metrics.total([placed(state, piece) for piece in pieces])
    found = metrics.report(parts)
    assert found["top"] == whole["top"] == found["accuracy"]
    assert found["loss"] == pytest.approx(whole["loss"], rel=1e-5)

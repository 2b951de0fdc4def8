"""The audit: its statistics against closed forms, and a run that is audited with and without noise."""

from __future__ import annotations

import math

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest
from scipy import stats

import jaxdl
from jaxdl import data, gradients, losses, privacy
from jaxdl.errors import ConfigError


@pytest.mark.parametrize("guesses", [1, 20, 1000])
def test_when_all_guesses_are_right_the_bound_is_that_of_a_power(guesses):
    right = 0.05 ** (1 / guesses)
    expected = max(0.0, math.log(right / (1 - right)))
    assert privacy.one_run_bound(guesses, guesses, guesses) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("correct", "guesses"), [(60, 100), (95, 100), (700, 1000)])
def test_the_bound_is_clopper_and_pearsons_of_the_rate_of_right_guesses(correct, guesses):
    rate = stats.beta.ppf(0.05, correct, guesses - correct + 1)
    bound = privacy.one_run_bound(correct, guesses, guesses)
    assert bound == pytest.approx(max(0.0, math.log(rate / (1 - rate))), abs=1e-6)


def test_delta_and_canaries_that_are_not_guessed_lower_it_only_with_delta():
    plain = privacy.one_run_bound(90, 100, 100)
    assert privacy.one_run_bound(90, 100, 10_000) == plain
    bounds = [privacy.one_run_bound(90, 100, m, delta=1e-4) for m in (100, 1000, 10_000)]
    assert plain > bounds[0] > bounds[1] > bounds[2]
    assert privacy.one_run_bound(100, 100, 100, confidence=0.99) < plain * 2
    # As jax-privacy 2.0.0 computes it.
    assert privacy.one_run_bound(90, 100, 1000, delta=1e-5) == pytest.approx(1.62614, abs=1e-5)
    assert privacy.one_run_bound(560, 1000, 1000, delta=1e-5) == pytest.approx(0.13426, abs=1e-5)


def test_randomized_response_is_bounded_as_often_as_the_confidence_says():
    """Coins told truly with the probability that epsilon 1 allows: the bound must hold."""
    rng = np.random.default_rng(0)
    truth = 1 / (1 + math.exp(-1))
    held, bounds = 0, []
    for _ in range(400):
        correct = rng.binomial(500, truth)
        bounds.append(privacy.one_run_bound(int(correct), 500, 500))
        held += bounds[-1] <= 1
    assert held >= 400 * 0.95 - 3 * math.sqrt(400 * 0.95 * 0.05)
    assert np.median(bounds) > 0.75


def test_scores_are_guessed_from_both_ends():
    included = np.array([True, False, True, False, True])
    found = privacy.audit([5.0, 1.0, 4.0, 2.0, 3.0], included, guesses=4)
    assert found[1:] == (4, 4, 5)
    wrong = privacy.audit([1.0, 5.0, 2.0, 4.0, 3.0], included, guesses=4)
    assert wrong[:2] == (0.0, 0)
    assert privacy.audit(np.arange(5.0), included).guesses == 4


def test_rates_are_bounded_as_clopper_and_pearson_say():
    upper = 1 - 0.025 ** (1 / 500)
    assert privacy.rates_bound(500, 500, 0, 500) == pytest.approx(math.log((1 - upper) / upper))
    both = privacy.rates_bound(450, 500, 20, 500, delta=1e-5)
    high = stats.beta.ppf(0.025, 450, 51)
    low = stats.beta.ppf(0.975, 21, 480)
    assert both == pytest.approx(math.log((high - 1e-5) / low))
    # An attack that is seldom sure of absence is caught by the other direction.
    mirrored = privacy.rates_bound(450, 500, 20, 500)
    assert privacy.rates_bound(480, 500, 50, 500) == pytest.approx(mirrored)
    assert privacy.rates_bound(250, 500, 250, 500) == 0.0
    assert privacy.rates_bound(0, 5, 5, 5) == 0.0


def test_what_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match=r"scores \[3\] and coins \[2\]"):
        privacy.audit(np.zeros(3), np.zeros(2, bool))
    with pytest.raises(ConfigError, match="with 3 guesses"):
        privacy.audit(np.zeros(4), np.zeros(4, bool), guesses=3)
    with pytest.raises(ConfigError, match="with 6 guesses"):
        privacy.audit(np.zeros(4), np.zeros(4, bool), guesses=6)
    with pytest.raises(ConfigError, match="audit of scores"):
        privacy.audit([0.0, np.nan], [True, False])
    with pytest.raises(ConfigError, match="counts do not fit"):
        privacy.one_run_bound(5, 4, 4)
    with pytest.raises(ConfigError, match="confidence 1.0 is out of range"):
        privacy.rates_bound(1, 2, 1, 2, confidence=1.0)


CANARIES, GUESSES, RATE, STEPS, DELTA, EPSILON = 1000, 800, 0.1, 60, 1e-5, 2.0


class Linear(nn.Module):
    """One number a row."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(1, use_bias=False, kernel_init=nn.initializers.zeros)(x)[:, 0]


def leak(noise_multiplier, seed=0):
    """Trains on the canaries whose coin fell so, and audits the model by their losses."""
    included = privacy.toss(CANARIES, seed)
    signs = np.where(np.random.default_rng(seed + 1).integers(0, 2, CANARIES), 1.0, 0.0)
    rows = np.flatnonzero(included)
    source = data.arrays({"row": rows.astype(np.int32), "label": signs[rows].astype(np.float32)})
    batches = data.PoissonBatches(source, RATE * len(rows), seed=seed)

    def loss(outputs, batch):
        return losses.binary_cross_entropy(outputs, batch)

    objective = jaxdl.supervised(Linear(), loss, inputs="image")
    expected = RATE * CANARIES / 2
    noise = privacy.noise(
        noise_multiplier, 1.0, expected_batch_size=expected, key=jax.random.key(seed)
    )
    step = jaxdl.make_train_step(
        objective,
        optax.chain(noise, optax.sgd(expected)),
        gradient=gradients.private(1.0, expected_batch_size=expected),
    )

    def canaries(batch):
        # Each canary has a direction of its own.
        return {**batch, "image": np.eye(CANARIES, dtype=np.float32)[batch["row"]]}

    update = jax.jit(step.update)
    state = step.init(jax.random.key(seed), canaries(batches[0]))
    for k in range(STEPS):
        state, _ = update(state, canaries(batches[k]))
    (kernel,) = jax.tree.leaves(state.params)
    margins = np.asarray(kernel)[:, 0] * np.where(signs, 1, -1)
    # The coins do not fall evenly: of some canaries nothing is guessed.
    return privacy.audit(margins, included, delta=DELTA, guesses=GUESSES)


@pytest.mark.slow
def test_an_audit_finds_less_than_epsilon_and_far_more_without_noise():
    sampling = privacy.Poisson(RATE)
    noise = privacy.noise_for(epsilon=EPSILON, sampling=sampling, steps=STEPS, delta=DELTA)
    private = leak(noise)
    assert 0.0 < private.epsilon < EPSILON
    bare = leak(0.0)
    assert bare.epsilon > 2 * EPSILON
    assert bare.correct > 0.99 * GUESSES

"""The account: dp-accounting's own figures, published ones, and what it refuses."""

from __future__ import annotations

import math
import sys

import dp_accounting
import numpy as np
import pytest

from jaxdl import data, privacy
from jaxdl.errors import ConfigError, MissingExtraError

MNIST = 60_000
# Published epsilons, all for Poisson sampling, one example added or removed, and the conversion of
# Renyi divergences that was used then. The first three: TensorFlow Privacy's tutorial on MNIST, as
# first published (batches of 256, 15, 60 and 45 epochs). Then Abadi et al. 2016, section 3.2 (q of
# 0.01, 10,000 steps). Then the tutorial as it is now. Then Bu et al. 2020, figure 4.
PUBLISHED = {
    "tutorial, noise 1.3": (256 / MNIST, 1.3, 15, 1.19),
    "tutorial, noise 1.1": (256 / MNIST, 1.1, 60, 3.01),
    "tutorial, noise 0.7": (256 / MNIST, 0.7, 45, 7.10),
    "Abadi, noise 4": (0.01, 4.0, 100, 1.26),
    "tutorial now, noise 1.12": (256 / MNIST, 1.12, 60, 2.92),
    "Bu, noise 0.7": (256 / MNIST, 0.7, 70, 8.68),
}
DELTA = 1e-5


def steps_of(rate, epochs):
    return int(epochs / rate)


def moments(rate, noise, steps):
    """The published conversion: Mironov 2017, proposition 3, over the orders that were used."""
    event = dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(noise))

    def epsilon_at(order):
        ledger = dp_accounting.rdp.RdpAccountant([order]).compose(event, steps)
        # The newer conversion, taken back: Canonne et al. 2020, proposition 12.
        newer = math.log1p(-1 / order) - math.log(DELTA * order) / (order - 1)
        return ledger.get_epsilon(DELTA) - newer - math.log(DELTA) / (order - 1)

    return min(map(epsilon_at, [1 + x / 10 for x in range(1, 100)] + list(range(12, 64))))


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("accountant", ["rdp", "pld"])
def test_epsilon_is_dp_accountings_own_and_below_the_published(name, accountant):
    rate, noise, epochs, published = PUBLISHED[name]
    steps = steps_of(rate, epochs)
    ours = privacy.epsilon(
        noise_multiplier=noise,
        sampling=privacy.Poisson(rate),
        steps=steps,
        delta=DELTA,
        accountant=accountant,
    )
    theirs = {"rdp": dp_accounting.rdp.RdpAccountant, "pld": dp_accounting.pld.PLDAccountant}
    event = dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(noise))
    assert ours == theirs[accountant]().compose(event, steps).get_epsilon(DELTA)
    assert 0.7 * published < ours < published


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_figure_is_met_by_the_conversion_of_its_time(name):
    rate, noise, epochs, published = PUBLISHED[name]
    assert round(moments(rate, noise, steps_of(rate, epochs)), 2) == pytest.approx(published)


def test_epochs_are_one_gaussian_each_without_amplification():
    batches = data.Batches(data.arrays({"x": np.zeros(100)}), 10)
    for steps, epochs in ((1, 1), (10, 1), (11, 2), (30, 3)):
        spent = privacy.epsilon(
            noise_multiplier=2.0, sampling=batches, steps=steps, delta=DELTA, accountant="pld"
        )
        exact = dp_accounting.get_epsilon_gaussian(2.0 / math.sqrt(epochs), DELTA)
        assert spent == pytest.approx(exact, rel=2e-3)
        assert spent >= exact
    poisson = data.PoissonBatches(data.arrays({"x": np.zeros(100)}), 10, seed=0)
    options = {"noise_multiplier": 2.0, "steps": 30, "delta": DELTA}
    assert privacy.epsilon(sampling=poisson, **options) < spent / 2


def test_draws_without_room_are_paid_for_from_delta():
    options = {"noise_multiplier": 1.0, "steps": 100, "accountant": "rdp"}
    overflow = 1e-11
    spent = privacy.epsilon(sampling=privacy.Poisson(0.1, overflow), delta=DELTA, **options)
    plain = privacy.epsilon(sampling=privacy.Poisson(0.1), delta=DELTA, **options)
    assert spent > plain
    left = DELTA - 100 * overflow * (1 + math.exp(spent))
    again = privacy.epsilon(sampling=privacy.Poisson(0.1), delta=left, **options)
    assert spent == pytest.approx(again, rel=1e-6)
    too_small = privacy.Poisson(0.1, 1e-8)
    assert privacy.epsilon(sampling=too_small, delta=DELTA, **options) == math.inf


def test_the_ends():
    sampling = privacy.Poisson(0.1)
    assert privacy.epsilon(noise_multiplier=1, sampling=sampling, steps=0, delta=DELTA) == 0.0
    assert privacy.epsilon(noise_multiplier=0, sampling=sampling, steps=1, delta=DELTA) == math.inf
    everybody = privacy.epsilon(
        noise_multiplier=3, sampling=privacy.Poisson(1), steps=4, delta=DELTA
    )
    exact = dp_accounting.get_epsilon_gaussian(1.5, DELTA)
    assert exact <= everybody <= exact * 1.002
    nobody = privacy.Poisson(0.0)
    assert privacy.epsilon(noise_multiplier=1, sampling=nobody, steps=9, delta=DELTA) == 0.0


def test_the_noise_by_renyi_divergences_spends_no_more():
    given = {"steps": 300, "delta": DELTA, "accountant": "rdp"}
    for sampling in (privacy.Poisson(0.01), privacy.Epochs(20)):
        noise = privacy.noise_for(epsilon=2, sampling=sampling, **given)
        assert 1.9 < privacy.epsilon(noise_multiplier=noise, sampling=sampling, **given) <= 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "sampling", "steps"),
    [
        (1.0, privacy.Poisson(0.01), 300),
        (3.0, privacy.Poisson(0.02, 1e-12), 100),
        (8.0, privacy.Epochs(20), 100),
    ],
    ids=["tight", "with room to pay", "epochs"],
)
def test_the_noise_for_an_epsilon_spends_it_and_no_more(target, sampling, steps):
    given = {"sampling": sampling, "steps": steps, "delta": DELTA}
    noise = privacy.noise_for(epsilon=target, **given)
    assert privacy.epsilon(noise_multiplier=noise, **given) <= target
    assert privacy.epsilon(noise_multiplier=noise - 2e-3, **given) > target
    looser = privacy.noise_for(epsilon=target, accountant="rdp", **given)
    assert privacy.epsilon(noise_multiplier=looser, accountant="rdp", **given) <= target
    assert looser > noise


def test_a_mismatch_is_refused():
    source = data.arrays({"x": np.zeros(100)})
    shuffled, poisson = data.Batches(source, 10), data.PoissonBatches(source, 10, seed=0)
    with pytest.raises(ConfigError, match=r"was told Poisson\(rate=0.1.*are Epochs") as caught:
        privacy.sampling_of(shuffled, privacy.Poisson(0.1))
    assert "data.PoissonBatches" in caught.value.do
    with pytest.raises(ConfigError, match=r"was told Epochs"):
        privacy.sampling_of(poisson, privacy.Epochs(10))
    assert privacy.sampling_of(poisson, privacy.sampling_of(poisson)).rate == 0.1

    class Mine(data.Batches):
        """Draws in a way of its own."""

    for unknown in (Mine(source, 10), data.Skipping(shuffled, [(0, 1)]), [{}], None):
        with pytest.raises(ConfigError, match="how a .* chooses its examples is not known"):
            privacy.epsilon(noise_multiplier=1.0, sampling=unknown, steps=1, delta=DELTA)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"noise_multiplier": -1}, "noise_multiplier is -1"),
        ({"noise_multiplier": math.inf}, "noise_multiplier is inf"),
        ({"steps": -1}, "steps is -1"),
        ({"delta": 0}, "delta is 0"),
        ({"delta": 1.0}, "delta is 1.0"),
    ],
)
def test_numbers_out_of_range_are_refused(given, message, untyped):
    options = {"noise_multiplier": 1.0, "steps": 1, "delta": DELTA, **given}
    with pytest.raises(ConfigError, match=message):
        privacy.epsilon(sampling=privacy.Poisson(0.1), **options)


def test_what_no_noise_can_do_is_refused(untyped):
    given = {"steps": 10, "delta": DELTA}
    with pytest.raises(ConfigError, match="no noise makes 10 steps"):
        privacy.noise_for(epsilon=0.0, sampling=privacy.Poisson(0.1), **given)
    with pytest.raises(ConfigError, match="room for every"):
        privacy.noise_for(epsilon=1.0, sampling=privacy.Poisson(0.1, 1e-3), **given)
    with pytest.raises(ConfigError, match="accountant is 'moments'"):
        privacy.epsilon(
            noise_multiplier=1.0, sampling=privacy.Poisson(0.1), accountant="moments", **given
        )
    with pytest.raises(ConfigError, match="rate=1.5"):
        privacy.Poisson(1.5)
    with pytest.raises(ConfigError, match="at least one batch an epoch"):
        privacy.Epochs(0)


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    with pytest.raises(MissingExtraError, match="dp-accounting") as caught:
        privacy.epsilon(noise_multiplier=1, sampling=privacy.Poisson(0.1), steps=1, delta=DELTA)
    assert "jaxdl[privacy]" in caught.value.do

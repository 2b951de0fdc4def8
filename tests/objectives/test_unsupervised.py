"""Sound, autoencoders and contrast: their sums by hand, their keys, their evaluation."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdl
from jaxdl import losses, models, objectives
from jaxdl.errors import BatchError, ConfigError, ObjectiveError

SHAPE = (3, 3, 1)
IMAGES = np.random.default_rng(0).integers(0, 256, (6, *SHAPE)).astype(np.uint8)
MODEL = models.vae_mlp(SHAPE, hidden_dim=4, latent_dim=2)


def evaluated(objective, variables, batch):
    return objective.loss(*variables, batch, jax.random.key(9), train=False)


@pytest.mark.slow
def test_bits_are_counted_over_real_samples():
    model = models.WaveNet(
        vocab_size=5, num_cycles=1, cycle=(1,), residual_dim=2, gate_dim=2, skip_dim=2
    )
    objective = objectives.autoregressive(model)
    batch = {
        "tokens": np.random.default_rng(1).integers(0, 5, (2, 6)),
        "mask": np.array([[1, 1, 1, 1, 0, 0], [1] * 6]),
    }
    variables = objective.init(jax.random.key(0), batch)
    total, aux = evaluated(objective, variables, batch)
    logits = model.apply({"params": variables[0]}, batch["tokens"][:, :-1])
    p = np.asarray(jax.nn.softmax(logits), np.float64)
    values = -np.log2(np.take_along_axis(p, batch["tokens"][:, 1:, None], -1)[..., 0])
    bits = (values * batch["mask"][:, 1:]).sum() / 8
    assert float(aux.weight) == 8
    assert jaxdl.report(aux.metrics)["bits_per_sample"] == pytest.approx(bits, rel=1e-5)
    assert float(total) / 8 == pytest.approx(bits * np.log(2), rel=1e-5)


@functools.cache
def first():
    params, state = objectives.vae(MODEL).init(jax.random.key(0), {"image": IMAGES})
    rng = np.random.default_rng(3)
    moved = jax.tree.map(lambda x: x + jnp.float32(0.5 * rng.normal(size=x.shape)), params)
    return moved, state


def test_the_bound_is_its_parts():
    objective = objectives.vae(MODEL, beta=3.0)
    total, aux = evaluated(objective, first(), {"image": IMAGES})
    read = jaxdl.report(aux.metrics)
    x = IMAGES / np.float32(255)
    outputs, mean, log_variance = aux.outputs
    kl = float(jnp.mean(losses.gaussian_kl(mean, log_variance)))
    fit = float(jnp.mean(losses.bernoulli_log_likelihood(outputs, x)))
    assert read["kl"] == pytest.approx(kl, rel=1e-5)
    assert read["reconstruction"] == pytest.approx(fit, rel=1e-5)
    assert read["elbo"] == pytest.approx(fit - kl, rel=1e-5)
    assert float(total) / 6 == pytest.approx(3 * kl - fit, rel=1e-5)


def test_evaluation_depends_on_the_example_alone():
    objective = objectives.vae(MODEL, importance_samples=3)
    _, aux = evaluated(objective, first(), {"image": IMAGES})
    whole = jaxdl.report(aux.metrics)
    parts = []
    for rows in (slice(4, 6), slice(0, 4)):
        batch = {"image": np.concatenate([IMAGES[rows], IMAGES[:1]])}
        batch["mask"] = np.array([1] * (len(batch["image"]) - 1) + [0])
        parts.append(objective.loss(*first(), batch, jax.random.key(5), train=False)[1].metrics)
    together = jaxdl.report(jaxdl.metrics.total(parts))
    assert sorted(whole) == ["elbo", "importance_weighted", "kl", "reconstruction"]
    for name, value in whole.items():
        assert together[name] == pytest.approx(value, rel=1e-5), name


def test_the_weighted_bound_is_tighter_and_reaches_the_integral():
    """With two components the likelihood is an integral over a grid."""
    read = {}
    for count in (1, 4000):
        objective = objectives.vae(MODEL, importance_samples=count)
        read[count] = jaxdl.report(evaluated(objective, first(), {"image": IMAGES})[1].metrics)
    axis = np.linspace(-6, 6, 161, dtype=np.float32)
    grid = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    logits = np.asarray(MODEL.apply({"params": first()[0]}, grid, method="decode"))
    flat, x = logits.reshape(len(grid), -1), IMAGES.reshape(6, -1) / 255.0
    fit = x @ flat.T - np.logaddexp(0, flat).sum(-1)[None]
    prior = -0.5 * (grid**2).sum(-1) - np.log(2 * np.pi) + 2 * np.log(axis[1] - axis[0])
    exact = np.logaddexp.reduce(fit + prior[None], axis=1).mean()
    assert read[4000]["importance_weighted"] == pytest.approx(exact, abs=0.05)
    assert read[4000]["elbo"] < exact


def test_noise_belongs_to_the_example():
    objective = objectives.vae(MODEL)
    keys = jax.random.split(jax.random.key(4), 6)

    def outputs(rows):
        batch = {"image": IMAGES[rows], "example_key": keys[rows]}
        return objective.loss(*first(), batch, jax.random.key(9), train=True)[1].outputs[0]

    whole = outputs(slice(0, 6))
    np.testing.assert_allclose(outputs(slice(3, 5)), whole[3:5], rtol=1e-5, atol=1e-6)
    same = {"image": IMAGES, "example_key": keys[::-1]}
    other = objective.loss(*first(), same, jax.random.key(9), train=True)[1].outputs[0]
    assert np.abs(other - whole).max() > 1e-2


@pytest.mark.parametrize("shape", [(5, 7, 2), (8, 8, 1), (1, 1, 1)])
def test_convolutions_fit_any_image(shape):
    model = models.vae_conv(shape, features=(2, 3), hidden_dim=4, latent_dim=2)
    x = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
    out, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), x)
    assert out[0].shape == (2, *shape)
    drawn = jax.eval_shape(
        lambda v: model.apply(v, jax.random.key(1), 3, method="sample"), variables
    )
    assert drawn.shape == (3, *shape)


def test_published_vae():
    shapes = jax.eval_shape(models.vae_mlp().init, jax.random.key(0), jnp.zeros((1, 28, 28, 1)))
    count = sum(x.size for x in jax.tree.leaves(shapes))
    assert count == 784 * 500 + 500 + 2 * (500 * 20 + 20) + 20 * 500 + 500 + 500 * 784 + 784


def test_an_autoencoder_reconstructs_what_it_reads():
    model = models.Autoencoder(models.MLP((4, 2)), models.MLPDecoder((4,), SHAPE))
    objective = objectives.autoencoder(model)
    variables = objective.init(jax.random.key(0), {"image": IMAGES})
    batch = {"image": IMAGES, "mask": np.array([1, 1, 1, 1, 0, 0])}
    total, aux = evaluated(objective, variables, batch)
    wanted = ((np.asarray(aux.outputs) - IMAGES / 255) ** 2).mean((1, 2, 3))[:4].sum()
    assert float(total) == pytest.approx(wanted, rel=1e-5)
    assert float(aux.weight) == 4


def noisy(key, x):
    return x + jax.random.normal(key, x.shape)


@pytest.mark.slow
def test_views_are_random_by_example_and_pairs_are_found():
    model = models.SimCLR(models.MLP((5,)), hidden_dim=64, projection_dim=16)
    objective = objectives.contrastive(model, noisy, inputs="x")
    x = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    keys = jax.random.split(jax.random.key(4), 4)
    batch = {"x": x, "example_key": keys}
    variables = objective.init(jax.random.key(0), batch)
    total, aux = objective.loss(*variables, batch, jax.random.key(1), train=True)
    turned = {"x": x[::-1], "example_key": keys[::-1]}
    again, _ = objective.loss(*variables, turned, jax.random.key(2), train=True)
    assert float(again) == pytest.approx(float(total), rel=1e-5)
    assert 0 <= jaxdl.report(aux.metrics)["contrastive_accuracy"] <= 1
    # Evaluation: the same views whatever the key, the order and the padding.
    one = evaluated(objective, variables, {"x": x})[0]
    padded = {"x": np.concatenate([x[::-1], x[:2]]), "mask": np.array([1, 1, 1, 1, 0, 0])}
    two = objective.loss(*variables, padded, jax.random.key(3), train=False)[0]
    assert float(two) == pytest.approx(float(one), rel=1e-5)
    # Without augmentation and with views that are the same, each finds its own.
    same = objectives.contrastive(model, lambda key, x: x, inputs="x", temperature=0.1)
    aux = evaluated(same, variables, {"x": x})[1]
    assert jaxdl.report(aux.metrics)["contrastive_accuracy"] == 1


def test_the_kept_part_is_the_encoder():
    model = models.SimCLR(models.MLP((5,)), hidden_dim=4, projection_dim=3)
    z, variables = model.init_with_output(jax.random.key(0), jnp.ones((2, 6)))
    features = model.apply(variables, jnp.ones((2, 6)), method="features")
    assert (z.shape, features.shape) == ((2, 3), (2, 5))


@pytest.mark.usefixtures("untyped")
def test_wrong_use_is_named():
    for make in (
        objectives.autoencoder,
        objectives.vae,
        lambda m: objectives.contrastive(m, noisy),
    ):
        with pytest.raises(ObjectiveError, match="got a int"):
            make(3)
    with pytest.raises(ObjectiveError, match="without latent_dim"):
        objectives.vae(models.MLP((3,)))
    for wrong in ({"likelihood": "poisson"}, {"scale": 0.0}, {"importance_samples": -1}):
        with pytest.raises(ConfigError, match="vae has"):
            objectives.vae(MODEL, **wrong)
    flat = objectives.contrastive(models.MLPDecoder((3,), (2, 2)), noisy, inputs="x")
    batch = {"x": np.ones((2, 3), np.float32)}
    params, state = flat.init(jax.random.key(0), batch)
    with pytest.raises(BatchError, match="no|embeddings"):
        flat.loss(params, state, batch, jax.random.key(0), train=True)
    with pytest.raises(ConfigError, match="latent_dim=0"):
        models.vae_mlp(SHAPE, latent_dim=0).init(jax.random.key(0), IMAGES)

"""Learning to reconstruct: plain autoencoders, and the variational bound.

Reads from: errors, protocols, reductions, losses, models.layers, objectives.applying,
objectives.drawing, objectives.fields. Used by: recipes, by choice.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdl.errors import ConfigError, ObjectiveError
from jaxdl.losses import (
    bernoulli_log_likelihood,
    gaussian_kl,
    gaussian_log_likelihood,
    mean_squared_error,
)
from jaxdl.models import to_float
from jaxdl.objectives.applying import applied, first_variables
from jaxdl.objectives.drawing import example_streams
from jaxdl.objectives.fields import LossFn, call_options, field
from jaxdl.protocols import MASK, Aux, Batch, Mean, ModelState, Objective, Params
from jaxdl.reductions import masked_sum

__all__ = ["autoencoder", "vae"]

_STREAM = 0x7661656E


def autoencoder(
    model: nn.Module, *, loss: LossFn = mean_squared_error, inputs: str = "image"
) -> Objective:
    """The objective of a model whose target is its input; integer images as floats from 0 to 1.

    Args:
        model: a Linen module, ``[B, ...]`` to the same shape, such as ``models.Autoencoder``.
        loss: ``(outputs, inputs) -> [B]``.
        inputs: the batch field.

    Returns:
        An ``Objective``; its ``Aux.outputs`` are the reconstructions.

    Raises:
        ObjectiveError: ``model`` is no Linen module.
        BatchError: while tracing, when the field is missing or the shapes differ.

    Examples:
        >>> objective = autoencoder(nn.Dense(3), inputs="x")
        >>> params, state = objective.init(jax.random.key(0), {"x": jnp.ones((2, 3))})
        >>> params["kernel"].shape
        (3, 3)
    """
    _check_model(model, "autoencoder")

    def init(key: Any, batch: Batch) -> tuple[Params, ModelState]:
        x = to_float(field(batch, inputs))
        return first_variables(model, key, x, call_options(model, batch, train=False))

    def loss_sum(
        params: Params, model_state: ModelState, batch: Batch, key: Any, *, train: bool
    ) -> tuple[Any, Aux]:
        x = to_float(field(batch, inputs))
        call = call_options(model, batch, train=train)
        given = (params, model_state)
        outputs, model_state = applied(model, given, batch, x, key, call, train=train)
        total, weight = masked_sum(loss(outputs, x), batch.get(MASK))
        return total, Aux(weight, model_state, {}, outputs)

    return Objective(init, loss_sum)


def vae(
    model: nn.Module,
    *,
    likelihood: Literal["bernoulli", "gaussian"] = "bernoulli",
    scale: float = 1.0,
    beta: float = 1.0,
    importance_samples: int = 0,
    inputs: str = "image",
) -> Objective:
    r"""The negative evidence lower bound of a variational autoencoder, in nats an example.

    .. math:: -\log p(x \mid z) + \beta \, \mathrm{KL}(q(z \mid x) \,\|\, p(z)), \qquad
        z = \mu(x) + \sigma(x) \epsilon

    One draw of the noise an example, from the example's own key. In evaluation the noise follows
    from what the example holds, so that a figure is the same at any batch size, order and number of
    devices, and is a bound still (at the posterior's mean it would be none).

    Source: Kingma and Welling 2013, arXiv:1312.6114; :math:`\beta`: Higgins et al. 2017,
    "beta-VAE"; the importance-weighted bound: Burda et al. 2015, arXiv:1509.00519.

    Args:
        model: a Linen module with an attribute ``latent_dim``, called as ``model(x, noise=[B,
            latent_dim])``, that returns ``(outputs, mean, log_variance)`` and has the methods
            ``encode`` and ``decode``: ``models.VAE``. Outputs are logits, or the Gaussian's means.
        likelihood: of the inputs given the outputs. Integer images are read as floats from 0 to 1.
        scale: the Gaussian's deviation.
        beta: the weight of the KL term; the bound at 1.
        importance_samples: in evaluation also report the bound of Burda et al. with so many draws.
        inputs: the batch field.

    Returns:
        An ``Objective``; its ``Aux.outputs`` are what the model returned. Metrics, in nats an
        example: ``elbo`` (at ``beta`` 1 whatever ``beta`` is), ``reconstruction`` (the
        log-likelihood), ``kl``, and in evaluation ``importance_weighted``.

    Raises:
        ObjectiveError: ``model`` is no such module.
        ConfigError: a setting is out of range.
        BatchError: while tracing, when the field is missing or the shapes differ.

    Examples:
        >>> from jaxdl.models import vae_mlp
        >>> objective = vae(vae_mlp((2, 2, 1), hidden_dim=4, latent_dim=2))
        >>> batch = {"image": jnp.zeros((3, 2, 2, 1))}
        >>> params, state = objective.init(jax.random.key(0), batch)
        >>> total, aux = objective.loss(params, state, batch, jax.random.key(1), train=True)
        >>> float(aux.weight), sorted(aux.metrics)
        (3.0, ['elbo', 'kl', 'reconstruction'])
    """
    _check_model(model, "vae")
    latent = _latent(model, likelihood, scale, importance_samples)

    def log_likelihood(outputs: Any, x: Any) -> jax.Array:
        if likelihood == "bernoulli":
            return bernoulli_log_likelihood(outputs, x)
        return gaussian_log_likelihood(outputs, x, 2.0 * math.log(scale))

    def init(key: Any, batch: Batch) -> tuple[Params, ModelState]:
        x = to_float(field(batch, inputs))
        return first_variables(model, key, x, call_options(model, batch, train=False))

    def loss_sum(
        params: Params, model_state: ModelState, batch: Batch, key: Any, *, train: bool
    ) -> tuple[Any, Aux]:
        raw = jnp.asarray(field(batch, inputs))
        x, given = to_float(raw), (params, model_state)
        keys = example_streams(batch, key, raw, _STREAM, train=train)
        noise = _drawn(keys, latent)
        call = {**call_options(model, batch, train=train), "noise": noise}
        outputs, model_state = applied(model, given, batch, x, key, call, train=train)
        reconstruction = log_likelihood(outputs[0], x)
        kl = gaussian_kl(outputs[1], outputs[2])
        parts = {"elbo": reconstruction - kl, "reconstruction": reconstruction, "kl": kl}
        if importance_samples and not train:
            variables = {"params": params, **model_state}
            posterior = (outputs[1], outputs[2])

            def decoded(z: Any) -> jax.Array:
                return log_likelihood(model.apply(variables, z, method="decode"), x)

            parts["importance_weighted"] = _weighted(decoded, posterior, keys, importance_samples)
        mask = batch.get(MASK)
        total, weight = masked_sum(beta * kl - reconstruction, mask)
        sums = {name: Mean(*masked_sum(values, mask)) for name, values in parts.items()}
        return total, Aux(weight, model_state, sums, outputs)

    return Objective(init, loss_sum)


def _drawn(keys: Any, latent: int) -> jax.Array:
    return jax.vmap(lambda key: jax.random.normal(key, (latent,)))(keys)


def _weighted(decoded: Any, posterior: tuple[Any, Any], keys: Any, count: int) -> jax.Array:
    """The log of the mean weight ``p(x, z) / q(z | x)`` over draws of ``z``, one after the other.

    The constants of prior and posterior cancel.
    """
    mean, log_variance = posterior

    def body(carry: None, index: jax.Array) -> tuple[None, jax.Array]:
        at = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, index)
        noise = _drawn(at, mean.shape[-1])
        z = mean + jnp.exp(0.5 * log_variance) * noise
        ratio = 0.5 * jnp.sum(jnp.square(noise) + log_variance - jnp.square(z), axis=-1)
        return carry, decoded(z) + ratio

    _, values = jax.lax.scan(body, None, jnp.arange(count))
    return jax.nn.logsumexp(values, axis=0) - math.log(count)


def _check_model(model: Any, objective: str) -> None:
    if not isinstance(model, nn.Module):
        raise ObjectiveError(
            f"{objective} got a {type(model).__name__}",
            expected="an instance of a flax.linen.Module",
            do="write Objective(init, loss) by hand for another kind of model",
        )


def _latent(model: Any, likelihood: str, scale: float, importance_samples: int) -> int:
    latent = getattr(model, "latent_dim", None)
    if not isinstance(latent, int):
        raise ObjectiveError(
            f"vae got a {type(model).__name__} without latent_dim",
            expected="a module with latent_dim that takes noise, such as models.VAE",
            do="wrap encoder and decoder in models.VAE(encoder, decoder, latent_dim)",
        )
    if likelihood not in ("bernoulli", "gaussian") or not scale > 0 or importance_samples < 0:
        raise ConfigError(
            f"vae has likelihood={likelihood!r}, scale={scale} and "
            f"importance_samples={importance_samples}",
            expected="'bernoulli' or 'gaussian', a scale above 0, no negative count",
            do="correct the setting",
        )
    return latent

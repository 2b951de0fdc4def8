"""Attributions of tokens: of their embeddings, added up over features.

Reads from: errors, explain.gradients, explain.integrated, explain.layers, explain.targets.
Used by: cli, and by hand.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxdl.errors import BatchError, ConfigError, closest
from jaxdl.explain.gradients import input_gradient
from jaxdl.explain.integrated import Rule, integrated_gradients
from jaxdl.explain.layers import Layer
from jaxdl.explain.targets import Targets, at_mask, wide

__all__ = ["TokenAttributions", "token_attributions"]

_METHODS = ("integrated_gradients", "gradient_x_input", "saliency")


class TokenAttributions(NamedTuple):
    """What each token adds to the score.

    Attributes:
        scores: ``[B, T]``; 0 on padding.
        error: ``[B]``, as ``Integrated.error``; ``None`` for other methods.
        change: ``[B]``, as ``Integrated.change``; ``None`` for other methods.
    """

    scores: jax.Array
    error: jax.Array | None = None
    change: jax.Array | None = None


def token_attributions(
    layer: Layer,
    tokens: Any,
    targets: Targets = None,
    *,
    method: Literal["integrated_gradients", "gradient_x_input", "saliency"] = (
        "integrated_gradients"
    ),
    baselines: Any = 0.0,
    steps: int = 50,
    rule: Rule = "gausslegendre",
    within: float | None = None,
    chunk: int = 1,
    mask: Any = None,
) -> TokenAttributions:
    """How much each token adds to a score, by way of its embedding.

    Source: integrated gradients as Sundararajan et al. 2017, arXiv:1703.01365, section 6.4, use
    them on text; gradient times embedding: Li et al. 2015, arXiv:1506.01066, and Shrikumar et al.
    2016.

    Args:
        layer: the embedding of the tokens, whose activation is ``[B, T, D]``; such as
            ``linen_layer(fn, "bert/token_embedding")``.
        tokens: what the layer's functions take, ``[B, T]``.
        targets: see ``Targets``.
        method: ``"integrated_gradients"`` and ``"gradient_x_input"`` are summed over features, and
            keep their sign; ``"saliency"`` is the length of the gradient.
        baselines: of the embeddings, for integrated gradients: a number, or ``[B, T, D]`` or with 1
            in place of a length, such as the embedding of padding, ``[1, 1, D]``.
        steps: as ``integrated_gradients``.
        rule: as ``integrated_gradients``.
        within: as ``integrated_gradients``.
        chunk: as ``integrated_gradients``.
        mask: 0 on padding, ``[B, T]`` or ``[B]``; attributions there are 0.

    Returns:
        See ``TokenAttributions``.

    Raises:
        JaxdlError: as ``integrated_gradients``, and as the layer's functions.
        BatchError: the activation is no ``[B, T, D]``.
        ConfigError: there is no such method.
    """
    if method not in _METHODS:
        raise ConfigError(
            f"method is {method!r}",
            expected=f"one of {', '.join(_METHODS)}",
            do=closest(str(method), _METHODS),
        )
    words = layer.read(tokens)
    if words.ndim != 3 or not jnp.issubdtype(words.dtype, jnp.floating):
        raise BatchError(
            f"the layer's activation is {words.dtype}{list(words.shape)}",
            expected="embeddings, floats [B, T, D]",
            do="name the layer that embeds the tokens",
        )

    def scores(words: jax.Array) -> jax.Array:
        return layer.resume(tokens, words)

    if method == "integrated_gradients":
        found = integrated_gradients(
            scores,
            words,
            targets,
            baselines=baselines,
            steps=steps,
            rule=rule,
            within=within,
            chunk=chunk,
            mask=mask,
        )
        return TokenAttributions(jnp.sum(found.attributions, axis=-1), found.error, found.change)
    gradient = input_gradient(scores, words, targets)
    if method == "saliency":
        return TokenAttributions(at_mask(jnp.linalg.norm(gradient, axis=-1), mask))
    product = gradient * words.astype(wide(words.dtype))
    return TokenAttributions(at_mask(jnp.sum(product, axis=-1), mask))

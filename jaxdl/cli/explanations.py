"""The programs behind ``jaxdl explain``: scores, losses, features and attributions of rows.

Reads from: errors, protocols, losses, models, explain, step, recipe, cli.subjects.
Used by: cli.explaining.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxdl import explain, losses
from jaxdl.cli.subjects import TOLERATED, Settings, Subject, scores_of
from jaxdl.errors import ConfigError
from jaxdl.models.layers import to_float
from jaxdl.protocols import MASK, Batch, TrainState
from jaxdl.recipe import Recipe
from jaxdl.step import PredictStep

__all__ = ["explainer", "featurer", "row_losses"]

_OF_TOKENS = ("integrated-gradients", "saliency", "gradient-x-input", "attention-rollout")


def explainer(recipe: Recipe, subject: Subject, settings: Settings) -> PredictStep:
    """``(state, batch) -> {name: rows}``: scores, what was predicted, targets and attributions.

    Args:
        recipe: the recipe.
        subject: from ``subject_of``.
        settings: what is asked.

    Raises:
        ConfigError: the method does not fit the subject, or a layer or target is not there.
    """
    _check(subject, settings)

    def apply(state: TrainState, batch: Batch) -> dict[str, Any]:
        fn = scores_of(recipe, state, batch, subject.field)
        given = batch[subject.field]
        inputs = given if subject.tokens else to_float(given)
        scores = fn(inputs)
        predicted = _predicted(scores)
        target = _targets(settings.target, predicted, batch)
        rows = {"scores": scores, "given": fn(given), "predicted": predicted, "target": target}
        aim = None if scores.size == scores.shape[0] else target
        mask = batch.get(MASK)
        found = _of_tokens if subject.tokens else _of_values
        return {**rows, **found(fn, inputs, aim, mask, (subject, settings))}

    return PredictStep(apply)


def featurer(recipe: Recipe, subject: Subject, settings: Settings) -> PredictStep:
    """``(state, batch) -> {"scores", "predicted", "target", "features" [B, D]}``.

    Features are what the last dense layer reads, or what a named layer gives.

    Args:
        recipe: the recipe.
        subject: from ``subject_of``.
        settings: what is asked.

    Raises:
        JaxdlError: as ``explainer``.
    """
    path = subject.layer(settings)

    def apply(state: TrainState, batch: Batch) -> dict[str, Any]:
        fn = scores_of(recipe, state, batch, subject.field)
        given = batch[subject.field]
        at = "input" if settings.layer is None else "output"
        features = explain.linen_layer(fn, path, at=at).read(given)
        scores = fn(given)
        predicted = _predicted(scores)
        features = features.reshape(features.shape[0], -1).astype(jnp.float32)
        rows = {"scores": scores, "given": scores, "predicted": predicted}
        return {**rows, "target": predicted, "features": features}

    return PredictStep(apply)


def row_losses(recipe: Recipe, subject: Subject) -> PredictStep:
    """``(state, batch) -> [B]``, the cross-entropy of scores ``[B, K]`` with ``label``.

    Args:
        recipe: the recipe.
        subject: from ``subject_of``.
    """

    def apply(state: TrainState, batch: Batch) -> jax.Array:
        scores = scores_of(recipe, state, batch, subject.field)(batch[subject.field])
        return losses.softmax_cross_entropy(scores, batch["label"])

    return PredictStep(apply)


def _predicted(scores: jax.Array) -> jax.Array:
    if scores.size == scores.shape[0]:
        return (scores.reshape(-1) > 0).astype(jnp.int32)
    return jnp.argmax(scores, axis=-1).astype(jnp.int32)


def _targets(target: str, predicted: jax.Array, batch: Batch) -> jax.Array:
    if target == "predicted":
        return predicted
    if target == "label":
        return jnp.asarray(batch["label"], jnp.int32)
    return jnp.full_like(predicted, int(target))


_Given = tuple[Subject, Settings]


def _of_values(fn: Any, inputs: Any, target: Any, mask: Any, given: _Given) -> Mapping[str, Any]:
    """Attributions of floats, by any method but the nearest examples."""
    subject, settings = given
    size = inputs.shape[1:3]
    match settings.method:
        case "saliency":
            found = explain.saliency(fn, inputs, target, mask=mask)
        case "gradient-x-input":
            found = explain.gradient_x_input(fn, inputs, target, mask=mask)
        case "smoothgrad":
            key = jax.random.key(settings.seed)
            options: dict[str, Any] = {"samples": settings.steps, "noise": settings.noise}
            found = explain.smoothgrad(fn, inputs, target, key=key, mask=mask, **options)
        case "occlusion":
            # A square of an image, of all its colours; a stretch of anything else.
            names = min(max(inputs.ndim - 2, 1), 2)
            window = [min(settings.window, each) for each in inputs.shape[1 : 1 + names]]
            found = explain.occlusion(
                fn, inputs, target, window=window, strides=settings.stride, mask=mask
            )
        case "grad-cam":
            layer = explain.linen_layer(fn, subject.layer(settings))
            stretch: dict[str, Any] = {"size": size, "method": "bilinear"}
            found = explain.grad_cam(layer, inputs, target, mask=mask, **stretch)
        case "attention-rollout":
            rolled = explain.attention_rollout(explain.attention_weights(fn)(inputs))
            found = _on_image(rolled, size)
        case _:
            exact: dict[str, Any] = {"steps": settings.steps, "within": TOLERATED}
            return explain.integrated_gradients(fn, inputs, target, mask=mask, **exact)._asdict()
    return {"attributions": found}


def _on_image(rolled: jax.Array, size: tuple[int, ...]) -> jax.Array:
    """What the class token, or else the mean patch, is made of, as a map of the image."""
    count = rolled.shape[1]
    for first in (1, 0):
        patches = count - first
        down = round((patches * size[0] / size[1]) ** 0.5)
        if down and patches % down == 0 and down * size[1] == patches // down * size[0]:
            row = rolled[:, 0, first:] if first else jnp.mean(rolled, axis=1)
            return explain.resized(row.reshape(-1, down, patches // down), size)
    raise ConfigError(
        f"{count} tokens are no grid of patches of an image {list(size)}",
        expected="square patches, with a class token before them or without",
        do="explain the model by another method",
    )


def _of_tokens(fn: Any, tokens: Any, target: Any, mask: Any, given: _Given) -> Mapping[str, Any]:
    """Attributions of tokens, ``[B, T]``."""
    subject, settings = given
    real = jnp.ones(tokens.shape) if mask is None else jnp.asarray(mask)
    real = real if real.ndim == 2 else jnp.broadcast_to(real[:, None], tokens.shape)
    if settings.method == "attention-rollout":
        rolled = explain.attention_rollout(explain.attention_weights(fn)(tokens))
        # A model that looks ahead pools its first token; one that does not, its last real one.
        ahead = jnp.any(rolled[:, 0, 1:] > 0)
        places = jnp.arange(tokens.shape[1])[None]
        last = jnp.max(jnp.where(real != 0, places, 0), axis=1)
        row = rolled[jnp.arange(len(tokens)), jnp.where(ahead, 0, last)]
        return {"attributions": jnp.where(real != 0, row, 0.0)}
    layer = explain.linen_layer(fn, subject.layer(settings))
    method: Any = settings.method.replace("-", "_")
    found = explain.token_attributions(
        layer,
        tokens,
        target,
        method=method,
        steps=settings.steps,
        within=TOLERATED,
        mask=real,
    )
    rows: dict[str, Any] = {"attributions": found.scores}
    if found.error is not None:
        rows |= {"error": found.error, "change": found.change}
    return rows


def _check(subject: Subject, settings: Settings) -> None:
    if subject.tokens and settings.method not in _OF_TOKENS:
        raise ConfigError(
            f"{settings.method} does not explain tokens",
            expected=f"one of {', '.join(_OF_TOKENS)}, nearest-examples",
            do="choose another --method",
        )
    images = len(subject.inputs.shape) == 4
    if not subject.tokens and not images and settings.method in ("grad-cam", "attention-rollout"):
        raise ConfigError(
            f"{settings.method} maps an image, and the field {subject.field!r} is "
            f"{subject.inputs.dtype}{list(subject.inputs.shape)}",
            expected="images [B, H, W, C], or tokens for attention-rollout",
            do="choose another --method",
        )
    if settings.method == "grad-cam" or (subject.tokens and settings.method != "attention-rollout"):
        subject.layer(settings)
    many = len(subject.scores.shape) == 2 and subject.scores.shape[1] > 1
    classes = subject.scores.shape[1] if many else 2
    named = settings.target in ("predicted", "label")
    if not named and not (settings.target.isdigit() and int(settings.target) < classes):
        raise ConfigError(
            f"the target is {settings.target!r}",
            expected=f"predicted, label, or a class from 0 to {classes - 1}",
            do="change --target",
        )

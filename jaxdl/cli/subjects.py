"""What of a recipe is explained: its scores as a function of one field of the batch.

Reads from: errors, protocols, explain, recipe. Used by: cli.explaining, cli.explanations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxdl import explain
from jaxdl.errors import ConfigError, PathError, closest
from jaxdl.explain import LayerInfo
from jaxdl.protocols import MASK, Batch, TrainState
from jaxdl.recipe import Recipe

__all__ = ["METHODS", "TOLERATED", "Method", "Settings", "Subject", "scores_of", "subject_of"]

Method = Literal[
    "integrated-gradients",
    "saliency",
    "gradient-x-input",
    "smoothgrad",
    "occlusion",
    "grad-cam",
    "attention-rollout",
    "nearest-examples",
]
TOLERATED = 0.01
"""How far integrated gradients may be from adding up, as a share of what they should add up to."""

METHODS = (
    *("integrated-gradients", "saliency", "gradient-x-input", "smoothgrad", "occlusion"),
    *("grad-cam", "attention-rollout", "nearest-examples"),
)


@dataclass(frozen=True)
class Settings:
    """What the methods are told.

    Attributes:
        method: one of ``METHODS``.
        target: ``"predicted"``, ``"label"`` or a class.
        layer: of grad-cam and nearest-examples, or the embedding of tokens; found when ``None``.
        steps: of integrated gradients; samples of SmoothGrad.
        noise: of SmoothGrad.
        window: of occlusion, the side in values.
        stride: of occlusion.
        seed: of SmoothGrad.
    """

    method: Method
    target: str = "predicted"
    layer: str | None = None
    steps: int = 50
    noise: float = 0.15
    window: int = 3
    stride: int = 1
    seed: int = 0


class Subject(NamedTuple):
    """What of a recipe is explained.

    Attributes:
        field: of the batch, by which the scores are explained.
        tokens: whether it holds tokens, which are explained by their embeddings.
        layers: what is called, in order.
        scores: shape and dtype of the scores, ``[B, K]`` or ``[B]``.
        inputs: shape and dtype of the field.
    """

    field: str
    tokens: bool
    layers: list[LayerInfo]
    scores: jax.ShapeDtypeStruct
    inputs: jax.ShapeDtypeStruct

    def layer(self, settings: Settings) -> str:
        """The path of the layer that the method looks at.

        Raises:
            PathError: the named one is not called.
            ConfigError: none fits.
        """
        known = [each.path for each in self.layers if each.path]
        if settings.layer is not None:
            if settings.layer not in known:
                raise PathError(
                    f"no layer {settings.layer!r} is called",
                    expected="the path of a module of the model",
                    do=closest(settings.layer, known),
                )
            return settings.layer
        fitting = [each.path for each in self.layers if each.path and self._fits(each, settings)]
        if not fitting:
            raise ConfigError(
                f"{settings.method} finds no layer in this model",
                expected="nn.Embed for tokens, a layer that gives [B, h, w, C] for grad-cam, a "
                "last nn.Dense for nearest-examples",
                do=f"name one with --layer (there are: {', '.join(known)})"
                if known
                else "explain it by hand: layers of NNX are found by explain.nnx_layer",
            )
        return fitting[0] if self.tokens and settings.method != "nearest-examples" else fitting[-1]

    def _fits(self, layer: LayerInfo, settings: Settings) -> bool:
        if settings.method == "nearest-examples":
            output = layer.output
            return layer.kind == "Dense" and output is not None and output.shape == self._wanted()
        if settings.method == "grad-cam":
            return layer.output is not None and len(layer.output.shape) == 4
        given = layer.input
        return layer.kind == "Embed" and given is not None and given.shape == self.inputs.shape

    def _wanted(self) -> tuple[int, ...]:
        shape = self.scores.shape
        return shape if len(shape) == 2 else (*shape, 1)


def subject_of(recipe: Recipe, state: TrainState, batch: Batch, field: str | None) -> Subject:
    """What can be explained; computes nothing.

    Args:
        recipe: the recipe.
        state: or its shapes.
        batch: shapes of a batch that is evaluated.
        field: by which; found when ``None``.

    Raises:
        ConfigError: there is no such field, it holds no floats, images or tokens, or the model
            does not give one row of scores an example.
    """
    field = _field_of(batch, field)
    inputs = jax.ShapeDtypeStruct(batch[field].shape, batch[field].dtype)
    scores = jax.eval_shape(lambda s, b: scores_of(recipe, s, b, field)(b[field]), state, batch)
    fits = hasattr(scores, "shape") and jnp.issubdtype(scores.dtype, jnp.floating)
    if not fits or scores.ndim not in (1, 2) or scores.shape[0] != inputs.shape[0]:
        got = f"{scores.dtype}{list(scores.shape)}" if hasattr(scores, "shape") else type(scores)
        raise ConfigError(
            f"the outputs of recipe {recipe.name!r} are {got}",
            expected="one row of scores an example, [B, K] or [B]",
            do="explain this model by hand, with the functions of jaxdl.explain",
        )
    layers: list[LayerInfo] = []

    def call(state: TrainState, batch: Batch) -> Any:
        fn = scores_of(recipe, state, batch, field)
        layers.extend(explain.linen_layers(fn, batch[field]))
        return fn(batch[field])

    jax.eval_shape(call, state, batch)
    tokens = jnp.issubdtype(inputs.dtype, jnp.integer) and any(
        each.kind == "Embed" and each.input is not None and each.input.shape == inputs.shape
        for each in layers
    )
    if jnp.issubdtype(inputs.dtype, jnp.integer) and not tokens and len(inputs.shape) != 4:
        raise ConfigError(
            f"the field {field!r} is {inputs.dtype}{list(inputs.shape)}, and no nn.Embed reads it",
            expected="floats, images, or tokens that the model embeds",
            do="name another field with --field, or explain the model by hand",
        )
    return Subject(field, tokens, layers, scores, inputs)


def _field_of(batch: Batch, field: str | None) -> str:
    names = [name for name in batch if name not in (MASK, "label")]
    if field is None:
        usual = [name for name in ("image", "tokens") if name in names]
        found = usual[:1] or (names if len(names) == 1 else [])
        if found:
            return found[0]
    elif field in names:
        return field
    raise ConfigError(
        f"there is no field {field!r}" if field else "the batch has no field image or tokens",
        expected=f"one of {', '.join(names)}",
        do="name it with --field" if field is None else closest(field, names),
    )


def scores_of(recipe: Recipe, state: TrainState, batch: Batch, field: str) -> Callable[[Any], Any]:
    """The outputs of a recipe's model in evaluation, as a function of one field.

    Args:
        recipe: the recipe.
        state: with the parameters.
        batch: the other fields.
        field: its name.
    """
    params = state.params if recipe.ema_decay is None else state.ema
    key = jax.random.key(0)

    def scores(values: Any) -> Any:
        given = {**batch, field: values}
        loss = recipe.objective.loss
        return loss(params, state.model_state, given, key, train=False)[1].outputs

    return scores

"""Contrastive learning: two random views of each example find each other among all others.

Reads from: errors, protocols, reductions, losses, objectives.applying, objectives.fields,
objectives.masking. Used by: recipes, by choice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdl.errors import BatchError, ObjectiveError
from jaxdl.losses import nt_xent, pair_scores
from jaxdl.objectives.applying import applied, first_variables
from jaxdl.objectives.drawing import example_streams
from jaxdl.objectives.fields import call_options, field
from jaxdl.protocols import EXAMPLE_KEY, MASK, Aux, Batch, Mean, ModelState, Objective, Params
from jaxdl.reductions import masked_sum

__all__ = ["contrastive"]

_STREAM = 0x76696577


def contrastive(
    model: nn.Module,
    augment: Callable[[Any, Any], Any],
    *,
    temperature: float = 0.5,
    axis_name: str | None = None,
    inputs: str = "image",
) -> Objective:
    """The objective of SimCLR: ``losses.nt_xent`` of two random views of each example.

    Negatives come from the whole batch on all devices. So the loss depends on which rows make up a
    batch, unlike that of other objectives: ``gradients.accumulate`` and ``reproducible``, which
    would compare the rows of a part only, refuse it, and the figure of an evaluation belongs to its
    batch size. Padded rows are no negatives.

    The views of an example follow from its own key, and in evaluation from its content, so that
    they are the same on any number of devices.

    Source: Chen et al. 2020, "A simple framework for contrastive learning of visual
    representations", arXiv:2002.05709.

    Args:
        model: any Linen module, inputs to embeddings ``[B, D]``, such as ``models.SimCLR``. Both
            views go through it at once, as ``2 B`` rows, so batch statistics are over both.
        augment: ``(key, image) -> view``, of one example; pure, and of one shape.
        temperature: as ``losses.nt_xent``.
        axis_name: as ``losses.nt_xent``: ``"data"`` under ``jaxdl.pmap``, else ``None``.
        inputs: the batch field that is viewed.

    Returns:
        An ``Objective`` without ``Aux.outputs``. Its metric ``contrastive_accuracy`` is the share
        of views that are closer to their other view than to any other.

    Raises:
        ObjectiveError: ``model`` is no Linen module, or while tracing ``axis_name`` is not mapped.
        BatchError: while tracing, when a field is missing or the embeddings are no ``[B, D]``.

    Examples:
        >>> def noisy(key, image):
        ...     return image + 0.1 * jax.random.normal(key, image.shape)
        >>> objective = contrastive(nn.Dense(3), noisy, inputs="x")
        >>> batch = {"x": jnp.eye(4)}
        >>> params, state = objective.init(jax.random.key(0), batch)
        >>> total, aux = objective.loss(params, state, batch, jax.random.key(1), train=True)
        >>> float(aux.weight), sorted(aux.metrics)
        (4.0, ['contrastive_accuracy'])
    """
    if not isinstance(model, nn.Module):
        raise ObjectiveError(
            f"contrastive got a {type(model).__name__}",
            expected="an instance of a flax.linen.Module",
            do="write Objective(init, loss) by hand for another kind of model",
        )

    def views(batch: Batch, key: Any, *, train: bool) -> dict[str, Any]:
        """Every field twice, the views of an example side by side, which keeps it on its device."""
        images = jnp.asarray(field(batch, inputs))
        keys = example_streams(batch, key, images, _STREAM, train=train)
        pairs = jax.vmap(lambda k: jax.random.split(k, 2))(keys)
        seen = jax.vmap(jax.vmap(augment, in_axes=(0, None)))(pairs, images)
        twice = {name: jnp.stack([value] * 2, axis=1) for name, value in batch.items()}
        twice = {**twice, inputs: seen}
        if EXAMPLE_KEY in batch:
            twice[EXAMPLE_KEY] = pairs
        return {name: _joined(value) for name, value in twice.items()}

    def init(key: Any, batch: Batch) -> tuple[Params, ModelState]:
        doubled = views(batch, key, train=True)
        call = call_options(model, doubled, train=False)
        return first_variables(model, key, doubled[inputs], call)

    def loss_sum(
        params: Params, model_state: ModelState, batch: Batch, key: Any, *, train: bool
    ) -> tuple[Any, Aux]:
        doubled = views(batch, key, train=train)
        call = call_options(model, doubled, train=train)
        given = (params, model_state)
        z, model_state = applied(model, given, doubled, doubled[inputs], key, call, train=train)
        if jnp.ndim(z) != 2:
            raise BatchError(
                f"contrastive's model returned shape {list(jnp.shape(z))}",
                expected="embeddings [B, D]",
                do="give the encoder a pooling, or wrap it in models.SimCLR",
            )
        pair = z.reshape(-1, 2, z.shape[-1])
        mask = _rows(batch.get(MASK))
        options: dict[str, Any] = {
            "temperature": temperature,
            "mask": mask,
            "axis_name": axis_name,
        }
        values = nt_xent(pair[:, 0], pair[:, 1], **options)
        scores, own = pair_scores(pair[:, 0], pair[:, 1], **options)
        right = jnp.mean(jnp.argmax(scores, axis=-1) == own, axis=0)
        total, weight = masked_sum(values, mask)
        sums = {"contrastive_accuracy": Mean(*masked_sum(right, mask))}
        return total, Aux(weight, model_state, sums)

    return Objective(init, loss_sum, mixes_rows=True)


def _joined(x: Any) -> Any:
    return x.reshape(x.shape[0] * 2, *x.shape[2:])


def _rows(mask: Any) -> Any:
    """A mask of anything within rows as one of rows."""
    if mask is None or jnp.ndim(mask) == 1:
        return mask
    return jnp.max(jnp.asarray(mask), axis=tuple(range(1, jnp.ndim(mask))))

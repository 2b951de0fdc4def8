"""Sequence to sequence: each token of a target predicted from a source and the tokens before it.

Reads from: errors, protocols, reductions, losses, metrics, objectives.fields, objectives.applying.
Used by: recipes, by choice.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdl import metrics as measurements
from jaxdl.errors import BatchError, ObjectiveError
from jaxdl.losses import softmax_cross_entropy
from jaxdl.objectives.applying import applied, first_variables
from jaxdl.objectives.fields import call_options, field
from jaxdl.protocols import MASK, Aux, Batch, Metric, ModelState, Objective, Params
from jaxdl.reductions import expand_mask, masked_sum

__all__ = ["seq2seq"]


class _Fields(NamedTuple):
    """The names of the batch's fields."""

    source: str
    target: str
    source_mask: str
    target_mask: str


def seq2seq(
    model: nn.Module,
    *,
    start_token: int,
    end_token: int | None = None,
    label_smoothing: float = 0.1,
    metrics: Mapping[str, Metric] | None = None,
    source: str = "source",
    target: str = "target",
    source_mask: str = "source_mask",
    target_mask: str = "target_mask",
) -> Objective:
    """The objective of translation by teacher forcing, weighted by target tokens.

    The model is asked for every token of the target, and reads the start token and the target but
    its last token. Label smoothing is that of Szegedy et al. 2016, arXiv:1512.00567, section 7.

    The masks are 0 on padding. Fields of masks may be left out; the rows' own ``mask`` of a padded
    batch, shape ``[B]``, counts besides. In the target, real tokens come first.

    Args:
        model: a Linen module, called as ``model(source [B, S], target=[B, T])``, that returns
            logits ``[B, T, V]``. ``source_mask``, ``target_mask`` and ``train`` are given where
            its call takes them.
        start_token: what the model reads before the first target token.
        end_token: added after the last real token of each target, so that targets of ``T`` tokens
            give logits ``[B, T + 1, V]``. ``None`` where the rows end with one already.
        label_smoothing: as ``losses.softmax_cross_entropy``; 0.1 in Vaswani et al. 2017.
        metrics: measured on a batch whose ``label`` is what was asked for and whose ``mask`` is
            theirs, both ``[B, T]``; their ``outputs`` are the logits.
        source: the batch field that is read, integers ``[B, S]``.
        target: the batch field that is asked for, integers ``[B, T]``, without a start token.
        source_mask: the field of the source's mask, ``[B, S]``.
        target_mask: the field of the target's mask, ``[B, T]``; numbers other than 0 and 1 weigh
            the tokens.

    Returns:
        An ``Objective``. Its ``Aux.outputs`` holds the logits.

    Raises:
        ObjectiveError: ``model`` is no Linen module, or its call takes no ``target``.
        BatchError: while tracing, when a field is missing, is of another shape, or holds no
            integers.

    Examples:
        >>> from jaxdl.models import Transformer
        >>> model = Transformer(vocab_size=11, num_layers=1, num_heads=2, hidden_dim=8)
        >>> objective = seq2seq(model, start_token=1, end_token=2)
        >>> batch = {"source": jnp.full((2, 5), 3), "target": jnp.full((2, 3), 4)}
        >>> params, state = objective.init(jax.random.key(0), batch)
        >>> total, aux = objective.loss(params, state, batch, jax.random.key(1), train=True)
        >>> float(aux.weight)
        8.0
    """
    _check_model(model)
    names = _Fields(source, target, source_mask, target_mask)
    tokens = start_token, end_token
    measured = dict(metrics or {})

    def init(key: Any, batch: Batch) -> tuple[Params, ModelState]:
        read, _ = _shifted(batch, names, tokens)
        return first_variables(model, key, read["source"], _call(model, read, train=False))

    def loss_sum(
        params: Params, model_state: ModelState, batch: Batch, key: Any, *, train: bool
    ) -> tuple[Any, Aux]:
        read, asked = _shifted(batch, names, tokens)
        call = _call(model, read, train=train)
        variables = params, model_state
        logits, model_state = applied(
            model, variables, read, read["source"], key, call, train=train
        )
        values = softmax_cross_entropy(logits, asked["label"], label_smoothing=label_smoothing)
        total, weight = masked_sum(values, asked[MASK])
        sums = measurements.measure_all(measured, logits, asked)
        return total, Aux(weight, model_state, sums, logits)

    return Objective(init, loss_sum)


def _call(model: nn.Module, read: Batch, *, train: bool) -> dict[str, Any]:
    """The keyword arguments of the call: what it takes by name, and the target in any case."""
    return {**call_options(model, read, train=train), "target": read["target"]}


def _shifted(
    batch: Batch, names: _Fields, tokens: tuple[int, int | None]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The batch as the model reads it, and as the loss and the metrics do."""
    source, target = _tokens(batch, names.source), _tokens(batch, names.target)
    _check_rows(source, target, names)
    weights = _mask(batch, names.target_mask, target.shape)
    start, end = tokens
    first = jnp.full_like(target[:, :1], start)
    # A token is read where it is real, and the start token always is.
    real = jnp.concatenate([jnp.ones_like(weights[:, :1]), weights], axis=1)
    if end is not None:
        target = jnp.concatenate([target, jnp.full_like(first, end)], axis=1)
        longer = jnp.concatenate([weights, jnp.zeros_like(weights[:, :1])], axis=1)
        ends = (longer == 0) & (real != 0)
        target = jnp.where(ends, end, target)
        weights = jnp.where(ends, jnp.ones_like(longer), longer)
    real = real[:, : target.shape[1]]
    shifted = jnp.concatenate([first, target[:, :-1]], axis=1)
    read = {**batch, "source": source, "target": shifted, "target_mask": real != 0}
    if names.source_mask in batch:
        read["source_mask"] = _mask(batch, names.source_mask, source.shape) != 0
    rows = batch.get(MASK)
    if rows is not None:
        wide = expand_mask(rows, weights.shape)
        weights = jnp.where(wide == 0, jnp.zeros_like(weights), weights)
    return read, {**batch, "label": target, MASK: weights}


def _tokens(batch: Batch, name: str) -> jax.Array:
    tokens = jnp.asarray(field(batch, name))
    if tokens.ndim != 2 or tokens.shape[1] < 1 or not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise BatchError(
            f"the batch field {name!r} has shape {list(tokens.shape)} and dtype {tokens.dtype}",
            expected="integers [B, T] with T at least 1",
            do="give rows of token numbers, padded to one length",
        )
    return tokens


def _mask(batch: Batch, name: str, shape: tuple[int, ...]) -> jax.Array:
    """How much each token counts: in whole numbers, unless the mask is of floats."""
    if name not in batch:
        return jnp.ones(shape, jnp.int32)
    mask = jnp.asarray(batch[name])
    if mask.shape != shape:
        raise BatchError(
            f"the batch field {name!r} has shape {list(mask.shape)}",
            expected=f"{list(shape)}: one entry a token",
            do="give 1 for real tokens and 0 for padding, or leave the field out",
        )
    return mask if jnp.issubdtype(mask.dtype, jnp.floating) else mask.astype(jnp.int32)


def _check_rows(source: jax.Array, target: jax.Array, names: _Fields) -> None:
    if source.shape[0] != target.shape[0]:
        raise BatchError(
            f"{names.source!r} has {source.shape[0]} rows, {names.target!r} {target.shape[0]}",
            expected="one target a source",
            do="check how the batch was made",
        )


def _check_model(model: Any) -> None:
    if not isinstance(model, nn.Module):
        raise ObjectiveError(
            f"seq2seq got a {type(model).__name__}",
            expected="an instance of a flax.linen.Module",
            do="write Objective(init, loss) by hand for another kind of model",
        )
    parameters = inspect.signature(type(model).__call__).parameters
    if "target" not in parameters:
        raise ObjectiveError(
            f"the call of {type(model).__name__} takes no 'target'",
            expected="model(source, target=...) -> logits [B, T, V]",
            do="use objectives.language_model for a model of one text",
        )

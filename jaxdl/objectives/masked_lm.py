"""Masked language modelling: some tokens of a row are hidden, and asked for.

Reads from: errors, protocols, reductions, losses, metrics, objectives.fields, objectives.applying,
objectives.masking. Used by: recipes, by choice.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdl import metrics as measurements
from jaxdl.errors import BatchError, ObjectiveError
from jaxdl.losses import softmax_cross_entropy
from jaxdl.objectives.applying import applied, first_variables
from jaxdl.objectives.fields import call_options, field
from jaxdl.objectives.masking import Masking, content_keys, example_keys, hide
from jaxdl.protocols import MASK, Aux, Batch, Mean, Metric, ModelState, Objective, Params
from jaxdl.reductions import expand_mask, masked_sum

__all__ = ["masked_lm"]


def masked_lm(
    model: nn.Module,
    *,
    vocab_size: int,
    mask_token: int,
    special: Sequence[int] = (),
    rate: float = 0.15,
    next_sentence: str | None = None,
    eval_seed: int = 0,
    metrics: Mapping[str, Metric] | None = None,
    inputs: str = "tokens",
) -> Objective:
    """The objective of BERT's pretraining, weighted by the tokens that are asked for.

    Of each row ``rate`` of its real tokens are chosen, at least one where there is any, none of
    them special. A chosen token is replaced by ``mask_token`` with probability 0.8, by any token
    of the vocabulary with 0.1, and kept with 0.1; the loss is the cross-entropy of the chosen
    tokens alone. A row with nothing to choose adds nothing.

    In training all of this is drawn from the example's own key: it is the same on any number of
    devices and microbatches, and another at each step. In evaluation it is drawn from the row's
    real tokens and ``eval_seed``: a row is always asked for the same tokens, whatever batch, order
    or length of padding it is read in, so that two evaluations measure one thing.

    Source: Devlin et al. 2018, arXiv:1810.04805, section 3.1, and its code,
    github.com/google-research/bert, create_pretraining_data.py, which counts the special tokens
    too when it takes ``rate`` of a row.

    Args:
        model: a Linen module, ``tokens [B, T] -> logits [B, T, V]``, such as ``BERTMaskedLM``. Its
            call is given what ``supervised`` gives, ``token_types`` among it, and ``positions``,
            ``[B, S]``, where it takes them; it then returns logits of these places, ``[B, S, V]``.
        vocab_size: ``V``.
        mask_token: the number of the token that hides another. It is never chosen.
        special: numbers of tokens that are never chosen, such as those of the classifier, the
            separator and padding.
        rate: the share of tokens to choose, above 0 and up to 1.
        next_sentence: the batch field that says whether the second text of a row follows the first,
            class numbers of shape ``[B]``. The model then returns ``(logits, sentence logits
            [B, 2])``, as ``BERTPretraining``. The mean of that loss is added to the other's; each
            row counts in it once a chosen token, so that both are sums over one weight.
        eval_seed: another gives another fixed choice.
        metrics: measured on a batch whose ``label`` is the chosen tokens, ``[B, S]``, and whose
            ``mask`` says which of them count; their ``outputs`` are logits ``[B, S, V]``.
        inputs: the batch field of tokens, integers of shape ``[B, T]``. The field ``mask``, of
            shape ``[B]`` or ``[B, T]``, is 0 on padding.

    Returns:
        An ``Objective``. Its ``Aux.outputs`` is ``(logits [B, S, V], labels [B, S], mask [B, S])``.
        With ``next_sentence`` its metrics have both losses apart, ``masked_loss`` and
        ``next_sentence_loss``, and ``next_sentence_accuracy``.

    Raises:
        ObjectiveError: ``model`` is no Linen module.
        ConfigError: a setting is out of range.
        BatchError: while tracing, when the tokens are no integers ``[B, T]``, or the mask or the
            sentence field does not fit them.

    Examples:
        >>> from jaxdl.models import BERT, BERTMaskedLM
        >>> bert = BERT(vocab_size=11, num_layers=1, num_heads=2, hidden_dim=8, pooler=False)
        >>> objective = masked_lm(BERTMaskedLM(bert), vocab_size=11, mask_token=10)
        >>> batch = {"tokens": jnp.arange(20).reshape(2, 10) % 7}
        >>> params, state = objective.init(jax.random.key(0), batch)
        >>> total, aux = objective.loss(params, state, batch, jax.random.key(1), train=True)
        >>> float(aux.weight)
        4.0
    """
    takes = _taken(model)
    rule = Masking(vocab_size, mask_token, tuple(special), rate)
    measured = dict(metrics or {})

    def init(key: Any, batch: Batch) -> tuple[Params, ModelState]:
        tokens, _ = _tokens(batch, inputs)
        call = _options(model, takes, batch, None, train=False)
        return first_variables(model, key, tokens, call)

    def loss_sum(
        params: Params, model_state: ModelState, batch: Batch, key: Any, *, train: bool
    ) -> tuple[Any, Aux]:
        tokens, real = _tokens(batch, inputs)
        given = example_keys(batch, key, tokens) if train else None
        keys = content_keys(tokens, real != 0, eval_seed) if given is None else given
        hidden = hide(keys, tokens, real, rule)
        call = _options(model, takes, batch, hidden.positions, train=train)
        outputs, model_state = applied(
            model, (params, model_state), batch, hidden.tokens, key, call, train=train
        )
        logits, follows = _parts(outputs, next_sentence)
        if "positions" not in takes:
            logits = jnp.take_along_axis(logits, hidden.positions[:, :, None], axis=1)
        values = softmax_cross_entropy(logits, hidden.labels)
        total, weight = masked_sum(values, hidden.weights)
        asked = {**batch, "label": hidden.labels, MASK: hidden.weights}
        sums = measurements.measure_all(measured, logits, asked)
        if next_sentence is not None:
            added, more = _sentences(follows, field(batch, next_sentence), hidden.weights)
            sums = {**more, "masked_loss": Mean(total, weight), **sums}
            total = total + added
        return total, Aux(weight, model_state, sums, (logits, hidden.labels, hidden.weights))

    return Objective(init, loss_sum)


def _taken(model: Any) -> set[str]:
    """The names of what the model's call takes."""
    if not isinstance(model, nn.Module):
        raise ObjectiveError(
            f"masked_lm got a {type(model).__name__}",
            expected="an instance of a flax.linen.Module",
            do="write Objective(init, loss) by hand for another kind of model",
        )
    return set(inspect.signature(type(model).__call__).parameters)


def _options(
    model: nn.Module, takes: set[str], batch: Batch, positions: Any, *, train: bool
) -> dict[str, Any]:
    call = call_options(model, batch, train=train)
    if "positions" in takes and positions is not None:
        call["positions"] = positions
    return call


def _tokens(batch: Batch, inputs: str) -> tuple[jax.Array, jax.Array]:
    """The tokens, and how much each counts: in whole numbers, unless the mask is of floats."""
    tokens = jnp.asarray(field(batch, inputs))
    if tokens.ndim != 2 or tokens.shape[1] < 1 or not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise BatchError(
            f"the batch field {inputs!r} has shape {list(tokens.shape)} and dtype {tokens.dtype}",
            expected="integers [B, T]",
            do="give rows of token numbers",
        )
    mask = batch.get(MASK)
    if mask is None:
        return tokens, jnp.ones(tokens.shape, jnp.int32)
    real = expand_mask(mask, tokens.shape)
    exact = not jnp.issubdtype(jnp.result_type(mask), jnp.floating)
    return tokens, real.astype(jnp.int32) if exact else real


def _parts(outputs: Any, next_sentence: str | None) -> tuple[jax.Array, Any]:
    pair = isinstance(outputs, tuple) and len(outputs) == 2
    if pair != (next_sentence is not None):
        raise ObjectiveError(
            f"next_sentence is {next_sentence!r}, and the model returned a "
            f"{type(outputs).__name__}",
            expected="logits alone without next_sentence, else (logits, sentence logits [B, 2])",
            do="use BERTMaskedLM without a sentence field, and BERTPretraining with one",
        )
    logits: Any = outputs[0] if pair else outputs
    return logits, outputs[1] if pair else None


def _sentences(
    logits: jax.Array, labels: Any, weights: jax.Array
) -> tuple[jax.Array, dict[str, Mean]]:
    """The sum of the sentence loss over the chosen tokens, and what is reported of it."""
    rows = jnp.sum(weights, axis=1)
    values = softmax_cross_entropy(logits, labels)
    right = jnp.argmax(logits, axis=-1) == jnp.asarray(labels)
    total, weight = masked_sum(values, rows)
    sums = {
        "next_sentence_loss": Mean(total, weight),
        "next_sentence_accuracy": Mean(*masked_sum(right, rows != 0)),
    }
    return total, sums

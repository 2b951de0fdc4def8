"""Language modelling: each token of a row predicted from those before it.

Reads from: errors, protocols, reductions, losses, metrics, models.activations, objectives.fields,
objectives.applying. Used by: recipes, by choice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdl import metrics as measurements
from jaxdl.errors import BatchError, ObjectiveError
from jaxdl.losses import chunked_cross_entropy, softmax_cross_entropy
from jaxdl.models.activations import parts
from jaxdl.objectives.applying import AUXILIARY, applied, auxiliary_of, first_variables
from jaxdl.objectives.fields import call_options, field
from jaxdl.protocols import MASK, Aux, Batch, Mean, Metric, ModelState, Objective, Params
from jaxdl.reductions import expand_mask, masked_sum

__all__ = ["language_model"]

_SOWN = ("intermediates",)
_PACKED = ("segments", "positions")


def language_model(
    model: nn.Module,
    *,
    chunk_size: int | Literal["auto"] | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    metrics: Mapping[str, Metric] | None = None,
    inputs: str = "tokens",
) -> Objective:
    """The objective of next-token prediction, weighted by tokens.

    The field ``inputs`` holds ``T + 1`` tokens a row: the model reads the first ``T`` and is asked
    for the last ``T``. So give rows one longer than the model's context. The field ``mask``, of
    shape ``[B]`` or ``[B, T + 1]``, is 0 on padding: a target counts by its mask where the token
    before it is real as well, and the model, where its call takes a mask, sees no padding.

    Of a packed batch (``data.pack``) the fields ``segments`` and ``positions``, ``[B, T + 1]``, are
    cut like the tokens and given to the model where its call takes them, as ``GPT``'s does. The
    first token of a document is then asked of nobody, nor is padding, segment 0, so that loss and
    weight are the sums over the documents alone.

    What modules of the model sow among the intermediates as ``auxiliary_loss``, shape ``[B]``, as
    ``models.MixtureFeedForward`` does, is added to the loss of each token of the row in training,
    and measured under that name.

    Args:
        model: a causal Linen module, ``tokens [B, T] -> logits [B, T, V]``.
        chunk_size: how many tokens of each row have their logits held at once, see
            ``losses.chunked_cross_entropy``, whose ``"auto"`` is for large vocabularies; all of
            them when ``None``. Needs a model with a method
            ``hidden`` that returns ``(hidden [B, T, D], embedding [V, D])``, such as ``GPT``.
        label_smoothing: as ``losses.softmax_cross_entropy``.
        z_loss: as ``losses.softmax_cross_entropy``.
        metrics: measured in training and evaluation on a batch whose ``label`` is the targets
            ``[B, T]`` and whose ``mask`` is theirs. Their ``outputs`` are the logits; with
            ``chunk_size``, when there are none, the token losses ``[B, T]``.
        inputs: the batch field of tokens, integers of shape ``[B, T + 1]``.

    Returns:
        An ``Objective``. Its ``Aux.outputs`` holds the logits, or ``None`` with ``chunk_size``.

    Raises:
        ObjectiveError: ``model`` is no Linen module, or has no ``hidden`` to take chunks of.
        BatchError: while tracing, when the tokens are no integers ``[B, T + 1]`` with ``T`` at
            least 1, or the mask, the segments or the positions do not fit them.

    Examples:
        >>> import jax
        >>> from jaxdl.models import GPT
        >>> model = GPT(vocab_size=11, num_layers=1, num_heads=2, hidden_dim=8, max_length=4)
        >>> objective = language_model(model, chunk_size=2)
        >>> batch = {"tokens": jnp.zeros((2, 5), int)}
        >>> params, state = objective.init(jax.random.key(0), batch)
        >>> total, aux = objective.loss(params, state, batch, jax.random.key(1), train=True)
        >>> float(aux.weight)
        8.0
    """
    _check_model(model, chunk_size)
    measured = dict(metrics or {})
    options = {"label_smoothing": label_smoothing, "z_loss": z_loss}

    def init(key: Any, batch: Batch) -> tuple[Params, ModelState]:
        read, _ = _shifted(batch, inputs)
        return first_variables(model, key, read[inputs], call_options(model, read, train=False))

    def loss_sum(
        params: Params, model_state: ModelState, batch: Batch, key: Any, *, train: bool
    ) -> tuple[Any, Aux]:
        read, asked = _shifted(batch, inputs)
        call = call_options(model, read, train=train)
        outputs, model_state = applied(
            model,
            (params, model_state),
            read,
            read[inputs],
            key,
            call,
            train=train,
            method=None if chunk_size is None else "hidden",
            keep=_SOWN,
        )
        model_state, added = _parted(model_state)
        if chunk_size is None:
            values = softmax_cross_entropy(outputs, asked["label"], **options)
            shown = outputs
        else:
            hidden, embedding = outputs
            values = chunked_cross_entropy(
                hidden,
                embedding,
                asked["label"],
                chunk_size=chunk_size,
                batch_shards=parts(hidden.shape[0], "batch"),
                time_shards=parts(hidden.shape[1], "time"),
                **options,
            )
            outputs, shown = None, values
        sums = measurements.measure_all(measured, shown, asked)
        if added is not None:
            wide = jnp.broadcast_to(added[:, None], values.shape)
            sums[AUXILIARY] = Mean(*masked_sum(jax.lax.stop_gradient(wide), asked.get(MASK)))
            values = values + wide
        total, weight = masked_sum(values, asked.get(MASK))
        return total, Aux(weight, model_state, sums, outputs)

    return Objective(init, loss_sum)


def _parted(collections: ModelState) -> tuple[ModelState, Any]:
    """The state without what was sown, and what that adds to each row's loss, if anything."""
    if not any(name in collections for name in _SOWN):
        return collections, None
    state = {name: value for name, value in collections.items() if name not in _SOWN}
    return state, auxiliary_of(collections[_SOWN[0]])


def _shifted(batch: Batch, inputs: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The batch as the model reads it, and as the loss and the metrics do."""
    tokens = jnp.asarray(field(batch, inputs))
    if tokens.ndim != 2 or tokens.shape[1] < 2 or not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise BatchError(
            f"the batch field {inputs!r} has shape {list(tokens.shape)} and dtype {tokens.dtype}",
            expected="integers [B, T + 1] with T at least 1: what is read and what follows it",
            do="cut the text into rows one token longer than the model's context",
        )
    read = {**batch, inputs: tokens[:, :-1]}
    asked = {**batch, "label": tokens[:, 1:]}
    for name in _PACKED:
        if batch.get(name) is not None:
            whole = _packed(batch, name, tokens.shape)
            read[name], asked[name] = whole[:, :-1], whole[:, 1:]
    mask = batch.get(MASK)
    if mask is not None:
        wide = expand_mask(mask, tokens.shape)
        read[MASK] = mask if jnp.ndim(mask) == 1 else wide[:, :-1]
        asked[MASK] = _kept(mask, wide)
    if batch.get("segments") is not None:
        own = (read["segments"] == asked["segments"]) & (asked["segments"] != 0)
        asked[MASK] = own.astype(jnp.int32) * asked.get(MASK, 1)
    return read, asked


def _packed(batch: Batch, name: str, shape: tuple[int, ...]) -> jax.Array:
    """A field that says of each token where it belongs."""
    values = jnp.asarray(batch[name])
    if values.shape != shape or not jnp.issubdtype(values.dtype, jnp.integer):
        raise BatchError(
            f"the batch field {name!r} has shape {list(values.shape)} and dtype {values.dtype}",
            expected=f"integers {list(shape)}, one a token",
            do="pack rows one token longer than the model's context: data.pack(documents, T + 1)",
        )
    return values


def _kept(mask: Any, wide: Any) -> Any:
    """How much each target counts. A mask of whole numbers stays one, for metrics that count."""
    weights = jnp.where(wide[:, :-1] != 0, wide[:, 1:], 0.0)
    exact = not jnp.issubdtype(jnp.result_type(mask), jnp.floating)
    return weights.astype(jnp.int32) if exact else weights


def _check_model(model: Any, chunk_size: Any) -> None:
    if not isinstance(model, nn.Module):
        raise ObjectiveError(
            f"language_model got a {type(model).__name__}",
            expected="an instance of a flax.linen.Module",
            do="write Objective(init, loss) by hand for another kind of model",
        )
    if chunk_size is not None and not callable(getattr(model, "hidden", None)):
        raise ObjectiveError(
            f"chunk_size={chunk_size!r}, but {type(model).__name__} has no method 'hidden'",
            expected="hidden(tokens) -> (hidden [B, T, D], embedding [V, D])",
            do="give the model one, or leave chunk_size out",
        )

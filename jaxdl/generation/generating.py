"""Text from a decoder: the prompt read at once, then one token after the other out of its cache.

Reads from: errors, protocols, generation.sampling. Used by: recipes, by choice.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxdl.errors import BatchError, ConfigError
from jaxdl.generation.sampling import check_sampling, sample
from jaxdl.protocols import Params

__all__ = ["Generated", "empty_cache", "generate"]


class Generated(NamedTuple):
    """Prompts and what follows them.

    Attributes:
        tokens: int32 ``[B, P + max_tokens]``: the prompt's real tokens, those that were generated,
            then ``pad_token``.
        lengths: how many tokens of each row are no padding, int32 ``[B]``; the end token counts.
            0 for a prompt without a token, which nothing follows.
        ended: booleans ``[B]``: false where ``max_tokens`` came before the end token.
    """

    tokens: jax.Array
    lengths: jax.Array
    ended: jax.Array


class _Text(NamedTuple):
    """The loop's state."""

    time: jax.Array
    tokens: jax.Array
    lengths: jax.Array
    ended: jax.Array
    cache: Any


class _Plan(NamedTuple):
    """How the prompts are read.

    Attributes:
        lengths: real tokens of each prompt, ``[B]``.
        first: where the first token that is drawn, or already known, is written in its row.
        read: how many tokens are read at once before that.
        steps: how many tokens are read one by one.
        padded: prompts are followed by padding that the model is told of by mask and positions.
    """

    lengths: jax.Array
    first: jax.Array
    read: int
    steps: int
    padded: bool


def empty_cache(
    model: nn.Module, params: Params, rows: int, length: int, **options: Any
) -> dict[str, Any]:
    """The cache of a model that has read nothing yet. Nothing is computed.

    Args:
        model: one whose call takes ``decode``.
        params: its parameters, or their shapes.
        rows: ``B``.
        length: how many tokens there is to be room for.
        **options: of the model's call, such as what it is conditioned on.

    Returns:
        The collection ``"cache"``: pass it beside the parameters, with ``decode=True`` and
        ``mutable=["cache"]``.

    Raises:
        ConfigError: the model has no cache, or there are no rows or no room.

    Examples:
        >>> from jaxdl.models import GPT
        >>> model = GPT(vocab_size=11, num_layers=1, num_heads=2, hidden_dim=8, max_length=4)
        >>> params = model.init(jax.random.key(0), jnp.zeros((1, 1), int))["params"]
        >>> cache = empty_cache(model, params, rows=2, length=4)
        >>> cache["block_0"]["attention"]["cached_key"].shape
        (2, 4, 2, 4)
    """
    if "decode" not in _parameters(model):
        raise ConfigError(
            f"{type(model).__name__} has no cache",
            expected="a model whose call takes decode, such as GPT or WaveNet",
            do="use generation.translate for a Transformer",
        )
    if rows < 1 or length < 1:
        raise ConfigError(
            f"a cache for {rows} rows and {length} tokens was asked for",
            expected="both at least 1",
            do="give the rows of the prompt, and its length and max_tokens together",
        )

    def begun(params: Params) -> Any:
        tokens = jnp.zeros((rows, length), jnp.int32)
        given = {"params": params}
        return model.apply(given, tokens, decode=True, mutable=["cache"], **options)[1]["cache"]

    shapes = jax.eval_shape(begun, params)
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)


def generate(
    model: nn.Module,
    params: Params,
    prompt: Any,
    *,
    key: jax.Array,
    max_tokens: int,
    temperature: Any = 1.0,
    top_k: int | None = None,
    top_p: Any = None,
    end_token: int | None = None,
    prompt_mask: Any = None,
    pad_token: int = 0,
    **options: Any,
) -> Generated:
    """Continues each prompt by up to ``max_tokens`` tokens, drawn by ``sample``.

    All tokens of the prompts but the last are read at once, without their logits; then a
    ``lax.while_loop`` reads one token a row and draws the next, until every row has ended. Call it
    under ``jax.jit``: shapes are fixed, and it is one program. What can follow a prompt does not
    depend on the other rows. A ``MixtureGPT`` should have ``capacity_factor=None``, as it says.

    A model whose call takes no ``positions`` (``WaveNet``) reads prompts of different lengths token
    by token.

    Args:
        model: one whose call takes ``decode``: ``GPT``, ``MixtureGPT``, ``Llama``, ``WaveNet``.
        params: its parameters.
        prompt: integers, shape ``[B, P]``, at least one token a row.
        key: for the draws; not used at temperature 0.
        max_tokens: the most tokens that follow a prompt, the end token among them. With ``P`` they
            must fit the model's ``max_length``, where it has one.
        temperature: see ``sample``; 0 takes the likeliest token each time.
        top_k: see ``sample``.
        top_p: see ``sample``.
        end_token: what ends a row; ``None``: nothing does.
        prompt_mask: shape ``[B, P]``, 1 on real tokens and 0 on padding, which comes after them and
            may be any number: the model never reads it. Of a traced mask only the shape can be
            checked.
        pad_token: what follows the end of a row in the result; any number.
        **options: of every call of the model, such as ``condition``.

    Returns:
        Prompts and continuations.

    Raises:
        BatchError: the prompt is no integers ``[B, P]``, or too long with what is to follow; or
            the mask does not fit it, or hides a token before a real one.
        ConfigError: a setting is out of range, or the model has no cache.

    Examples:
        >>> from jaxdl.models import GPT
        >>> model = GPT(vocab_size=11, num_layers=1, num_heads=2, hidden_dim=8, max_length=6)
        >>> params = model.init(jax.random.key(0), jnp.zeros((1, 1), int))["params"]
        >>> prompt = jnp.array([[3, 1, 4]])
        >>> text = generate(model, params, prompt, key=jax.random.key(1), max_tokens=2)
        >>> text.tokens.shape, text.lengths.tolist()
        ((1, 5), [5])
    """
    check_sampling(temperature=temperature, top_k=top_k, top_p=top_p)
    prompt = _checked(model, prompt, max_tokens, end_token)
    plan = _planned(model, prompt, prompt_mask, max_tokens)
    room = prompt.shape[1] + max_tokens - 1
    cache = empty_cache(model, params, prompt.shape[0], room, **options)
    read = _reader(model, params, plan, room, options)
    real = jnp.arange(prompt.shape[1])[None] < plan.lengths[:, None]
    # Not the given padding: a number that is no word would make a model's values NaN.
    prompt = jnp.where(real, prompt, 0)
    if plan.read:
        _, cache = read(prompt[:, : plan.read], cache, None)

    def body(text: _Text) -> _Text:
        place = plan.first + text.time
        rows = jnp.arange(len(place))
        last = text.tokens[rows, jnp.maximum(place - 1, 0)]
        logits, kept = read(last[:, None], text.cache, text.time)
        _check_end(end_token, logits)
        drawn = sample(
            jax.random.fold_in(key, text.time),
            logits[:, 0],
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
        )
        known = place < plan.lengths
        full = text.lengths - plan.lengths >= max_tokens
        new = ~known & ~text.ended & ~full
        at = jnp.where(new, place, room + 1)
        tokens = text.tokens.at[rows, at].set(drawn, mode="drop")
        ended = text.ended | (new & (drawn == (-1 if end_token is None else end_token)))
        return _Text(text.time + 1, tokens, text.lengths + new, ended, kept)

    def unfinished(text: _Text) -> jax.Array:
        return (text.time < plan.steps) & ~jnp.all(text.ended)

    tokens = jnp.pad(prompt, ((0, 0), (0, max_tokens)))
    empty = plan.lengths == 0
    text = _Text(jnp.int32(0), tokens, plan.lengths, empty, cache)
    text = jax.lax.while_loop(unfinished, body, text)
    written = jnp.arange(tokens.shape[1])[None] < text.lengths[:, None]
    tokens = jnp.where(written, text.tokens, pad_token)
    return Generated(tokens, text.lengths, text.ended & ~empty)


def _planned(model: nn.Module, prompt: jax.Array, mask: Any, max_tokens: int) -> _Plan:
    rows, length = prompt.shape
    if mask is None:
        lengths = jnp.full((rows,), length, jnp.int32)
        return _Plan(lengths, lengths, length - 1, max_tokens, padded=False)
    _check_mask(mask, prompt.shape)
    lengths = jnp.sum(jnp.asarray(mask) != 0, axis=1, dtype=jnp.int32)
    if {"mask", "positions"} <= _parameters(model):
        return _Plan(lengths, lengths, length - 1, max_tokens, padded=True)
    return _Plan(lengths, jnp.ones_like(lengths), 0, length - 1 + max_tokens, padded=False)


def _reader(
    model: nn.Module, params: Params, plan: _Plan, room: int, options: dict[str, Any]
) -> Callable[[jax.Array, Any, Any], tuple[jax.Array, Any]]:
    """``(tokens [B, T], cache, time) -> (logits [B, T, V], cache)``; no time is the first call."""
    rows = len(plan.lengths)

    def read(tokens: jax.Array, cache: Any, time: Any) -> tuple[jax.Array, Any]:
        call = dict(options)
        if plan.padded:
            # The last token of a prompt is read again, after the padding, at its own position.
            slots = jnp.arange(room)[None]
            call["mask"] = (slots < plan.lengths[:, None] - 1) | (slots >= plan.read)
            call["positions"] = jnp.broadcast_to(jnp.arange(tokens.shape[1])[None], tokens.shape)
            if time is not None:
                call["positions"] = (jnp.maximum(plan.lengths - 1, 0) + time)[:, None]
        given = {"params": params, "cache": cache}
        logits, kept = model.apply(given, tokens, decode=True, mutable=["cache"], **call)
        if logits.ndim != 3 or logits.shape[:2] != (rows, tokens.shape[1]):
            raise BatchError(
                f"{type(model).__name__} returned logits of shape {list(logits.shape)}",
                expected=f"[{rows}, {tokens.shape[1]}, V]: one row of logits a token",
                do="generate with a model of one token after the other",
            )
        return logits, kept["cache"]

    return read


def _parameters(model: nn.Module) -> set[str]:
    return set(inspect.signature(type(model).__call__).parameters)


def _checked(model: nn.Module, prompt: Any, max_tokens: int, end_token: int | None) -> jax.Array:
    prompt = jnp.asarray(prompt)
    whole = jnp.issubdtype(prompt.dtype, jnp.integer)
    if not whole or prompt.ndim != 2 or not prompt.size:
        raise BatchError(
            f"the prompt has shape {list(prompt.shape)} and dtype {prompt.dtype}",
            expected="integers [B, P], at least one token a row",
            do="begin with the token that texts began with in training",
        )
    if max_tokens < 1:
        raise ConfigError(
            f"max_tokens is {max_tokens}", expected="at least 1", do="ask for a token or more"
        )
    if end_token is not None and end_token < 0:
        raise ConfigError(
            f"end_token is {end_token}",
            expected="the number of a token, or None",
            do="leave it None where nothing ends a text",
        )
    longest = getattr(model, "max_length", None)
    if longest is not None and prompt.shape[1] + max_tokens > longest:
        raise BatchError(
            f"a prompt of {prompt.shape[1]} tokens and {max_tokens} more do not fit "
            f"{type(model).__name__}",
            expected=f"at most {longest} together, the model's max_length",
            do="cut the prompt from the left, or lower max_tokens",
        )
    return prompt.astype(jnp.int32)


def _check_mask(mask: Any, shape: tuple[int, ...]) -> None:
    fits = jnp.shape(mask) == shape
    if fits and not isinstance(mask, Tracer):
        real = np.asarray(jax.device_get(mask)) != 0
        fits = bool(real[:, 0].all() and (real[:, :-1] >= real[:, 1:]).all())
    if not fits:
        raise BatchError(
            f"prompt_mask, of shape {list(jnp.shape(mask))}, does not say where prompts end",
            expected=f"{list(shape)}: 1 on real tokens, at least one a row, then 0 on padding",
            do="pad prompts after the text, not before it",
        )


def _check_end(end_token: int | None, logits: jax.Array) -> None:
    if end_token is not None and end_token >= logits.shape[-1]:
        raise ConfigError(
            f"end_token is {end_token}, and the model has {logits.shape[-1]} words",
            expected=f"a number from 0 to {logits.shape[-1] - 1}",
            do="check that model and tokenizer go together",
        )

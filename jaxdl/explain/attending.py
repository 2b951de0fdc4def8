"""What attention looked at: the weights, computed again beside the model, and their rollout.

Reads from: errors, models, explain.layers, explain.targets. Used by: cli, and by hand.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core.tracers import current_trace

from jaxdl.errors import BatchError, ConfigError, closest
from jaxdl.explain.layers import check_trace
from jaxdl.explain.targets import ScoreFn
from jaxdl.models.attention import SelfAttention, attention
from jaxdl.models.masks import places, reach_of

__all__ = ["attention_rollout", "attention_weights"]

_HEADS = ("mean", "max", "min")


def attention_weights(fn: ScoreFn) -> Callable[[Any], jax.Array]:
    """The weights of every layer of self-attention, computed again from queries and keys.

    The model is run as it is, and may use a kernel that never holds the weights: the queries and
    keys are intercepted on their way (``flax.linen.intercept_methods``), with the layer's mask.
    Layers are jaxdl's ``SelfAttention`` (GPT, BERT, ViT, Llama) and Flax's
    ``MultiHeadDotProductAttention``.

    Args:
        fn: ``inputs -> scores``; applies a Linen module.

    Returns:
        ``inputs -> weights``, shape ``[L, B, N, T, S]``, first layer first; float32 or wider. While
        it is traced it raises ``ConfigError`` when there is no such layer, when their shapes
        differ, or when they are inside ``nn.scan``, ``nn.remat`` or ``jit``.
    """

    def run(inputs: Any) -> jax.Array:
        found: list[jax.Array] = []
        inner: dict[tuple[str, ...], Any] = {}
        beginning = current_trace()

        def watch(next_fun: Any, args: Any, kwargs: Any, context: Any) -> Any:
            before = len(found)
            out = next_fun(*args, **kwargs)
            # A call that calls its parent class's has its weights already.
            if context.method_name != "__call__" or len(found) > before:
                return out
            module = context.module
            inner[module.path] = out
            if isinstance(module, (SelfAttention, nn.MultiHeadDotProductAttention)):
                check_trace(beginning, "attention weights")
            if isinstance(module, SelfAttention):
                found.append(_own(module, inner, *args, **kwargs))
            elif isinstance(module, nn.MultiHeadDotProductAttention):
                found.append(_flax(module, inner, kwargs.get("mask")))
            return out

        with nn.intercept_methods(watch):
            fn(inputs)
        return _stacked(found)

    return run


def _stacked(found: list[jax.Array]) -> jax.Array:
    shapes = {each.shape for each in found}
    if len(shapes) != 1:
        raise ConfigError(
            f"there are {len(found)} layers of self-attention, with weights of the shapes "
            f"{sorted(map(list, shapes))}",
            expected="layers of SelfAttention or nn.MultiHeadDotProductAttention, of one shape",
            do="explain the model by another method, such as integrated gradients",
        )
    return jnp.stack(found)


def _own(
    module: SelfAttention, inner: Any, x: Any, mask: Any = None, *, train: bool = False
) -> jax.Array:
    """Of jaxdl's layer, by its own function: values that are a unit matrix give the weights."""
    del train
    reach = reach_of(mask)
    rows, length, width = x.shape
    size = width // module.num_heads
    query, key = (
        inner[(*module.path, name)].reshape(rows, length, -1, size) for name in ("query", "key")
    )
    if module.rotary is not None:
        stands = places(reach, rows, length)
        query, key = (module.rotary.turn(heads, stands) for heads in (query, key))
    wide = jnp.promote_types(query.dtype, jnp.float32)
    unit = jnp.eye(length, -(-length // size) * size, dtype=wide)
    parts = [
        attention(
            query,
            key,
            jnp.broadcast_to(part[None, :, None], (rows, length, key.shape[2], size)),
            causal=module.causal,
            mask=reach.mask,
            segments=reach.segments,
            implementation="plain",
        )
        for part in jnp.split(unit, unit.shape[1] // size, axis=1)
    ]
    return jnp.moveaxis(jnp.concatenate(parts, axis=-1)[..., :length], 2, 1)


def _flax(module: nn.MultiHeadDotProductAttention, inner: Any, mask: Any) -> jax.Array:
    end = "_ln" if module.normalize_qk else ""
    query, key = (inner[(*module.path, name + end)] for name in ("query", "key"))
    found = nn.dot_product_attention_weights(query, key, mask=mask, force_fp32_for_softmax=True)
    return found.astype(jnp.promote_types(found.dtype, jnp.float32))


def attention_rollout(
    weights: Any, *, heads: Literal["mean", "max", "min"] = "mean", residual: float = 0.5
) -> jax.Array:
    r"""How much of each input token is in each output token, if attention were all that mixes them.

    :math:`\tilde A_l = (1 - r) A_l + r I`, rows scaled to add up to 1, and
    :math:`\tilde A_L \cdots \tilde A_1`. It knows nothing of a class.

    Source: Abnar and Zuidema 2020, "Quantifying attention flow in transformers", arXiv:2005.00928,
    with the mean over heads and a residual of one half.

    Args:
        weights: shape ``[L, B, N, T, T]``, first layer first.
        heads: how a layer's heads become one.
        residual: the share of the path around attention, from 0 up to but not 1.

    Returns:
        Shape ``[B, T, T]``, float32 or wider: ``[b, t, s]`` is the share of input ``s`` in output
        ``t``. A token that may see nothing is itself.

    Raises:
        BatchError: the weights have another shape.
        ConfigError: a setting is out of range.

    Examples:
        >>> attention_rollout(jnp.array([[[[[1.0, 0.0], [0.5, 0.5]]]]])).tolist()
        [[[1.0, 0.0], [0.25, 0.75]]]
    """
    weights = jnp.asarray(weights)
    if weights.ndim != 5 or weights.shape[3] != weights.shape[4] or 0 in weights.shape:
        raise BatchError(
            f"attention weights of shape {list(weights.shape)}",
            expected="[L, B, N, T, T]: layers, rows, heads, queries, keys",
            do="stack the weights of all layers, as attention_weights does",
        )
    if heads not in _HEADS or not 0 <= residual < 1:
        raise ConfigError(
            f"heads is {heads!r}, residual is {residual}",
            expected=f"one of {', '.join(_HEADS)}, and a share from 0 up to but not 1",
            do=closest(str(heads), _HEADS) if heads not in _HEADS else "use residual=0.5",
        )
    weights = weights.astype(jnp.promote_types(weights.dtype, jnp.float32))
    merged = {"mean": jnp.mean, "max": jnp.max, "min": jnp.min}[heads](weights, axis=2)
    unit = jnp.eye(weights.shape[-1], dtype=merged.dtype)[None, None]
    mixed = (1 - residual) * merged + residual * unit
    total = jnp.sum(mixed, axis=-1, keepdims=True)
    mixed = jnp.where(total > 0, mixed / jnp.where(total > 0, total, 1), unit)

    def onwards(sofar: jax.Array, layer: jax.Array) -> tuple[jax.Array, None]:
        return jnp.einsum("bts,bsr->btr", layer, sofar, precision="highest"), None

    return jax.lax.scan(onwards, mixed[0], mixed[1:])[0]

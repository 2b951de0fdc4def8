"""Attention by the TPU kernel of JAX's public Pallas operations, which never holds the scores.

Splash attention skips the blocks that a causal mask empties and takes grouped queries and segments
as they are: Dao et al. 2022, "FlashAttention", arXiv:2205.14135, for a TPU. Off a TPU it runs only
within ``pltpu.force_tpu_interpret_mode()``.

Reads from: models.activations, models.masks. Used by: models.attention.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxdl.models.activations import on_each_device, parts
from jaxdl.models.masks import Masks

__all__ = ["LANES", "flash", "flash_lacks"]

LANES = 128
"""Both lengths are multiples of it."""

_BLOCKS = (512, 256, LANES)
_HEADS = 64
_ROWS = ("batch", None, "heads", None)


def flash_lacks(query: jax.Array, key: jax.Array, masks: Masks) -> str | None:
    """Why the kernel cannot take these; ``None`` when it can.

    Args:
        query: ``[B, T, N, H]``.
        key: ``[B, S, K, H]``.
        masks: what is masked.
    """
    lengths = query.shape[1], key.shape[1]
    if any(length % LANES for length in lengths):
        return f"lengths {lengths[0]} and {lengths[1]} are no multiples of {LANES}"
    if query.shape[-1] % _HEADS:
        return f"a head of {query.shape[-1]} features is no multiple of {_HEADS}"
    if masks.pairs is not None:
        return "a mask of pairs is none of keys or segments"
    return None


def flash(
    query: jax.Array, key: jax.Array, value: jax.Array, masks: Masks, *, causal: bool
) -> jax.Array:
    """Attention by the kernel; in a placed step each device computes its own rows and heads.

    Args:
        query: ``[B, T, N, H]``.
        key: ``[B, S, K, H]``.
        value: as ``key``.
        masks: of keys or segments; a query that may see nothing gets rubbish.
        causal: whether the future is masked too.
    """
    rows, queries, heads = query.shape[:3]
    if parts(heads, "heads") != parts(key.shape[2], "heads"):
        # Fewer key heads than devices: each device needs those of its own queries.
        groups = heads // key.shape[2]
        key, value = (jnp.repeat(x, groups, axis=2) for x in (key, value))
    if masks.segments is not None:
        asking = seen = masks.segments.astype(jnp.int32)
    elif masks.keys is not None:
        asking, seen = jnp.ones((rows, queries), jnp.int32), masks.keys.astype(jnp.int32)
    else:
        asking = seen = None

    def own(query: jax.Array, key: jax.Array, value: jax.Array, *ids: jax.Array) -> jax.Array:
        return _rows(query, key, value, ids, causal=causal)

    given = [query, key, value]
    names: list[tuple[str | None, ...]] = [_ROWS] * 3
    if asking is not None and seen is not None:
        given += [asking, seen]
        names += [("batch", None)] * 2
    return on_each_device(own, given, names)


def _rows(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    ids: tuple[jax.Array, ...],
    *,
    causal: bool,
) -> jax.Array:
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    (_, queries, heads, size), keys = query.shape, key.shape[1]
    kind = splash.CausalMask if causal else splash.FullMask
    kernel = splash.make_splash_mha(
        splash.MultiHeadMask([kind((queries, keys))] * heads),
        block_sizes=_block_sizes(queries, keys),
        head_shards=1,
        q_seq_shards=1,
    )

    def one(query: jax.Array, key: jax.Array, value: jax.Array, *ids: jax.Array) -> jax.Array:
        return kernel(query, key, value, splash.SegmentIds(*ids) if ids else None)

    # The kernel does not scale.
    scaled = (query * size**-0.5).astype(query.dtype)
    by_head = (jnp.swapaxes(x, 1, 2) for x in (scaled, key, value))
    out = jax.vmap(one)(*by_head, *ids)
    return jnp.swapaxes(out, 1, 2).astype(value.dtype)


def _block_sizes(queries: int, keys: int) -> object:
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    q, kv = (next(b for b in _BLOCKS if length % b == 0) for length in (queries, keys))
    return splash.BlockSizes(
        block_q=q,
        block_kv=kv,
        block_kv_compute=kv,
        block_q_dkv=q,
        block_kv_dkv=kv,
        block_kv_dkv_compute=kv,
        block_q_dq=q,
        block_kv_dq=kv,
    )

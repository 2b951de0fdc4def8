"""Which implementation of attention runs, and JAX's flash attention kernel for TPU.

Reads from: errors, models.activations. Used by: models.attention.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxdl.errors import BatchError, ConfigError
from jaxdl.models.activations import kernels_can_run, on_each_device, parts

__all__ = ["IMPLEMENTATIONS", "choose", "flash", "flash_fits"]

IMPLEMENTATIONS = ("plain", "xla", "cudnn", "flash")
"""Names of the implementations of ``attention``."""

_TILE = 128
_BLOCKS = (512, 384, 256, 128)


def choose(
    implementation: str | None,
    query: jax.Array,
    key: jax.Array,
    *,
    mask: Any = None,
    segments: Any = None,
    drops: bool = False,
) -> str:
    """Which implementation of ``attention`` computes this.

    ``None`` takes the plain one where attention weights are dropped, in float64, which the others
    compute in float32, and in float16 outside of GPUs, which JAX's own refuses on a CPU; on a TPU
    the flash kernel where it can (see ``flash_fits``; no row is divided over devices, and it is
    known how arrays are, see ``kernels_can_run``); on a GPU cuDNN where it can (half precision,
    ``H`` a multiple of 8 up to 128, no mask and no segments); else XLA's.

    The choice looks at the process's own backend. A program that is compiled for TPUs on a host
    that has none, as the planner's, has XLA's attention unless ``implementation="flash"`` asks
    for the kernel.

    Args:
        implementation: a name, or ``None`` to have one chosen.
        query: shape ``[B, T, N, H]``.
        key: shape ``[B, S, K, H]``.
        mask: as of ``attention``.
        segments: as of ``attention``.
        drops: whether attention weights are dropped.

    Raises:
        ConfigError: no such implementation, or one that cannot drop weights.

    Examples:
        >>> choose(None, jnp.zeros((1, 8, 2, 4)), jnp.zeros((1, 8, 2, 4)), drops=True)
        'plain'
    """
    if implementation is not None and implementation not in IMPLEMENTATIONS:
        raise ConfigError(
            f"attention's implementation is {implementation!r}",
            expected=f"one of {', '.join(IMPLEMENTATIONS)}, or None",
            do="leave it None to have it chosen",
        )
    if drops and implementation not in (None, "plain"):
        raise ConfigError(
            f"implementation={implementation!r} cannot drop attention weights",
            expected="the plain one, where there is attention dropout",
            do="leave implementation None, or set the dropout rate to 0",
        )
    backend = jax.default_backend()
    alone = query.dtype == jnp.float64 or (query.dtype == jnp.float16 and backend != "gpu")
    if implementation or drops or alone:
        return implementation or "plain"
    half = query.dtype in (jnp.bfloat16, jnp.float16)
    size = query.shape[-1]
    masked = mask is not None or segments is not None
    if backend == "gpu" and half and size % 8 == 0 and size <= 128 and not masked:
        return "cudnn"
    whole = parts(query.shape[1], "time") == 1
    if backend == "tpu" and whole and kernels_can_run() and flash_fits(query, key, mask):
        return "flash"
    return "xla"


def flash_fits(query: Any, key: Any, mask: Any = None) -> bool:
    """Whether JAX's flash attention kernel can compute this.

    It needs lengths that are multiples of 128; a size of a head that is a multiple of 8 below 128,
    or a multiple of 128; bfloat16 or float32; and a mask of keys, not of pairs.

    Args:
        query: shape ``[B, T, N, H]``.
        key: shape ``[B, S, K, H]``.
        mask: as of ``attention``.

    Examples:
        >>> flash_fits(jnp.zeros((1, 128, 2, 64)), jnp.zeros((1, 256, 1, 64)))
        True
    """
    size = query.shape[3]
    return (
        query.shape[1] % _TILE == 0
        and key.shape[1] % _TILE == 0
        and (size % _TILE == 0 or (size < _TILE and size % 8 == 0))
        and query.dtype in (jnp.bfloat16, jnp.float32)
        and (mask is None or jnp.ndim(mask) == 2)
    )


def flash(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    *,
    causal: bool,
    mask: Any = None,
    segments: Any = None,
) -> jax.Array:
    """Attention by JAX's Pallas kernel for TPU, which never holds all scores at once.

    In a placed step each device runs it on its own rows and heads. What a query gets that sees no
    key is not defined. Source: Dao et al. 2022, arXiv:2205.14135; the kernel is that of
    ``jax.experimental.pallas.ops.tpu.flash_attention``.

    Args:
        query: shape ``[B, T, N, H]``.
        key: shape ``[B, S, K, H]``.
        value: shape ``[B, S, K, H]``.
        causal: as of ``attention``.
        mask: shape ``[B, S]``, 0 on keys that nobody may see.
        segments: integers ``[B, T]``, 0 on padding.

    Returns:
        Shape ``[B, T, N, H]``.

    Raises:
        BatchError: the kernel cannot compute this.
    """
    if not flash_fits(query, key, mask):
        raise BatchError(
            f"flash attention got query {list(query.shape)}, key {list(key.shape)} "
            f"of {query.dtype}, and a mask of {None if mask is None else jnp.ndim(mask)} axes",
            expected="lengths that are multiples of 128, heads of a size below 128 and a multiple "
            "of 8, or a multiple of 128, bfloat16 or float32, and a mask of keys",
            do="pad the rows, pass packed rows as segments, or leave implementation None",
        )
    if query.shape[2] != key.shape[2]:
        key, value = (jnp.repeat(x, query.shape[2] // x.shape[2], axis=2) for x in (key, value))
    heads = ("batch", "keys", "heads", None)
    args: list[Any] = [query, key, value]
    names: list[tuple[str | None, ...]] = [heads, heads, heads]
    if mask is not None or segments is not None:
        args += _numbers(mask, segments, query, key)
        names += [("batch", "keys"), ("batch", "keys")]

    def own(*each: jax.Array) -> jax.Array:
        return _kernel(*each, causal=causal)

    return on_each_device(own, args, names)


def _numbers(mask: Any, segments: Any, query: jax.Array, key: jax.Array) -> list[jax.Array]:
    """Numbers of queries ``[B, T]`` and keys ``[B, S]``: those that are equal see each other."""
    rows, length, room = query.shape[0], query.shape[1], key.shape[1]
    queries = jnp.ones((rows, length), jnp.int32)
    keys = jnp.ones((rows, room), jnp.int32)
    if segments is not None:
        queries = keys = jnp.asarray(segments).astype(jnp.int32)
    shown = keys != 0
    if mask is not None:
        shown = shown & (jnp.asarray(mask) != 0)
    # Segments are numbered from 1; no query has this number.
    return [queries, jnp.where(shown, keys, -1)]


def _kernel(
    query: jax.Array, key: jax.Array, value: jax.Array, *numbers: jax.Array, causal: bool
) -> jax.Array:
    # Imported here, as Pallas takes long to import and most programs need none.
    from jax.experimental.pallas.ops.tpu import flash_attention as pallas

    query, key, value = (jnp.swapaxes(x, 1, 2) for x in (query, key, value))
    across, along = (_block(x.shape[2]) for x in (query, key))
    blocks = pallas.BlockSizes(
        block_q=across,
        block_k_major=along,
        block_k=along,
        block_b=1,
        block_q_major_dkv=across,
        block_k_major_dkv=along,
        block_k_dkv=along,
        block_q_dkv=across,
        block_k_major_dq=along,
        block_k_dq=along,
        block_q_dq=across,
    )
    out = pallas.flash_attention(
        query,
        key,
        value,
        segment_ids=pallas.SegmentIds(*numbers) if numbers else None,
        causal=causal,
        sm_scale=query.shape[-1] ** -0.5,
        block_sizes=blocks,
    )
    return jnp.swapaxes(out, 1, 2)


def _block(length: int) -> int:
    """The largest block that divides the length."""
    return next(size for size in _BLOCKS if length % size == 0)

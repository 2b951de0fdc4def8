"""Dropout that belongs to the example, not to the place where the example is computed.

``flax.linen.Dropout`` draws one mask for a whole array from one key, so the mask of a row depends
on which device or microbatch holds the row. Here each row's mask comes from its own key.

Reads from: nothing of jaxdl. Used by: objectives.applying.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

__all__ = ["LAYER_STREAM", "per_example_dropout"]

LAYER_STREAM = "layer"
"""The Linen random stream, the same on every device, that tells layers apart. A model that scans
its layers lists it in ``split_rngs``; without it its dropout is drawn by array, as in Flax."""


@contextlib.contextmanager
def per_example_dropout(keys: jax.Array | None) -> Generator[None]:
    """While open, every ``flax.linen.Dropout`` draws each row's mask from the row's own key.

    A layer whose first axis is not the batch, that broadcasts over the batch, or that was given
    its own ``rng``, draws as Flax does. The expectation and the scale are those of
    Srivastava et al. 2014, "Dropout: a simple way to prevent neural networks from overfitting".

    Args:
        keys: typed keys, shape ``[B]``; ``None`` changes nothing.
    """
    if keys is None:
        yield
        return
    with nn.intercept_methods(_interceptor(keys)):
        yield


def _interceptor(keys: jax.Array) -> Callable[..., Any]:
    def intercept(next_fn: Any, args: Any, kwargs: Any, context: Any) -> Any:
        layer = context.module
        if not isinstance(layer, nn.Dropout) or context.method_name != "__call__":
            return next_fn(*args, **kwargs)
        x, drawn_by_row = _reads(layer, args, kwargs, keys.shape[0])
        if not drawn_by_row:
            return next_fn(*args, **kwargs)
        salt = jax.random.bits(layer.make_rng(LAYER_STREAM))
        rows = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, salt)
        shape = tuple(1 if d in _broadcast(layer, x) else n for d, n in enumerate(x.shape))[1:]
        kept_share = 1.0 - layer.rate
        kept = jax.vmap(lambda key: jax.random.bernoulli(key, kept_share, shape))(rows)
        kept = jnp.broadcast_to(kept, x.shape)
        return jnp.where(kept, x / jnp.asarray(kept_share, x.dtype), jnp.zeros_like(x))

    return intercept


def _reads(layer: nn.Dropout, args: Any, kwargs: Any, rows: int) -> tuple[Any, bool]:
    named = dict(zip(("inputs", "deterministic", "rng"), args, strict=False)) | kwargs
    x = named["inputs"]
    deterministic = nn.merge_param("deterministic", layer.deterministic, named.get("deterministic"))
    own = (
        not deterministic
        and 0.0 < layer.rate < 1.0
        and named.get("rng") is None
        and x.ndim > 0
        and x.shape[0] == rows
        and 0 not in _broadcast(layer, x)
        and layer.has_rng(LAYER_STREAM)
    )
    return x, own


def _broadcast(layer: nn.Dropout, x: Any) -> set[int]:
    return {d % x.ndim for d in layer.broadcast_dims}

"""Losses of pairs: two views of one example against the views of all others.

Reads from: errors, losses.shapes. Used by: objectives, by choice.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxdl.errors import BatchError, ConfigError, ObjectiveError
from jaxdl.losses.shapes import check_float, check_same_shape

__all__ = ["nt_xent", "pair_scores"]


def nt_xent(
    first: Any,
    second: Any,
    *,
    temperature: float = 0.5,
    mask: Any = None,
    axis_name: str | None = None,
) -> jax.Array:
    r"""The normalised temperature-scaled cross-entropy of SimCLR.

    With :math:`s_{ij}` the cosine of views :math:`i` and :math:`j` of :math:`2B`, and :math:`j` the
    other view of :math:`i`:

    .. math:: \ell_{ij} = -\log \frac{\exp(s_{ij} / \tau)}{\sum_{k \ne i} \exp(s_{ik} / \tau)}

    An example's value is the mean of its two. Source: Chen et al. 2020, arXiv:2002.05709,
    equation 1.

    Args:
        first: embeddings of one view, shape ``[B, D]``; they need not be normalised.
        second: of the other view, the same shape.
        temperature: :math:`\tau`, above 0; 0.5 is the paper's for CIFAR-10, 0.1 for ImageNet.
        mask: shape ``[B]``; rows of 0 are nobody's negatives (their own values mean nothing).
        axis_name: the mapped axis that the batch is divided over (``"data"`` under
            ``jaxdl.pmap``): the views of all devices are gathered. Under ``jit`` they are seen
            anyway.

    Returns:
        Shape ``[B]``, in nats. A single example has no negatives and the value 0.

    Raises:
        BatchError: the shapes are not one ``[B, D]``, or the mask has another length.
        ConfigError: the temperature is not above 0.
        ObjectiveError: there is no such mapped axis.

    Examples:
        >>> views = jnp.eye(2)
        >>> [round(float(x), 4) for x in nt_xent(views, views, temperature=1.0)]
        [0.5514, 0.5514]
    """
    scores, own = pair_scores(
        first, second, temperature=temperature, mask=mask, axis_name=axis_name
    )
    at = jnp.take_along_axis(scores, own[..., None], axis=-1)[..., 0]
    values = jax.nn.logsumexp(scores, axis=-1) - at
    return jnp.mean(values, axis=0)


def pair_scores(
    first: Any,
    second: Any,
    *,
    temperature: float = 0.5,
    mask: Any = None,
    axis_name: str | None = None,
) -> tuple[jax.Array, jax.Array]:
    """The logits of ``nt_xent``: each view against all views of the whole batch.

    Args:
        first: as ``nt_xent``.
        second: as ``nt_xent``.
        temperature: as ``nt_xent``.
        mask: as ``nt_xent``.
        axis_name: as ``nt_xent``.

    Returns:
        ``(scores [2, B, 2 G], own [2, B])`` for ``G`` examples on all devices: the cosines over the
        temperature, very negative for the view itself and for padding, and which column holds the
        other view of the example.

    Raises:
        BatchError: as ``nt_xent``.
        ConfigError: as ``nt_xent``.
        ObjectiveError: as ``nt_xent``.
    """
    rows = _check(first, second, temperature, mask)
    views = jnp.stack([_unit(first), _unit(second)])
    real = jnp.ones(rows, bool) if mask is None else jnp.asarray(mask) != 0
    everyone, seen, start = views, real, jnp.zeros((), jnp.int32)
    if axis_name is not None:
        start = rows * _place(axis_name)
        everyone = jax.lax.all_gather(views, axis_name, axis=1, tiled=True)
        seen = jax.lax.all_gather(real, axis_name, axis=0, tiled=True)
    count = seen.shape[0]
    cosines = jnp.einsum("vbd,wgd->vbwg", views, everyone, preferred_element_type=views.dtype)
    place = start + jnp.arange(rows)
    mine = place[:, None] == jnp.arange(count)[None]
    same = jnp.eye(2, dtype=bool)[:, None, :, None]
    # A row of padding still sees its other view, so that its value and gradient stay finite.
    allowed = (seen[None, :] | mine)[None, :, None, :] & ~(same & mine[None, :, None, :])
    low = jnp.asarray(-1e9, views.dtype)
    scores = jnp.where(allowed, cosines / temperature, low).reshape(2, rows, 2 * count)
    return scores, jnp.stack([place + count, place])


def _unit(x: Any) -> jax.Array:
    x = jnp.asarray(x)
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    squared = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(squared, 1e-24))


def _place(axis_name: str) -> jax.Array:
    try:
        return jax.lax.axis_index(axis_name)
    except NameError as error:
        raise ObjectiveError(
            f"nt_xent has axis_name={axis_name!r}, and no such axis is mapped here",
            expected="the axis of a pmap or shard_map, 'data' under jaxdl.pmap",
            do="leave axis_name out under jaxdl.jit, where the batch is whole anyway",
        ) from error


def _check(first: Any, second: Any, temperature: float, mask: Any) -> int:
    check_same_shape(first, second, "nt_xent")
    check_float(first, "nt_xent")
    if jnp.ndim(first) != 2 or (mask is not None and jnp.shape(mask) != jnp.shape(first)[:1]):
        raise BatchError(
            f"nt_xent got views of shape {list(jnp.shape(first))} and a mask of shape "
            f"{None if mask is None else list(jnp.shape(mask))}",
            expected="views [B, D] and a mask [B]",
            do="flatten the embeddings: one vector an example",
        )
    if not temperature > 0:
        raise ConfigError(
            f"nt_xent has temperature={temperature}", expected="above 0", do="0.5 is usual"
        )
    return jnp.shape(first)[0]

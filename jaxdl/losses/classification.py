"""Losses of class scores, one value an example or token.

Targets are class numbers (integers of shape ``[...]`` for outputs ``[..., K]``) or distributions
over classes (shape ``[..., K]``). A class number outside ``0 .. K - 1`` gives NaN, never a silently
wrong value; the data path refuses it earlier.

Reads from: errors, reductions, losses.shapes. Used by: objectives, by choice.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxdl.errors import ConfigError
from jaxdl.losses.shapes import are_labels, check_float, check_same_shape
from jaxdl.reductions import whole_numbers

__all__ = [
    "binary_cross_entropy",
    "binary_cross_entropy_from_probabilities",
    "binary_focal",
    "cross_entropy_from_probabilities",
    "focal",
    "hinge",
    "kl_divergence",
    "multiclass_hinge",
    "softmax_cross_entropy",
]


def softmax_cross_entropy(
    logits: Any,
    targets: Any,
    *,
    label_smoothing: float = 0.0,
    class_weights: Any | None = None,
    z_loss: float = 0.0,
) -> jax.Array:
    r"""Categorical cross-entropy from logits.

    With smoothed targets :math:`q = (1 - \epsilon)\,t + \epsilon / K` and
    :math:`Z = \log \sum_k e^{x_k}`:

    .. math:: \ell = w_t \left( - \sum_k q_k (x_k - Z) \right) + \lambda Z^2

    Args:
        logits: floats, shape ``[B, K]`` or ``[B, T, K]``.
        targets: class numbers, shape ``[B]`` or ``[B, T]``, or distributions of the logits' shape.
        label_smoothing: :math:`\epsilon` in [0, 1) (Szegedy et al. 2016, arXiv:1512.00567).
        class_weights: shape ``[K]``; an example counts by the weight of its class (by the
            expected weight for a distribution). The mean is still taken over examples.
        z_loss: :math:`\lambda`, keeps the normaliser near 0 (Chowdhery et al. 2022,
            arXiv:2204.02311, section 5).

    Returns:
        Shape ``[B]`` or ``[B, T]``.

    Raises:
        BatchError: shapes or dtypes do not go together.
        ConfigError: ``label_smoothing`` is out of range.

    Examples:
        >>> softmax_cross_entropy(jnp.zeros((1, 4)), jnp.array([2])).tolist()
        [1.3862943649291992]
    """
    check_float(logits, "softmax_cross_entropy")
    logits = _wide(logits)
    targets = whole_numbers(targets)
    by_number = are_labels(logits, targets, "softmax_cross_entropy")
    _check_smoothing(label_smoothing)
    if by_number and not label_smoothing:
        values = _of_labels(logits, _in_range(targets))
    else:
        q = _distribution(logits, targets, by_number)
        if label_smoothing:
            q = optax.losses.smooth_labels(q, label_smoothing)
        values = optax.losses.softmax_cross_entropy(logits, q)
    values = _weighted(values, logits, targets, class_weights, by_number)
    if z_loss:
        values = values + z_loss * jax.nn.logsumexp(logits, axis=-1) ** 2
    return _nan_outside(values, targets, logits.shape[-1], by_number)


def _of_labels(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Optax's value, from a comparison where Optax indexes.

    The gradient of an index is a scatter into an array of the logits' size, in their wide dtype,
    that no compiler fuses; on a mesh that divides the classes it is a gather over devices.
    """
    shifted = logits - jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    classes = jax.lax.broadcasted_iota(jnp.int32, shifted.shape, shifted.ndim - 1)
    chosen = jnp.where(classes == labels[..., None], shifted, 0)
    return jnp.log(jnp.sum(jnp.exp(shifted), axis=-1)) - jnp.sum(chosen, axis=-1)


def cross_entropy_from_probabilities(
    probabilities: Any, targets: Any, *, epsilon: float = 1e-7
) -> jax.Array:
    """Categorical cross-entropy from probabilities; prefer logits where there are any.

    Args:
        probabilities: floats that add to 1 over the last axis, shape ``[..., K]``.
        targets: class numbers, shape ``[...]``, or distributions of the same shape.
        epsilon: probabilities are cut to ``[epsilon, 1]`` before the logarithm, so the gradient
            is 0 below it.

    Returns:
        Shape ``[...]``.

    Raises:
        BatchError: shapes or dtypes do not go together.
    """
    check_float(probabilities, "cross_entropy_from_probabilities")
    targets = whole_numbers(targets)
    by_number = are_labels(probabilities, targets, "cross_entropy_from_probabilities")
    p = jnp.clip(_wide(probabilities), epsilon, 1.0)
    values = -jnp.sum(_distribution(p, targets, by_number) * jnp.log(p), axis=-1)
    return _nan_outside(values, targets, p.shape[-1], by_number)


def binary_cross_entropy(logits: Any, targets: Any, *, positive_weight: float = 1.0) -> jax.Array:
    """Binary (or multi-label) cross-entropy from logits, averaged over labels.

    Args:
        logits: floats, shape ``[B]`` or ``[B, L]`` for ``L`` independent labels.
        targets: 0 or 1 (or a probability), the same shape.
        positive_weight: how much more a positive target counts.

    Returns:
        Shape ``[B]``.

    Raises:
        BatchError: the shapes differ, or the logits are no floats.
    """
    check_float(logits, "binary_cross_entropy")
    check_same_shape(logits, targets, "binary_cross_entropy")
    logits, targets = _wide(logits), _wide(targets)
    values = optax.losses.sigmoid_binary_cross_entropy(logits, targets)
    return _over_labels(values * _positive(targets, positive_weight))


def binary_cross_entropy_from_probabilities(
    probabilities: Any, targets: Any, *, epsilon: float = 1e-7
) -> jax.Array:
    """Binary cross-entropy from probabilities; prefer logits where there are any.

    Args:
        probabilities: floats in [0, 1], shape ``[B]`` or ``[B, L]``.
        targets: 0 or 1 (or a probability), the same shape.
        epsilon: probabilities are cut to ``[epsilon, 1 - epsilon]``.

    Returns:
        Shape ``[B]``.

    Raises:
        BatchError: the shapes differ, or the probabilities are no floats.
    """
    check_float(probabilities, "binary_cross_entropy_from_probabilities")
    check_same_shape(probabilities, targets, "binary_cross_entropy_from_probabilities")
    p = jnp.clip(_wide(probabilities), epsilon, 1.0 - epsilon)
    targets = _wide(targets)
    return _over_labels(-(targets * jnp.log(p) + (1.0 - targets) * jnp.log1p(-p)))


def binary_focal(
    logits: Any, targets: Any, *, gamma: float = 2.0, alpha: float | None = None
) -> jax.Array:
    """Focal loss of binary labels, averaged over labels.

    Source: Lin et al. 2017, arXiv:1708.02002.

    Args:
        logits: floats, shape ``[B]`` or ``[B, L]``.
        targets: 0 or 1, the same shape.
        gamma: how much easy examples are turned down; 0 is cross-entropy.
        alpha: weight of the positive class (``1 - alpha`` of the negative); ``None`` weighs none.

    Returns:
        Shape ``[B]``.

    Raises:
        BatchError: the shapes differ, or the logits are no floats.
    """
    check_float(logits, "binary_focal")
    check_same_shape(logits, targets, "binary_focal")
    values = optax.losses.sigmoid_focal_loss(
        _wide(logits), _wide(targets), alpha=alpha, gamma=gamma
    )
    return _over_labels(values)


def focal(logits: Any, targets: Any, *, gamma: float = 2.0) -> jax.Array:
    r"""Focal loss of one class among ``K``: :math:`-(1 - p_t)^\gamma \log p_t`.

    Source: Lin et al. 2017, arXiv:1708.02002, with softmax in place of sigmoid.

    Args:
        logits: floats, shape ``[..., K]``.
        targets: class numbers of shape ``[...]``, or distributions of the same shape.
        gamma: how much easy examples are turned down; 0 is cross-entropy.

    Returns:
        Shape ``[...]``.

    Raises:
        BatchError: shapes or dtypes do not go together.
    """
    check_float(logits, "focal")
    logits = _wide(logits)
    targets = whole_numbers(targets)
    by_number = are_labels(logits, targets, "focal")
    log_p = jax.nn.log_softmax(logits, axis=-1)
    q = _distribution(logits, targets, by_number)
    values = -jnp.sum(q * (1.0 - jnp.exp(log_p)) ** gamma * log_p, axis=-1)
    return _nan_outside(values, targets, logits.shape[-1], by_number)


def hinge(scores: Any, targets: Any) -> jax.Array:
    """Binary hinge loss, ``max(0, 1 - y s)``.

    Args:
        scores: floats, shape ``[B]``.
        targets: 0 or 1 (read as -1 or 1), the same shape.

    Returns:
        Shape ``[B]``.

    Raises:
        BatchError: the shapes differ, or the scores are no floats.
    """
    check_float(scores, "hinge")
    check_same_shape(scores, targets, "hinge")
    return optax.losses.hinge_loss(_wide(scores), 2.0 * _wide(targets) - 1.0)


def multiclass_hinge(scores: Any, targets: Any) -> jax.Array:
    """Hinge loss of one class among ``K``: the worst margin violation.

    Source: Crammer and Singer 2001, "On the algorithmic implementation of multiclass kernel-based
    vector machines".

    Args:
        scores: floats, shape ``[B, K]``.
        targets: class numbers, shape ``[B]``.

    Returns:
        Shape ``[B]``.

    Raises:
        BatchError: shapes or dtypes do not go together.
    """
    check_float(scores, "multiclass_hinge")
    scores = _wide(scores)
    targets = whole_numbers(targets)
    by_number = are_labels(scores, targets, "multiclass_hinge")
    labels = jnp.asarray(targets) if by_number else jnp.argmax(targets, axis=-1)
    values = jax.vmap(optax.losses.multiclass_hinge_loss)(scores, _in_range(labels))
    return _nan_outside(values, targets, scores.shape[-1], by_number)


def kl_divergence(logits: Any, targets: Any) -> jax.Array:
    r"""Divergence of the predicted from the target distribution, :math:`KL(t \| softmax(x))`.

    Args:
        logits: floats, shape ``[..., K]``.
        targets: distributions over classes, the same shape.

    Returns:
        Shape ``[...]``, in nats.

    Raises:
        BatchError: the shapes differ, or the logits are no floats.
    """
    check_float(logits, "kl_divergence")
    check_same_shape(logits, targets, "kl_divergence")
    log_p = jax.nn.log_softmax(_wide(logits), axis=-1)
    return optax.losses.kl_divergence(log_p, _wide(targets))


def _wide(x: Any) -> jax.Array:
    """At least float32: a sum over classes in half precision loses the small ones."""
    x = jnp.asarray(x)
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _over_labels(values: jax.Array) -> jax.Array:
    return jnp.mean(values, axis=tuple(range(1, values.ndim)))


def _positive(targets: jax.Array, weight: float) -> jax.Array:
    return 1.0 + (weight - 1.0) * targets


def _in_range(labels: Any) -> jax.Array:
    return jnp.maximum(jnp.asarray(labels), 0)


def _distribution(outputs: jax.Array, targets: Any, by_number: bool) -> jax.Array:
    if by_number:
        return jax.nn.one_hot(targets, outputs.shape[-1], dtype=outputs.dtype)
    return _wide(targets).astype(outputs.dtype)


def _weighted(
    values: jax.Array, logits: jax.Array, targets: Any, class_weights: Any, by_number: bool
) -> jax.Array:
    if class_weights is None:
        return values
    weights = jnp.asarray(class_weights, logits.dtype)
    if weights.shape != logits.shape[-1:]:
        raise ConfigError(
            f"class_weights has shape {list(weights.shape)}",
            expected=f"one weight for each of {logits.shape[-1]} classes",
            do="give a sequence of that length, in class order",
        )
    if by_number:
        return values * weights[_in_range(targets)]
    return values * jnp.einsum("...k,k->...", _wide(targets), weights)


def _nan_outside(values: jax.Array, targets: Any, classes: int, by_number: bool) -> jax.Array:
    if not by_number:
        return values
    labels = jnp.asarray(targets)
    return jnp.where((labels >= 0) & (labels < classes), values, jnp.nan)


def _check_smoothing(label_smoothing: float) -> None:
    if not 0.0 <= label_smoothing < 1.0:
        raise ConfigError(
            f"label_smoothing is {label_smoothing}",
            expected="a number from 0 up to but not 1",
            do="0.1 is usual",
        )

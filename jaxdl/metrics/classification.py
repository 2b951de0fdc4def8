"""Accuracy, precision, recall, F1 and the confusion matrix they are read from.

Counts are int32 in a batch and int64 in ``metrics.total``, so they are exact. A class that never
occurs scores 0, as scikit-learn's ``zero_division=0``.

Reads from: errors, protocols, metrics.selection, metrics.sums. Used by: recipes, by choice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.errors import BatchError, ConfigError
from jaxdl.metrics.selection import counted, predicted_classes, targets_of
from jaxdl.metrics.sums import quotient
from jaxdl.protocols import Batch, Mean, Metric

__all__ = [
    "accuracy",
    "class_scores",
    "classification_report",
    "confusion_matrix",
    "f1",
    "precision",
    "recall",
    "top_k_accuracy",
]

Average = Literal["micro", "macro", "weighted"]


def accuracy(*, target: str = "label") -> Metric:
    """The share of entries whose predicted class is the target.

    Args:
        target: the batch field of class numbers, shape ``[B]`` or ``[B, T]``.

    Returns:
        A metric over scores ``[..., K]`` or binary logits ``[...]``.

    Examples:
        >>> metric = accuracy()
        >>> scores = jnp.array([[2.0, 1.0], [0.0, 1.0]])
        >>> metric.report(metric.measure(scores, {"label": jnp.array([0, 0])}))
        {'accuracy': 0.5}
    """

    def measure(outputs: Any, batch: Batch) -> Mean:
        targets = targets_of(batch, target)
        weights = counted(batch, targets.shape)
        right = predicted_classes(outputs, targets, None) == targets
        return Mean(jnp.sum(jnp.where(right, weights, 0)), jnp.sum(weights))

    return Metric(measure, lambda sums: {"accuracy": float(quotient(*sums))})


def top_k_accuracy(k: int, *, target: str = "label") -> Metric:
    """The share of entries whose target is among the ``k`` highest scores.

    Among equal scores the lower class number comes first.

    Args:
        k: at least 1.
        target: the batch field of class numbers.

    Raises:
        ConfigError: ``k`` is not positive.
        BatchError: while tracing, when there are fewer than ``k`` classes.
    """
    if k < 1:
        raise ConfigError(f"top_k_accuracy({k})", expected="k of at least 1", do="use k=5, say")

    def measure(outputs: Any, batch: Batch) -> Mean:
        targets = targets_of(batch, target)
        if outputs.shape[-1] < k:
            raise BatchError(
                f"top_k_accuracy({k}) of {outputs.shape[-1]} classes",
                expected=f"scores of at least {k} classes in the last axis",
                do="use a smaller k",
            )
        weights = counted(batch, targets.shape)
        _, best = jax.lax.top_k(outputs, k)
        right = jnp.any(best == targets[..., None], axis=-1)
        return Mean(jnp.sum(jnp.where(right, weights, 0)), jnp.sum(weights))

    return Metric(measure, lambda sums: {f"top_{k}_accuracy": float(quotient(*sums))})


def confusion_matrix(num_classes: int, *, target: str = "label") -> Metric:
    """Counts by class: row the target, column the prediction. Additive, exact.

    Args:
        num_classes: ``K``; 2 also takes binary logits. A target outside ``0 .. K - 1`` is not
            counted.
        target: the batch field of class numbers.

    Returns:
        A metric whose sums and report are the ``[K, K]`` matrix.
    """
    return Metric(
        lambda outputs, batch: _confusion(outputs, batch, num_classes, target),
        lambda counts: {"confusion_matrix": np.asarray(counts)},
    )


def precision(
    num_classes: int, *, average: Average | None = "macro", target: str = "label"
) -> Metric:
    """Of the entries predicted as a class, the share that is of it.

    Args:
        num_classes: ``K``.
        average: ``"macro"`` over classes that occur as target or prediction, ``"weighted"`` by
            targets, ``"micro"`` over entries, or ``None`` for one value a class.
        target: the batch field of class numbers.
    """
    return _from_confusion("precision", num_classes, average, target)


def recall(num_classes: int, *, average: Average | None = "macro", target: str = "label") -> Metric:
    """Of the entries of a class, the share that is predicted as it. Arguments as ``precision``.

    Args:
        num_classes: ``K``.
        average: as in ``precision``.
        target: the batch field of class numbers.
    """
    return _from_confusion("recall", num_classes, average, target)


def f1(num_classes: int, *, average: Average | None = "macro", target: str = "label") -> Metric:
    """The harmonic mean of precision and recall, by class, then averaged.

    Args:
        num_classes: ``K``.
        average: as in ``precision``.
        target: the batch field of class numbers.
    """
    return _from_confusion("f1", num_classes, average, target)


def classification_report(
    num_classes: int, *, average: Average = "macro", target: str = "label"
) -> Metric:
    """Accuracy, precision, recall and F1 read from one confusion matrix.

    Args:
        num_classes: ``K``.
        average: as in ``precision``.
        target: the batch field of class numbers.

    Returns:
        A metric that reports ``accuracy``, ``precision``, ``recall`` and ``f1``.
    """
    _check_average(average)

    def read(counts: Any) -> dict[str, Any]:
        scores = class_scores(counts)
        values = {name: _averaged(scores, name, average) for name in ("precision", "recall", "f1")}
        diagonal, everything = np.trace(np.asarray(counts)), np.sum(counts)
        return {"accuracy": float(quotient(diagonal, everything)), **values}

    return Metric(lambda outputs, batch: _confusion(outputs, batch, num_classes, target), read)


def _from_confusion(name: str, num_classes: int, average: Any, target: str) -> Metric:
    _check_average(average)
    reading: Callable[[Any], dict[str, Any]] = lambda counts: {  # noqa: E731
        name: _averaged(class_scores(counts), name, average)
    }
    return Metric(lambda outputs, batch: _confusion(outputs, batch, num_classes, target), reading)


def _check_average(average: Any) -> None:
    if average not in ("micro", "macro", "weighted", None):
        raise ConfigError(
            f"average is {average!r}",
            expected="'micro', 'macro', 'weighted' or None",
            do="'macro' counts every class alike",
        )


def _confusion(outputs: Any, batch: Batch, num_classes: int, target: str) -> jax.Array:
    targets = targets_of(batch, target)
    predictions = predicted_classes(outputs, targets, num_classes)
    weights = counted(batch, targets.shape)
    known = (targets >= 0) & (targets < num_classes)
    cells = jnp.where(known, targets * num_classes + predictions, 0).reshape(-1)
    weights = jnp.where(known, weights, jnp.zeros_like(weights)).reshape(-1)
    flat = jnp.zeros((num_classes * num_classes,), weights.dtype).at[cells].add(weights)
    return flat.reshape(num_classes, num_classes)


def class_scores(counts: Any) -> dict[str, np.ndarray]:
    """Precision, recall and F1 by class.

    Args:
        counts: a confusion matrix ``[K, K]``: row the target, column the prediction.

    Returns:
        Arrays ``[K]``: ``right``, ``actual`` (how often the class was the target), ``predicted``,
        ``precision``, ``recall`` and ``f1``; 0 where there is nothing to divide by.
    """
    matrix = np.asarray(counts, np.float64)
    right, actual, predicted = np.diag(matrix), matrix.sum(1), matrix.sum(0)
    return {
        "right": right,
        "actual": actual,
        "predicted": predicted,
        "precision": quotient(right, predicted, 0.0),
        "recall": quotient(right, actual, 0.0),
        "f1": quotient(2 * right, actual + predicted, 0.0),
    }


def _averaged(scores: dict[str, np.ndarray], name: str, average: Average | None) -> Any:
    values = scores[name]
    if average is None:
        return values
    if average == "micro":
        # With one prediction an entry, micro precision, recall and F1 are all the accuracy.
        return float(quotient(scores["right"].sum(), scores["actual"].sum(), 0.0))
    if average == "weighted":
        return float(quotient((values * scores["actual"]).sum(), scores["actual"].sum(), 0.0))
    present = (scores["actual"] > 0) | (scores["predicted"] > 0)
    return float(quotient(values[present].sum(), present.sum(), 0.0))

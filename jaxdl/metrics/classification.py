"""Accuracy, precision, recall, F1 and the confusion matrix they are read from.

Counts are int32 in a batch and int64 in ``metrics.total``, so they are exact. What has nothing to
divide by is ``zero_division``, 0 when not given, with scikit-learn's meaning.

Reads from: errors, protocols, metrics.selection, metrics.sums. Used by: recipes, by choice.
"""

from __future__ import annotations

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


def top_k_accuracy(
    k: int, *, target: str = "label", ties: Literal["higher", "lower"] = "higher"
) -> Metric:
    """The share of entries whose target is among the ``k`` highest scores.

    Args:
        k: at least 1.
        target: the batch field of class numbers.
        ties: which class number comes first among equal scores: the higher one, as in
            scikit-learn's ``top_k_accuracy_score``; or the lower one, which for ``k=1`` is
            ``accuracy``.

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
        # top_k ranks -0.0 below 0.0, which are equal.
        scores = jnp.where(outputs == 0, jnp.zeros_like(outputs), outputs)
        scores = jnp.flip(scores, axis=-1) if ties == "higher" else scores
        _, best = jax.lax.top_k(scores, k)
        best = outputs.shape[-1] - 1 - best if ties == "higher" else best
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
    num_classes: int,
    *,
    average: Average | None = "macro",
    target: str = "label",
    zero_division: float = 0.0,
) -> Metric:
    """Of the entries predicted as a class, the share that is of it.

    Args:
        num_classes: ``K``.
        average: ``"macro"`` over classes that occur as target or prediction, ``"weighted"`` by
            targets, ``"micro"`` over entries, or ``None`` for one value a class.
        target: the batch field of class numbers.
        zero_division: the value of a class that there is nothing to divide by for; NaN leaves it
            out of averages.

    Raises:
        ConfigError: the average is none of these.
    """
    return _from_confusion("precision", num_classes, average, target, zero_division)


def recall(
    num_classes: int,
    *,
    average: Average | None = "macro",
    target: str = "label",
    zero_division: float = 0.0,
) -> Metric:
    """Of the entries of a class, the share that is predicted as it. Arguments as ``precision``.

    Args:
        num_classes: ``K``.
        average: as in ``precision``.
        target: the batch field of class numbers.
        zero_division: as in ``precision``.

    Raises:
        ConfigError: the average is none of these.
    """
    return _from_confusion("recall", num_classes, average, target, zero_division)


def f1(
    num_classes: int,
    *,
    average: Average | None = "macro",
    target: str = "label",
    zero_division: float = 0.0,
) -> Metric:
    """The harmonic mean of precision and recall, by class, then averaged.

    Args:
        num_classes: ``K``.
        average: as in ``precision``.
        target: the batch field of class numbers.
        zero_division: as in ``precision``; of a class that is neither target nor prediction.

    Raises:
        ConfigError: the average is none of these.
    """
    return _from_confusion("f1", num_classes, average, target, zero_division)


def classification_report(
    num_classes: int,
    *,
    average: Average = "macro",
    target: str = "label",
    zero_division: float = 0.0,
) -> Metric:
    """Accuracy, precision, recall and F1 read from one confusion matrix.

    Args:
        num_classes: ``K``.
        average: as in ``precision``.
        target: the batch field of class numbers.
        zero_division: as in ``precision``.

    Returns:
        A metric that reports ``accuracy``, ``precision``, ``recall`` and ``f1``.

    Raises:
        ConfigError: the average is none of these.
    """
    _check_average(average)

    def read(counts: Any) -> dict[str, Any]:
        scores = class_scores(counts, zero_division=zero_division)
        values = {
            name: _averaged(scores, name, average, zero_division)
            for name in ("precision", "recall", "f1")
        }
        diagonal, everything = np.trace(np.asarray(counts)), np.sum(counts)
        return {"accuracy": float(quotient(diagonal, everything)), **values}

    return Metric(lambda outputs, batch: _confusion(outputs, batch, num_classes, target), read)


def _from_confusion(
    name: str, num_classes: int, average: Any, target: str, zero_division: float
) -> Metric:
    _check_average(average)

    def reading(counts: Any) -> dict[str, Any]:
        scores = class_scores(counts, zero_division=zero_division)
        return {name: _averaged(scores, name, average, zero_division)}

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


def class_scores(counts: Any, *, zero_division: float = 0.0) -> dict[str, np.ndarray]:
    """Precision, recall and F1 by class.

    Args:
        counts: a confusion matrix ``[K, K]``: row the target, column the prediction.
        zero_division: the value where there is nothing to divide by.

    Returns:
        Arrays ``[K]``: ``right``, ``actual`` (how often the class was the target), ``predicted``,
        ``precision``, ``recall`` and ``f1``.
    """
    matrix = np.asarray(counts, np.float64)
    right, actual, predicted = np.diag(matrix), matrix.sum(1), matrix.sum(0)
    return {
        "right": right,
        "actual": actual,
        "predicted": predicted,
        "precision": quotient(right, predicted, zero_division),
        "recall": quotient(right, actual, zero_division),
        "f1": quotient(2 * right, actual + predicted, zero_division),
    }


def _averaged(
    scores: dict[str, np.ndarray], name: str, average: Average | None, empty: float
) -> Any:
    values, actual = scores[name], scores["actual"]
    if average is None:
        return values
    if average == "micro":
        # With one prediction an entry, micro precision, recall and F1 are all the accuracy.
        return float(quotient(scores["right"].sum(), actual.sum(), empty))
    chosen = ((actual > 0) | (scores["predicted"] > 0)) & ~np.isnan(values)
    weights = actual[chosen]
    if average == "macro" or not weights.sum():
        weights = np.ones_like(weights)
    return float(quotient((values[chosen] * weights).sum(), weights.sum(), empty))

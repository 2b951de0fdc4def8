"""What a classifier said of a split: by class, what it confused, and whether it knows.

Reads from: protocols, evaluation, reporting.blocks, .drawing, .wording. Used by:
reporting.sections, .mistakes, .comparing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from jaxdl import evaluation
from jaxdl.protocols import MASK
from jaxdl.reporting.blocks import Block, Facts, Figure, Section, Table, Text
from jaxdl.reporting.drawing import calibration_chart
from jaxdl.reporting.wording import number, percent, plural, spoken

__all__ = ["Classified", "by_class", "calibration", "classify", "confused"]

_LABEL = "label"
_WHOLE_MATRIX, _MOST_CLASSES, _MOST_PAIRS, _MOST_SLICES = 20, 40, 30, 12
_RESAMPLES = 1_000
_MOST_DRAWN = 200_000
# A table of so many rows and columns still fits into memory.
_MOST_IN_TABLE = 2_000


class Classified(NamedTuple):
    """The entries that count: rows, or places within rows.

    Attributes:
        rows: which row each is of ``[M]``.
        labels: true classes ``[M]``.
        predicted: classes ``[M]``.
        probabilities: ``[M, K]``.
        names: of the classes, ``K``.
        places: whether a row has more than one.
        left_out: how many labels were of no class, or had outputs that are not finite.
    """

    rows: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    predicted: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float64]
    names: tuple[str, ...]
    places: bool
    left_out: int

    @property
    def right(self) -> npt.NDArray[np.bool_]:
        """Whether each prediction is the label ``[M]``."""
        return self.labels == self.predicted


def classify(
    outputs: Any,
    batch: Mapping[str, npt.NDArray[Any]],
    names: Sequence[str] = (),
    *,
    weight: npt.NDArray[Any] | None = None,
) -> Classified | str:
    """Reads outputs as scores of classes; a sentence says why they are none.

    Args:
        outputs: scores ``[N, ..., K]``, or logits ``[N, ...]`` of one event; numbers that are no
            negative ones and sum to 1 are taken as probabilities.
        batch: the fields of the rows.
        names: of the classes, where they are known.
        weight: of each row ``[N]``; those of weight 0 do not count.

    Examples:
        >>> found = classify(np.array([[2.0, 0.0], [1.0, 0.0]]), {"label": np.array([0, 1])})
        >>> found.predicted.tolist(), found.right.tolist(), found.names
        ([0, 0], [True, False], ('0', '1'))
    """
    if isinstance(outputs, Mapping) and "logits" in outputs:
        outputs = outputs["logits"]
    label = batch.get(_LABEL)
    if label is None:
        return f"There are no classes: the rows have no field {_LABEL!r}."
    if label.dtype.kind not in "iub":
        return "There are no classes: the labels are quantities, not numbers of classes."
    if not isinstance(outputs, np.ndarray):
        return "There are no classes: the model's outputs are no single array of scores."
    table = _probabilities(outputs, label)
    if isinstance(table, str):
        return table
    counts = _counted(label.shape, batch.get(MASK), weight)
    known = (label >= 0) & (label < table.shape[-1]) & np.isfinite(table).all(axis=-1)
    kept = counts & known
    if not kept.any():
        return "There are no classes: no output is finite, or no label is of a class."
    rows = np.nonzero(kept)[0].astype(np.int64)
    chosen = table[kept]
    classes = table.shape[-1]
    titles = tuple(names) if len(names) == classes else tuple(str(k) for k in range(classes))
    return Classified(
        rows,
        label[kept].astype(np.int64),
        chosen.argmax(axis=-1),
        chosen,
        titles,
        label.ndim > 1,
        int(np.count_nonzero(counts & ~known)),
    )


def by_class(found: Classified, split: str, fields: Mapping[str, Any]) -> Section:
    """Accuracy and its interval; precision, recall and F1 of every class; parts of the split.

    Args:
        found: from ``classify``.
        split: its name.
        fields: of the rows, to make parts by.
    """
    key, title = "classes", "Results by class"
    right = found.right
    facts = [("Accuracy", percent(float(right.mean()))), ("Entries", number(len(right)))]
    if 1 < len(right) <= _MOST_DRAWN:
        interval = evaluation.bootstrap(
            np.mean, right, seed=0, resamples=_RESAMPLES, method="percentile"
        )
        ends = f"{100 * interval.low:.1f} to {percent(interval.high)}"
        facts.insert(1, ("95 % interval", ends))
    facts.append(("Wrong", number(int(np.count_nonzero(~right)))))
    blocks: list[Block] = [Facts(facts)]
    if found.left_out:
        words = f"{plural(found.left_out, 'entry', 'entries')} left out: "
        blocks.append(Text(words + "of no class, or with outputs that are not finite."))
    if len(found.names) <= _MOST_IN_TABLE:
        blocks.append(_class_table(found, split))
    else:
        blocks.append(Text(f"Of {len(found.names):,} classes there is no table.", quiet=True))
    if not found.places:
        blocks += _slices(found, fields)
    return Section(key, title, blocks)


def confused(found: Classified) -> Section:
    """Which classes are taken for which.

    Args:
        found: from ``classify``.
    """
    key, title = "confusion", "Confusion"
    blocks: list[Block] = []
    if len(found.names) <= _WHOLE_MATRIX:
        matrix = _matrix(found)
        totals = np.maximum(matrix.sum(axis=1, keepdims=True), 1)
        heat = np.ceil(10 * matrix / totals).astype(int)
        rows = [
            [name, *(number(int(c)) if c else "" for c in counts)]
            for name, counts in zip(found.names, matrix, strict=True)
        ]
        caption = (
            "Confusion matrix: rows are true classes, columns predicted ones; the stronger its "
            "colour, the larger a cell's share of the row."
        )
        blocks.append(Table(caption, ["true", *found.names], rows, heat.tolist()))
    blocks.append(_pairs(found))
    return Section(key, title, blocks)


def calibration(found: Classified) -> Section:
    """Whether a confidence of 80 % is right in 80 % of cases.

    Args:
        found: from ``classify``.
    """
    key, title = "calibration", "Calibration"
    table = evaluation.reliability(*evaluation.top_label(found.probabilities, found.labels))
    error = evaluation.calibration_error(table)
    confidence = float(found.probabilities.max(axis=1).mean())
    accuracy = float(found.right.mean())
    facts = [
        ("Calibration error", percent(error)),
        ("Mean confidence", percent(confidence)),
        ("Accuracy", percent(accuracy)),
    ]
    if len(found.names) <= _MOST_IN_TABLE:
        score = evaluation.brier_score(found.probabilities, found.labels)
        facts.append(("Brier score", number(score)))
    bins = [
        f"of {rows:,} with confidence {percent(float(said))}, {percent(float(seen))} are right"
        for rows, said, seen in zip(table.rows, table.predicted, table.observed, strict=True)
        if rows
    ]
    lean = "more" if confidence > accuracy else "less"
    alt = f"On average the model is {lean} sure than right. By bin: {'; '.join(bins)}."
    caption = (
        "Bars and points: the share that is right among predictions of a confidence. On the dashed "
        "diagonal both are the same; below it the model is too sure."
    )
    drawing = calibration_chart(table.low, table.high, table.predicted, table.observed)
    rows = [
        [f"{low:.2f} to {high:.2f}", number(int(n)), percent(float(said)), percent(float(seen))]
        for low, high, n, said, seen in zip(*table, strict=True)
        if n
    ]
    header = ["confidence", "entries", "mean confidence", "right"]
    return Section(
        key,
        title,
        [
            Facts(facts),
            Figure("Reliability", alt, caption, drawing),
            Table("The figure in numbers.", header, rows, fold="The figure in numbers"),
        ],
    )


def _probabilities(
    outputs: npt.NDArray[Any], label: npt.NDArray[Any]
) -> npt.NDArray[np.float64] | str:
    """Of every class and entry, or why there are none."""
    scores = outputs.astype(np.float64)
    if scores.shape == label.shape or scores.shape == (*label.shape, 1):
        if not np.isin(label, (0, 1)).all():
            return (
                "There are no classes: the outputs are single numbers, and labels beyond 0 and 1."
            )
        scores = scores.reshape(label.shape)
        return _softmax(np.stack([np.zeros_like(scores), scores], axis=-1))
    if scores.ndim < 2 or scores.shape[:-1] != label.shape:
        return (
            f"There are no classes: outputs of shape {list(scores.shape)} do not go with labels of "
            f"shape {list(label.shape)}."
        )
    sums = scores.sum(axis=-1)
    if np.isfinite(scores).all() and scores.min() >= 0 and np.allclose(sums, 1, rtol=0, atol=1e-3):
        return scores / sums[..., None]
    return _softmax(scores)


def _softmax(scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    with np.errstate(invalid="ignore", over="ignore"):
        grown = np.exp(scores - scores.max(axis=-1, keepdims=True))
        return grown / grown.sum(axis=-1, keepdims=True)


def _counted(
    shape: tuple[int, ...], mask: npt.NDArray[Any] | None, weight: npt.NDArray[Any] | None
) -> npt.NDArray[np.bool_]:
    counts = np.ones(shape, bool)
    if mask is not None and mask.shape == shape[: mask.ndim]:
        counts &= (mask > 0).reshape(mask.shape + (1,) * (len(shape) - mask.ndim))
    if weight is not None:
        counts &= (weight > 0).reshape(-1, *(1,) * (len(shape) - 1))
    return counts


def _matrix(found: Classified) -> npt.NDArray[np.int64]:
    return evaluation.confusion(found.labels, found.predicted, len(found.names))


def _class_table(found: Classified, split: str) -> Table:
    rows = evaluation.class_table(_matrix(found), found.names)
    caption = f"Each class of the {split} split."
    if len(rows) > _MOST_CLASSES:
        there = [row for row in rows if row.support or row.predicted]
        rows = sorted(there, key=lambda row: (row.f1, -row.support))[:_MOST_CLASSES]
        caption = (
            f"The {len(rows)} classes of the lowest F1, of {len(there):,} that occur in the "
            f"{split} split."
        )
    cells = [
        [row.name, *map(percent, (row.precision, row.recall, row.f1)), *map(number, row[4:])]
        for row in rows
    ]
    return Table(caption, ["class", "precision", "recall", "F1", "true", "predicted"], cells)


def _pairs(found: Classified) -> Block:
    classes = len(found.names)
    wrong = ~found.right
    codes = found.labels[wrong] * classes + found.predicted[wrong]
    pairs, counts = np.unique(codes, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:_MOST_PAIRS]
    support = np.bincount(found.labels, minlength=classes)
    rows: list[list[str]] = []
    for code, count in zip(pairs[order].tolist(), counts[order].tolist(), strict=True):
        true, said = divmod(code, classes)
        words = f"{found.names[true]} taken for {found.names[said]}"
        rows.append([words, number(count), percent(count / support[true])])
    if not rows:
        return Text("Nothing was taken for anything else.")
    fold = "The most frequent mistakes" if classes <= _WHOLE_MATRIX else ""
    caption = (
        "The most frequent mistakes, how many there are, and their share of the true class."
        if fold
        else f"The {len(rows)} most frequent mistakes among {classes:,} classes, how many "
        "there are, and their share of the true class."
    )
    return Table(caption, ["mistake", "count", "share"], rows, fold=fold)


def _slices(found: Classified, fields: Mapping[str, Any]) -> list[Table]:
    """Accuracy by every field of few values."""
    tables: list[Table] = []
    for name, column in fields.items():
        if name in (_LABEL, MASK) or column.ndim != 1 or column.dtype.kind not in "iubUS":
            continue
        by = column[found.rows]
        if not 1 < len(np.unique(by)) <= _MOST_SLICES:
            continue
        parts = evaluation.by_slice(np.mean, found.right, by=by)
        rows = [[str(part.slice), number(part.rows), percent(part.value)] for part in parts]
        tables.append(Table(f"Accuracy by {spoken(name)}.", [name, "rows", "accuracy"], rows))
    return tables

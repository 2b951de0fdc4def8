"""The examples that a model got most wrong, as people can look at them.

Reads from: protocols, reporting.blocks, .classes, .drawing, .media, .rows, .wording. Used by:
reporting.sections.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from jaxdl.protocols import MASK
from jaxdl.reporting.blocks import Block, Card, Cards, Figure, Picture, Piece, Section, Sound, Text
from jaxdl.reporting.classes import Classified
from jaxdl.reporting.drawing import scatter_chart
from jaxdl.reporting.media import heat_levels, kind_of, map_picture, picture, sound
from jaxdl.reporting.rows import Explained, Rows, Worst, mean_loss
from jaxdl.reporting.wording import number, percent, spoken

__all__ = ["worst"]

_MOST_POINTS, _MOST_TOKENS, _MOST_VALUES = 600, 160, 16


def worst(
    rows: Rows,
    found: Classified | str,
    chosen: Worst,
    explained: Sequence[Explained] = (),
    unexplained: str = "",
) -> Section:
    """The section.

    Args:
        rows: of the split.
        found: from ``classify``.
        chosen: from ``choose``.
        explained: explanations of some of the rows.
        unexplained: why there are none.
    """
    title = "Worst mistakes" if not isinstance(found, str) else "Worst examples"
    blocks: list[Block] = [Text(chosen.words)]
    agreement = _agreement(rows)
    if agreement is not None:
        blocks.append(agreement)
    if chosen.rows:
        shown = [
            each.method + (f", {each.note}" if each.note else "")
            for each in explained
            if set(each.rows) & set(chosen.rows)
        ]
        if shown:
            words = (
                f"What weighed most is light in pictures and coloured in texts: {', '.join(shown)}."
            )
            blocks.append(Text(words))
        if unexplained:
            blocks.append(Text(unexplained, quiet=True))
        place = {}
        if not isinstance(found, str) and not found.places:
            place = {int(row): n for n, row in enumerate(found.rows)}
        cards = [
            _card(rows, found, row, place.get(row), (rank, explained))
            for rank, row in enumerate(chosen.rows, 1)
        ]
        blocks.append(Cards(cards))
    return Section("mistakes", title, blocks)


class _Parts(NamedTuple):
    """What a card is filled with."""

    pictures: list[Picture]
    sounds: list[Sound]
    texts: list[tuple[str, Sequence[Piece]]]
    facts: list[tuple[str, str]]


def _card(
    rows: Rows,
    found: Classified | str,
    row: int,
    place: int | None,
    context: tuple[int, Sequence[Explained]],
) -> Card:
    rank, explained = context
    parts = _Parts([], [], [], [])
    if place is not None and not isinstance(found, str):
        parts.facts.extend(_judged(found, place))
    loss = mean_loss(rows)
    if loss is not None:
        parts.facts.append(("loss", number(float(loss[row]))))
    hidden = {MASK} if place is None else {MASK, "label"}
    for name in rows.batch:
        if name not in hidden:
            _add(parts, rows, name, row, explained)
    for each in explained:
        if row in each.rows:
            parts.pictures.extend(_maps(rows, each, row))
    if isinstance(found, str):
        parts.facts.extend(_said(rows, row))
    title = f"{rank}. Example {row:,} of {rows.split}"
    return Card(title, parts.facts, parts.pictures, parts.sounds, parts.texts)


def _add(parts: _Parts, rows: Rows, name: str, row: int, explained: Sequence[Explained]) -> None:
    """Adds a field of a row, as what it is."""
    value, column, title = _real(rows, name, row), rows.batch[name], spoken(name)
    what = f"{title} of example {row:,}"
    match kind_of(name, column.shape[1:], column.dtype):
        case "picture":
            parts.pictures.append(picture(value, what, title))
        case "spectrogram":
            caption = f"{title}, time to the right, pitch up"
            parts.pictures.append(picture(value, what, caption, spectrogram=True))
        case "sound":
            caption = f"{title}, {rows.rate:,} values a second"
            parts.sounds.append(sound(value, caption, rows.rate))
        case "tokens" if rows.waves is not None and name == "tokens":
            caption = f"{title}, {rows.rate:,} values a second"
            parts.sounds.append(sound(np.asarray(rows.waves(value)), caption, rows.rate))
        case "tokens":
            parts.texts.append((title, _pieces(rows, name, row, explained)))
        case "numbers" | "scalar":
            parts.facts.append((title, _values(value)))
        case _:
            pass


def _real(rows: Rows, name: str, row: int) -> npt.NDArray[Any]:
    """A field of a row, its padding in time cut off."""
    value, mask = np.asarray(rows.batch[name][row]), rows.batch.get(MASK)
    if name == MASK or mask is None or mask.ndim != 2 or value.shape[:1] != mask.shape[1:]:
        return value
    last = np.flatnonzero(mask[row] > 0)
    return value[: int(last[-1]) + 1] if last.size else value


def _judged(found: Classified, place: int) -> list[tuple[str, str]]:
    true, said = int(found.labels[place]), int(found.predicted[place])
    chances = found.probabilities[place]
    return [
        ("true", f"{found.names[true]} ({percent(float(chances[true]))})"),
        ("predicted", f"{found.names[said]} ({percent(float(chances[said]))})"),
    ]


def _said(rows: Rows, row: int) -> list[tuple[str, str]]:
    """What the model said, where that is a few numbers."""
    if not isinstance(rows.outputs, np.ndarray) or rows.outputs[row].size > _MOST_VALUES:
        return []
    return [("output", _values(rows.outputs[row]))]


def _values(value: Any) -> str:
    flat = np.asarray(value).reshape(-1)
    shown = ", ".join(number(each.item()) for each in flat[:_MOST_VALUES])
    return shown + (f" and {flat.size - _MOST_VALUES} more" if flat.size > _MOST_VALUES else "")


def _maps(rows: Rows, given: Explained, row: int) -> list[Picture]:
    column = rows.batch.get(given.field)
    if column is None:
        return []
    kind = kind_of(given.field, column.shape[1:], column.dtype)
    values = np.asarray(given.rows[row])[: len(_real(rows, given.field, row))]
    if kind not in ("picture", "spectrogram") or values.ndim < 2:
        return []
    if kind == "spectrogram":
        values = values.T[::-1]
    what = f"{given.method} of {spoken(given.field)} of example {row:,}; {_where(values)}"
    return [map_picture(values, what, given.method)]


def _where(values: npt.NDArray[Any]) -> str:
    """In which part of a picture most of the weight lies, in words."""
    size = np.abs(np.nan_to_num(np.asarray(values, np.float64)))
    size = size.sum(axis=-1) if size.ndim == 3 else size
    total = size.sum()
    if total == 0:
        return "nothing weighed"
    height, width = size.shape
    up = size[: height // 2].sum() / total if height > 1 else 0.5
    left = size[:, : width // 2].sum() / total if width > 1 else 0.5
    return (
        f"{percent(float(up))} of the weight in the upper half, {percent(float(left))} on the left"
    )


def _pieces(rows: Rows, name: str, row: int, explained: Sequence[Explained]) -> list[Piece]:
    """Tokens as text, heated by the first explanation of them."""
    tokens = rows.batch[name][row]
    mask = rows.batch.get(f"{name}_mask", rows.batch.get(MASK))
    real = np.ones(len(tokens), bool)
    if mask is not None and mask.shape == rows.batch[name].shape:
        real = mask[row] > 0
    weights = next((e.rows[row] for e in explained if e.field == name and row in e.rows), None)
    kept = np.flatnonzero(real)[:_MOST_TOKENS]
    more = f" ... {int(real.sum()) - len(kept):,} more" if real.sum() > len(kept) else ""
    words, space = _words(rows.words, tokens[kept])
    heat = [0] * len(words)
    if weights is not None and np.ndim(weights) == 1:
        heat = heat_levels(np.asarray(weights)[kept])
    pieces: list[Piece] = []
    for word, level in zip(words, heat, strict=True):
        pieces += [Piece(word, level), Piece(space)]
    return [*pieces, Piece(more)]


def _words(known: Sequence[str], tokens: npt.NDArray[Any]) -> tuple[list[str], str]:
    """The words of tokens, and what stands between them: nothing where they are letters."""
    numbers: list[int] = tokens.tolist()
    words = [str(known[n] if 0 <= n < len(known) else n) for n in numbers]
    letters = bool(known) and np.mean([len(word) for word in known]) < 1.5
    return words, "" if letters else " "


def _agreement(rows: Rows) -> Figure | None:
    """Outputs against the quantities that they should be, for regressions."""
    outputs = rows.outputs
    if not isinstance(outputs, np.ndarray) or outputs.dtype.kind != "f":
        return None
    name = next((n for n in ("target", "label") if n in rows.batch), None)
    if name is None or not isinstance(rows.batch[name], np.ndarray):
        return None
    if rows.batch[name].dtype.kind != "f":
        return None
    true, said = rows.batch[name].reshape(-1), outputs.reshape(-1)
    if true.shape != said.shape or true.size < 2:
        return None
    every = max(1, len(true) // _MOST_POINTS)
    x, y = true[::every].astype(np.float64), said[::every].astype(np.float64)
    gap = said.astype(np.float64) - true
    with np.errstate(invalid="ignore", divide="ignore"):
        together = float(np.corrcoef(true, said)[0, 1])
    size = float(np.abs(gap).mean())
    alt = (
        f"Output by {spoken(name)}, {len(true):,} pairs: correlation {number(together)}, mean "
        f"absolute difference {number(size)}, largest {number(float(np.abs(gap).max()))}."
    )
    few = "" if every == 1 else f" Every {every:,}th of {len(true):,} is shown."
    caption = f"On the dashed diagonal the output is the {spoken(name)}.{few}"
    return Figure(f"Output against {spoken(name)}", alt, caption, scatter_chart(x, y, label=name))

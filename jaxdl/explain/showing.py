"""Attributions as people look at them: pictures of images, and a page of tokens.

Reads from: errors. Used by: cli, and by hand.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from jaxdl.errors import DataError, MissingExtraError

__all__ = ["draw_attributions", "draw_neighbours", "read_words", "token_page"]

_COLUMNS = 4
_SIDE = 1.6

_PAGE = """\
<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body {{ font: 1rem/1.9 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem;
  background: #fff; color: #111 }}
p.about {{ color: #555; margin: 1.5rem 0 0 }}
p.text {{ margin: 0 }}
span {{ border-radius: .2rem; padding: .1rem .2rem }}
</style>
<h1>{title}</h1>
<p>Blue tokens have positive attributions, orange ones negative; the darkest of a text has its
largest. Hover to see the number.</p>
{rows}
</html>
"""


def draw_attributions(file: Path, images: Any, attributions: Any, captions: Sequence[str]) -> None:
    """Writes a picture: each image with its attributions beside it.

    Colours are added up. Signed attributions are blue where they speak for the class and red
    where they speak against it, others light where they are large; each image on its own scale.

    Args:
        file: to write; its ending is the format (``.png``, ``.svg``).
        images: shape ``[N, H, W, C]``, of any range.
        attributions: shape ``[N, H, W, C]`` or ``[N, H, W]``.
        captions: one an image.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    pairs = [
        [(_seen(image), {"cmap": "gray"}), _mapped(values)]
        for image, values in zip(np.asarray(images), np.asarray(attributions), strict=True)
    ]
    _draw(file, pairs, captions, across=_COLUMNS // 2)


def draw_neighbours(
    file: Path, images: Any, neighbours: Any, captions: Sequence[str], *, labels: Any = None
) -> None:
    """Writes a picture: each image with its nearest training images beside it.

    Args:
        file: to write; its ending is the format.
        images: shape ``[N, H, W, C]``.
        neighbours: shape ``[N, k, H, W, C]``, nearest first.
        captions: one an image.
        labels: of the neighbours, ``[N, k]``, to stand over them.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    rows = [
        [(_seen(each), {"cmap": "gray"}) for each in (image, *near)]
        for image, near in zip(np.asarray(images), np.asarray(neighbours), strict=True)
    ]
    if labels is not None:
        for row, own in zip(rows, np.asarray(labels), strict=True):
            for (_, options), label in zip(row[1:], own.tolist(), strict=True):
                options["title"] = str(label)
    _draw(file, rows, captions, across=1)


def _draw(
    file: Path,
    rows: Sequence[Sequence[tuple[npt.NDArray[Any], dict[str, Any]]]],
    captions: Sequence[str],
    *,
    across: int,
) -> None:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError(
            "a picture of attributions needs matplotlib",
            expected="the extra 'report'",
            do="pip install 'jaxdl[report]'",
        ) from error
    across = min(across, len(rows))
    down, width = -(-len(rows) // across), len(rows[0])
    size = (_SIDE * width * across, (_SIDE + 0.35) * down)
    figure = Figure(figsize=size, layout="constrained")
    groups = np.atleast_1d(np.asarray(figure.subfigures(down, across))).reshape(-1)
    for group, row, caption in zip(groups, rows, captions, strict=False):
        group.suptitle(caption, fontsize=7)
        for axes, (picture, options) in zip(
            np.atleast_1d(group.subplots(1, width)), row, strict=True
        ):
            axes.set_title(options.pop("title", ""), fontsize=7, pad=2)
            axes.imshow(picture, interpolation="nearest", **options)
            axes.set_axis_off()
    figure.savefig(file, dpi=150)


def _seen(image: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """An image from 0 to 1, ``[H, W]`` or ``[H, W, 3]``."""
    image = image.astype(np.float64)
    low, high = image.min(), image.max()
    image = (image - low) / (high - low or 1.0)
    return image if image.shape[-1] == 3 else image.mean(axis=-1)


def _mapped(values: npt.NDArray[Any]) -> tuple[npt.NDArray[np.float64], dict[str, Any]]:
    values = values.astype(np.float64)
    values = values.sum(axis=-1) if values.ndim == 3 else values
    most = float(np.abs(values).max()) or 1.0
    if values.min() < 0:
        return values, {"cmap": "RdBu", "vmin": -most, "vmax": most}
    return values, {"cmap": "inferno", "vmin": 0.0, "vmax": most}


def token_page(
    arrays: Mapping[str, Any],
    captions: Sequence[str],
    *,
    words: Sequence[str] | None = None,
    title: str = "Attributions",
) -> str:
    """A page of texts whose tokens are coloured by their attributions. It asks for nothing.

    Args:
        arrays: ``inputs`` and ``mask``, ``[N, T]``, with ``attributions``, ``[N, T]``, or with
            ``neighbour_inputs`` and ``neighbour_mask``, ``[N, k, T]``.
        captions: one a text.
        words: of each token's number; the numbers are shown when ``None``.
        title: of the page.
    """
    rows: list[str] = []
    for row, caption in enumerate(captions):
        rows.append(f'<p class="about">{html.escape(caption)}</p>')
        tokens, mask = arrays["inputs"][row], arrays["mask"][row]
        values = arrays["attributions"][row] if "attributions" in arrays else np.zeros(len(tokens))
        rows.append(_text(tokens, mask, values, words))
        near = arrays["neighbour_inputs"][row] if "neighbour_inputs" in arrays else []
        real = arrays.get("neighbour_mask", np.ones((len(captions), len(near))))[row]
        for tokens, own in zip(near, real, strict=True):
            rows.append('<p class="about">near it</p>')
            rows.append(_text(tokens, own, np.zeros(len(tokens)), words))
    return _PAGE.format(title=html.escape(title), rows="\n".join(rows))


def _text(tokens: Any, mask: Any, values: Any, words: Sequence[str] | None) -> str:
    most = float(np.abs(values).max()) or 1.0
    spans: list[str] = []
    mask = np.broadcast_to(mask, tokens.shape)
    for token, real, value in zip(tokens.tolist(), mask, np.asarray(values).tolist(), strict=True):
        if not real:
            continue
        named = words is not None and 0 <= token < len(words)
        word = str(words[token]) if words is not None and named else f"[{token}]"
        colour = "31, 119, 180" if value >= 0 else "255, 127, 14"
        share = 0.75 * abs(value) / most
        spans.append(
            f'<span style="background: rgba({colour}, {share:.3f})" title="{value:.4g}">'
            f"{html.escape(word)}</span>"
        )
    return f'<p class="text">{" ".join(spans)}</p>'


def read_words(file: Path) -> list[str]:
    """The words of tokens, by their numbers.

    Args:
        file: a ``vocab.txt``, a token a line, or a ``tokenizer.json``.

    Raises:
        DataError: it cannot be read, or is neither.
    """
    expected = "a vocab.txt, a token a line, or a tokenizer.json"
    try:
        text = file.read_text(encoding="utf-8")
        if file.suffix != ".json":
            return text.splitlines()
        whole = json.loads(text)
        numbers = whole["model"]["vocab"]
        known = {int(number): word for word, number in numbers.items()}
        known |= {int(each["id"]): each["content"] for each in whole.get("added_tokens", [])}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{file} holds no vocabulary: {type(error).__name__}: {error}",
            expected=expected,
            do="leave --vocabulary out to see the numbers",
        ) from error
    return [known.get(number, f"[{number}]") for number in range(max(known, default=-1) + 1)]

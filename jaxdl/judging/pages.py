"""The page: one file that works from disk and asks no other computer for anything.

Everything of a user's reaches it as JSON and is shown as text; a policy in the page forbids every
script but its own, and every request.

Reads from: errors, judging.contents, judging.questions. Used by: cli.judging, and by hand.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal, NamedTuple

from jaxdl.errors import ConfigError
from jaxdl.judging.contents import Media
from jaxdl.judging.questions import Asked, ask, check_items, shown

__all__ = ["KEY_FORMAT", "Page", "create_page"]

KEY_FORMAT = "jaxdl-judging-key"

_WORDS = {
    "pairs": "Which answer is better? You are not told which system wrote which.",
    "ratings": "How good is each answer? You are not told which system wrote it.",
}


class Page(NamedTuple):
    """A page and what it hides.

    Attributes:
        html: the page's text.
        key: which system wrote what, by number of question; JSON. Judges do not get it.
    """

    html: str
    key: dict[str, Any]


def create_page(
    items: Sequence[Mapping[str, Any]],
    *,
    seed: int,
    kind: Literal["pairs", "ratings"] = "pairs",
    title: str = "Judging",
    instructions: str = "",
    scale: int = 5,
    scale_ends: tuple[str, str] = ("worst", "best"),
    pairs_per_item: int | None = None,
    folder: Path | None = None,
) -> Page:
    """A page on which people compare or rate the answers of systems, blind.

    Order, sides and choice follow from the seed and the items. The page holds neither the seed,
    nor an id, nor a system's name, nor a file's; a name inside a text or picture it cannot hide.

    Args:
        items: mappings of ``id`` (a text), ``prompt`` and ``systems``, a mapping from a system's
            name to its answer. A prompt or answer is a text, ``{"text": ...}``,
            ``{"image": FILE, "alt": ...}``, ``{"audio": FILE, "alt": ...}``, or a list of these.
        seed: not negative.
        kind: ``"pairs"``: which of two is better, for each pair of an item's systems;
            ``"ratings"``: each answer alone.
        title: of the page.
        instructions: for the judges.
        scale: ratings are from 1 to so many, at most 9.
        scale_ends: what 1 and the largest mean.
        pairs_per_item: so many pairs of each item, chosen at random; all when ``None``.
        folder: what relative paths of files start from; the working directory when ``None``.

    Returns:
        The page and its key.

    Raises:
        ConfigError: an item is not of that form, or a setting is out of range.
        DataError: a file cannot be read.

    Examples:
        >>> page = create_page(
        ...     [{"id": "one", "prompt": "2 + 2?", "systems": {"ours": "4", "theirs": "5"}}], seed=0
        ... )
        >>> page.key["questions"]["1"]["item"], "theirs" in page.html
        ('one', False)
    """
    _check(kind, seed, scale, pairs_per_item)
    check_items(items, 2 if kind == "pairs" else 1)
    asked = ask(items, kind, pairs_per_item=pairs_per_item, seed=seed)
    media = Media(folder or Path())
    questions = shown(asked, items, media)
    content: dict[str, Any] = {
        "kind": kind,
        "title": title,
        "instructions": instructions or _WORDS[kind],
        "scale": {"high": scale, "ends": list(scale_ends)},
        "questions": questions,
        "media": media.uris,
    }
    content["page"] = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
    key = {
        "format": KEY_FORMAT,
        "version": 1,
        "page": content["page"],
        "kind": kind,
        "seed": seed,
        "scale": scale,
        "questions": {str(n): _answer(each, items) for n, each in enumerate(asked, 1)},
    }
    return Page(_filled(content), key)


def _answer(asked: Asked, items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {"item": items[asked.item]["id"], "systems": list(asked.systems)}


def _filled(content: Mapping[str, Any]) -> str:
    style, script = _own("page.css"), _own("page.js")
    values = {
        "title": html.escape(content["title"]),
        "policy": "; ".join(
            [
                "default-src 'none'",
                f"script-src '{_digest(script)}'",
                f"style-src '{_digest(style)}'",
                "img-src data:",
                "media-src data:",
                "base-uri 'none'",
                "form-action 'none'",
            ]
        ),
        "style": style,
        "script": script,
        "content": _json_in_html(content),
    }
    # In one pass, so that nothing is looked for in what was put in.
    return re.sub(r"\{\{(\w+)\}\}", lambda found: values[found[1]], _own("page.html"))


def _own(name: str) -> str:
    return resources.files("jaxdl.judging").joinpath(name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _json_in_html(content: Mapping[str, Any]) -> str:
    """JSON in which nothing can end the element that it stands in."""
    text = json.dumps(content)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def _check(kind: Any, seed: int, scale: int, pairs_per_item: int | None) -> None:
    if kind not in _WORDS:
        raise ConfigError(f"kind is {kind!r}", expected="'pairs' or 'ratings'", do="use 'pairs'")
    if seed < 0:
        raise ConfigError(f"seed is {seed}", expected="at least 0", do="choose another seed")
    if not 2 <= scale <= 9:
        raise ConfigError(
            f"scale is {scale}", expected="from 2 to 9, a key of the keyboard each", do="use 5"
        )
    if pairs_per_item is not None and pairs_per_item < 1:
        raise ConfigError(
            f"pairs_per_item is {pairs_per_item}",
            expected="at least 1",
            do="give None to ask for every pair",
        )

"""From items to questions in a blind, seeded order, and the key that says what was what.

Reads from: errors, judging.contents. Used by: judging.pages.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from jaxdl.errors import ConfigError
from jaxdl.judging.contents import Media, pieces

__all__ = ["Asked", "ask", "check_items", "shown"]

_EXPECTED = '{"id": ..., "prompt": ..., "systems": {"NAME": ..., ...}}'


class Asked(NamedTuple):
    """One question.

    Attributes:
        item: the number of its item.
        systems: whose answers are shown: two, left first, or one to be rated.
    """

    item: int
    systems: tuple[str, ...]


def check_items(items: Sequence[Mapping[str, Any]], least: int) -> None:
    """Checks items before anything is made of them.

    Args:
        items: each with ``id``, ``systems`` and perhaps ``prompt``.
        least: how many systems an item needs.

    Raises:
        ConfigError: there are none, one is not of that form or has too few systems, or two have
            one id.
    """
    if not items:
        raise ConfigError("there are no items", expected="at least one", do=f"give {_EXPECTED}")
    seen: set[str] = set()
    for place, item in enumerate(items, 1):
        systems = item.get("systems")
        named = isinstance(systems, Mapping) and all(isinstance(name, str) for name in systems)
        if not isinstance(item.get("id"), str) or not named:
            raise ConfigError(
                f"item {place} is {str(dict(item))[:80]}",
                expected=_EXPECTED,
                do="see docs/judging.md",
            )
        if unknown := set(item) - {"id", "prompt", "systems"}:
            raise ConfigError(
                f"item {item['id']!r} has {', '.join(map(repr, sorted(unknown)))}",
                expected=_EXPECTED,
                do="leave it out, or put it into the prompt",
            )
        if len(item["systems"]) < least:
            raise ConfigError(
                f"item {item['id']!r} has {len(item['systems'])} systems",
                expected=f"at least {least}",
                do="leave it out, or use kind='ratings'" if least == 2 else "leave it out",
            )
        if item["id"] in seen:
            raise ConfigError(
                f"two items have the id {item['id']!r}", expected="an id each", do="rename one"
            )
        seen.add(item["id"])


def ask(
    items: Sequence[Mapping[str, Any]],
    kind: Literal["pairs", "ratings"],
    *,
    pairs_per_item: int | None,
    seed: int,
) -> list[Asked]:
    """Questions in a random order; each pair of systems is shown either way round equally often.

    Args:
        items: checked ones.
        kind: ``"pairs"`` to compare, ``"ratings"`` to rate each answer alone.
        pairs_per_item: so many pairs of each item, chosen at random; all when ``None``.
        seed: of the order, the sides and the choice, together with all of the items.
    """
    # With the names in it, so that who guesses the seed does not know the sides.
    text = json.dumps([seed, list(map(dict, items))], sort_keys=True, default=str)
    rng = np.random.default_rng(list(hashlib.sha256(text.encode()).digest()))
    found: list[Asked] = []
    for number, item in enumerate(items):
        names = sorted(item["systems"])
        groups = list(itertools.combinations(names, 2 if kind == "pairs" else 1))
        if pairs_per_item is not None and kind == "pairs":
            kept = rng.permutation(len(groups))[:pairs_per_item]
            groups = [groups[each] for each in kept]
        found += [Asked(number, group) for group in groups]
    if kind == "pairs":
        found = _sides(found, rng)
    return [found[each] for each in rng.permutation(len(found))]


def _sides(found: list[Asked], rng: np.random.Generator) -> list[Asked]:
    turned = list(found)
    for pair in sorted({asked.systems for asked in found}):
        places = [place for place, asked in enumerate(found) if asked.systems == pair]
        # Half of them, and of an odd number the one in the middle by chance.
        count = (len(places) + int(rng.integers(2))) // 2
        for place in rng.permutation(places)[:count]:
            turned[place] = Asked(found[place].item, pair[::-1])
    return turned


def shown(
    asked: Sequence[Asked], items: Sequence[Mapping[str, Any]], media: Media
) -> list[dict[str, Any]]:
    """What the page holds: prompts and answers, no id and no name.

    Args:
        asked: the questions.
        items: what they are about.
        media: takes images and sounds in, in the order in which they are shown.
    """
    questions: list[dict[str, Any]] = []
    for each in asked:
        item = items[each.item]
        where = f"item {item['id']!r}"
        answers = [
            pieces(item["systems"][name], media, f"{where}, system {name!r},")
            for name in each.systems
        ]
        prompt = pieces(item.get("prompt", []), media, f"{where}, prompt,")
        questions.append({"prompt": prompt, "answers": answers})
    return questions

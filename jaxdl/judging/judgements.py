"""What judges said, with the key put to it.

Reads from: errors, judging.pages. Used by: judging.agreement, judging.ranking, judging.summary.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxdl.errors import DataError
from jaxdl.judging.pages import KEY_FORMAT

__all__ = ["Judgements", "Preference", "Rating", "read_judgements"]

_SIDES = {"a": "left", "b": "right", "same": "same"}


class Preference(NamedTuple):
    """One comparison.

    Attributes:
        judge: who.
        item: the item's id.
        left: the system that was shown first.
        right: the other.
        answer: ``"left"``, ``"right"`` or ``"same"``.
    """

    judge: str
    item: str
    left: str
    right: str
    answer: str

    @property
    def winner(self) -> str | None:
        """The better system; ``None`` when both were as good."""
        return {"left": self.left, "right": self.right}.get(self.answer)


class Rating(NamedTuple):
    """One rating.

    Attributes:
        judge: who.
        item: the item's id.
        system: whose answer.
        rating: from 1 up.
    """

    judge: str
    item: str
    system: str
    rating: int


class Judgements(NamedTuple):
    """Everything that was said.

    Attributes:
        preferences: from pages of pairs.
        ratings: from pages of ratings.
    """

    preferences: tuple[Preference, ...]
    ratings: tuple[Rating, ...]


def read_judgements(files: Sequence[Path], keys: Sequence[Path]) -> Judgements:
    """Reads the files that judges sent back.

    Args:
        files: as the page wrote them. One twice, or a part and the whole, count once.
        keys: of the pages that they are from.

    Raises:
        DataError: a file cannot be read or is something else, there is no key for its page, it
            answers what was not asked, or a judge said two things of one question.
    """
    known = {key["page"]: key for key in (_key(path) for path in keys)}
    said: dict[tuple[str, str, str], Any] = {}
    for path in files:
        record = _record(path, "jaxdl-judgements", ("page", "judge", "answers"))
        key = known.get(record["page"])
        if key is None:
            raise DataError(
                f"{path} is from page {record['page']}",
                expected=f"one of the keys' pages: {', '.join(known) or 'there are none'}",
                do="give that page's key too",
            )
        for question, answer in _answers(path, record, key):
            place = (record["judge"], record["page"], question)
            if said.setdefault(place, answer) != answer:
                raise DataError(
                    f"{record['judge']!r} said {said[place]!r} and {answer!r} of question "
                    f"{question}, the second in {path}",
                    expected="one answer a judge and question",
                    do="give the newest file only; judges of one name need other names",
                )
    return _joined(said, known)


def _key(path: Path) -> dict[str, Any]:
    return _record(path, KEY_FORMAT, ("page", "kind", "scale", "questions"))


def _record(path: Path, form: str, fields: Sequence[str]) -> dict[str, Any]:
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read: {error}", expected=f"JSON of {form}", do="check the file"
        ) from error
    found: dict[str, Any] = content if isinstance(content, dict) else {}
    if (found.get("format"), found.get("version")) != (form, 1) or set(fields) - set(found):
        raise DataError(
            f"{path} is of format {found.get('format')!r}, version {found.get('version')!r}",
            expected=f"{form}, version 1, with {', '.join(fields)}",
            do="give the key with --key and the judges' files before it"
            if found.get("format") in (KEY_FORMAT, "jaxdl-judgements")
            else "give a file that jaxdl judge create or its page wrote",
        )
    return found


def _answers(
    path: Path, record: Mapping[str, Any], key: Mapping[str, Any]
) -> list[tuple[str, str | int]]:
    allowed = list(_SIDES) if key["kind"] == "pairs" else list(range(1, key["scale"] + 1))
    found: list[tuple[str, str | int]] = []
    judge = record["judge"]
    for entry in record["answers"]:
        question, answer = str(entry.get("question")), entry.get("answer")
        if question not in key["questions"] or answer not in allowed or isinstance(answer, bool):
            raise DataError(
                f"{path} answers question {question} with {answer!r}",
                expected=f"one of {len(key['questions'])} questions, and one of {allowed}",
                do="ask the judge for the file as the page wrote it",
            )
        found.append((question, answer))
    if not isinstance(judge, str) or not judge.strip():
        raise DataError(f"{path} names no judge", expected="a name", do='write one as "judge"')
    return found


def _joined(
    said: Mapping[tuple[str, str, str], Any], keys: Mapping[str, Mapping[str, Any]]
) -> Judgements:
    preferences: list[Preference] = []
    ratings: list[Rating] = []
    for (judge, page, question), answer in said.items():
        asked = keys[page]["questions"][question]
        if keys[page]["kind"] == "pairs":
            left, right = asked["systems"]
            preferences.append(Preference(judge, asked["item"], left, right, _SIDES[answer]))
        else:
            ratings.append(Rating(judge, asked["item"], asked["systems"][0], answer))
    return Judgements(tuple(preferences), tuple(ratings))

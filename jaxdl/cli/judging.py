"""``jaxdl judge``: make a page on which people judge, and read what they sent back.

Reads from: errors, judging, cli.tables. Used by: cli.verbs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from jaxdl import judging
from jaxdl.cli.tables import table
from jaxdl.errors import ConfigError, DataError, closest

__all__ = ["CreateOptions", "ReportOptions", "run"]

_HELP = """\
usage: jaxdl judge create ITEMS.jsonl --page PAGE.html --key KEY.json --seed N
                                                  make a blind page to judge on
       jaxdl judge report FILES... --key KEY.json [--json REPORT.json]
                                                  read what the judges sent back
"""

_File = Annotated[Path, tyro.conf.arg(metavar="FILE")]


@dataclass(frozen=True)
class CreateOptions:
    """Makes a page on which people judge the answers of systems, without seeing whose they are.

    The page is one file: send it to the judges. Keep the key: it says which system wrote what.
    """

    items: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="ITEMS.jsonl")]
    """A line each: {"id": ..., "prompt": ..., "systems": {"NAME": ..., ...}}."""
    page: _File
    """The page to write, PAGE.html."""
    key: _File
    """The key to write, KEY.json, for your eyes only."""
    seed: Annotated[int, tyro.conf.arg(metavar="N")]
    """Decides the order and the sides."""
    kind: Literal["pairs", "ratings"] = "pairs"
    """Which of two is better, or how good each is."""
    title: str = "Judging"
    """Of the page."""
    instructions: str = ""
    """For the judges."""
    scale: Annotated[int, tyro.conf.arg(metavar="N")] = 5
    """Ratings are from 1 to N."""
    scale_ends: tuple[str, str] = ("worst", "best")
    """What 1 and N mean."""
    pairs_per_item: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """So many pairs of each item, chosen at random; all when not given."""
    overwrite: tyro.conf.FlagCreatePairsOff[bool] = False
    """Replace files that are there. Answers to a page are lost with its key."""


@dataclass(frozen=True)
class ReportOptions:
    """Says how far judges agree, and which system is better."""

    files: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="FILE")]
    """What the judges sent back."""
    key: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="KEY.json")]
    """The key of the page; several when there were several pages."""
    level: float = 0.95
    """Of the intervals."""
    seed: Annotated[int, tyro.conf.arg(metavar="N")] = 0
    """Of the bootstrap."""
    resamples: Annotated[int, tyro.conf.arg(metavar="N")] = 1_000
    """Draws of the bootstrap."""
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Write everything as JSON too."""


def run(argv: Sequence[str]) -> int:
    """The verb.

    Args:
        argv: the words after ``judge``.
    """
    if not argv or argv[0] in ("-h", "--help"):
        print(_HELP, end="")
        return 0
    if argv[0] == "create":
        return _create(tyro.cli(CreateOptions, prog="jaxdl judge create", args=list(argv[1:])))
    if argv[0] == "report":
        return _report(tyro.cli(ReportOptions, prog="jaxdl judge report", args=list(argv[1:])))
    raise ConfigError(
        f"there is no verb 'judge {argv[0]}'",
        expected="judge create or judge report",
        do=closest(argv[0], ["create", "report"]),
    )


def _create(options: CreateOptions) -> int:
    items = _items(options.items)
    for path in (options.page, options.key):
        if path.exists() and not options.overwrite:
            raise ConfigError(
                f"{path} exists",
                expected="a new file, since answers to a page are lost with its key",
                do="give another name, or add --overwrite",
            )
    page = judging.create_page(
        items,
        seed=options.seed,
        kind=options.kind,
        title=options.title,
        instructions=options.instructions,
        scale=options.scale,
        scale_ends=options.scale_ends,
        pairs_per_item=options.pairs_per_item,
        folder=options.items.parent,
    )
    _write(options.key, json.dumps(page.key, indent=2) + "\n", private=True)
    _write(options.page, page.html)
    print(f"{options.page}: {len(page.key['questions'])} questions about {len(items)} items")
    print(f"{options.key}: which system wrote what; not for the judges")
    return 0


def _items(path: Path) -> list[Mapping[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} cannot be read: {error}", expected="a file of JSON lines", do="check the path"
        ) from error
    items: list[Mapping[str, Any]] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            item = json.loads(line)
        except ValueError as error:
            item = error
        if not isinstance(item, dict):
            raise DataError(
                f"{path}, line {number}, is no JSON object",
                expected='{"id": ..., "prompt": ..., "systems": {"NAME": ..., ...}}',
                do="write one item a line",
            )
        items.append(item)
    return items


def _write(path: Path, text: str, *, private: bool = False) -> None:
    try:
        if private:
            path.unlink(missing_ok=True)
            path.touch(mode=0o600)
        with path.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            os.fsync(file.fileno())
    except OSError as error:
        raise DataError(
            f"{path} cannot be written: {error.strerror}",
            expected="a file in a folder that may be written",
            do="check the path",
        ) from error


def _report(options: ReportOptions) -> int:
    judgements = judging.read_judgements(options.files, options.key)
    found = judging.summarize(
        judgements, seed=options.seed, level=options.level, resamples=options.resamples
    )
    if options.json is not None:
        _write(options.json, json.dumps(found, indent=2, allow_nan=False) + "\n")
    percent = f"{100 * options.level:g} %"
    if found["kind"] == "pairs":
        _show_pairs(found, percent)
    else:
        rows = [[row["system"], *_interval(row)] for row in found["mean_ratings"]]
        table(rows, ["system", "mean rating", percent])
    _show_agreement(found)
    return 0


def _show_pairs(found: Mapping[str, Any], percent: str) -> None:
    rows = [
        [row["system"], *(str(row[n]) for n in ("wins", "ties", "losses")), *_interval(row, "rate")]
        for row in found["win_rates"]
    ]
    table(rows, ["system", "won", "same", "lost", "rate", percent])
    rows = [[row["system"], *_interval(row)] for row in found["bradley_terry"]]
    table(rows, ["system", "strength (Bradley-Terry)", f"{percent}, by item"])
    side = found["shown_first_won"]
    if side is not None:
        share, ends = _interval(side)
        print(f"the answer shown first won {share} of those with a winner ({ends})")


def _show_agreement(found: Mapping[str, Any]) -> None:
    said = found["agreement"]
    print(
        f"{found['judgements']} judgements of {found['items']} items by "
        f"{len(said['judges'])} judges; {said['questions']} questions answered by two or more"
    )
    rows = [["the same answer", _number(said["same"])], ["Fleiss", _number(said["fleiss"])]]
    rows += [[f"Krippendorff, {name}", _number(a)] for name, a in said["alpha"].items()]
    rows += [
        [f"Cohen, {pair['first']} and {pair['second']}", _number(pair["kappa"])]
        for pair in said["pairs"]
    ]
    if len(said["judges"]) > 1:
        table(rows, ["agreement", ""])


def _interval(row: Mapping[str, Any], name: str = "value") -> list[str]:
    return [_number(row[name]), f"{_number(row['low'])} to {_number(row['high'])}"]


def _number(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.3f}"

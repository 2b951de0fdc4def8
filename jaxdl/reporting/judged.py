"""What people, attacks and an accountant said of a run, where files of theirs lie in its folder.

Reads from: reporting.blocks, .curves, .figures, .reading, .wording.
Used by: reporting.sections.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaxdl.reporting.blocks import Block, Facts, Section, Table, Text
from jaxdl.reporting.curves import series
from jaxdl.reporting.figures import PRIVACY, curve
from jaxdl.reporting.reading import RunFolder
from jaxdl.reporting.wording import flattened, number, percent, plural, spoken

__all__ = ["judgements", "missing", "privacy", "robustness"]

_MOST_ROWS = 200


def judgements(run: RunFolder) -> Section | None:
    """Agreement, and win rates and strengths or mean ratings; ``None`` where there are none.

    Args:
        run: what its folder holds.
    """
    given = run.documents.get("judging", [])
    blocks: list[Block] = []
    for name, found in given:
        try:
            blocks += _judged(name, found)
        except (KeyError, TypeError, ValueError, AttributeError):
            blocks.append(Text(f"{name} is not what jaxdl judge report writes.", quiet=True))
    return Section("judgements", "Judged by people", blocks) if blocks else None


def robustness(run: RunFolder) -> Section | None:
    """What a file of robustness results holds; ``None`` where there is none.

    Args:
        run: what its folder holds.
    """
    return _documents(run, "robustness", "Robustness")


def privacy(run: RunFolder) -> Section | None:
    """What was spent of privacy, from the records or a file; ``None`` where nothing is said.

    Args:
        run: what its folder holds.
    """
    spent = [record for record in run.records if record.split == PRIVACY]
    section = _documents(run, "privacy", "Privacy")
    if not spent:
        return section
    last = spent[-1]
    first = [name for name in ("epsilon", "delta") if name in last.values]
    facts = [
        (spoken(name), "infinite" if last.values[name] is None else _cell(last.values[name]))
        for name in [*first, *(name for name in last.values if name not in first)]
    ]
    words = (
        f"What the run had spent after step {last.step:,}. It covers the parameters; the losses "
        "and other measures of this page were read from the data without noise, and are not "
        "covered."
    )
    blocks: list[Block] = [Facts(facts), Text(words)]
    found = [each for each in series(spent, "epsilon") if each.finite.any()]
    if found:
        blocks.append(curve("epsilon", [("privacy", found[0])]))
    return Section("privacy", "Privacy", [*blocks, *(section.blocks if section else ())])


def missing(run: RunFolder) -> list[str]:
    """A sentence for each of the three that is not there.

    Args:
        run: what its folder holds.
    """
    sentences = {
        "No judgements of people: jaxdl judge report FILES --key KEY --json RUN/judging.json puts "
        "them into the run's folder.": judgements(run),
        "No robustness results: jaxdl robustness RUN --json > RUN/robustness.json, or jaxdl attack "
        "into RUN/robustness-attack.json, puts them there.": robustness(run),
        "No privacy: no record holds an epsilon, and the folder no privacy*.json.": privacy(run),
    }
    return [words for words, section in sentences.items() if section is None]


def _judged(name: str, found: Mapping[str, Any]) -> list[Block]:
    said = found["agreement"]
    level = f"{100 * found['level']:g} %"
    words = (
        f"{plural(found['judgements'], 'judgement')} of {plural(found['items'], 'item')} by "
        f"{plural(len(said['judges']), 'judge')} ({name}); "
        f"{plural(said['questions'], 'question')} answered by two or more."
    )
    blocks: list[Block] = [Text(words)]
    if found["kind"] == "pairs":
        rows = [
            [
                row["system"],
                *(str(row[n]) for n in ("wins", "ties", "losses")),
                _rate(row["rate"]),
                f"{_rate(row['low'])} to {_rate(row['high'])}",
            ]
            for row in found["win_rates"]
        ]
        header = ["system", "won", "same", "lost", "win rate", level]
        blocks.append(Table("Win rates, a tie counted as half.", header, rows))
        header = ["system", "strength", level]
        caption = "Ranking by Bradley-Terry strengths; intervals by drawing items."
        blocks.append(Table(caption, header, _strengths(found["bradley_terry"])))
        side = found.get("shown_first_won")
        if side is not None:
            blocks.append(Text(f"The answer shown first won {_rate(side['value'])}."))
    else:
        header = ["system", "mean rating", level]
        blocks.append(Table("Mean ratings.", header, _strengths(found["mean_ratings"])))
    blocks.append(_agreement(said))
    return blocks


def _agreement(said: Mapping[str, Any]) -> Block:
    if len(said["judges"]) < 2:
        return Text("One judge only: there is no agreement to measure.", quiet=True)
    rows = [
        ["the same answer", _defined(said["same"])],
        ["Fleiss' kappa", _defined(said["fleiss"])],
    ]
    rows += [[f"Krippendorff's alpha, {k}", _defined(v)] for k, v in said["alpha"].items()]
    rows += [
        [f"Cohen's kappa, {pair['first']} and {pair['second']}", _defined(pair["kappa"])]
        for pair in said["pairs"]
    ]
    return Table("Agreement between judges.", ["measure", "value"], rows)


def _strengths(given: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    return [
        [
            row["system"],
            _defined(row["value"]),
            f"{_defined(row['low'])} to {_defined(row['high'])}",
        ]
        for row in given
    ]


def _documents(run: RunFolder, kind: str, title: str) -> Section | None:
    """Files of any form, as names and values; lists of rows as tables."""
    blocks: list[Block] = []
    for name, content in run.documents.get(kind, []):
        severe = _by_severity(name, content)
        if severe:
            blocks += severe
            continue
        plain: dict[str, Any] = {}
        for key, value in content.items():
            table = _rows(f"{name}: {spoken(key)}.", value)
            if table is None:
                plain[key] = value
            else:
                blocks.append(table)
        rows = [[key, _cell(value)] for key, value in flattened(plain).items() if key]
        if rows:
            rows = rows[:_MOST_ROWS]
            blocks.append(Table(f"{name}.", ["name", "value"], rows, left=(1,)))
    return Section(kind, title, blocks) if blocks else None


def _by_severity(name: str, content: Mapping[str, Any]) -> list[Table]:
    """What ``jaxdl robustness`` and ``jaxdl attack`` print: a table a measure, or of all."""
    clean = content.get("clean")
    others = {key: value for key, value in content.items() if key != "clean"}
    if not isinstance(clean, Mapping) or not others:
        return []
    if all(isinstance(value, Mapping) for value in others.values()):
        rows = [[spoken(m), *(_cell(content[k].get(m)) for k in content)] for m in clean]
        return [Table(f"{name}.", ["measure", *map(spoken, content)], rows)]
    if not all(_rows("", value) for value in others.values()):
        return []
    tables: list[Table] = []
    most = max(len(value) for value in others.values())
    for measure in clean:
        rows = [["clean", _cell(clean[measure]), *[""] * most]]
        for key, value in others.items():
            found = [each.get(measure) for each in value]
            known = [x for x in found if isinstance(x, int | float)]
            mean = _cell(sum(known) / len(known)) if known else "not finite"
            cells = [_cell(x) for x in found]
            rows.append([spoken(key), mean, *cells, *[""] * (most - len(cells))])
        header = ["corruption", "mean", *map(str, range(1, most + 1))]
        tables.append(Table(f"{name}: {spoken(measure)} by severity.", header, rows))
    return tables


def _rows(caption: str, value: Any) -> Table | None:
    """A table of a list of mappings."""
    if not isinstance(value, list) or not value or not all(isinstance(v, Mapping) for v in value):
        return None
    header = list(dict.fromkeys(str(key) for row in value for key in row))
    rows = [[_cell(row[key]) if key in row else "" for key in header] for row in value[:_MOST_ROWS]]
    words = {n for row in value for n, key in enumerate(header) if isinstance(row.get(key), str)}
    return Table(caption, [spoken(key) for key in header], rows, left=tuple(sorted(words)))


def _cell(value: Any) -> str:
    if value is None or isinstance(value, int | float | str):
        return number(value)
    return str(value)


def _rate(value: Any) -> str:
    return "not defined" if value is None else percent(value)


def _defined(value: Any) -> str:
    return "not defined" if value is None else f"{value:.3f}"

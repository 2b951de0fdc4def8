"""``jaxdl report RUN``: the page of a run; ``jaxdl report RUN_A RUN_B``: of two, compared.

Reads from: errors, reporting, cli.report_reasons, .reported, .stores. Used by: cli.verbs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

import jaxdl
from jaxdl import reporting
from jaxdl.cli.report_reasons import Explainer
from jaxdl.cli.reported import reopen, rows_of, split_of
from jaxdl.cli.stores import Key, Trusted
from jaxdl.errors import ConfigError, DataError, JaxdlError

__all__ = ["ReportOptions", "run"]


@dataclass(frozen=True)
class ReportOptions:
    """Writes the page of a run, one HTML file; of two runs, a page that compares them."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run's folder, or two of them."""
    split: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Which split the predictions are of; test, validation or train, the first that there is."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """The page; RUN/report.html when not given, for two runs comparison.html in the second."""
    mistakes: Annotated[int, tyro.conf.arg(metavar="N")] = 12
    """How many of the worst mistakes to show."""
    predictions: bool = True
    """Run the model over the split; without, the page has what the folder holds."""
    devices: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """How many devices to use; all when not given."""
    key: Key = None
    """Of sealed checkpoints, where a key lies: file:PATH, env:NAME or command:WORDS."""
    trust: Trusted = ()
    """Of sealed checkpoints, the public key of their signer; as often as needed."""


def run(argv: Sequence[str]) -> int:
    """The verb.

    Args:
        argv: the words after ``report``.

    Raises:
        ConfigError: neither one run nor two.
        CheckpointError: a folder holds no run.
        DataError: the page cannot be written.
    """
    options = tyro.cli(ReportOptions, prog="jaxdl report", args=list(argv))
    if len(options.runs) not in (1, 2) or options.mistakes < 0:
        raise ConfigError(
            f"{len(options.runs)} runs and --mistakes {options.mistakes}",
            expected="the folder of one run, or of two; and at least 0 mistakes",
            do="jaxdl report RUN, or jaxdl report RUN_A RUN_B",
        )
    found = [reporting.read_run(folder) for folder in options.runs]
    version = jaxdl.__version__
    if len(found) == 1:
        rows, explain = _predicted(options, options.runs[0], options.split)
        page = reporting.run_page(
            found[0], rows, mistakes=options.mistakes, explain=explain, version=version
        )
        out = options.out or options.runs[0] / "report.html"
    else:
        first, _ = _predicted(options, options.runs[0], options.split)
        split = options.split if isinstance(first, str) else first.split
        second, _ = _predicted(options, options.runs[1], split)
        page = reporting.comparison_page(found[0], found[1], first, second, version=version)
        out = options.out or options.runs[1] / "comparison.html"
    _write(out, page)
    print(f"{out}: {len(page.encode()) / 1024:,.0f} KiB")
    return 0


def _predicted(
    options: ReportOptions, folder: Path, split: str | None
) -> tuple[reporting.Rows | str, Explainer | None]:
    """The rows of a split and how to explain some, or why there are none.

    A run whose page is wanted may be one that went wrong, so nothing here ends the report.
    """
    if not options.predictions:
        return "Not looked at: the report was made with --no-predictions.", None
    try:
        there = reopen(folder, options.devices, key=options.key, trust=options.trust)
        chosen = split_of(there.recipe, split)
        rows = rows_of(there, chosen)
        return rows, Explainer(there)
    except JaxdlError as error:
        if isinstance(error, ConfigError) and options.split is not None:
            # Of the option, not of the run.
            raise
        print(f"warning: no predictions of {folder}: {error.what}", file=sys.stderr)
        return f"The model could not be run over the split: {error.what}.", None
    except Exception as error:  # noqa: BLE001 - a file that is not beside the run may raise anything
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        print(f"warning: no predictions of {folder}: {what}", file=sys.stderr)
        return f"The model could not be run over the split: {what}.", None


def _write(path: Path, page: str) -> None:
    new = path.with_name(path.name + ".new")
    try:
        with new.open("w", encoding="utf-8", newline="\n") as file:
            file.write(page)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except OSError as error:
        raise DataError(
            f"{path} cannot be written: {error.strerror}",
            expected="a file in a folder that may be written",
            do="give another path with --out",
        ) from error

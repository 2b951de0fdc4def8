"""The process of ``jaxdl plan`` that loads libtpu, compiles, and leaves its answer in a file.

Reads from: errors, tpu, cli.files, cli.pipes, cli.plan_answers, cli.plan_builder, cli.plan_options.
Used by: cli.planning, as a process.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxdl.cli.files import load
from jaxdl.cli.pipes import while_it_is_read
from jaxdl.cli.plan_answers import write_answer, write_error
from jaxdl.cli.plan_builder import Builder
from jaxdl.cli.plan_options import PlanOptions, read_options
from jaxdl.errors import ConfigError, JaxdlError, LayoutError
from jaxdl.layouts import data_parallel
from jaxdl.tpu.changing.changes import layout_words
from jaxdl.tpu.changing.search import find_change
from jaxdl.tpu.changing.sweeping import SweepRow, sweep
from jaxdl.tpu.plans.compiling import find_compiler
from jaxdl.tpu.plans.facts import Plan
from jaxdl.tpu.plans.planning import plan
from jaxdl.tpu.showing import picture, rendering
from jaxdl.tpu.slices.names import Topology, parse_topology

__all__ = ["main"]


def main(argv: Sequence[str]) -> int:
    """The process.

    Args:
        argv: the file to leave the answer in, then the words after ``plan``.

    Returns:
        Its exit code; what is in the file goes before it.
    """
    return while_it_is_read(lambda: _ended(argv))


def _ended(argv: Sequence[str]) -> int:
    answer = Path(argv[0])
    with warnings.catch_warnings():
        warnings.showwarning = _say_warning
        try:
            text, fits = _answer(argv[1:])
            write_answer(answer, text, fits=fits)
        except JaxdlError as error:
            write_error(answer, error)
        except KeyboardInterrupt:
            return 130
    return 0


def _answer(words: Sequence[str]) -> tuple[str, bool]:
    example = load(Path(words[0]))
    config, options = read_options(example, words[1:], f"jaxdl plan {words[0]}")
    topology = parse_topology(options.on)
    find_compiler()
    for path in (options.json, options.picture):
        _check_writable(path)
    builder = Builder(example, config, options)
    found = _planned(builder, topology, options)
    changes: Sequence[Any] = ()
    if not found.fits and options.search and not options.sweep:
        _say("it does not fit; looking for the smallest change under which it does")
        changes = _changes(builder, topology, found)
    text = rendering.table(found, changes)
    if options.sweep:
        text += "\n" + _sweep(builder, topology)
    if options.json is not None:
        options.json.write_text(json.dumps(rendering.as_json(found), indent=2) + "\n")
    if options.picture is not None:
        try:
            picture.draw(found, options.picture)
        except JaxdlError as error:
            # The plan took its time; it is not lost for want of a picture.
            warnings.warn(f"there is no picture: {error}", stacklevel=1)
    return text, found.fits


def _planned(builder: Builder, topology: Topology, options: PlanOptions) -> Plan:
    step, batch = builder(builder.now)
    _say(f"compiling {builder.name} for {topology}: 30 s usually, more on a busy machine")
    try:
        return plan(step, batch, topology, layout=builder.now.layout, fresh=options.fresh)
    except LayoutError as error:
        if not error.what.startswith("a batch of"):
            raise
        do = f"{error.do}, here with --batch"
        raise LayoutError(error.what, expected=error.expected, do=do) from error


def _sweep(builder: Builder, topology: Topology) -> str:
    """Layouts from the one that sends least, each with all kept and all recomputed."""
    now = builder.now
    options = builder.options(topology)
    rows = sweep(
        builder,
        topology,
        layouts=list(dict.fromkeys([now.layout or data_parallel(), *options.layouts])),
        batches=[now.rows],
        remats=list(dict.fromkeys([now.remat, *([None, "full"] if options.remats else [])])),
        microbatches=[now.microbatches],
        progress=_say_row,
    )
    return rendering.frontier(
        rendering.Point(
            layout_words(row.change.placed),
            row.rows or 0,
            row.change.remat,
            row.plan,
            builder.tokens,
            row.change.microbatches,
            row.why,
        )
        for row in rows
    )


def _say_row(done: int, of: int, row: SweepRow) -> None:
    _say(f"{done} of {of}: {row.words}: {'fits' if row.fits else row.why}")


def _changes(builder: Builder, topology: Topology, refused: Plan) -> Sequence[Any]:
    found = find_change(
        builder,
        topology,
        now=builder.now,
        options=builder.options(topology),
        refused=refused,
        progress=_say,
    )
    if not found:
        _say(f"nothing was found: {found.ended}")
    return found.found


def _check_writable(path: Path | None) -> None:
    if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
        why = "it is a folder" if path.is_dir() else f"there is no folder {path.parent}"
        raise ConfigError(
            f"{path} cannot be written: {why}",
            expected="a file in a folder that is there",
            do="give another path, or make the folder first",
        )


def _say(line: str) -> None:
    print(f"  {line}", file=sys.stderr, flush=True)


def _say_warning(message: Warning | str, *where: Any) -> None:
    print(f"warning: {message}", file=sys.stderr, flush=True)

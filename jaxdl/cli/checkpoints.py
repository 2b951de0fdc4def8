"""``jaxdl checkpoint``: list, verify, compare, export and seal the checkpoints of a run.

Needs neither the run's recipe nor its devices.

Reads from: errors, units, checkpoints, cli.sealing, cli.tables. Used by: cli.verbs.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from jaxdl import checkpoints, units
from jaxdl.checkpoints.choosing import candidates, newest_whole
from jaxdl.checkpoints.reading import step_folder
from jaxdl.checkpoints.tensors import in_words
from jaxdl.cli import sealing
from jaxdl.cli.tables import table
from jaxdl.errors import CheckpointError, ConfigError, DamagedError, closest
from jaxdl.security import is_sealed

__all__ = ["DiffOptions", "ExportOptions", "ListOptions", "VerifyOptions", "run"]

_HELP = """\
usage: jaxdl checkpoint ls RUN                        list the checkpoints of a run
       jaxdl checkpoint verify RUN [--step N]         read every tensor and compare its hashes
       jaxdl checkpoint diff RUN_A RUN_B              compare two checkpoints, tensor by tensor
             [--step-a N] [--step-b N]
       jaxdl checkpoint export RUN --to FILE.safetensors [--step N] [--ema]
                                                      write the parameters for other libraries

       jaxdl checkpoint keygen FILE [--signing]       make a key
       jaxdl checkpoint seal RUN --to SEALED --for ROLE=SOURCE ... --sign SOURCE
                                                      encrypt and sign a checkpoint or an export
       jaxdl checkpoint verify SEALED --trust FILE    verify signature and ciphertext, without a key
       jaxdl checkpoint open SEALED --key SOURCE --trust FILE --to OUT
                                                      decrypt what the key's role may read
       jaxdl checkpoint grant SEALED --to ROLE=SOURCE --key SOURCE --sign SOURCE
       jaxdl checkpoint revoke SEALED --role ROLE [--id KEY] --key SOURCE --sign SOURCE
                                                      give and take roles; no tensor is touched
       jaxdl checkpoint rotate SEALED --for ROLE=SOURCE ... --key SOURCE --sign SOURCE
                                                      encrypt anew, for those that are named

A SOURCE of a key is file:PATH (mode 600), env:NAME or command:WORDS; a ROLE is train, evaluate or
export. RUN is a run's folder, or a folder of checkpoints.
"""

_SHOWN_METRICS = 3

_Run = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
_Step = Annotated[int | None, tyro.conf.arg(metavar="N")]


@dataclass(frozen=True)
class ListOptions:
    """Lists the checkpoints of a run: those that are whole by their manifest and record, those
    that are not, and what was set aside.
    """

    run: _Run
    """The run's folder."""


@dataclass(frozen=True)
class VerifyOptions:
    """Reads every tensor of a run's checkpoints and compares its hashes."""

    run: _Run
    """The run's folder."""
    step: _Step = None
    """The checkpoint of which step; all of them when not given."""


@dataclass(frozen=True)
class DiffOptions:
    """Compares two checkpoints, tensor by tensor. Exit code 0 when they are equal to the bit."""

    run_a: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN_A")]
    """One run's folder."""
    run_b: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN_B")]
    """The other's; it may be the same."""
    step_a: _Step = None
    """The checkpoint of which step; the newest when not given."""
    step_b: _Step = None
    """Likewise, of the other run."""


@dataclass(frozen=True)
class ExportOptions:
    """Writes a checkpoint's parameters into one .safetensors file, their hashes compared."""

    run: _Run
    """The run's folder."""
    to: Annotated[Path, tyro.conf.arg(metavar="FILE")]
    """The file to write, FILE.safetensors."""
    step: _Step = None
    """The checkpoint of which step; the newest whole one when not given."""
    ema: tyro.conf.FlagCreatePairsOff[bool] = False
    """The moving average of the parameters in place of the last ones."""
    overwrite: tyro.conf.FlagCreatePairsOff[bool] = False
    """Replace a file that is there."""


def run(argv: Sequence[str]) -> int:
    """The verb.

    Args:
        argv: the words after ``checkpoint``.

    Returns:
        0; of ``verify`` 1 when something is damaged, of ``diff`` 1 when something differs.
    """
    verbs: dict[str, Callable[[list[str]], int]] = {
        "ls": _list,
        "verify": _verify,
        "diff": _diff,
        "export": _export,
        **sealing.VERBS,
    }
    if not argv or argv[0] in ("-h", "--help"):
        print(_HELP, end="")
        return 0
    if argv[0] not in verbs:
        raise ConfigError(
            f"there is no verb 'checkpoint {argv[0]}'",
            expected=f"checkpoint {', '.join(verbs)}",
            do=closest(argv[0], verbs),
        )
    return verbs[argv[0]](list(argv[1:]))


def _list(argv: list[str]) -> int:
    options = tyro.cli(ListOptions, prog="jaxdl checkpoint ls", args=argv)
    folder = checkpoints.checkpoints_of(options.run)
    rows = [_row(folder, step) for step in checkpoints.list_steps(folder)]
    torn = "torn: a save that is going on, or did not finish"
    rows += [_other(p, p.name.partition(".")[0], torn) for p in checkpoints.torn(folder)]
    aside = sorted((folder / "damaged").glob("*"))
    rows += [_other(p, p.name.partition("-")[0], f"set aside in damaged/{p.name}") for p in aside]
    if not rows:
        print(f"there is no checkpoint in {folder}")
        return 0
    table(rows, ["step", "when", "size", "made on", "metrics", "state"])
    print("by manifest and record; jaxdl checkpoint verify reads every tensor")
    return 0


def _row(folder: Path, step: int) -> list[str]:
    path = step_folder(folder, step)
    try:
        manifest, record = checkpoints.open_step(folder, step)
    except CheckpointError as error:
        return _other(path, str(step), _without(error.what, path))
    state = "whole" if manifest.finite else "damaged: parameters that are not finite"
    metrics = _metrics(record.get("metrics", {}))
    size = units.size(_size(path))
    return [str(step), _when(record["time"]), size, _devices(record), metrics, state]


def _other(path: Path, step: str, state: str) -> list[str]:
    when = ""
    with suppress(OSError):
        when = _when(path.stat().st_mtime)
    return [step, when, units.size(_size(path)), "", "", state]


def _size(folder: Path) -> int:
    """Bytes on disk; a run that is still going on may delete meanwhile."""
    total = 0
    for parent, _, files in os.walk(folder):
        for name in files:
            with suppress(OSError):
                total += Path(parent, name).stat().st_size
    return total


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def _devices(record: Mapping[str, Any]) -> str:
    devices, platform, processes = record.get("devices", [None, None, None])
    if devices is None:
        return ""
    words = f"{devices} x {platform}"
    return words if processes == 1 else f"{words}, {processes} processes"


def _metrics(values: Mapping[str, float]) -> str:
    measured = sorted(name for name in values if not name.startswith("train/"))
    names = measured or [name for name in values if name == "train/loss"]
    return "\n".join(f"{name} {values[name]:.4g}" for name in names[:_SHOWN_METRICS])


def _without(what: str, path: Path) -> str:
    return what.removeprefix(f"the checkpoint {path} is ")


def _verify(argv: list[str]) -> int:
    if any(is_sealed(Path(word)) for word in argv):
        return sealing.verify(argv)
    options = tyro.cli(VerifyOptions, prog="jaxdl checkpoint verify", args=argv)
    folder = checkpoints.checkpoints_of(options.run)
    steps = sorted(candidates(folder, options.step))
    start, read, damaged = time.perf_counter(), 0, 0
    for step in steps:
        problems, count = _problems(folder, step)
        read += count
        damaged += bool(problems)
        for problem in problems:
            print(f"step {step}: {problem}")
    took = f"{read / 1e9:.3f} GB in {time.perf_counter() - start:.1f} s"
    told = f"{damaged} damaged" if damaged else "all whole"
    print(f"read {len(steps)} checkpoint(s), {took}: {told}")
    return 1 if damaged else 0


def _problems(folder: Path, step: int) -> tuple[list[str], int]:
    """One line for everything that is wrong with a checkpoint, and how many bytes it holds."""
    path = step_folder(folder, step)
    try:
        manifest, _ = checkpoints.open_step(folder, step)
    except CheckpointError as error:
        return [_without(error.what, path)], 0
    found = [_without(line, path) for line in checkpoints.verify(path, manifest)]
    problems = [line.removeprefix("damaged: ") for line in found]
    if not manifest.finite:
        problems.append("holds parameters that are not finite")
    return problems, sum(entry.spec.nbytes() for entry in manifest.tensors.values())


def _diff(argv: list[str]) -> int:
    options = tyro.cli(DiffOptions, prog="jaxdl checkpoint diff", args=argv)
    a = _chosen("a", options.run_a, options.step_a)
    b = _chosen("b", options.run_b, options.step_b)
    try:
        found = checkpoints.diff(a, b)
    except DamagedError as error:
        raise DamagedError(
            error.what,
            expected=error.expected,
            do="choose another one with --step-a or --step-b",
        ) from error
    differing = found.differing()
    if differing:
        table([_cells(row) for row in differing], ["", "", "a", "b", "max |a - b|", "entries"])
    print(f"{len(found) - len(differing)} tensors are equal, {len(differing)} are not")
    return 1 if differing else 0


def _chosen(name: str, run: Path, step: int | None) -> Path:
    folder = checkpoints.checkpoints_of(run)
    path = step_folder(folder, candidates(folder, step)[0])
    print(f"{name}: step {path.name} of {run}")
    return path


def _cells(row: checkpoints.Difference) -> list[str]:
    specs = ["" if spec is None else in_words(spec) for spec in (row.a, row.b)]
    numbers = ["", ""]
    if row.max_abs is not None and row.entries is not None:
        numbers = [f"{row.max_abs:.3g}", f"{row.entries:,}"]
    return [row.path, row.verdict, *specs, *numbers]


def _export(argv: list[str]) -> int:
    options = tyro.cli(ExportOptions, prog="jaxdl checkpoint export", args=argv)
    folder = checkpoints.checkpoints_of(options.run)
    source = "ema" if options.ema else "params"

    def write(step: int) -> checkpoints.Exported:
        path = step_folder(folder, step)
        return checkpoints.export(path, options.to, source=source, overwrite=options.overwrite)

    made, _ = newest_whole(folder, options.step, write)
    size = units.size(made.bytes)
    print(f"{made.path}: {made.tensors} tensors of step {made.step}, {size}")
    print(f"sha256 {made.sha256}")
    return 0

"""``jaxdl rehearse FILE``: the whole run as many hosts of this machine, with a fault or without.

Reads from: errors, hosts, recipe, rehearsal, cli.arguments, cli.files, cli.tables, cli.training.
Used by: cli.verbs, and by the hosts of a rehearsal.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import jax
import tyro

from jaxdl import hosts
from jaxdl.cli.arguments import check_file_first
from jaxdl.cli.files import load
from jaxdl.cli.tables import table
from jaxdl.cli.training import RunOptions, read_config, run_file, with_options
from jaxdl.errors import ConfigError
from jaxdl.recipe import Outcome, Recipe
from jaxdl.rehearsal import (
    EXAMPLES,
    HEADER,
    Report,
    Show,
    check_fault,
    parse_fault,
    rehearse,
    rows,
)

__all__ = ["RehearseOptions", "run", "run_host"]

_ABOUT = f"""Runs the recipe of FILE as many processes of this machine, each with CPU devices of its
own, as it would run on as many hosts. A fault is one of {EXAMPLES}.

exit codes: 0 it went as the fault predicts, 1 it did not"""

_HOST_PROGRAM = "jaxdl.cli.rehearsing:run_host"


@dataclasses.dataclass(frozen=True)
class RehearseOptions:
    """Options of a rehearsal, whatever the file."""

    hosts: Annotated[int, tyro.conf.arg(metavar="N")] = 2
    """How many hosts, each a process of this machine."""
    devices_per_host: Annotated[int, tyro.conf.arg(metavar="M")] = 1
    """CPU devices of each host."""
    fault: Annotated[str | None, tyro.conf.arg(metavar="FAULT")] = None
    """What goes wrong: kill:HOST@stepN, slow:HOST, absent:HOST, code:HOST or short:HOST@stepN."""
    deadline: Annotated[float, tyro.conf.arg(metavar="SECONDS")] = 60.0
    """In which all hosts must be there, and in which all end when one is lost."""
    run_dir: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """For the runs and the logs of the hosts; runs/rehearsal-TIME when not given."""
    checkpoint_every: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Steps from one checkpoint to the next; as the file says when not given."""
    skip_one_host: tyro.conf.FlagCreatePairsOff[bool] = False
    """Do not repeat a run without a fault as one process with all the devices."""


def run(argv: Sequence[str]) -> int:
    """The verb.

    Args:
        argv: the words after ``rehearse``.

    Raises:
        ConfigError: the fault or a number cannot be, or the folder is taken.
    """
    if argv and argv[0] in ("-h", "--help"):
        tyro.cli(RehearseOptions, prog="jaxdl rehearse FILE", description=_ABOUT, args=["--help"])
    check_file_first(
        argv, "jaxdl rehearse FILE [options]", "jaxdl rehearse examples/digits.py --hosts 4"
    )
    # A rehearsal never takes the accelerator of the machine it runs on.
    jax.config.update("jax_platforms", "cpu")
    example = load(Path(argv[0]))
    prog = f"jaxdl rehearse {argv[0]}"
    config, options = read_config(example, argv[1:], prog, RehearseOptions)
    _check(options)
    fault = None if options.fault is None else parse_fault(options.fault, options.hosts)
    words = _without_own(argv[1:])
    recipe = with_options(example.build(config), RunOptions(checkpoint_every=None))
    check_fault(fault, recipe)
    # Before any process is started: does the batch divide over the hosts?
    recipe.train.host(0, options.hosts)
    show = Show(
        _HOST_PROGRAM,
        example.path.absolute(),
        tuple(words),
        options.hosts,
        options.devices_per_host,
        options.deadline,
        fault,
    )
    folder = _folder(options.run_dir)
    report = rehearse(show, folder, alone=not options.skip_one_host, told=_tell)
    _show(report)
    return 0 if report.verdict.ok else 1


def run_host(
    file: Path,
    home: Path,
    words: Sequence[str],
    change: Callable[[Recipe], Recipe],
    seen: Callable[[Outcome], None],
) -> int:
    """The run of one host: a ``rehearsal.orders.Program``.

    Args:
        file: the recipe's.
        home: the folder it was written in.
        words: the options after it.
        change: of the recipe before it is run.
        seen: is handed what the run leaves.

    Returns:
        The exit code.
    """
    with hosts.failing():
        example = load(file, home=home)
        return run_file(example, words, f"jaxdl train {file}", change=change, seen=seen)


def _check(options: RehearseOptions) -> None:
    for name, value in (
        ("hosts", options.hosts),
        ("devices-per-host", options.devices_per_host),
        ("deadline", options.deadline),
    ):
        if not 1 <= value < float("inf"):
            raise ConfigError(f"--{name} is {value}", expected="at least 1", do="raise it")


def _without_own(argv: Sequence[str]) -> list[str]:
    """The words that each host is given: those of the file, and of the run."""
    parser = argparse.ArgumentParser(allow_abbrev=False, add_help=False)
    for name in ("hosts", "devices-per-host", "fault", "deadline", "run-dir"):
        parser.add_argument(f"--{name}", f"--{name.replace('-', '_')}")
    parser.add_argument("--skip-one-host", "--skip_one_host", action="store_true")
    return parser.parse_known_args(list(argv))[1]


def _folder(wanted: Path | None) -> Path:
    folder = wanted or Path("runs") / f"rehearsal-{time.strftime('%Y%m%d-%H%M%S')}"
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(
            f"{folder} is not empty",
            expected="a new or empty folder: a rehearsal begins at zero",
            do="give another --run-dir",
        )
    return folder


def _tell(begins: str) -> None:
    sys.stderr.write(f"{begins} ...\n")
    sys.stderr.flush()


def _show(report: Report) -> None:
    for name, life in report.lives.items():
        print(f"\n{name}: {life.seconds:.1f} s")
        table(rows(life), HEADER)
    for line in report.verdict.lines:
        print(line)
    went = "as it should" if report.show.fault is None else "as the fault predicts"
    print(f"it went {went}" if report.verdict.ok else f"IT DID NOT GO {went.upper()}")
    print(f"logs of the hosts: {report.folder / 'logs'}")

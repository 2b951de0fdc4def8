"""``jaxdl prove FILE`` and ``jaxdl prove module:function``: the mistakes of a step, named.

Reads from: errors, recipe, testing, cli.files, cli.prove_targets, cli.training. Used by: cli.verbs.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import jax
import tyro

from jaxdl.cli.files import load
from jaxdl.cli.prove_targets import StepOptions, arguments_of
from jaxdl.cli.training import read_config
from jaxdl.errors import ConfigError
from jaxdl.recipe import Recipe
from jaxdl.testing import CHECKS, Report, prove
from jaxdl.testing.recipes import prove_recipe

__all__ = ["HELP", "ProveOptions", "run"]

HELP = """\
usage: jaxdl prove FILE [options] [the file's own options]
       jaxdl prove MODULE:NAME [options]

Looks for the mistakes of a train step: keys used twice, a step that compiles twice, padding that
counts, other numbers on more devices, and so on; names each with its evidence, place and mend.

  jaxdl prove examples/digits.py --fast
  jaxdl prove my_project.training:step --batches my_project.training:batches --init my_project:init

FILE defines a recipe. NAME is a train step (state, batch) -> (state, metrics), or a function
without arguments that returns a recipe or a dictionary of the arguments of jaxdl.testing.prove.
It runs on 8 devices of the CPU, on a few rows. `jaxdl prove FILE --help` lists every option.

exit codes: 0 nothing found, 1 mistakes found, 2 it cannot be asked
"""

_DEVICES = 8
_Flag = tyro.conf.FlagCreatePairsOff[bool]


@dataclasses.dataclass(frozen=True)
class ProveOptions:
    """Options of every proof."""

    fast: _Flag = False
    """Only what needs a trace and a compile or two: no other devices, no eager run."""
    rows: Annotated[int, tyro.conf.arg(metavar="N")] = 16
    """Rows of a batch of the recipe, at most."""
    devices: tuple[int, ...] = (1, 2, 8)
    """How many devices to run on."""
    skip: tuple[str, ...] = ()
    """Checks to leave out, by name."""
    optimized: _Flag = False
    """Compile with the compiler's own optimisation on the CPU too: three times as long."""
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Write the report as JSON, too."""
    platform: Annotated[str, tyro.conf.arg(metavar="NAME")] = "cpu"
    """Where to run: cpu, whose float32 is one, or gpu or tpu with the devices there are."""


def run(argv: Sequence[str]) -> int:
    """The verb.

    Args:
        argv: the words after ``prove``.

    Returns:
        0 when nothing was found, 1 when something was.

    Raises:
        ConfigError: there is no such file or function, or it is no step.
    """
    if argv and argv[0] in ("-h", "--help"):
        print(HELP, end="")
        return 0
    if not argv or argv[0].startswith("-"):
        raise ConfigError(
            "jaxdl prove was given no step" + (f", but {argv[0]!r}" if argv else ""),
            expected="jaxdl prove FILE, or jaxdl prove MODULE:NAME",
            do="put it first: jaxdl prove examples/digits.py --fast",
        )
    target, rest = argv[0], list(argv[1:])
    of_file = target.endswith(".py")
    report = (_file if of_file else _named)(target, rest)
    print(report)
    return 0 if report.ok else 1


def _prepare(options: ProveOptions) -> None:
    """Before JAX starts, which the import of a user's file may make it do."""
    wrong = [count for count in options.devices if count < 1]
    if wrong:
        raise ConfigError(
            f"--devices {wrong[0]}", expected="numbers from 1 up", do="such as --devices 1 2 8"
        )
    unknown = [name for name in options.skip if name not in CHECKS]
    if unknown:
        raise ConfigError(
            f"there is no check {unknown[0]!r}",
            expected="names among " + ", ".join(repr(name) for name in CHECKS),
            do="quote a name of two words: --skip 'row order'",
        )
    if options.platform == "cpu" and not options.optimized:
        os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *_quick()]).strip()
    try:
        jax.config.update("jax_platforms", options.platform)
        if options.platform == "cpu":
            jax.config.update("jax_num_cpu_devices", max(_DEVICES, *options.devices, 1))
    except RuntimeError:
        # JAX has started, by whoever called this: its devices are what they are.
        return


def _quick() -> list[str]:
    """Flags under which programs that run a few times compile in a third of the time."""
    flags = ["--xla_backend_optimization_level=0"]
    if importlib.metadata.version("jaxlib").startswith("0.10."):
        # XLA ends the process at a flag that it does not know, and flags come and go.
        flags += ["--xla_cpu_parallel_codegen_split_count=1", "--xla_cpu_use_fusion_emitters=false"]
    return flags


def _file(target: str, words: list[str]) -> Report:
    early, _ = tyro.cli(
        ProveOptions, args=[w for w in words if w not in ("-h", "--help")], return_unknown_args=True
    )
    _prepare(early)
    example = load(Path(target))
    config, options = read_config(example, words, f"jaxdl prove {target}", kind=ProveOptions)
    scanned = None
    if isinstance(getattr(config, "scan_layers", None), bool) and not options.fast:
        other = dataclasses.replace(config, scan_layers=not config.scan_layers)
        scanned = example.build(other)
    report = _recipe(example.build(config), options, scanned)
    return _kept(report, options)


def _named(target: str, words: list[str]) -> Report:
    kind = dataclasses.make_dataclass(
        "Both",
        [
            ("step", tyro.conf.OmitArgPrefixes[StepOptions]),
            ("run", tyro.conf.OmitArgPrefixes[ProveOptions]),
        ],
    )
    both: Any = tyro.cli(kind, prog=f"jaxdl prove {target}", description=HELP, args=words)
    _prepare(both.run)
    found = arguments_of(target, both.step)
    if isinstance(found, Recipe):
        return _kept(_recipe(found, both.run), both.run)
    given = {"devices": both.run.devices, "skip": both.run.skip, "fast": both.run.fast, **found}
    return _kept(prove(**given), both.run)


def _recipe(recipe: Recipe, options: ProveOptions, scanned: Recipe | None = None) -> Report:
    if options.rows < 1:
        raise ConfigError(f"--rows {options.rows}", expected="at least 1", do="leave it out")
    return prove_recipe(
        recipe,
        rows=options.rows,
        devices=options.devices,
        scanned=scanned,
        skip=options.skip,
        fast=options.fast,
    )


def _kept(report: Report, options: ProveOptions) -> Report:
    if options.json is not None:
        try:
            options.json.write_text(json.dumps(report.as_dict(), indent=2) + "\n")
        except OSError as error:
            raise ConfigError(
                f"{options.json} cannot be written: {error}",
                expected="a file in a folder that may be written",
                do="give another one with --json",
            ) from error
    return report

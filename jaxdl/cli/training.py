"""``jaxdl train FILE``: the file's settings and the run's options from one command line.

Reads from: errors, units, data, hosts, placement, recipe, cli.arguments, cli.files, cli.runs,
cli.stores, cli.tables. Used by: cli.verbs, cli.rehearsing, cli.rows.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import jax
import tyro

from jaxdl import data, hosts, units
from jaxdl.cli import runs
from jaxdl.cli.arguments import check_file_first
from jaxdl.cli.files import Example, load
from jaxdl.cli.stores import store_of
from jaxdl.cli.tables import score_table, table
from jaxdl.errors import CheckpointError, ConfigError, HostError, LayoutError
from jaxdl.loop import PREEMPTED
from jaxdl.placement import guard
from jaxdl.recipe import Outcome, Placed, Recipe, place, train

__all__ = [
    "ResumeOptions",
    "RunOptions",
    "choose_devices",
    "finish",
    "join",
    "read_config",
    "reopened",
    "resume",
    "run",
    "run_file",
    "with_options",
]

_ABOUT = """Trains the recipe of FILE, saves it, and measures every split.

FILE defines a frozen dataclass Config and a function recipe(config) -> Recipe. `jaxdl train FILE
--help` lists the options of its Config too."""


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """Options of every run, whatever the file."""

    run_dir: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """The run's folder; runs/NAME-TIME when not given."""
    overwrite: tyro.conf.FlagCreatePairsOff[bool] = False
    """Replace the run that is in the folder; otherwise it is gone on with."""
    devices: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """How many devices to use; all when not given."""
    dry_run: tyro.conf.FlagCreatePairsOff[bool] = False
    """Build, check and compile, show what would run, and train nothing."""
    overfit_one_batch: tyro.conf.FlagCreatePairsOff[bool] = False
    """Give every step the same first batch: the loss of a sound model and loss goes to nothing."""
    quiet: tyro.conf.FlagCreatePairsOff[bool] = False
    """Show no progress."""
    checkpoint_every: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Steps from one checkpoint to the next; as the file says when not given."""
    seal_for: Annotated[
        tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="ROLE=SOURCE")
    ] = ()
    """Seal the checkpoints: who may open them as what, train=file:train.key, as often as needed."""
    seal_sign: Annotated[str | None, tyro.conf.arg(metavar="SOURCE")] = None
    """Where the key lies that signs what is sealed."""
    coordinator: Annotated[str | None, tyro.conf.arg(metavar="HOST:PORT")] = None
    """Host 0 of many; not needed where JAX detects the hosts (Cloud TPU, GKE, Slurm, MPI)."""
    num_hosts: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """How many hosts there are, with --coordinator."""
    host: Annotated[int | None, tyro.conf.arg(metavar="I")] = None
    """The index of this host, from 0, with --coordinator."""


@dataclasses.dataclass(frozen=True)
class ResumeOptions:
    """Goes on with a run that was cut, from its folder, as if it had not been."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """The run's folder."""
    devices: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """How many devices to use; all when not given. On as many as before it goes on to the bit."""
    quiet: tyro.conf.FlagCreatePairsOff[bool] = False
    """Show no progress."""
    coordinator: Annotated[str | None, tyro.conf.arg(metavar="HOST:PORT")] = None
    """Host 0 of many; not needed where JAX detects the hosts (Cloud TPU, GKE, Slurm, MPI)."""
    num_hosts: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """How many hosts there are, with --coordinator."""
    host: Annotated[int | None, tyro.conf.arg(metavar="I")] = None
    """The index of this host, from 0, with --coordinator."""


def run(argv: Sequence[str]) -> int:
    """The verb.

    Args:
        argv: the words after ``train``.
    """
    if argv and argv[0] in ("-h", "--help"):
        tyro.cli(RunOptions, prog="jaxdl train FILE", description=_ABOUT, args=["--help"])
    check_file_first(argv, "jaxdl train FILE [options]", "jaxdl train examples/digits.py")
    argv = join(argv)
    with hosts.failing():
        example = load(Path(argv[0]))
        return run_file(example, argv[1:], f"jaxdl train {argv[0]}")


def run_file(
    example: Example,
    argv: Sequence[str],
    prog: str,
    *,
    change: Callable[[Recipe], Recipe] = lambda recipe: recipe,
    seen: Callable[[Outcome], None] = lambda outcome: None,
) -> int:
    """Trains what a file defines.

    Args:
        example: the file.
        argv: the words after it.
        prog: what the help calls the command.
        change: of the recipe before it is run.
        seen: is handed what the run leaves.

    Returns:
        The exit code.
    """
    config, options = read_config(example, argv, prog)
    recipe = change(with_options(example.build(config), options))
    store_of(options)  # a key that cannot be read ends it before there is a folder
    placed = place(recipe, devices=choose_devices(options.devices))
    if options.dry_run:
        _show_plan(recipe, placed)
        return 0
    if jax.process_count() > 1 and options.run_dir is None:
        raise ConfigError(
            f"{jax.process_count()} processes would each name a folder of their own",
            expected="--run-dir, a folder that all of them reach",
            do="add --run-dir",
        )
    folder = options.run_dir
    if jax.process_index() == 0 or folder is None:
        if folder is not None and runs.is_run(folder) and not options.overwrite:
            runs.go_on(folder, example, config)
        else:
            overwrite = options.overwrite
            folder = runs.create(folder, recipe.name, example, config, argv, overwrite=overwrite)
    hosts.barrier("run folder")
    plain = runs.plain(config)
    return finish(recipe, folder, placed, options, plain, source=example.path, seen=seen)


def join(argv: Sequence[str]) -> list[str]:
    """Joins the other hosts, before the file is imported, which may touch a device.

    Args:
        argv: words of a command.

    Returns:
        The words without those that differ from host to host.

    Raises:
        JaxdlError: as ``hosts.initialize``.
    """
    if {"-h", "--help"} & set(argv):
        return list(argv)
    parser = argparse.ArgumentParser(allow_abbrev=False, add_help=False, exit_on_error=False)
    for name, kind in (("coordinator", str), ("num_hosts", int), ("host", int)):
        parser.add_argument(f"--{name.replace('_', '-')}", f"--{name}", dest=name, type=kind)
    try:
        given, rest = parser.parse_known_args(list(argv))
    except argparse.ArgumentError as error:
        raise ConfigError(
            f"the hosts cannot be read: {error}",
            expected="--coordinator HOST:PORT --num-hosts N --host I",
            do="give all three, or none where JAX detects the hosts",
        ) from error
    found = hosts.initialize(given.coordinator, given.num_hosts, given.host)
    if found.num_hosts == 1 and os.environ.get("JAXDL_DISTRIBUTED") == "auto":
        raise HostError(
            "JAXDL_DISTRIBUTED=auto says that there are many hosts, and JAX detects none",
            expected="Cloud TPU, GKE, Slurm or MPI, on every host of the job",
            do="give --coordinator, --num-hosts and --host, or unset the variable for one host",
        )
    return rest


def resume(argv: Sequence[str]) -> int:
    """The verb ``resume``.

    Args:
        argv: the words after it.
    """
    argv = join(argv)
    options = tyro.cli(ResumeOptions, prog="jaxdl resume", args=list(argv))
    with hosts.failing():
        example, config, recorded = reopened(options.run)
        given = dataclasses.replace(recorded, quiet=options.quiet, devices=options.devices)
        recipe = with_options(example.build(config), given)
        placed = place(recipe, devices=choose_devices(options.devices))
        return finish(recipe, options.run, placed, given, runs.plain(config), source=example.path)


def reopened(folder: Path) -> tuple[Example, Any, RunOptions]:
    """The file of a run, its settings, and the options that it was started with.

    Args:
        folder: of the run.

    Raises:
        CheckpointError: it is no run, or its file now gives other settings.
    """
    example, arguments, recorded = runs.reopen(folder)
    config, options = read_config(example, arguments, "jaxdl train")
    now = runs.plain(config)
    if now != recorded:
        changed = sorted(k for k in {*now, *recorded} if now.get(k) != recorded.get(k))
        raise CheckpointError(
            f"the settings {', '.join(changed)} of {folder} are not those of the run",
            expected="the versions and the recipe.py that it was trained with",
            do=f"see config.json in it: {[recorded.get(k) for k in changed]} became "
            f"{[now.get(k) for k in changed]}",
        )
    return example, config, options


def with_options(recipe: Recipe, options: RunOptions) -> Recipe:
    """The recipe with what the run's options say of it.

    Args:
        recipe: of the file.
        options: of the run.
    """
    if options.checkpoint_every is None:
        return recipe
    return dataclasses.replace(recipe, checkpoint_every=options.checkpoint_every)


def finish(
    recipe: Recipe,
    folder: Path,
    placed: Placed,
    options: RunOptions,
    settings: Mapping[str, Any],
    *,
    source: Path | None = None,
    seen: Callable[[Outcome], None] = lambda outcome: None,
) -> int:
    """Trains to the end, or goes on to it, and shows what came out.

    Args:
        recipe: of the run.
        folder: of the run.
        placed: its programs.
        options: of the run.
        settings: of the file, for the checkpoints to say.
        source: the file.
        seen: is handed what the run leaves.

    Returns:
        The exit code.
    """
    outcome = train(
        recipe,
        folder,
        placed=placed,
        one_batch=options.overfit_one_batch,
        progress=not options.quiet,
        settings=settings,
        source=source,
        store=store_of(options),
    )
    seen(outcome)
    talks = jax.process_index() == 0
    if outcome.result.preempted:
        if talks:
            print(f"saved after step {outcome.result.step}; jaxdl resume {folder} goes on")
        return PREEMPTED
    if talks:
        _show_outcome(folder, placed, outcome)
    return 130 if outcome.result.stopped == "interrupted by Ctrl-C" else 0


def read_config(
    example: Example, argv: Sequence[str], prog: str, kind: Any = RunOptions
) -> tuple[Any, Any]:
    """Reads a file's settings and the run's options from the words after the file.

    Args:
        example: the file.
        argv: the words.
        prog: what the help calls the command.
        kind: the dataclass of the command's options.

    Returns:
        The file's settings, and an instance of ``kind``.

    Raises:
        ConfigError: the file's Config has a field that the run's options have too.
        SystemExit: after the help (0) or a wrong option (2), which it explains.
    """
    own = {field.name for field in dataclasses.fields(kind)}
    taken = own & {field.name for field in dataclasses.fields(example.config)}
    if taken:
        raise ConfigError(
            f"Config of {example.path} has the field {', '.join(sorted(taken))}",
            expected="names other than the run's options: " + ", ".join(sorted(own)),
            do="rename it",
        )
    settings = Annotated[example.config, tyro.conf.arg(name="")]
    both = dataclasses.make_dataclass(
        "Both", [("config", settings), ("run", tyro.conf.OmitArgPrefixes[kind])]
    )
    parsed: Any = tyro.cli(both, prog=prog, description=example.about, args=list(argv))
    return parsed.config, parsed.run


def choose_devices(count: int | None) -> Sequence[Any] | None:
    """The first ``count`` devices.

    Args:
        count: ``None`` for all.

    Raises:
        LayoutError: there are fewer.
    """
    there = jax.devices()
    if count is None:
        return None
    if not 1 <= count <= len(there):
        raise LayoutError(
            f"{count} devices were asked for, JAX has {len(there)} ({there[0].platform})",
            expected=f"from 1 to {len(there)}",
            do="lower --devices; JAX_NUM_CPU_DEVICES=8 pretends 8 CPU devices",
        )
    return there[:count]


def _show_outcome(folder: Path, placed: Placed, outcome: Outcome) -> None:
    result = outcome.result
    done = f"{result.step} steps in {outcome.seconds:.1f} s"
    if outcome.started:
        done = (
            f"{result.step} steps, gone on with after {outcome.started}, in {outcome.seconds:.1f} s"
        )
    print(f"\n{done}, {placed.parameters:,} parameters")
    if result.stopped is not None:
        print(f"ended before the last step: {result.stopped}")
    score_table(outcome.scores)
    print(f"the run is in {folder}")


def _show_plan(recipe: Recipe, placed: Placed) -> None:
    batch = recipe.train[0]
    state = jax.tree.leaves(placed.state)
    begin = time.perf_counter()
    placed.train.compile(placed.state, batch)
    middle = time.perf_counter()
    placed.evaluation.compile(placed.state, data.pad_batch(batch, recipe.rows()))
    end = time.perf_counter()
    mesh = placed.train.mesh
    fields = [f"{name}: {x.dtype}{list(x.shape)}" for name, x in recipe.train.spec.items()]
    epochs = recipe.steps / recipe.train.batches_per_epoch
    splits = [f"{name}: {each.num_examples:,}" for name, each in recipe.evaluated().items()]
    bytes_a_device = sum(map(guard.leaf_bytes, state))
    table(
        [
            ["recipe", recipe.name],
            ["devices", f"{mesh.devices.size} x {mesh.devices.flat[0].device_kind}"],
            ["mesh", ", ".join(f"{axis}={size}" for axis, size in mesh.shape.items())],
            ["parameters", f"{placed.parameters:,}"],
            ["train state", f"{units.size(bytes_a_device)} on each device"],
            ["batch", "\n".join(fields)],
            ["batch bytes", units.size(sum(x.nbytes for x in batch.values()))],
            ["steps", f"{recipe.steps:,}, {epochs:.1f} epochs"],
            ["examples", "\n".join(splits)],
            ["compiled", f"train in {middle - begin:.1f} s, evaluation in {end - middle:.1f} s"],
        ]
    )
    print("dry run: nothing was trained, nothing was written")

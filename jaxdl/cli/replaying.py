"""``jaxdl replay RUN``: one step again, with every operation watched, and a script that repeats it.

Reads from: errors, checkpoints, recipe, replay, cli.training. Used by: cli.verbs.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from jaxdl.checkpoints import Checkpoints
from jaxdl.cli.training import choose_devices, reopened, with_options
from jaxdl.errors import CheckpointError
from jaxdl.recipe import place
from jaxdl.replay import Replayed, keep, replay

__all__ = ["ReplayOptions", "run"]

_SCRIPT = '''"""Step {step} of the run {name}, alone: its state and its batch lie beside this file.

Run it with ``python {folder}/replay.py``. recipe.py is called for the model, and reads its data.
"""

from pathlib import Path

import jax

from jaxdl.cli.training import reopened
from jaxdl.recipe import train_step
from jaxdl.replay import examine, reopen

HERE = Path(__file__).parent
example, config, _ = reopened(HERE)
recipe = example.build(config)
number, state, batch = reopen(HERE, recipe)

finding = examine(recipe, state, batch)
print(f"step {{number}}: {{finding or 'everything is finite'}}")

# The same with JAX's own watch, which raises where the value is made (for a debugger).
with jax.debug_nans(True):
    train_step(recipe).update(state, batch)
'''


@dataclass(frozen=True)
class ReplayOptions:
    """Repeats one step of a run with every operation watched.

    Names the first operation whose result is NaN or infinite, its layer and its examples.
    """

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """The run's folder."""
    step: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Which step, from 1; the first bad one after the newest checkpoint when not given."""
    to: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Where to put the script; replay-N in the run's folder when not given."""
    devices: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """How many devices to use; all when not given."""


def run(argv: Sequence[str]) -> int:
    """The verb.

    Args:
        argv: the words after ``replay``.
    """
    options = tyro.cli(ReplayOptions, prog="jaxdl replay", args=list(argv))
    example, config, given = reopened(options.run)
    recipe = with_options(example.build(config), given)
    placed = place(recipe, devices=choose_devices(options.devices))
    store = Checkpoints(options.run / "checkpoints")
    replayed = replay(recipe, placed, store, options.step, one_batch=given.overfit_one_batch)
    folder = options.to or options.run / f"replay-{replayed.step}"
    _write(folder, options.run, recipe.name, replayed)
    _show(folder, replayed)
    return 0


def _write(folder: Path, run: Path, name: str, replayed: Replayed) -> None:
    if (folder / "replay.py").is_file():
        shutil.rmtree(folder)
    if folder.exists() and any(folder.iterdir()):
        raise CheckpointError(
            f"{folder} exists and holds no replay",
            expected="a new or empty folder",
            do="give another one with --to",
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file in ("recipe.py", "config.json"):
            shutil.copyfile(run / file, folder / file)
        keep(folder, replayed)
        script = _SCRIPT.format(step=replayed.step, name=name, folder=folder)
        (folder / "replay.py").write_text(script)
    except OSError as error:
        raise CheckpointError(
            f"{folder} cannot be written: {error}",
            expected="a folder that may be written",
            do="give another one with --to",
        ) from error


def _show(folder: Path, replayed: Replayed) -> None:
    again = replayed.step - replayed.began - 1
    origin = f"the checkpoint of step {replayed.began}" if replayed.began else "the start"
    print(f"step {replayed.step}, reached from {origin} by {again} steps; loss {replayed.loss:.6g}")
    if replayed.finding is None:
        print("every value of it is finite")
    else:
        print(replayed.finding.describe())
    if replayed.examples:
        shown = ", ".join(map(str, replayed.examples[:10]))
        more = f" and {len(replayed.examples) - 10} more" if len(replayed.examples) > 10 else ""
        print(f"these are the rows {shown}{more} of the training source")
    print(f"python {folder / 'replay.py'} repeats it")

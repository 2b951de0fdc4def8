"""A trained run, rebuilt from its folder: its recipe, its programs, and the state of a checkpoint.

Reads from: checkpoints, recipe, cli.files, cli.stores, cli.training. Used by: cli.rows,
.attacking, .explaining, .reported.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxdl.checkpoints import Restored
from jaxdl.cli.files import Example
from jaxdl.cli.stores import store_to_read
from jaxdl.cli.training import RunOptions, choose_devices, reopened, with_options
from jaxdl.recipe import Placed, Recipe, place

__all__ = ["Rebuilt", "rebuilt"]


class Rebuilt(NamedTuple):
    """A run whose checkpoints have not been read yet.

    Attributes:
        folder: of the run.
        example: its file.
        config: the file's settings.
        options: that it was started with.
        recipe: of them.
        placed: its programs.
    """

    folder: Path
    example: Example
    config: Any
    options: RunOptions
    recipe: Recipe
    placed: Placed

    def restore(
        self, step: int | None = None, *, key: str | None = None, trust: Sequence[Path] = ()
    ) -> Restored:
        """Reads a checkpoint onto the devices.

        Args:
            step: which; the newest whole one when ``None``.
            key: where a key lies that opens sealed checkpoints; the run's own when ``None``.
            trust: files of the public keys whose signatures on them count.

        Raises:
            CheckpointError: there is none, or it holds another state.
            SealError: the key opens none of it, or nobody trusted signed it.
        """
        store = store_to_read(self.folder, self.options, key=key, trust=trust)
        return store.restore(self.placed.state, step=step)


def rebuilt(folder: Path, devices: int | None = None) -> Rebuilt:
    """Builds the recipe and the programs of a run again.

    Args:
        folder: of the run.
        devices: how many to use; all when ``None``.

    Raises:
        JaxdlError: it is no run, or its file or data are not what they were.
    """
    example, config, options = reopened(folder)
    recipe = with_options(example.build(config), options)
    placed = place(recipe, devices=choose_devices(devices))
    return Rebuilt(folder, example, config, options, recipe, placed)

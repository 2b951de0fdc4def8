"""The Orbax handler that writes the manifest inside the checkpoint's own commit.

Imports Orbax, so it is loaded when something is first saved.

Reads from: errors, checkpoints.manifest. Used by: checkpoints.store.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import future

from jaxdl.checkpoints.manifest import Views, all_finite, part_name, part_text
from jaxdl.errors import NonFiniteError

__all__ = ["ManifestHandler", "ManifestRestore", "ManifestSave"]


class ManifestHandler(ocp.AsyncCheckpointHandler):
    """Hashes this process's blocks and writes its part of the manifest, beside the data."""

    async def async_save(self, directory: Any, args: ManifestSave) -> list[Any]:
        """Starts the work; the checkpoint is committed after it.

        Args:
            directory: of the manifest, in the unfinished checkpoint.
            args: what to hash.
        """
        # Orbax makes the folder in the background; this future waits for it.
        return [
            future.CommitFutureAwaitingContractedSignals(
                _write(directory, args), name="jaxdl_manifest"
            )
        ]

    def save(self, directory: Any, args: ManifestSave) -> None:
        """Writes at once.

        Args:
            directory: of the manifest.
            args: what to hash.
        """
        (directory / _name()).write_text(part_text(args.views, args.record))

    def restore(self, directory: Any, args: Any = None) -> None:
        """Nothing: ``read_manifest`` reads it."""


async def _write(directory: Any, args: ManifestSave) -> None:
    # On many processes only some may see the number, and the others would wait for their commit:
    # there the manifest tells, and restore passes over the checkpoint.
    if jax.process_count() == 1 and not all_finite(args.views):
        error = NonFiniteError(
            f"the parameters after step {args.step} hold NaN or an infinity, and were not saved",
            expected="finite parameters",
            do="lower the learning rate, warm it up or clip the gradient's norm; the checkpoints "
            "before are whole",
        )
        error.steps = (args.step, args.step)
        raise error
    (directory / _name()).write_text(part_text(args.views, args.record))


def _name() -> str:
    return part_name(jax.process_index(), jax.process_count())


@ocp.args.register_with_handler(ManifestHandler, for_save=True)
@dataclass
class ManifestSave(ocp.args.CheckpointArgs):
    """What a manifest is made from.

    Attributes:
        views: this process's blocks.
        record: the checkpoint's record.
        step: the step that is saved.
    """

    views: Views
    record: Mapping[str, Any]
    step: int


@ocp.args.register_with_handler(ManifestHandler, for_restore=True)
@dataclass
class ManifestRestore(ocp.args.CheckpointArgs):
    """Orbax wants one for every handler."""

"""What the hosts of a run compare before its first step, and how a difference is found.

Reads from: hosts, recipe.parts, recipe.placing, recipe.resuming. Used by: recipe.running.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from jaxdl import hosts
from jaxdl.recipe.parts import Recipe, local
from jaxdl.recipe.placing import Placed
from jaxdl.recipe.resuming import position

__all__ = ["agree", "facts"]

_SETTINGS = (
    *("steps", "seed", "log_every", "eval_every", "checkpoint_every", "ema_decay", "nonfinite"),
    *("freeze", "keep", "spike"),
)


def agree(
    recipe: Recipe,
    placed: Placed,
    settings: Mapping[str, Any],
    source: Path | None,
    *,
    one_batch: bool = False,
) -> None:
    """Checks that all hosts run the same thing; returns at once where there is one.

    Args:
        recipe: of this host.
        placed: its programs.
        settings: what the recipe was made from.
        source: the file that the recipe comes from.
        one_batch: whether every step has the first batch.

    Raises:
        HostError: on every host: which hosts have what.
    """
    if hosts.member() is not None:
        hosts.agree(facts(recipe, placed, settings, source, one_batch=one_batch))


def facts(
    recipe: Recipe,
    placed: Placed,
    settings: Mapping[str, Any],
    source: Path | None,
    *,
    one_batch: bool = False,
) -> dict[str, str]:
    """What must be the same on every host. The train step is traced and lowered for it.

    Args:
        recipe: of this host.
        placed: its programs.
        settings: what the recipe was made from.
        source: the file that the recipe comes from.
        one_batch: whether every step has the first batch.
    """
    batch = local(recipe.train)[0]
    rows = jax.process_count()
    shapes = {
        name: (str(value.dtype), len(value) * rows, *value.shape[1:])
        for name, value in batch.items()
    }
    program = placed.train.trace(placed.state, batch).lower().as_text()
    named = {name: getattr(recipe, name) for name in _SETTINGS}
    return {
        "jaxdl's source code": hosts.source_hash(Path(__file__).parents[1]),
        "the recipe file": "not known" if source is None else hosts.source_hash(source),
        **hosts.versions(),
        **hosts.flat("setting", settings),
        **hosts.flat("recipe", {**named, **position(recipe, one_batch=one_batch)["run"]}),
        **hosts.flat("global batch", shapes),
        "mesh": str(dict(placed.train.mesh.shape)),
        "local devices": str(jax.local_device_count()),
        "the train step's program": hosts.program_hash(program),
    }

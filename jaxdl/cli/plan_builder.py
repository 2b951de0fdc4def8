"""The program of a file for each change: its recipe rebuilt, its step and its batch's shapes.

Reads from: errors, gradients, layouts, models, recipe, tpu, cli.files, cli.plan_options.
Used by: cli.plan_worker.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax

from jaxdl import gradients
from jaxdl.cli.files import Example
from jaxdl.cli.plan_options import PlanOptions, parse_layout
from jaxdl.errors import ConfigError
from jaxdl.models.stack import REMAT_POLICIES
from jaxdl.protocols import Batch, TrainStep
from jaxdl.recipe import Recipe, train_step
from jaxdl.tpu.changing.changes import Change, Options, usual_layouts
from jaxdl.tpu.slices.names import Topology

__all__ = ["Builder"]


class Builder:
    """Makes a file's programs. No data is read beyond what the recipe itself reads to be built.

    Args:
        example: the file.
        config: its settings.
        options: of the plan.

    Raises:
        ConfigError: an option asks for what the file cannot do.
    """

    def __init__(self, example: Example, config: Any, options: PlanOptions) -> None:
        self._example, self._config = example, config
        self._fields = {field.name for field in dataclasses.fields(config)}
        if options.remat is not None:
            raise ConfigError(
                f"Config of {example.path} has no field remat",
                expected="a file that gives its model the choice",
                do="add `remat: str | None = None` to Config and pass it to the model, as "
                "examples/gpt.py does",
            )
        # What a Config calls the policy that keeps everything.
        self._everything = "none" if getattr(config, "remat", None) == "none" else _default(config)
        remat = getattr(config, "remat", None)
        self.now = Change(
            microbatches=getattr(config, "microbatches", options.microbatches) or 1,
            remat=None if remat == self._everything else remat,
            rows=options.batch,
        )
        recipe = self._recipe(self.now)
        layout = recipe.layout
        for text in (options.layout, options.mesh):
            layout = layout if text is None else parse_layout(text, recipe.layout)
        self.name, self.now = recipe.name, dataclasses.replace(self.now, layout=layout)

    def __call__(self, change: Change) -> tuple[TrainStep, Batch]:
        """The step and the global batch's shapes.

        Args:
            change: what to build; its layout is for ``plan``.

        Raises:
            ConfigError: the recipe has a gradient estimator of its own, and microbatches are asked.
        """
        recipe = self._recipe(change)
        if "microbatches" not in self._fields and change.microbatches > 1:
            if recipe.gradient is not None:
                raise ConfigError(
                    f"the recipe {recipe.name!r} has a gradient estimator of its own",
                    expected="a recipe with gradient=None for --microbatches to replace",
                    do="leave --microbatches out, or give Config a field microbatches",
                )
            accumulate = gradients.accumulate(change.microbatches)
            recipe = dataclasses.replace(recipe, gradient=accumulate)
        return train_step(recipe), _batch(recipe, change.rows)

    def options(self, topology: Topology) -> Options:
        """What a search may change of this file's programs.

        Args:
            topology: the slice.
        """
        splits = "microbatches" in self._fields or self._recipe(self.now).gradient is None
        rules = () if self.now.layout is None else self.now.layout.rules
        return Options(
            remats=tuple(REMAT_POLICIES)[::-1] if "remat" in self._fields else (),
            microbatches=Options.microbatches if splits else self.now.microbatches,
            layouts=usual_layouts(
                topology.devices, slices=topology.num_slices, rules=rules, tensors=(2, 4)
            ),
        )

    @property
    def tokens(self) -> int:
        """Tokens of one row that are learnt from; 0 where rows are no text."""
        field = self._recipe(self.now).train.spec.get("tokens")
        return 0 if field is None or len(field.shape) != 2 else field.shape[1] - 1

    def _recipe(self, change: Change) -> Recipe:
        remat = self._everything if change.remat is None else change.remat
        wanted = {"remat": remat, "microbatches": change.microbatches}
        settled = {name: value for name, value in wanted.items() if name in self._fields}
        return self._built(tuple(settled.items()))

    @functools.cache  # noqa: B019 - one builder lives as long as its process
    def _built(self, changed: tuple[tuple[str, Any], ...]) -> Recipe:
        return self._example.build(dataclasses.replace(self._config, **dict(changed)))


def _default(config: Any) -> str | None:
    """``"none"`` where that is what ``remat`` is when nobody says otherwise."""
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    return "none" if defaults.get("remat") == "none" else None


def _batch(recipe: Recipe, rows: int | None) -> Batch:
    return {
        name: jax.ShapeDtypeStruct((rows or leaf.shape[0], *leaf.shape[1:]), leaf.dtype)
        for name, leaf in recipe.train.spec.items()
    }

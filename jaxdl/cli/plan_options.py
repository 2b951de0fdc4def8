"""Options of ``jaxdl plan`` beside those of the file's Config, and layouts by name.

Reads from: errors, layouts, tpu.slices.names, cli.files. Used by: cli.plan_builder,
cli.plan_worker.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import tyro

from jaxdl.cli.files import Example
from jaxdl.errors import ConfigError, closest
from jaxdl.layouts import Layout, data_parallel, fsdp, layout, single, zero1

__all__ = ["LAYOUTS", "PlanOptions", "parse_layout", "read_options"]

LAYOUTS = {"data": data_parallel, "zero1": zero1, "fsdp": fsdp, "single": single}
"""Layouts that need no rules, by name."""

_Flag = tyro.conf.FlagCreatePairsOff[bool]
_SHARED = ("layout", "mesh", "batch", "microbatches", "remat")
_AXES = ("data", "fsdp", "sequence", "tensor")


@dataclasses.dataclass(frozen=True)
class PlanOptions:
    """Options of every plan. A field of the file's Config called layout, mesh, batch, microbatches
    or remat takes the place of the option.

    Attributes:
        on: The slice: v5e-256, v5p-128, '2x v6e-256', v5e:16x16.
        layout: data, zero1, fsdp, single, or mesh axes such as data=16,fsdp=16; the file's when not
            given.
        mesh: Sizes of the mesh's axes, in place of the layout's: data=16,fsdp=16. The rules of the
            file's layout hold where they name these axes.
        batch: Rows of the global batch; the file's when not given.
        microbatches: Accumulate the gradient over so many microbatches.
        remat: What a layer keeps for the backward pass; only where the Config has this field.
        json: Write the plan as JSON, too.
        picture: Draw the plan, too.
        fresh: Compile again, even where the plan of the same program is remembered.
        search: Where the step does not fit, look for the smallest changes under which it does.
        sweep: Plan other layouts, microbatches and remat policies too, and show what each buys.
    """

    on: Annotated[str, tyro.conf.arg(metavar="SLICE")]
    layout: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    mesh: Annotated[str | None, tyro.conf.arg(metavar="AXES")] = None
    batch: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    microbatches: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    remat: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    picture: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    fresh: _Flag = False
    search: bool = True
    sweep: _Flag = False


def read_options(example: Example, argv: Sequence[str], prog: str) -> tuple[Any, PlanOptions]:
    """Reads a file's settings and the plan's options from the words after the file.

    Args:
        example: the file.
        argv: the words.
        prog: what the help calls the command.

    Raises:
        ConfigError: the file's Config has a field that only the plan can have.
        SystemExit: after the help (0) or a wrong option (2), which it explains.
    """
    theirs = {field.name for field in dataclasses.fields(example.config)}
    ours = [field.name for field in dataclasses.fields(PlanOptions)]
    if taken := [name for name in ours if name in theirs and name not in _SHARED]:
        raise ConfigError(
            f"Config of {example.path} has the field {', '.join(taken)}",
            expected="names other than those of the plan's options: " + ", ".join(ours),
            do="rename it",
        )
    settings = Annotated[example.config, tyro.conf.arg(name="")]
    both = dataclasses.make_dataclass(
        "Both", [("config", settings), ("plan", tyro.conf.OmitArgPrefixes[_without(theirs)])]
    )
    parsed: Any = tyro.cli(both, prog=prog, description=example.about, args=list(argv))
    given = {f.name: getattr(parsed.plan, f.name) for f in dataclasses.fields(parsed.plan)}
    return parsed.config, PlanOptions(**given)


def parse_layout(text: str, own: Layout | None) -> Layout:
    """A layout by name, or by the sizes of its mesh's axes.

    Args:
        text: a name of ``LAYOUTS``, or ``data=16,fsdp=16``, outermost axis first; a size of -1
            takes the devices that are left.
        own: the file's layout, whose rules hold for the axes that they name.

    Raises:
        ConfigError: there is no such layout, or an axis would divide nothing.

    Examples:
        >>> parse_layout("data=2,fsdp=-1", None).axes
        (('data', 2), ('fsdp', -1))
    """
    text = text.strip()
    if text in LAYOUTS:
        return LAYOUTS[text]()
    parts = [re.fullmatch(r"\s*(\w+)\s*=\s*(-?\d+)\s*", part) for part in text.split(",")]
    if not all(parts):
        raise ConfigError(
            f"there is no layout {text!r}",
            expected=f"{', '.join(LAYOUTS)}, or mesh axes such as data=16,fsdp=16",
            do=closest(text, LAYOUTS),
        )
    pairs = [(part[1], int(part[2])) for part in parts if part]
    mesh = dict(pairs)
    known = {*_AXES, *(name for name, _ in own.axes)} if own else {*_AXES}
    for name, size in pairs:
        if name not in known or size == 0 or size < -1 or len(mesh) < len(pairs):
            raise ConfigError(
                f"the mesh {text!r} cannot be made",
                expected=f"axes among {', '.join(sorted(known))}, each once, with sizes from 1, or "
                "-1 for the devices that are left",
                do=f"mend {name}={size}",
            )
    rules = own.rules if own and _named(own) <= set(mesh) else ()
    if "tensor" in mesh and not any("tensor" in str(spec) for _, spec in rules):
        raise ConfigError(
            f"the mesh {text!r} has the axis tensor, and no rule divides anything over it",
            expected="a file whose layout has rules for it",
            do="give the file's layout the model's rules, such as models.gpt.TENSOR_RULES",
        )
    return layout(mesh=mesh, rules=rules, shard_axis="fsdp" if "fsdp" in mesh else None)


def _named(own: Layout) -> set[str]:
    """The axes that a layout's rules name."""
    entries = [entry for _, spec in own.rules for entry in spec if entry is not None]
    return {name for e in entries for name in (e if isinstance(e, tuple) else (e,))}


def _without(theirs: set[str]) -> type:
    """The options that the file's Config does not have as fields."""
    hints = get_type_hints(PlanOptions, include_extras=True)
    kept: list[Any] = [
        (field.name, hints[field.name], dataclasses.field(default=field.default))
        for field in dataclasses.fields(PlanOptions)
        if field.name not in theirs
    ]
    made = dataclasses.make_dataclass("PlanOptions", kept, frozen=True)
    made.__doc__ = PlanOptions.__doc__
    return made

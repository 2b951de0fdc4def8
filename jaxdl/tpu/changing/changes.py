"""What can be changed of a program so that it fits, and in which order to try it.

Reads from: errors, layouts. Used by: the rest of the planner, cli.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from jax.sharding import PartitionSpec

from jaxdl.errors import ConfigError
from jaxdl.layouts import Layout, data_parallel, fsdp, zero1
from jaxdl.layouts import layout as make_layout

__all__ = [
    "Change",
    "Kind",
    "Options",
    "in_order",
    "layout_words",
    "usual_layouts",
]

Kind = Literal["remat", "microbatches", "layout", "rows"]


@dataclass(frozen=True)
class Change:
    """One way to build a program.

    Attributes:
        layout: where its arrays lie; the step's own, else ``data_parallel()``, when ``None``.
        microbatches: the ``n`` of ``gradients.accumulate(n)``; 1 for the batch as a whole.
        remat: what the model keeps for the backward pass, a name of ``REMAT_POLICIES``; ``None``
            for everything.
        rows: of the global batch; as the file says when ``None``.
    """

    layout: Layout | None = None
    microbatches: int = 1
    remat: str | None = None
    rows: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("microbatches", self.microbatches), ("rows", self.rows)):
            if value is not None and value < 1:
                raise ConfigError(
                    f"a change has {name} {value}", expected="at least 1", do="change it"
                )

    @property
    def placed(self) -> Layout:
        """Its layout, the default one spelled out."""
        return data_parallel() if self.layout is None else self.layout

    def kinds(self, now: Change) -> tuple[Kind, ...]:
        """In what it differs from another.

        Args:
            now: the other.
        """
        differs: dict[Kind, bool] = {
            "remat": self.remat != now.remat,
            "microbatches": self.microbatches != now.microbatches,
            "layout": self.placed != now.placed,
            "rows": self.rows != now.rows,
        }
        return tuple(kind for kind, differs_here in differs.items() if differs_here)

    def words(self, now: Change | None = None) -> str:
        """What it is, or what must be changed to come to it, such as ``"remat='full'"``.

        Args:
            now: what there is; everything is said when ``None``.

        Examples:
            >>> Change(microbatches=4, remat="full").words(Change())
            "remat='full', microbatches 4"
            >>> Change(fsdp()).words()
            'remat=None, microbatches 1, layout fsdp'
        """
        said: dict[Kind, str] = {
            "remat": f"remat={self.remat!r}",
            "microbatches": f"microbatches {self.microbatches}",
            "layout": f"layout {layout_words(self.placed)}",
            "rows": f"rows {self.rows}",
        }
        every: tuple[Kind, ...] = ("remat", "microbatches", "layout")
        kinds = self.kinds(now) if now else every + (("rows",) if self.rows else ())
        return ", ".join(said[kind] for kind in kinds) or "no change"


@dataclass(frozen=True)
class Options:
    """What a search may change, and how long it may take.

    Attributes:
        remats: the policies to try, those that keep most first; none when the model has no such
            choice.
        microbatches: the most that a batch may be cut into; 1 leaves it whole.
        layouts: to try, those that change least first; ``usual_layouts`` gives some.
        alternatives: how many more ways to look for, each without one of the kinds of change
            that the first way needs.
        compiles: the most programs to compile. One that is refused takes seconds, one that fits
            about half a minute.
        seconds: after which no further compile begins.
    """

    remats: tuple[str, ...] = ()
    microbatches: int = 32
    layouts: tuple[Layout, ...] = ()
    alternatives: int = 1
    compiles: int = 16
    seconds: float = 300.0


def usual_layouts(
    devices: int,
    *,
    slices: int = 1,
    rules: Sequence[tuple[str, PartitionSpec]] = (),
    tensors: Sequence[int] = (),
) -> tuple[Layout, ...]:
    """Layouts from the one that sends least to the one that keeps least on a device.

    Data parallel, ZeRO stage 1, fully sharded in groups of 16, within each slice and over
    everything, and fully sharded with layers divided by rules.

    Args:
        devices: how many there are in all slices.
        slices: how many slices they are in.
        rules: of the model, for an axis ``tensor``.
        tensors: sizes of that axis to try; those that do not divide the devices are left out.

    Examples:
        >>> [layout_words(each) for each in usual_layouts(64)]
        ['data', 'zero1, data', 'data x fsdp 16', 'fsdp']
    """
    groups = [fsdp(16, data=-1)] if devices > 16 and devices % 16 == 0 else []
    both = [
        make_layout(mesh={"fsdp": -1, "tensor": size}, rules=rules, shard_axis="fsdp")
        for size in tensors
        if rules and 1 < size <= devices and devices % size == 0
    ]
    if slices > 1 and devices % slices == 0 and devices // slices != 16:
        groups.append(fsdp(data=slices))
    return (data_parallel(), zero1(), *groups, fsdp(), *both)


def layout_words(layout: Layout) -> str:
    """A layout before it has devices: ``"fsdp"``, ``"data x fsdp 16"``, ``"zero1, data"``.

    Args:
        layout: the layout.
    """
    axes = " x ".join(name if size == -1 else f"{name} {size}" for name, size in layout.axes)
    return f"zero1, {axes}" if layout.sharded == "optimizer" else axes


def in_order(now: Change, options: Options) -> list[Change]:
    """Every change, the smallest first: one kind, then two, then three.

    Among changes of one kind remat comes first, which costs arithmetic alone; then microbatches,
    which cost small products; then another layout, which costs traffic. Among those of several,
    the fewest rungs of each ladder come first.

    Args:
        now: what there is.
        options: what may be changed.
    """
    remats = list(options.remats)
    if now.remat in remats:
        remats = remats[remats.index(now.remat) + 1 :]
    powers = (now.microbatches * 2**k for k in itertools.count(1))
    splits = list(itertools.takewhile(lambda n: n <= options.microbatches, powers))
    layouts = [each for each in options.layouts if each != now.placed]
    ladders: dict[Kind, Sequence[Any]] = {
        "remat": remats,
        "microbatches": splits,
        "layout": layouts,
    }
    found: list[Change] = []
    for count in range(1, len(ladders) + 1):
        for kinds in itertools.combinations(ladders, count):
            rungs = itertools.product(*(enumerate(ladders[kind]) for kind in kinds))
            for steps in sorted(rungs, key=lambda steps: sum(rung for rung, _ in steps)):
                values = {kind: step[1] for kind, step in zip(kinds, steps, strict=True)}
                found.append(replace(now, **values))
    return found

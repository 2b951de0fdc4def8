"""A plan as one picture: memory against what the chip has, and where a step's time goes.

Reads from: errors, tpu.plans.facts, units. Used by: cli.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jaxdl.errors import ConfigError, MissingExtraError
from jaxdl.tpu.plans.facts import Plan
from jaxdl.units import gib, seconds, size

__all__ = ["draw"]

_SUFFIXES = (".svg", ".png")
# Okabe and Ito's palette (https://jfly.uni-koeln.de/color/), which colour-blind people tell apart.
_COLOURS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#999999"]
_HATCHES = ["", "//", "..", "xx", "\\\\", "++", "--", "oo"]


def draw(plan: Plan, path: str | Path) -> None:
    """Draws a plan into a file.

    Args:
        plan: the plan.
        path: ending in ``.svg`` or ``.png``; its folder is there.

    Raises:
        ConfigError: the file's name ends in something else.
        MissingExtraError: matplotlib is not installed.
    """
    target = Path(path)
    if target.suffix.lower() not in _SUFFIXES:
        raise ConfigError(
            f"a plan cannot be drawn as {target.name!r}",
            expected="a name that ends in .svg or .png",
            do="change the file's name",
        )
    figure_class, options = _matplotlib()
    with options({"svg.fonttype": "path", "svg.hashsalt": "jaxdl", "font.size": 10}):
        figure = figure_class(figsize=(9.0, 4.2), facecolor="white", layout="constrained")
        above, below = figure.subplots(2, 1)
        figure.suptitle(_title(plan), fontsize=11)
        parts = _memory(plan)
        _bar(above, parts, "GiB on one device", [size(part * 2**30) for part in parts.values()])
        available = plan.facts.memory.available / 2**30
        above.axvline(available, color="black", linewidth=2)
        above.set_xlim(right=max(available, above.get_xlim()[1]) * 1.04)
        above.set_title(_verdict(plan), fontsize=10, loc="left")
        parts = _times(plan)
        _bar(below, parts, "ms of one step", [seconds(part / 1e3) for part in parts.values()])
        below.set_title(_range(plan), fontsize=10, loc="left")
        # matplotlib makes the title an SVG's <title>, which screen readers read. Without a date
        # the same plan gives the same file.
        about: dict[str, Any] = {"Title": _alt(plan)}
        if target.suffix.lower() == ".svg":
            about["Date"] = None
        figure.savefig(target, dpi=150, metadata=about)


def _matplotlib() -> tuple[Any, Any]:
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError(
            "a picture of a plan needs matplotlib",
            expected="the extra 'report'",
            do="pip install 'jaxdl[report]'",
        ) from error
    return Figure, rc_context


def _memory(plan: Plan) -> dict[str, float]:
    """GiB by use; what the parts leave of the peak, or what they are beyond it, is not drawn."""
    memory = plan.facts.memory
    parts: dict[str, float] = {**memory.by_use}
    rest = memory.peak - memory.arguments
    if rest > 0:
        parts["temporaries and program"] = rest
    return {name: held / 2**30 for name, held in parts.items() if held > 0}


def _times(plan: Plan) -> dict[str, float]:
    times = plan.times
    if times is None:
        return {}
    named = {
        "arithmetic": times.compute,
        "memory (HBM)": times.hbm,
        "links in a slice (ICI)": sum(times.ici.values()),
        "between slices (DCN)": times.dcn,
    }
    return {name: value * 1e3 for name, value in named.items() if value > 0}


def _bar(axes: Any, parts: dict[str, float], unit: str, words: list[str]) -> None:
    left = 0.0
    for place, (name, value) in enumerate(parts.items()):
        axes.barh(
            0,
            value,
            left=left,
            height=0.6,
            color=_COLOURS[place % len(_COLOURS)],
            hatch=_HATCHES[place % len(_HATCHES)],
            edgecolor="white",
            label=f"{name}: {words[place]}",
        )
        left += value
    axes.set_yticks([])
    axes.set_xlabel(unit)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    if parts:
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=9)
    else:
        axes.spines["bottom"].set_visible(False)
        axes.set_xticks([])
        axes.set_xlabel("")


def _title(plan: Plan) -> str:
    facts = plan.facts
    return f"{facts.topology}\nlayout {facts.layout}, {facts.rows:,} rows a step"


def _verdict(plan: Plan) -> str:
    memory = plan.facts.memory
    sizes = f"{gib(memory.peak)} of {gib(memory.available)} GiB"
    words = "fits" if plan.fits else "does not fit"
    return f"Memory: {words}, {sizes} (black line: what the compiler gives out)"


def _range(plan: Plan) -> str:
    if plan.times is None:
        return "Time: not predicted, the program does not fit"
    words = f"{seconds(plan.times.fastest)} (all overlap) to {seconds(plan.times.slowest)}"
    return f"Time: {words}; {plan.times.bound} binds. Predicted by a model; no TPU was used."


def _alt(plan: Plan) -> str:
    memory = "; ".join(f"{name} {size(held * 2**30)}" for name, held in _memory(plan).items())
    times = "; ".join(f"{name} {seconds(part / 1e3)}" for name, part in _times(plan).items())
    told = f"{_title(plan)}. {_verdict(plan)}: {memory}. {_range(plan)} {times}"
    return " ".join(told.split())

"""The smallest change under which a program fits that does not: every suggestion was compiled.

What arithmetic can refuse is not compiled: a state that alone exceeds the memory (no number of
microbatches mends that), rows that do not divide, and microbatches that would have to do more than
cut the temporaries into equal parts. The compiler refuses within seconds, and takes half a minute
for what fits, so trying from the smallest change upwards costs about one compile that succeeds.

Reads from: errors, layouts, protocols, the rest of the planner. Used by: cli, and by hand.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax

from jaxdl.errors import ConfigError, JaxdlError
from jaxdl.layouts import Layout
from jaxdl.protocols import Batch, PyTree
from jaxdl.tpu.changing.changes import Change, Options, in_order, layout_words
from jaxdl.tpu.changing.reckoning import Reckoning, Refused, gib
from jaxdl.tpu.plans.facts import Plan
from jaxdl.tpu.plans.planning import plan
from jaxdl.tpu.plans.steps import abstract
from jaxdl.tpu.slices.names import Topology, parse_topology

__all__ = ["Build", "Found", "Planner", "Search", "Tried", "find_change"]

Build = Callable[[Change], tuple[Any, Batch]]
"""Makes the program of a change: ``(step, batch)``, as ``plan`` takes them."""
Planner = Callable[..., Plan]
"""``plan`` itself, or what stands for it."""


@dataclass(frozen=True)
class Found:
    """A change under which the program fits.

    Attributes:
        change: the whole of it.
        words: what must be changed, such as ``"remat='full'"``.
        plan: of the changed program; ``None`` when the limits were reached before it was compiled.
        estimate: bytes that it should need when it was not compiled.
    """

    change: Change
    words: str
    plan: Plan | None
    estimate: int | None = None

    def __str__(self) -> str:
        if self.plan is None:
            return f"{self.words} (not compiled: should need {gib(self.estimate or 0)} at best)"
        memory = self.plan.facts.memory
        return f"{self.words} (compiled: {gib(memory.peak)} of {gib(memory.available)})"


@dataclass(frozen=True)
class Tried:
    """A change under which the program does not fit.

    Attributes:
        change: the whole of it.
        words: what was changed.
        needed: bytes on one device, as the compiler says, or the least that arithmetic allows;
            ``None`` when neither gives a figure.
        why: in words, with the figures.
        compiled: whether the compiler was asked.
    """

    change: Change
    words: str
    needed: int | None
    why: str
    compiled: bool

    def __str__(self) -> str:
        return f"{self.words}: {self.why}"


@dataclass(frozen=True)
class Search(Sequence[Found]):
    """What a search found: a sequence of changes, the smallest first.

    Attributes:
        found: changes that fit.
        tried: changes that do not, in the order in which they were tried.
        ended: why it looked no further, in words.
    """

    found: tuple[Found, ...]
    tried: tuple[Tried, ...]
    ended: str

    def __getitem__(self, index: Any) -> Any:
        return self.found[index]

    def __len__(self) -> int:
        return len(self.found)


def find_change(
    build: Build,
    topology: str | Topology,
    *,
    now: Change | None = None,
    options: Options | None = None,
    refused: Plan | None = None,
    state: PyTree = None,
    progress: Callable[[str], None] | None = None,
    planner: Planner = plan,
) -> Search:
    """The smallest change under which a program that does not fit a slice does.

    Args:
        build: makes the program of a change.
        topology: the slice.
        now: what there is; ``Change()`` when ``None``.
        options: what may be changed, and how long it may take.
        refused: the plan of ``now``, when it is known already.
        state: as for ``plan``; for a step that has no ``init``. No change may alter its shapes.
        progress: given a line for every change that is compiled or ruled out.
        planner: stands for ``plan``.

    Returns:
        A ``Search``, which is empty when the program fits as it is, or when nothing was found.

    Raises:
        PlanError: there is no TPU compiler, or it does not take the program as it is.
        ConfigError: the topology does not exist.
        LayoutError: ``now`` itself does not fit the slice.
    """
    target = parse_topology(topology) if isinstance(topology, str) else topology
    now, options = now or Change(), options or Options()

    def compiled(change: Change) -> Plan:
        step, batch = build(change)
        given = {} if state is None else {"state": state}
        return planner(step, batch, target, layout=change.layout, **given)

    if refused is None:
        refused = compiled(now)
    if refused.fits:
        return Search((), (), "the program fits as it is")
    step, batch = build(now)
    memory = refused.facts.memory
    now = replace(now, layout=now.layout or getattr(step, "layout", None))
    reckoning = Reckoning(_shapes(step, batch, state), batch, target.devices, memory.available)
    reckoning.learn(now, memory.peak)
    options = replace(options, layouts=reckoning.lighter(options.layouts, now.placed))
    trail = _Trail(now, options, progress)
    return _walk(trail, reckoning, compiled, in_order(now, options))


class _Trail:
    """What one search has found so far, and how much it has spent."""

    def __init__(self, now: Change, options: Options, progress: Callable[[str], None] | None):
        self.now, self.options, self.progress = now, options, progress
        self.found: list[Found] = []
        self.tried: list[Tried] = []
        self.useless: set[Layout] = set()
        self.compiles, self.start = 0, time.perf_counter()

    def ended(self) -> str:
        """Why to look no further; ``""`` to go on."""
        limits = self.options
        if len(self.found) > limits.alternatives:
            return "enough was found"
        if self.compiles >= limits.compiles:
            return f"the limit of {limits.compiles} compiles was reached"
        if time.perf_counter() - self.start >= limits.seconds:
            return f"the limit of {limits.seconds:g} seconds was reached"
        return ""

    def covers(self, change: Change) -> bool:
        """Whether a change does all that one does which was found, and more."""
        kinds = set(change.kinds(self.now))
        return any(kinds.issuperset(each.change.kinds(self.now)) for each in self.found)

    def note(
        self, change: Change, refused: Refused, *, words: str = "", compiled: bool = False
    ) -> None:
        """Keeps a change that does not do."""
        words = words or change.words(self.now)
        self.tried.append(Tried(change, words, refused.needed, refused.why, compiled))
        self.say(str(self.tried[-1]))

    def say(self, line: str) -> None:
        """Shows a line."""
        if self.progress is not None:
            self.progress(line)


def _walk(
    trail: _Trail, reckoning: Reckoning, compiled: Callable[[Change], Plan], changes: list[Change]
) -> Search:
    """Tries changes in order until there is enough, or a limit is reached."""
    for place, change in enumerate(changes):
        if ended := trail.ended():
            likely = None if trail.found else _likely(reckoning, changes[place:], trail.now)
            return Search((*trail.found, *([likely] if likely else [])), tuple(trail.tried), ended)
        if not trail.covers(change):
            _consider(trail, reckoning, compiled, change)
    ended = trail.ended() if trail.found else ""
    return Search(tuple(trail.found), tuple(trail.tried), ended or "every change was considered")


def _consider(
    trail: _Trail, reckoning: Reckoning, compiled: Callable[[Change], Plan], change: Change
) -> None:
    """Compiles a change, unless arithmetic rules it out."""
    if (whole := reckoning.refuse_layout(change.placed)) is not None:
        # Nothing else mends that: said once, not for every change that keeps the layout.
        if change.placed not in trail.useless:
            trail.useless.add(change.placed)
            words = f"layout {layout_words(change.placed)}, whatever else is changed"
            trail.note(change, whole, words=words)
        return
    if (refused := reckoning.refuse(change)) is not None:
        trail.note(change, refused)
        return
    trail.compiles += 1
    try:
        found = compiled(change)
    except JaxdlError as error:
        refused = Refused(None, f"{type(error).__name__}: {error.what}")
        trail.note(change, refused, compiled=True)
        return
    memory = found.facts.memory
    reckoning.learn(change, memory.peak)
    if found.fits:
        trail.found.append(Found(change, change.words(trail.now), found))
        trail.say(str(trail.found[-1]))
        return
    why = f"the compiler needs {gib(memory.peak)} of {gib(memory.available)}"
    trail.note(change, Refused(memory.peak, why), compiled=True)


def _likely(reckoning: Reckoning, changes: list[Change], now: Change) -> Found | None:
    """The first change that was not compiled and should fit."""
    for change in changes:
        estimate = reckoning.estimate(change)
        if estimate is not None and reckoning.refuse(change) is None:
            return Found(change, change.words(now), None, estimate)
    return None


def _shapes(step: Any, batch: Batch, state: PyTree) -> PyTree:
    """The state's shapes; nothing is allocated."""
    if state is not None:
        return jax.eval_shape(lambda x: x, state)
    init = getattr(getattr(step, "pure", step), "init", None)
    if init is None:
        raise ConfigError(
            "the step has no init, and no state was given",
            expected="state=, arrays or jax.ShapeDtypeStruct",
            do="pass state=jax.eval_shape(init, key, batch), which allocates nothing",
        )
    return jax.eval_shape(init, jax.eval_shape(jax.random.key, 0), abstract(batch))

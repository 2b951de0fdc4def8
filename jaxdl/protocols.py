"""The types that the four contracts speak, and nothing else.

::

    Objective  (params, model_state, batch, key, *, train) -> (loss SUM, Aux)
    Gradient   objective -> ((params, model_state, batch, key) -> (grads SUM, Aux))
    Optimizer  optax.GradientTransformation
    Step       (TrainState, batch)                         -> (TrainState, Sums)

Everything is a sum with its weight; the one division comes after the last addition. One alphabet
of axes is used throughout: ``B`` batch, ``T`` time, ``H W C`` image, ``D`` features, ``V``
vocabulary, ``K`` classes, ``N`` heads.

Reads from: nothing of jaxdl. Used by: everything.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import flax.struct
import jax

__all__ = [
    "EXAMPLE_KEY",
    "MASK",
    "Aux",
    "Batch",
    "EvalFn",
    "GradFn",
    "GradientEstimator",
    "Hook",
    "Mean",
    "Memory",
    "Metric",
    "ModelState",
    "Moment",
    "Objective",
    "Params",
    "PredictFn",
    "PyTree",
    "Record",
    "Sums",
    "Tally",
    "TrainState",
    "TrainStep",
]

PyTree: TypeAlias = Any
Params: TypeAlias = PyTree
ModelState: TypeAlias = PyTree
Batch: TypeAlias = Any
"""A mapping from field names to arrays whose first axis is ``B``. An objective written by hand may
read any other pytree of such arrays, which then cannot be padded, having no place for a mask."""
Sums: TypeAlias = dict[str, PyTree]

MASK = "mask"
"""The batch field, shape ``[B]`` or ``[B, T]``: 0 on padding, 1 (or a weight) elsewhere."""

EXAMPLE_KEY = "example_key"
"""The batch field, shape ``[B]`` of typed keys, that a train step adds: one random key an example,
the same whatever device or microbatch the example lands on."""


class Aux(NamedTuple):
    """What an objective returns beside its loss sum.

    Attributes:
        weight: scalar; over how many examples or tokens the loss was summed.
        model_state: the model's non-trained state after this batch (running statistics), same
            structure as it was given.
        metrics: additive sums by name (see ``Mean`` and ``Tally``), without the loss.
        outputs: what the model returned, for evaluation metrics; ``None`` when there is none.
            A train step never keeps it.
    """

    weight: Any
    model_state: ModelState
    metrics: Sums
    outputs: PyTree = None


class Objective(NamedTuple):
    """What to minimise: two pure functions. Anyone can write one by hand.

    Attributes:
        init: ``(key, batch) -> (params, model_state)``; reads only shapes and dtypes of ``batch``.
        loss: ``(params, model_state, batch, key, *, train) -> (loss sum, Aux)``.
        mixes_rows: whether the loss of a row is made of other rows, as in contrastive learning, so
            that a part of a batch has another loss. Estimators that cut a batch into parts refuse
            it. (Batch statistics are the model's, and no matter of this.)
    """

    init: Callable[..., tuple[Params, ModelState]]
    loss: Callable[..., tuple[Any, Aux]]
    mixes_rows: bool = False


class Mean(NamedTuple):
    """An additive pair that reads as ``total / weight``. Both are arrays of one shape."""

    total: Any
    weight: Any


class Metric(NamedTuple):
    """A measurement in two halves: sums on the device, the reading of them on the host.

    Attributes:
        measure: ``(outputs, batch) -> sums``, an additive pytree of arrays: the sums of two
            batches are the sums of their union. Rows whose ``mask`` is 0 add nothing.
        report: ``(sums) -> {name: value}``, run once on the host on numpy arrays.
    """

    measure: Callable[[PyTree, Batch], PyTree]
    report: Callable[[PyTree], dict[str, Any]]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Tally:
    """The sums of one metric together with the function that reads them.

    A pytree whose leaves are the sums alone, so tallies add, shard and cross devices like arrays.

    Attributes:
        sums: what ``Metric.measure`` returned.
        report: ``Metric.report`` (static: part of the tree's structure).
    """

    sums: PyTree
    report: Callable[[PyTree], dict[str, Any]] = field(metadata={"static": True})


@flax.struct.dataclass
class TrainState:
    """Everything a step carries from one batch to the next: arrays only.

    Attributes:
        step: int32 scalar; how many updates were done.
        params: the trained parameters.
        opt_state: the optimizer's state.
        model_state: the model's other state (batch statistics); ``{}`` when there is none.
        key: typed PRNG key, scalar; it never changes. A step's randomness is
            ``fold_in(key, step)``.
        ema: exponential moving average of ``params``, or ``None``.
    """

    step: Any
    params: Params
    opt_state: PyTree
    model_state: ModelState
    key: Any
    ema: Params = None


class TrainStep(NamedTuple):
    """A pure train step, before anything is said about where it runs.

    Attributes:
        init: ``(key, batch) -> TrainState``.
        update: ``(state, batch, *, axis_name=None) -> (TrainState, Sums)``. One that takes the
            keyword ``batch_sharding`` too is told by ``jaxdl.jit`` how the rows lie on the mesh; a
            function that wraps an update passes both on.
    """

    init: Callable[..., TrainState]
    update: Callable[..., tuple[TrainState, Sums]]


@runtime_checkable
class GradFn(Protocol):
    """The differentiated objective: ``(params, model_state, batch, key) -> (grads SUM, Aux)``.

    A function that also takes the keyword ``divisor``, a function from the batch's weight to a
    number, returns the gradient sum divided by it. It can then fold the division into a pass that
    it makes anyway. A function without the keyword has its sum divided by the step.

    A function that also takes the keywords ``axis_name`` and ``batch_sharding`` sums over the
    shards of a batch itself: what it returns is global, and its key is the step's, the same on
    every shard. Over a mapped axis it is handed the axis; in a program over a mesh, where it sees
    the whole batch, the sharding of the rows (``None`` where that is not known). The step then
    computes the update apart from the gradient, see ``gradients.alone``.
    """

    def __call__(
        self, params: Params, model_state: ModelState, batch: Batch, key: Any, /
    ) -> tuple[Params, Aux]:
        """Differentiates the loss sum of one batch."""
        ...


@runtime_checkable
class GradientEstimator(Protocol):
    """How an objective is differentiated: objective -> gradient function."""

    def __call__(self, objective: Objective, /) -> GradFn:
        """The gradient function of an objective."""
        ...


@runtime_checkable
class PredictFn(Protocol):
    """``(params, model_state, batch) -> outputs``, deterministic."""

    def __call__(self, params: Params, model_state: ModelState, batch: Batch, /) -> PyTree:
        """The outputs for one batch."""
        ...


@runtime_checkable
class EvalFn(Protocol):
    """``(state, batch) -> Sums``."""

    def __call__(self, state: TrainState, batch: Batch, /, *, axis_name: str | None = None) -> Sums:
        """Measures one batch."""
        ...


class Record(NamedTuple):
    """What was measured at one point of a run.

    Attributes:
        step: updates done.
        split: ``"train"``, ``"validation"`` or another part of the data.
        values: numbers (or arrays) by name, on the host.
    """

    step: int
    split: str
    values: dict[str, Any]


class Memory(NamedTuple):
    """What a loop knows beside the train state, so that another one can go on from it.

    Attributes:
        window: the sums of the steps since the last train record, each leaf stacked over them.
        hooks: what each hook remembers, by its name in the loop (``"EarlyStop:0"``).
        due: names of the hooks that were due at this step and were not visited yet.
        stopped: why a hook ended the run before its last step.
    """

    window: tuple[Any, ...] = ()
    hooks: dict[str, Any] = {}  # noqa: RUF012 - read, never written
    due: tuple[str, ...] = ()
    stopped: str | None = None


class Moment(NamedTuple):
    """What a hook is given when its period is over.

    Attributes:
        step: updates done.
        state: the train state, valid during the call only: the next step consumes it.
        log: hands a ``Record`` to all hooks.
        memory: what a loop that goes on from here must know.
        waiting: a context manager for work that may be dropped: a signal that ends the run ends it
            at once, and the hook is visited again when the run goes on.
    """

    step: int
    state: Any
    log: Callable[[Record], None]
    memory: Callable[[], Memory] = Memory
    waiting: Callable[[], AbstractContextManager[Any]] = nullcontext


class Hook:
    """What happens around a loop of steps. Override what you need; the rest does nothing.

    Attributes:
        every: ``at`` is called after each step whose number is a multiple of this, and after the
            last; ``None`` never calls it. The device is waited for before the call.
        on_interrupt: ``at`` is also called when a signal ends the run before its last step. Other
            hooks are not, since the run that goes on visits them where they are due.
    """

    every: int | None = None
    on_interrupt: bool = False

    def open(self, start: int, steps: int) -> None:
        """Called before step ``start + 1`` of ``steps``."""

    def remember(self) -> Any:
        """What ``recall`` needs to go on, in what JSON can hold; ``None`` when nothing."""
        return None

    def recall(self, memory: Any) -> None:
        """Called after ``open``, when a run goes on, with what ``remember`` gave."""

    def tick(self, step: int) -> None:
        """Called when a step was handed to the device. Must not read arrays, and be quick."""

    def at(self, moment: Moment) -> None:
        """Called with the state, every ``every`` steps."""

    def record(self, record: Record) -> str | None:
        """Called with every record. A text, the reason, ends the run after the running step."""

    def close(self) -> None:
        """Called once at the end, however the run ends."""

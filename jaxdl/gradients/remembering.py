"""Estimators that remember something from one step to the next, and how a step keeps it.

An estimator is a function of one objective and has no state. One that needs some, as a loss scale
that adapts, says so by three methods, and the step keeps its memory beside the optimizer's, in
``state.opt_state``: it is saved, placed and restored with it, and evaluation never sees it.

Reads from: protocols. Used by: gradients.scaled, step.train.
"""

from __future__ import annotations

import inspect
import warnings
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax

from jaxdl.protocols import GradFn, Objective, PyTree, Sums

__all__ = ["Remembering", "WithMemory", "bind", "joined", "parted", "warn_unscaled"]


@runtime_checkable
class Remembering(Protocol):
    """An estimator with a memory. Its gradient function takes the keyword ``memory``.

    A step whose gradient or loss is not finite is skipped, whatever ``nonfinite`` says, and its
    memory moves on all the same.
    """

    def begin(self) -> PyTree:
        """The memory before the first step: arrays."""
        ...

    def after(self, memory: PyTree, finite: jax.Array) -> PyTree:
        """The memory after a step, of the same structure and types.

        Args:
            memory: the memory that the step was given.
            finite: boolean scalar, the same on every device: whether the step was taken.
        """
        ...

    def sums(self, memory: PyTree) -> Sums:
        """What a step reports of the memory it was given."""
        ...


class WithMemory(NamedTuple):
    """``state.opt_state`` of a step whose gradient estimator remembers.

    Attributes:
        optimizer: the optimizer's own state.
        gradient: the estimator's memory.
    """

    optimizer: PyTree
    gradient: PyTree


def joined(estimator: Any, opt_state: PyTree, memory: PyTree = None) -> PyTree:
    """The optimizer's state, with the estimator's memory where it has one.

    Args:
        estimator: the gradient estimator of the step.
        opt_state: what the optimizer keeps.
        memory: of the estimator; that before the first step when ``None``.
    """
    if not isinstance(estimator, Remembering):
        return opt_state
    return WithMemory(opt_state, estimator.begin() if memory is None else memory)


def parted(estimator: Any, opt_state: PyTree) -> tuple[PyTree, PyTree]:
    """The inverse of ``joined``: the optimizer's state and the memory, ``None`` without one.

    Args:
        estimator: the gradient estimator of the step.
        opt_state: ``state.opt_state``.
    """
    if not isinstance(estimator, Remembering):
        return opt_state, None
    return opt_state.optimizer, opt_state.gradient


def bind(gradient: GradFn, memory: PyTree, axis_name: str | None) -> GradFn:
    """The gradient function with what it asks for by keyword, of ``memory`` and ``shards``.

    Args:
        gradient: what an estimator returned.
        memory: the estimator's memory.
        axis_name: the mapped axis that the batch is divided over; ``shards`` is its size, 1 for
            ``None``.
    """
    shards = 1 if axis_name is None else jax.lax.axis_size(axis_name)
    asked = inspect.signature(gradient).parameters
    given = {"memory": memory, "shards": shards}
    given = {name: value for name, value in given.items() if name in asked}
    return partial(gradient, **given) if given else gradient


def warn_unscaled(objective: Objective, estimator: Any) -> None:
    """Warns of float16 without a loss scale.

    Args:
        objective: one of ``objectives.with_precision`` says that its range is narrow.
        estimator: the gradient estimator of the step.
    """
    narrow = getattr(objective.loss, "narrow_range", False)
    if narrow and not getattr(estimator, "scales_loss", False):
        warnings.warn(
            "the objective computes in float16, whose gradients below 6e-8 are 0, without a loss "
            "scale: pass gradient=gradients.scaled() to make_train_step, or compute in bfloat16",
            stacklevel=3,
        )

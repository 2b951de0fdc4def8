"""One step, many ways: eager, on more devices, mapped, padded, in another order, by a variant.

Reads from: testing.randomness, testing.report, testing.runs, testing.subject. Used by:
testing.proving.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxdl.protocols import MASK, PyTree
from jaxdl.testing.randomness import draws_of
from jaxdl.testing.report import Finding, NotMade
from jaxdl.testing.runs import (
    Apart,
    farthest,
    float64_errors,
    on_devices,
    on_host,
    plain_run,
    rows_of,
    under_pmap,
)
from jaxdl.testing.subject import Subject

__all__ = ["Variant", "Ways"]

_DRAWS = "the step draws random numbers by the rows' places"


class Variant(NamedTuple):
    """A step that should be another one, written in another way.

    Attributes:
        step: ``(state, batch) -> (state, metrics)``.
        into: from a state of the step under proof to one of this.
        back: from a state of this to one of the step under proof.
        draws_alike: whether it draws the same random numbers. Microbatches do not: where a step
            draws any, they are not compared.
    """

    step: Callable[..., Any]
    into: Callable[[PyTree], PyTree] = lambda state: state
    back: Callable[[PyTree], PyTree] = lambda state: state
    draws_alike: bool = True


class Ways:
    """The reference run of a step, and the other ways to run it.

    Args:
        subject: the step.
        devices: numbers of devices to divide the rows over.
        mask: the batch field that is 0 on padding.
    """

    def __init__(self, subject: Subject, devices: Sequence[int], mask: str = MASK):
        self.subject, self.mask = subject, mask
        self.devices = [n for n in devices if 1 < n <= len(jax.devices())]
        self.batch = _uneven(subject.batches[0], mask)
        self.rows = rows_of(self.batch)
        self.run = plain_run(subject, self.batch)
        self.errors = float64_errors(subject, self.batch, self.run)
        self.draws = any(d.kind == "random_bits" for d in draws_of(subject).draws)

    def _compared(self, name: str, way: str, other: PyTree, mend: str) -> list[Finding]:
        apart = farthest(self.run, other, self.errors)
        return [] if apart is None else [_finding(name, way, apart, mend)]

    def eager(self) -> list[Finding]:
        """``jit`` against operation by operation."""
        with jax.disable_jit():
            batch = jax.tree.map(lambda x: x, self.batch)
            state, sums = self.subject.update(self.subject.state(), batch)
        other = on_host((state, sums))
        return self._compared(
            "jit-differs-from-eager",
            "compiled and run operation by operation",
            other,
            "look for what depends on tracing: a Python branch on a value, a counter, a clock",
        )

    def more_devices(self) -> list[Finding]:
        """One device against several."""
        found: list[Finding] = []
        for count in self._dividing():
            other = on_devices(self.subject, self.batch, count)
            found += self._compared(
                "devices-differ",
                f"on 1 device and on {count}",
                other,
                "use a generator whose bits do not depend on the mesh (threefry2x32), and reduce "
                "over the whole batch",
            )
            if found:
                break
        return found

    def mapped(self) -> list[Finding]:
        """``jit`` over the whole batch against ``pmap`` with its axis, rows unevenly real."""
        if self.subject.mapped is None:
            raise NotMade("the step takes no axis_name")
        # Jaxdl's keys are those of examples; others' are those of devices, as they should be.
        if self.draws and not self.subject.library:
            raise NotMade(_DRAWS)
        found: list[Finding] = []
        for count in self._dividing():
            other = under_pmap(self.subject, self.batch, count, "data")
            found += self._compared(
                "mapped-differs",
                f"as one batch and mapped over {count} devices",
                other,
                "sum over the axis first, lax.psum of the loss sum and of the weight, and divide "
                "once: a mean of means is wrong where devices hold different weights; fold "
                "lax.axis_index into keys that are not those of examples",
            )
            if found:
                break
        return found

    def _dividing(self) -> list[int]:
        rows = self.rows or 0
        found = [count for count in self.devices if rows and rows % count == 0]
        if not self.devices:
            raise NotMade("there is one device; more CPU devices are made before JAX starts")
        if not found:
            numbers = " or ".join(map(str, self.devices))
            raise NotMade(f"{self.rows or 'unequal'} rows do not divide over {numbers} devices")
        return found

    def padded(self) -> list[Finding]:
        """The batch as it is against the same with rows of rubbish that its mask leaves out."""
        batch, rows = self.batch, self.rows
        if not self.can_pad():
            raise NotMade(self.why_not())
        longer = {name: _with_rubbish(name, value, self.mask) for name, value in batch.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
        other = plain_run(self.subject, longer)
        return self._compared(
            "padding-counts",
            f"on {rows} rows and on the same with {rows} rows of padding",
            other,
            f"weight the loss, every metric and every statistic by batch[{self.mask!r}], and "
            "divide by its sum",
        )

    def reordered(self) -> list[Finding]:
        """The batch against its rows in another order."""
        rows = self.rows
        # Rows get random numbers by their place: moving them changes those.
        if self.draws:
            raise NotMade(_DRAWS)
        if not rows or rows < 2:
            raise NotMade("the batch has no two rows")
        order = np.random.default_rng(0).permutation(rows)
        other = plain_run(self.subject, jax.tree.map(lambda x: np.asarray(x)[order], self.batch))
        return self._compared(
            "row-order-counts",
            "with the rows of the batch in another order",
            other,
            "average over all rows at once: microbatches of unequal weight are summed and divided "
            "once at the end; no row may look at its neighbours",
        )

    def can_pad(self) -> bool:
        """Whether rows can be added that a mask leaves out."""
        return not self.why_not()

    def why_not(self) -> str:
        """Why no rows can be added; empty when they can."""
        if not isinstance(self.batch, Mapping) or self.mask not in self.batch:
            return f"the batch has no field {self.mask!r}"
        if not self.rows:
            return "the first axes of the batch's fields are not one number of rows"
        return _DRAWS if self.draws else ""

    def variant(self, name: str, other: Variant | Callable[..., Any]) -> list[Finding]:
        """The step against another that should be the same.

        Args:
            name: of the other.
            other: ``(state, batch) -> (state, metrics)``, or a ``Variant``.
        """
        other = other if isinstance(other, Variant) else Variant(other)
        if self.draws and not other.draws_alike:
            raise NotMade(f"{name}: other random numbers")
        subject = Subject(
            name,
            given=other.step,
            function=inspect.unwrap(other.step),
            state=other.into(self.subject.whole(self.subject.state())),
            batches=self.subject.batches,
        )
        state, sums = plain_run(subject, self.batch)
        return self._compared(
            "variant-differs",
            f"by {self.subject.name} and by {name}",
            (on_host(other.back(state)), sums),
            "sum losses and weights over microbatches and divide once; give both the same keys",
        )


def _uneven(batch: PyTree, mask: str) -> PyTree:
    """The batch with its last quarter masked: a mean of parts is then no mean of the whole."""
    rows = rows_of(batch)
    if not isinstance(batch, Mapping) or mask not in batch or not rows or rows < 4:
        return batch
    real = np.array(batch[mask])
    real[-(rows // 4) :] = 0
    return {**batch, mask: real}


def _with_rubbish(name: str, value: Any, mask: str) -> Any:
    value = np.asarray(value)
    # As many as there are rows, since a step may cut them; all alike, lest a mean be the same.
    more = np.zeros_like(value) if name == mask else np.repeat(value[:1], len(value), axis=0)
    if name != mask and np.issubdtype(value.dtype, np.floating):
        more = more * 3 + 1
    return np.concatenate([value, more.astype(value.dtype)])


def _finding(name: str, way: str, apart: Apart, mend: str) -> Finding:
    part, _, path = apart.path.partition("/")
    where = f"{'state' if part == '0' else 'metrics'}/{path}".rstrip("/")
    figures = f"differs by {apart.difference:.2e}, rounding explains {apart.bound:.2e}"
    return Finding(name, f"{way} the step is not the same: {where} {figures}", where, mend)

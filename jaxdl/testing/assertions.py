"""Assertions on a step, in chex's manner: all violations at once, with path, expected and got.

They take the arguments of ``prove``, make its checks one at a time, and raise ``ProofError``, an
``AssertionError``. For trees, shapes and dtypes chex has assertions already.

Reads from: errors, checkpoints, testing's checks. Used by: tests.
"""

from __future__ import annotations

import difflib
import itertools
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxdl import checkpoints
from jaxdl.errors import ProofError
from jaxdl.protocols import MASK, PyTree
from jaxdl.testing.compiling import check_compiles, check_fixed_point
from jaxdl.testing.memory import check_donation
from jaxdl.testing.numerics import loss_of
from jaxdl.testing.purity import check_purity
from jaxdl.testing.report import NotMade, Outcome, Report
from jaxdl.testing.runs import on_host
from jaxdl.testing.sameness import Ways
from jaxdl.testing.subject import Subject, subject_of
from jaxdl.tree_paths import leaf_paths

__all__ = [
    "assert_compiles_once",
    "assert_donated",
    "assert_learns",
    "assert_mesh_invariant",
    "assert_microbatch_invariant",
    "assert_padding_invariant",
    "assert_pure",
    "assert_resumes_exactly",
    "assert_same_program",
]

_NAMES = re.compile(r"\s*loc\([^\n]*\)|@[\w.$<>-]+|sym_name = \"[^\"]*\"|mhlo\.[\w.]+ = \"[^\"]*\"")


def _raise(subject: Subject, **findings: Any) -> None:
    outcomes = [Outcome(name.replace("_", " "), tuple(each)) for name, each in findings.items()]
    Report(subject.name, outcomes).check()


def assert_pure(step: Any, batches: Sequence[PyTree], **start: Any) -> None:
    """The step reads and changes nothing beside its arguments.

    Args:
        step: as of ``prove``.
        batches: as of ``prove``.
        **start: ``state`` or ``init``, and ``seed``.

    Raises:
        ProofError: with everything it reads or changes.
    """
    subject = subject_of(step, batches, **start)
    _raise(subject, purity=check_purity(subject))


def assert_compiles_once(step: Any, batches: Sequence[PyTree], **start: Any) -> None:
    """The state that comes back, and every batch, fit the program of the first call.

    Args:
        step: as of ``prove``.
        batches: as of ``prove``; the more, the more is seen.
        **start: ``state`` or ``init``, and ``seed``.

    Raises:
        ProofError: naming each leaf that changes, and how.
    """
    subject = subject_of(step, batches, **start)
    _raise(subject, fixed_point=check_fixed_point(subject), one_compile=check_compiles(subject))


def assert_donated(step: Any, batches: Sequence[PyTree], **start: Any) -> None:
    """Every leaf of a donated state is reused for the new one, and none is read afterwards.

    Args:
        step: as of ``prove``.
        batches: as of ``prove``.
        **start: ``state`` or ``init``, and ``seed``.

    Raises:
        ProofError: naming the leaves that are not.
    """
    subject = subject_of(step, batches, **start)
    _raise(subject, donation=check_donation(subject))


def assert_mesh_invariant(
    step: Any, batches: Sequence[PyTree], *, devices: Sequence[int] = (1, 2, 8), **start: Any
) -> None:
    """The step is the same on any number of devices, and under ``pmap`` if it takes ``axis_name``.

    Args:
        step: as of ``prove``.
        batches: as of ``prove``; the first is used.
        devices: how many.
        **start: ``state`` or ``init``, and ``seed``.

    Raises:
        ProofError: with the leaf that differs most, by how much, and what rounding explains.
    """
    subject = subject_of(step, batches, **start)
    ways = Ways(subject, devices)
    try:
        mapped = [] if subject.mapped is None else ways.mapped()
        _raise(subject, devices=ways.more_devices(), pmap=mapped)
    except NotMade as why:
        raise ProofError(
            f"other devices cannot be tried: {why}",
            expected=f"at least 2 of {tuple(devices)} devices, and rows that they divide",
            do="use the fixture devices of jaxdl's pytest plugin, and a batch of 8 or 16 rows",
        ) from why


def assert_microbatch_invariant(
    step: Any, batches: Sequence[PyTree], others: Mapping[str, Callable[..., Any]], **start: Any
) -> None:
    """The step is the same as others that go through the batch in parts.

    Args:
        step: as of ``prove``.
        batches: as of ``prove``; a quarter of the first is masked, where it has a mask.
        others: steps by name, such as ``{"4 microbatches": other.update}``.
        **start: ``state`` or ``init``, and ``seed``.

    Raises:
        ProofError: with the leaf that differs most, by how much, and what rounding explains.
    """
    subject = subject_of(step, batches, **start)
    ways = Ways(subject, (1,))
    found = [each for name, other in others.items() for each in ways.variant(name, other)]
    _raise(subject, variants=found)


def assert_padding_invariant(
    step: Any, batches: Sequence[PyTree], *, mask: str = MASK, **start: Any
) -> None:
    """Rows that a mask leaves out change neither the new state nor any metric.

    Args:
        step: as of ``prove``.
        batches: as of ``prove``; the first is used, and must have the field ``mask``.
        mask: the field that is 0 on padding.
        **start: ``state`` or ``init``, and ``seed``.

    Raises:
        ProofError: with the leaf that differs most; or the batch has no mask, or the step draws
            random numbers by the rows' places, so that it cannot be told.
    """
    subject = subject_of(step, batches, **start)
    ways = Ways(subject, (1,), mask)
    if not ways.can_pad():
        raise ProofError(
            f"padding cannot be tried: {ways.why_not()}",
            expected=f"a batch of rows with the field {mask!r}, and no random draws",
            do="give the batch a mask, and turn dropout off for this test",
        )
    _raise(subject, padding=ways.padded())


def assert_same_program(
    step: Callable[..., Any], other: Callable[..., Any], *arguments: Any
) -> None:
    """Two functions lower to one program, but for names.

    Args:
        step: a function, compiled or not.
        other: the same.
        *arguments: of both; arrays or shapes.

    Raises:
        ProofError: with the first lines that differ.

    Examples:
        >>> assert_same_program(lambda x: x * 2 + 1, lambda y: y * 2 + 1, 2.0)
    """
    texts = [_program(each, arguments) for each in (step, other)]
    if texts[0] == texts[1]:
        return
    lines = difflib.unified_diff(texts[0], texts[1], "the step", "the other", n=1, lineterm="")
    shown = "\n    ".join(itertools.islice(lines, 24))
    raise ProofError(
        f"the two lower to different programs:\n    {shown}",
        expected="the same operations on the same shapes, in one order",
        do="read the first line that differs: a dtype, a constant, an operation more",
    )


def _program(function: Callable[..., Any], arguments: Sequence[Any]) -> list[str]:
    compiled = function if hasattr(function, "lower") else jax.jit(function)
    text = compiled.lower(*arguments).as_text()  # pyright: ignore[reportFunctionMemberAccess]
    names: dict[str, str] = {}

    def renamed(match: re.Match[str]) -> str:
        word = match[0]
        if not word.startswith("@"):
            return ""
        return names.setdefault(word, f"@f{len(names)}")

    return [_NAMES.sub(renamed, line) for line in text.splitlines()]


def assert_learns(
    step: Any,
    batches: Sequence[PyTree],
    *,
    below: float,
    steps: int = 100,
    loss: Callable[[PyTree], Any] = loss_of,
    **start: Any,
) -> None:
    """The loss of the last batches is below a bound after some steps over a few batches.

    Args:
        step: as of ``prove``.
        batches: gone through again and again.
        below: what the mean loss of the last round must be below.
        steps: how many.
        loss: from the metrics of a step; their field ``"loss"`` by default.
        **start: ``state`` or ``init``, and ``seed``.

    Raises:
        ProofError: with the first and the last losses.
    """
    subject = subject_of(step, batches, **start)
    update, state = subject.compiled, subject.state()
    losses: list[float] = []
    for index in range(steps):
        state, sums = update(state, subject.batches[index % len(subject.batches)])
        losses.append(float(loss(sums)))
    count = min(len(subject.batches), steps)
    last = float(np.mean(losses[-count:]))
    if last < below:
        return
    first = float(np.mean(losses[:count]))
    raise ProofError(
        f"the loss went from {first:.4g} to {last:.4g} in {steps} steps",
        expected=f"below {below:g}",
        do="try one batch first; then a smaller learning rate, and the sign of the update",
    )


def assert_resumes_exactly(
    step: Any, batches: Sequence[PyTree], *, folder: Path | str | None = None, **start: Any
) -> None:
    """A run that is saved half-way and goes on from the files ends in the same bits.

    Args:
        step: as of ``prove``.
        batches: two or more; the state is saved after half of them.
        folder: where to save; a temporary one when ``None``.
        **start: ``state`` or ``init``, and ``seed``.

    Raises:
        ProofError: naming the leaves that end otherwise.
    """
    subject = subject_of(step, batches, **start)
    update, half = subject.compiled, max(1, len(subject.batches) // 2)
    state = subject.state()
    for batch in subject.batches[:half]:
        state = update(state, batch)[0]
    with tempfile.TemporaryDirectory() as made:
        other = _through_files(state, Path(folder or made))
    for batch in subject.batches[half:]:
        state, other = update(state, batch)[0], update(other, batch)[0]
    lines = [
        f"{path}: {a} / {b}"
        for path, a, b in zip(
            leaf_paths(state),
            jax.tree.leaves(on_host(state)),
            jax.tree.leaves(on_host(other)),
            strict=True,
        )
        if a.dtype != b.dtype or a.tobytes() != b.tobytes()
    ]
    if lines:
        raise ProofError(
            "a run that was resumed ends in other bits:\n    " + "\n    ".join(lines[:8]),
            expected="the same bits in every leaf of the state",
            do="keep all that a step depends on in the state: keys, counters, averages",
        )


def _through_files(state: PyTree, folder: Path) -> PyTree:
    """A state as it is read back, its Python numbers as they are."""
    arrays = jax.tree.map(lambda x: x if isinstance(x, jax.Array) else None, state)
    store = checkpoints.Checkpoints(folder)
    store.save(1, arrays)
    store.wait()
    like = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), arrays
    )
    read = store.restore(like).state
    store.close()
    return jax.tree.map(
        lambda x, old: old if x is None else x, read, state, is_leaf=lambda x: x is None
    )

"""``prove``: every check over one step, jaxdl's or not.

Reads from: testing's checks. Used by: testing.assertions, cli, and by hand.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax

from jaxdl.errors import ConfigError, closest
from jaxdl.protocols import MASK, PyTree
from jaxdl.testing.compiling import check_compiles, check_fixed_point
from jaxdl.testing.finite_differences import check_gradient
from jaxdl.testing.learning import check_learning
from jaxdl.testing.memory import check_constants, check_donation, check_host_calls
from jaxdl.testing.numerics import check_dtypes, check_extremes
from jaxdl.testing.purity import check_purity, is_users
from jaxdl.testing.randomness import check_randomness
from jaxdl.testing.report import FINDINGS, Finding, NotMade, Outcome, Report
from jaxdl.testing.sameness import Variant, Ways
from jaxdl.testing.subject import Subject, subject_of

__all__ = ["CHECKS", "prove"]

CHECKS = tuple(FINDINGS)
"""The checks, in the order they are made."""

_SLOW = ("eager", "devices", "pmap", "padding", "row order", "variants", "extremes", "gradient")


def prove(
    step: Any,
    batches: Sequence[PyTree],
    *,
    state: PyTree = None,
    init: Callable[[Any, PyTree], PyTree] | None = None,
    seed: int = 0,
    devices: Sequence[int] = (1, 2, 8),
    variants: Mapping[str, Variant | Callable[..., Any]] | None = None,
    loss: Callable[[PyTree, PyTree], Any] | None = None,
    params: Callable[[PyTree], PyTree] | None = None,
    frozen: Sequence[str] = (),
    mask: str = MASK,
    skip: Sequence[str] = (),
    fast: bool = False,
    name: str | None = None,
) -> Report:
    """Looks for the mistakes of a train step, and names each with its evidence, place and mend.

    The step is traced, compiled and run a few times on small batches; nothing of it is changed.

    Args:
        step: any ``(state, batch) -> (state, metrics)``, compiled or not, or a ``TrainStep``,
            placed or not. One that takes ``axis_name`` is also run under ``jax.pmap``.
        batches: two or more, as a loop would give them, of mappings whose first axes are rows.
        state: what the loop starts from.
        init: ``(key, batch) -> state``, in place of a state; a ``TrainStep`` brings its own.
        seed: of the key for ``init``.
        devices: how many devices to run on; those that the machine lacks, or that do not divide the
            rows, are left out.
        variants: other steps that should be the same one, by name: with microbatches, with remat,
            with a scanned stack (see ``Variant``).
        loss: ``(params, batch) -> scalar``; its gradient is held against finite differences.
        params: where a state has its parameters; ``state.params`` or ``state["params"]`` when
            ``None``.
        frozen: regular expressions of parameters that must not move.
        mask: the batch field that is 0 on padding.
        skip: names of ``CHECKS`` to leave out.
        fast: only what needs a trace and a compile or two: no eager run, no other devices.
        name: of the step in the report; the function's own when ``None``.

    Returns:
        A ``Report``; ``report.ok`` says whether nothing was found, ``report.check()`` raises.

    Raises:
        ConfigError: there is no batch or no first state, or no such check.

    Examples:
        >>> import jax.numpy as jnp
        >>> def step(state, batch):
        ...     error = state["w"] * batch["x"] - batch["y"]
        ...     grad = 2 * jnp.mean(error * batch["x"])
        ...     return {"w": state["w"] - 0.1 * grad}, {"loss": jnp.mean(error**2)}
        >>> batch = {"x": jnp.arange(4.0), "y": jnp.ones(4)}
        >>> prove(step, [batch], state={"w": jnp.zeros(())}, fast=True).ok
        True
    """
    unknown = [name for name in skip if name not in CHECKS]
    if unknown:
        raise ConfigError(
            f"there is no check {unknown[0]!r}",
            expected=f"names among {', '.join(CHECKS)}",
            do=closest(unknown[0], CHECKS),
        )
    subject = subject_of(
        step, batches, state=state, init=init, seed=seed, frozen=frozen, params=params
    )
    subject.name = name or subject.name
    untraceable = _untraceable(subject)
    if untraceable is not None:
        rest = [Outcome(name, skipped="the step cannot be traced") for name in CHECKS[1:]]
        return Report(subject.name, [Outcome(CHECKS[0], (untraceable,)), *rest])
    made = _checks(subject, devices, mask, variants or {}, loss, fast=fast)
    left = {*skip, *(_SLOW if fast else ())}
    outcomes: list[Outcome] = []
    for name in CHECKS:
        reason = "left out" if name in skip else "fast" if name in left else None
        outcomes.append(_made(name, made[name], reason))
    return Report(subject.name, outcomes)


def _untraceable(subject: Subject) -> Finding | None:
    try:
        _ = subject.traced
    except (
        jax.errors.ConcretizationTypeError,
        jax.errors.TracerArrayConversionError,
        jax.errors.TracerIntegerConversionError,
        jax.errors.NonConcreteBooleanIndexError,
    ) as error:
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if is_users(frame.filename)]
        where = f"{own[-1].filename}:{own[-1].lineno}" if own else subject.name
        return Finding(
            "not-traceable",
            f"the step needs a value while it is traced: {str(error).splitlines()[0]}",
            where,
            "branch with jnp.where or jax.lax.cond, and keep float(), int(), bool() and NumPy for "
            "after the step",
        )
    return None


class _Noted(list[Finding]):
    """Findings of a check, and what of it was made."""

    note = ""


def _made(name: str, check: Callable[[], list[Finding]], reason: str | None) -> Outcome:
    if reason is not None:
        return Outcome(name, skipped=reason)
    started = time.perf_counter()
    try:
        found = check()
    except NotMade as why:
        return Outcome(name, skipped=str(why), seconds=time.perf_counter() - started)
    except jax.errors.UnexpectedTracerError:
        reason = "the step reads a tracer that it kept outside"
        return Outcome(name, skipped=reason, seconds=time.perf_counter() - started)
    seconds = time.perf_counter() - started
    return Outcome(name, tuple(found), seconds=seconds, note=getattr(found, "note", ""))


def _checks(
    subject: Subject,
    devices: Sequence[int],
    mask: str,
    variants: Mapping[str, Variant | Callable[..., Any]],
    loss: Callable[..., Any] | None,
    *,
    fast: bool,
) -> dict[str, Callable[[], list[Finding]]]:
    ways: list[Ways] = []

    def way(name: str) -> Callable[[], list[Finding]]:
        def made() -> list[Finding]:
            if not ways:
                ways.append(Ways(subject, devices, mask))
            return getattr(ways[0], name)()

        return made

    def varied() -> list[Finding]:
        if not variants:
            raise NotMade("no variants=... were given")
        if not ways:
            ways.append(Ways(subject, devices, mask))
        return _varied(ways[0], variants)

    return {
        "purity": partial(check_purity, subject),
        "randomness": partial(check_randomness, subject),
        "fixed point": partial(check_fixed_point, subject),
        "one compile": partial(check_compiles, subject),
        "donation": partial(check_donation, subject, compiles=not fast),
        "host calls": partial(check_host_calls, subject),
        "constants": partial(check_constants, subject),
        "eager": way("eager"),
        "devices": way("more_devices"),
        "pmap": way("mapped"),
        "padding": way("padded"),
        "row order": way("reordered"),
        "variants": varied,
        "dtypes": partial(check_dtypes, subject),
        "extremes": partial(check_extremes, subject),
        "gradient": partial(check_gradient, subject, loss),
        "learning": partial(check_learning, subject),
    }


def _varied(ways: Ways, variants: Mapping[str, Variant | Callable[..., Any]]) -> _Noted:
    """Every variant that can be compared, and the names of the others."""
    found, made, not_made = _Noted(), list[str](), list[str]()
    for name, other in variants.items():
        try:
            found += ways.variant(name, other)
            made.append(name)
        except NotMade as why:
            not_made.append(str(why))
    if not made:
        raise NotMade("; ".join(not_made))
    found.note = "; ".join([", ".join(made), *(f"not {why}" for why in not_made)])
    return found

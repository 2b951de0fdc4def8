"""What a proof found: one finding a mistake, with its evidence, its place and its mend.

Reads from: errors. Used by: the modules beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from jaxdl.errors import ProofError

__all__ = ["FINDINGS", "Finding", "NotMade", "Outcome", "Report"]

FINDINGS = {
    "purity": (
        *("not-traceable", "leaked-tracer", "changed-outside", "mutated-argument", "host-print"),
        *("host-clock", "host-randomness", "impure-trace"),
    ),
    "randomness": (
        *("key-reused", "key-not-folded", "key-never-used", "key-shared-by-devices"),
        "device-dependent-generator",
    ),
    "fixed point": ("state-not-fixed", "weak-type-in-state"),
    "one compile": ("recompiles",),
    "donation": ("not-donated", "donated-buffer-read"),
    "host calls": ("host-callback",),
    "constants": ("large-constant",),
    "eager": ("jit-differs-from-eager",),
    "devices": ("devices-differ",),
    "pmap": ("mapped-differs",),
    "padding": ("padding-counts",),
    "row order": ("row-order-counts",),
    "variants": ("variant-differs",),
    "dtypes": ("float64-creep", "half-precision-sum"),
    "extremes": ("not-finite",),
    "gradient": ("wrong-gradient",),
    "learning": (
        *("frozen-moves", "frozen-optimizer-state", "never-trained", "params-not-carried"),
        *("optimizer-state-forgotten", "optimizer-updated-twice", "statistics-not-updated"),
        *("step-not-counted", "average-late", "average-not-updated", "climbs"),
    ),
}
"""The checks, in the order they are made, and the names of what each finds."""


class NotMade(Exception):  # noqa: N818 - no error: a check says why it does not apply
    """Raised by a check that cannot be made of this step, with the reason."""


class Finding(NamedTuple):
    """One mistake of a step.

    Attributes:
        name: of the kind of mistake, such as ``"key-reused"``; stable, to be tested for.
        evidence: what was seen, in numbers where there are any.
        where: the file and line, or the path of the leaf.
        mend: what to do.
    """

    name: str
    evidence: str
    where: str
    mend: str

    def __str__(self) -> str:
        """The finding in four lines."""
        return f"{self.name}: {self.evidence}\n    at: {self.where}\n    mend: {self.mend}"


class Outcome(NamedTuple):
    """What one check came to.

    Attributes:
        check: its name.
        findings: none when it passed.
        skipped: why it was not made, or ``None``.
        seconds: how long it took.
        note: what of it was made, where that is not the same for every step.
    """

    check: str
    findings: tuple[Finding, ...] = ()
    skipped: str | None = None
    seconds: float = 0.0
    note: str = ""

    @property
    def made(self) -> bool:
        """Whether the check was made."""
        return self.skipped is None

    @property
    def word(self) -> str:
        """``"passed"``, ``"skipped"`` or ``"FOUND n"``."""
        if self.findings:
            return f"FOUND {len(self.findings)}"
        return "passed" if self.skipped is None else "skipped"


class Report:
    """All outcomes of a proof.

    Attributes:
        step: the name of the step.
        outcomes: one a check, in the order they were made.
    """

    def __init__(self, step: str, outcomes: Sequence[Outcome]):
        self.step = step
        self.outcomes = tuple(outcomes)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Every finding, in order."""
        return tuple(finding for outcome in self.outcomes for finding in outcome.findings)

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    @property
    def names(self) -> set[str]:
        """The kinds of mistake that were found."""
        return {finding.name for finding in self.findings}

    def __iter__(self) -> Iterator[Finding]:
        """The findings."""
        return iter(self.findings)

    def __str__(self) -> str:
        """A table of the checks, then the findings."""
        width = max((len(outcome.check) for outcome in self.outcomes), default=0)
        lines = [f"proof of {self.step}"]
        for outcome in self.outcomes:
            told = outcome.skipped or outcome.note
            reason = f"  ({told})" if told else ""
            time = f"{outcome.seconds:6.1f} s"
            lines.append(f"  {outcome.check:<{width}}  {time}  {outcome.word}{reason}")
        lines += ["", *(str(finding) for finding in self.findings)]
        made = sum(outcome.made for outcome in self.outcomes)
        count = len(self.findings)
        word = "nothing found" if self.ok else f"{count} finding{'s' if count > 1 else ''}"
        lines.append(f"{made} of {len(self.outcomes)} checks made: {word}")
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """What JSON can hold: the step, whether it is right, every outcome and its findings."""
        outcomes = [
            {**each._asdict(), "findings": [finding._asdict() for finding in each.findings]}
            for each in self.outcomes
        ]
        return {"step": self.step, "ok": self.ok, "outcomes": outcomes}

    def check(self) -> Report:
        """Itself, when nothing was found.

        Raises:
            ProofError: with the table and all findings.
        """
        if self.ok:
            return self
        raise ProofError(
            f"the step has {len(self.findings)} mistake(s)\n{self}",
            expected="a step that every check passes",
            do=self.findings[0].mend,
        )

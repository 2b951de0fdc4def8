"""Every error that jaxdl raises, one class a cause, and the one way to write its message.

A message has three parts: what was wrong (with the path, shape or file), what was expected, and
what to do about it. ``closest`` adds the did-you-mean to names.

Reads from: nothing. Used by: everything.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

__all__ = [
    "BatchError",
    "CacheError",
    "CheckpointError",
    "ConfigError",
    "DamagedError",
    "DataError",
    "DivergedError",
    "DonationError",
    "HostError",
    "Interrupted",
    "JaxdlError",
    "LayoutError",
    "LossSpikeError",
    "MissingExtraError",
    "NonFiniteError",
    "ObjectiveError",
    "PathError",
    "PlanError",
    "ProgramError",
    "ProofError",
    "RecompileError",
    "SealError",
    "closest",
]


class JaxdlError(Exception):
    """The root of every error of jaxdl.

    Args:
        what: what was wrong, with the path, shape, value or file.
        expected: what would have been right.
        do: what the reader can do about it.

    Examples:
        >>> print(JaxdlError("batch has no field 'label'", expected="image, label", do="add it"))
        batch has no field 'label'
          expected: image, label
          do: add it
    """

    def __init__(self, what: str, *, expected: str, do: str):
        self.what, self.expected, self.do = what, expected, do
        super().__init__(f"{what}\n  expected: {expected}\n  do: {do}")

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by the three parts, so that the error survives a process pool."""
        return _rebuild, (type(self), self.what, self.expected, self.do)


def _rebuild(cls: type[JaxdlError], what: str, expected: str, do: str) -> JaxdlError:
    return cls(what, expected=expected, do=do)


class BatchError(JaxdlError, ValueError):
    """A batch lacks a field, or a field has the wrong rank, dtype, range or length."""


class DataError(JaxdlError, ValueError):
    """A data source is empty, unreadable or not what its name says."""


class CacheError(JaxdlError, RuntimeError):
    """The decoded cache on disk is torn, altered, not writable, or the disk is full."""


class ObjectiveError(JaxdlError, ValueError):
    """An objective, metric or gradient estimator breaks its contract."""


class PathError(JaxdlError, ValueError):
    """A rule, mask or freeze pattern names a parameter path that does not exist."""


class LayoutError(JaxdlError, ValueError):
    """A batch or parameter does not divide over its mesh axis, or devices are missing."""


class ProofError(JaxdlError, AssertionError):
    """A step has mistakes that its proof found."""


class RecompileError(JaxdlError, RuntimeError):
    """A placed step would be compiled a second time."""


class DonationError(JaxdlError, RuntimeError):
    """The compiled step does not reuse the memory of the state it was given."""


class HostError(JaxdlError, RuntimeError):
    """A host of a run is absent, gone, failed, or runs something else than the others."""


class DivergedError(JaxdlError, RuntimeError):
    """The training went wrong at some steps.

    Attributes:
        steps: the first and the last of the steps that are suspected, where they are known.
    """

    steps: tuple[int, int] | None = None


class NonFiniteError(DivergedError):
    """The loss or a parameter became NaN or infinite."""


class LossSpikeError(DivergedError):
    """The loss rose far above what it was."""


class ConfigError(JaxdlError, ValueError):
    """A setting, flag or recipe cannot be used as written."""


class CheckpointError(JaxdlError, RuntimeError):
    """A run folder or checkpoint is missing, incomplete or of another shape."""


class DamagedError(CheckpointError):
    """A checkpoint is torn, truncated, altered, or holds parameters that are not finite."""


class SealError(JaxdlError, RuntimeError):
    """Something sealed is not for this key or role, or is signed by nobody who is trusted."""


class Interrupted(JaxdlError, RuntimeError):  # noqa: N818 - what it says is no mistake
    """A signal asked a waiting run to end. ``fit`` handles it; nobody else sees it."""


class ProgramError(JaxdlError, RuntimeError):
    """The text of a compiled program holds something that jaxdl cannot read."""


class PlanError(JaxdlError, ValueError):
    """A step cannot be planned: no TPU compiler, or one that does not take the program."""


class MissingExtraError(JaxdlError, ImportError):
    """A feature needs an optional dependency that is not installed."""


def closest(name: str, known: Iterable[str]) -> str:
    """The did-you-mean of a wrong name.

    Args:
        name: the name that was not found.
        known: the names there are.

    Returns:
        ``"did you mean 'x'?"`` when one of ``known`` is close, else the list of them.

    Examples:
        >>> closest("labels", ["image", "label"])
        "did you mean 'label'?"
        >>> closest("zebra", ["image", "label"])
        'there are: image, label'
    """
    names = list(known)
    match = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if match:
        return f"did you mean {match[0]!r}?"
    return "there are: " + (", ".join(names) if names else "none")

"""What the process that compiles tells the one that was asked: a text, or an error, as a file.

Reads from: errors. Used by: cli.planning, cli.plan_worker.
"""

from __future__ import annotations

import json
from pathlib import Path

from jaxdl import errors
from jaxdl.errors import JaxdlError

__all__ = ["read_answer", "write_answer", "write_error"]


def write_answer(path: Path, text: str, *, fits: bool) -> None:
    """Leaves an answer.

    Args:
        path: of the file.
        text: to print.
        fits: whether the step fits.
    """
    path.write_text(json.dumps({"text": text, "fits": fits}))


def write_error(path: Path, error: JaxdlError) -> None:
    """Leaves an error.

    Args:
        path: of the file.
        error: what went wrong.
    """
    parts = {"what": error.what, "expected": error.expected, "do": error.do}
    path.write_text(json.dumps({"error": type(error).__name__, **parts}))


def read_answer(path: Path) -> tuple[str, bool]:
    """The text, and whether the step fits.

    Args:
        path: of the file.

    Raises:
        JaxdlError: the error that was left there.
    """
    left = json.loads(path.read_text())
    if "error" in left:
        kind = getattr(errors, left["error"], JaxdlError)
        # A run that failed and a plan that cannot be made end with different exit codes.
        kind = errors.PlanError if issubclass(kind, RuntimeError) else kind
        raise kind(left["what"], expected=left["expected"], do=left["do"])
    return left["text"], left["fits"]

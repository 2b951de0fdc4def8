"""Output that nobody reads to its end, as of ``jaxdl ... --help | head``.

Reads from: nothing. Used by: cli.verbs, cli.plan_worker.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

__all__ = ["while_it_is_read"]


def while_it_is_read(run: Callable[[], int]) -> int:
    """Runs a command, and ends it quietly when whoever read its output has seen enough.

    The output is flushed here, since at the end of the process a closed pipe could only be
    complained of. What nobody reads is dropped.

    Args:
        run: the command; returns its exit code.

    Returns:
        The exit code; 0 when the output ended the command.
    """
    code = 0
    try:
        try:
            code = run()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code

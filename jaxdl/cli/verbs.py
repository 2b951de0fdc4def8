"""``jaxdl VERB ...``: finds the verb, runs it, turns errors into three lines and an exit code.

Nothing heavy is imported before the verb is known, so ``jaxdl --help`` is quick.

Reads from: errors, cli.pipes. Used by: the ``jaxdl`` command.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import jaxdl
from jaxdl.cli.pipes import while_it_is_read
from jaxdl.errors import ConfigError, JaxdlError, closest

__all__ = ["HELP", "main"]

HELP = """\
usage: jaxdl VERB ...

  train FILE         train the recipe that a file defines
  resume RUN         go on with a run that was cut, as if it had not been
  evaluate RUN ...   measure a trained run again, or compare runs on the same examples
  report RUN         write the page of a run, one HTML file; of two runs, their comparison
  explain RUN        why it gave its scores: heat maps, tokens, nearest training examples
  attack RUN         measure a trained run under PGD
  robustness RUN     measure it on corrupted images, at five severities
  certify RUN        say how far its labels are certain under noise
  judge ...          make a blind page for human judges, and read what they say
  checkpoint ...     list, verify, compare, export and seal the checkpoints of a run
  plan FILE          compile the step for a TPU slice without one: memory, traffic, time
  prove FILE         look for the mistakes of a step: of a recipe, or MODULE:NAME of your own
  rehearse FILE      run it as many hosts on this machine, with a fault or without
  replay RUN         repeat one step of a run with every operation watched
  data prepare NAME  prepare a TFDS data set from files on disk
  data ls            list what is prepared
  doctor             show versions and devices, what is missing and how to get it

`jaxdl VERB --help` says more. A file's own options follow it:

  jaxdl train examples/digits.py --steps 500 --optimizer.learning-rate 3e-3

exit codes: 0 done, 1 the run failed, 2 it cannot be done as asked, 75 ended by SIGTERM and saved
(start it again to go on), 130 ended by Ctrl-C
"""

_VERBS = {
    "train": "jaxdl.cli.training:run",
    "resume": "jaxdl.cli.training:resume",
    "checkpoint": "jaxdl.cli.checkpoints:run",
    "plan": "jaxdl.cli.planning:run",
    "prove": "jaxdl.cli.proving:run",
    "rehearse": "jaxdl.cli.rehearsing:run",
    "replay": "jaxdl.cli.replaying:run",
    "evaluate": "jaxdl.cli.measuring:run",
    "report": "jaxdl.cli.reporting:run",
    "explain": "jaxdl.cli.explaining:run",
    "attack": "jaxdl.cli.attacking:attack",
    "robustness": "jaxdl.cli.attacking:corrupt",
    "certify": "jaxdl.cli.attacking:certify",
    "judge": "jaxdl.cli.judging:run",
    "data": "jaxdl.cli.datasets:run",
    "doctor": "jaxdl.cli.doctor:run",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: the words after ``jaxdl``; those of the process when ``None``.

    Returns:
        The exit code: 0 done; 1 the run failed (an error of ``jaxdl.errors`` that is a
        ``RuntimeError``); 2 it cannot be done as asked (any other of them); 75 ended by SIGTERM
        and saved; 130 ended by Ctrl-C.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    return while_it_is_read(lambda: _ended(words))


def _ended(words: list[str]) -> int:
    """Runs one command to its exit code, whatever ends it."""
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _say
            return _run(words)
    except JaxdlError as error:
        with contextlib.suppress(BrokenPipeError):
            sys.stdout.flush()
        print(f"error: {error}", file=sys.stderr)
        return 1 if isinstance(error, RuntimeError) else 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except SystemExit as end:
        # tyro ends the process itself, after --help and after a wrong option.
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 2


def _say(message: Warning | str, *where: Any) -> None:
    """A warning for people: what it says, without the line of code that says it."""
    print(f"warning: {message}", file=sys.stderr)


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0
    if words[0] == "--version":
        print(jaxdl.__version__)
        return 0
    verb, rest = words[0], words[1:]
    if verb not in _VERBS:
        raise ConfigError(
            f"there is no verb {verb!r}",
            expected=f"one of {', '.join(_VERBS)}",
            do=f"{closest(verb, _VERBS)} (jaxdl --help lists them)",
        )
    module, _, function = _VERBS[verb].partition(":")
    return int(getattr(importlib.import_module(module), function)(rest))

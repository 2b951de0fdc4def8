"""``jaxdl plan FILE --on v5e-256``: the train step of a file, compiled for a slice without one.

The compile runs in a process of its own. So this one never loads libtpu, which holds a lock for the
life of a process, and a crash of the compiler is an error in words.

Reads from: errors, cli.arguments, tpu.plans.compiling, cli.plan_answers. Used by: cli.verbs.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from jaxdl.cli.arguments import check_file_first
from jaxdl.cli.plan_answers import read_answer
from jaxdl.errors import PlanError
from jaxdl.tpu.plans.compiling import QUIET

__all__ = ["HELP", "run"]

HELP = """\
usage: jaxdl plan FILE --on SLICE [options] [the file's own options]

Compiles the train step that FILE defines for a TPU slice, on this machine, without a TPU: what it
takes of the memory, what it sends between chips, how long a step should take. SLICE is a name such
as v5e-256, v5p-128 or '2x v6e-256', or a shape such as v5e:16x16.

  jaxdl plan examples/digits.py --on v5e-16 --layout fsdp

`jaxdl plan FILE --help` lists every option. It needs libtpu: pip install 'jaxdl[tpu]'

exit codes: 0 it fits, 1 it does not, 2 it cannot be asked
"""

_CHILD = "import sys; from jaxdl.cli.plan_worker import main; sys.exit(main(sys.argv[1:]))"


def run(argv: Sequence[str]) -> int:
    """The verb.

    Args:
        argv: the words after ``plan``.

    Returns:
        0 when the step fits the slice, 1 when it does not.

    Raises:
        ConfigError: no file was given.
        PlanError: the process that compiles ended without an answer.
        JaxdlError: what went wrong in it.
    """
    if argv and argv[0] in ("-h", "--help"):
        print(HELP, end="")
        return 0
    check_file_first(
        argv, "jaxdl plan FILE --on SLICE", "jaxdl plan examples/digits.py --on v5e-16"
    )
    with tempfile.TemporaryDirectory(prefix="jaxdl-plan-") as folder:
        answer = Path(folder) / "answer.json"
        code, told = _ask([str(answer), *argv])
        if answer.is_file():
            text, fits = read_answer(answer)
            print(text)
            return 0 if fits else 1
    if code in (0, 2):
        # After --help, and after a wrong option, which the other process explained.
        return code
    raise _no_answer(code, told)


def _ask(words: list[str]) -> tuple[int, deque[str]]:
    """Runs the process that compiles; what it says on the way is shown, its last lines are kept."""
    sys.stdout.flush()
    environment = {**QUIET, **os.environ, "JAX_PLATFORMS": "cpu"}
    last: deque[str] = deque(maxlen=20)
    with subprocess.Popen(
        [sys.executable, "-c", _CHILD, *words],
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env=environment,
    ) as process:
        try:
            for line in process.stderr or ():
                sys.stderr.write(line)
                sys.stderr.flush()
                if line.strip():
                    last.append(line.strip())
        except BaseException:
            process.kill()
            raise
    return process.returncode, last


def _no_answer(code: int, told: deque[str]) -> BaseException:
    if code == 130:
        return KeyboardInterrupt()
    ended = f"with exit code {code}"
    if code < 0:
        ended = f"by {signal.Signals(-code).name}"
    if code == -signal.SIGKILL:
        ended += ", as the system does when memory runs out"
    return PlanError(
        f"the process that compiles ended {ended}" + (f": {told[-1]}" if told else ""),
        expected="an answer of the TPU compiler",
        do="see what stands above; `jaxdl doctor` shows whether libtpu is the one JAX wants",
    )

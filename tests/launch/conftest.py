"""A machine with stand-ins for gcloud, kubectl, docker, sbatch and the like, first on PATH.

Each logs its words (with a NUL after each) and answers by a table: for a program and a text in its
arguments, a list of answers that is gone through, the last of which stays. They are shell scripts,
as hundreds of them are started.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
TPU = ROOT / "tpu"
PROGRAMS = (
    "gcloud",
    "kubectl",
    "docker",
    "sbatch",
    "squeue",
    "scancel",
    "scontrol",
    "srun",
    "sleep",
)

STAND_IN = r"""#!/usr/bin/env bash
printf '%s\0' "${0##*/}" "$@" $'\x1e' >>"$STAND_IN/calls"
if [[ " $* " == *" scp "* ]]; then
  for word in "$@"; do [[ $word != /* || ! -f $word ]] || cp -p "$word" "$STAND_IN/sent"; done
fi
while IFS=$'\t' read -r number program last word; do
  [[ $program == "${0##*/}" && $* == *"$word"* ]] || continue
  count=0
  [[ ! -e $STAND_IN/seen-$number ]] || count=$(<"$STAND_IN/seen-$number")
  echo $((count + 1)) >"$STAND_IN/seen-$number"
  answer=$STAND_IN/answer-$number-$((count < last ? count : last))
  printf '%s' "$(<"$answer.out")"$'\n'
  [[ ! -s $answer.err ]] || printf '%s\n' "$(<"$answer.err")" >&2
  exit "$(<"$answer.code")"
done <"$STAND_IN/rules"
"""


class Cloud:
    """The stand-ins of one test, and what they were called with."""

    def __init__(self, folder: Path):
        self.folder, self.home, self.bin = folder / "stand-in", folder / "home", folder / "bin"
        for each in (self.folder, self.folder / "sent", self.home, self.bin):
            each.mkdir(parents=True)
        for name in PROGRAMS:
            self.program(name)
        self.rules: list[Any] = []
        self.environment: dict[str, str] = {}

    def program(self, name: str, text: str | None = None) -> None:
        path = self.bin / name
        path.write_text(text or STAND_IN)
        path.chmod(0o755)

    def answers(self, program: str, word: str, *answers: str | tuple[str, str, int]) -> None:
        """Texts are answers that succeed; the rule that was given first wins."""
        full = [(each + "\n", "", 0) if isinstance(each, str) else each for each in answers]
        self.rules.append((program, word, full))

    def states(self, *states: str) -> None:
        """The states of the queued resource, one a question; ABSENT is gcloud's NOT_FOUND."""
        gone = ("", "ERROR: (gcloud.compute.tpus.queued-resources.describe) NOT_FOUND: x\n", 1)
        self.answers("gcloud", "describe", *(gone if s == "ABSENT" else s for s in states))

    def statuses(self, *texts: str) -> None:
        """What all VMs say, one text a question, each a list of words with commas between them."""
        lines = ["\n".join(f"jaxdl-status {w}" for w in text.split(",") if w) for text in texts]
        self.answers("gcloud", "on-worker.sh status", *lines)

    def run(self, script: str, *words: str, code: int = 0, **options: Any):
        """Runs tpu/SCRIPT, without a terminal, and holds it to an exit code."""
        lines = []
        for number, (program, word, answers) in enumerate(self.rules):
            lines.append(f"{number}\t{program}\t{len(answers) - 1}\t{word}\n")
            for index, parts in enumerate(answers):
                for part, end in zip(parts, ("out", "err", "code"), strict=True):
                    (self.folder / f"answer-{number}-{index}.{end}").write_text(str(part))
        (self.folder / "rules").write_text("".join(lines))
        environment = {
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "HOME": str(self.home),
            "STAND_IN": str(self.folder),
            "LANG": "C.UTF-8",
            **self.environment,
        }
        done = subprocess.run(
            ["bash", str(TPU / script), *words],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
            timeout=20,
            cwd=options.get("cwd", self.home),
        )
        assert done.returncode == code, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
        if code:
            tail = done.stderr.rstrip().splitlines()[-3:]
            starts = [line.split(":")[0].strip() for line in tail]
            assert starts == ["error", "expected", "do"], done.stderr
        return done

    @property
    def calls(self) -> list[list[str]]:
        log = self.folder / "calls"
        text = log.read_text() if log.exists() else ""
        found = [part.split("\0")[:-1] for part in text.split("\x1e\0")[:-1]]
        return [words for words in found if words[0] != "sleep"]

    def verbs(self) -> list[str]:
        """The calls of gcloud in short: describe, create, scp, install, start, status, ..."""
        short = []
        for words in self.calls:
            line = next((w for w in words if w.startswith("--command=")), "")
            line = line.replace("; else echo jaxdl-status never; fi", "")
            short.append(line.split()[-1] if line else words[4])
        return short

    def forget(self) -> None:
        for each in (*self.folder.glob("seen-*"), self.folder / "calls"):
            each.unlink(missing_ok=True)
        self.rules = []

    def sent(self, name: str) -> Path:
        return self.folder / "sent" / name


@pytest.fixture
def cloud(tmp_path: Path) -> Cloud:
    return Cloud(tmp_path)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A small git checkout, with a name that a careless script would trip over."""
    folder = tmp_path / "my $HOME; check'out"
    folder.mkdir()
    (folder / "recipe.py").write_text("x = 1\n")
    (folder / "a 'b'.py").write_text("y = 2\n")
    (folder / ".gitignore").write_text("secret.txt\n")
    (folder / "secret.txt").write_text("hunter2\n")
    (folder / ".env").write_text("KEY=hunter2\n")
    shutil.copy(ROOT / "requirements.txt", folder)
    subprocess.run(["git", "init", "-q", str(folder)], check=True)
    return folder


def words_of(text: str) -> list[list[str]]:
    """Printed commands, as a shell reads them back."""
    return [shlex.split(line) for line in text.splitlines()]


@pytest.fixture(name="words_of")
def _words_of():
    return words_of

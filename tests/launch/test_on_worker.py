"""tpu/on_worker.sh, really run: a job that starts, is stopped, is lost and ends."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest

TPU = Path(__file__).resolve().parents[2] / "tpu"
HOSTILE = ["a 'b'.py", "$HOME", "x;y", '"q"', "", "é\n2"]

# Writes down its words, then waits; SIGTERM is a save.
JAXDL = """#!/usr/bin/env bash
printf '%s\\0' "$@" >"$HOME/words"
printf '%s' "${MY_TOKEN:-}" >"$HOME/token"
trap 'echo saved; exit 75' TERM
touch "$HOME/up"
for ((i = 0; i < 200; i++)); do
  [[ ! -e $HOME/end ]] || exit "$(cat "$HOME/end")"
  sleep 0.05
done
"""


class Worker:
    def __init__(self, home: Path):
        self.home, self.root, self.bin = home, home / "jaxdl-launch", home / "bin"
        for each in (self.bin, self.root / "venv" / "bin", self.root / "source"):
            each.mkdir(parents=True)
        (home / "jaxdl-on-worker.sh").write_text((TPU / "on_worker.sh").read_text())
        self.program(self.root / "venv" / "bin" / "jaxdl", JAXDL)

    def program(self, path: Path, text: str) -> None:
        path.write_text(text)
        path.chmod(0o755)

    def job(self, storage: str = "local", source: str = "", run_dir: str = "runs/a b") -> None:
        lines = [f"STORAGE_KIND={storage}", f"STORAGE={shlex.quote(source)}"]
        lines += [f"RUN_DIR={shlex.quote(run_dir)}", f"TRAIN=({shlex.join(HOSTILE)})"]
        (self.home / "jaxdl-job.sh").write_text("\n".join(lines) + "\n")
        (self.home / "jaxdl-env.sh").write_text("export MY_TOKEN='hunter2'\n")

    def __call__(self, verb: str, code: int = 0) -> str:
        done = subprocess.run(
            ["bash", str(self.home / "jaxdl-on-worker.sh"), verb],
            env={"PATH": f"{self.bin}:{os.environ['PATH']}", "HOME": str(self.home)},
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        assert done.returncode == code, done.stderr
        return done.stdout.strip() + done.stderr.strip()

    def until(self, text: str) -> None:
        for _ in range(100):
            if self("status") == text:
                return
            time.sleep(0.05)
        raise AssertionError(f"{self('status')}, not {text}\n{(self.root / 'log').read_text()}")

    def up(self) -> None:
        for _ in range(200):
            if (self.home / "up").exists():
                (self.home / "up").unlink()
                return
            time.sleep(0.02)
        raise AssertionError((self.root / "log").read_text())


@pytest.fixture
def worker(tmp_path):
    made = Worker(tmp_path)
    yield made
    made("stop")


def test_a_job_starts_once_saves_and_starts_again(worker):
    assert worker("status") == "jaxdl-status never"
    worker.job()
    assert "started" in worker("start")
    worker.up()
    assert worker("status") == "jaxdl-status running"
    assert "runs already" in worker("start")
    words = (worker.home / "words").read_text().split("\0")[:-1]
    folder = str(worker.root / "runs/a b")
    assert words == ["train", HOSTILE[0], "--run-dir", folder, *HOSTILE[1:]]
    assert (worker.root / "run").resolve() == Path(folder)
    assert (worker.home / "token").read_text() == "hunter2"
    assert (worker.root / "jaxdl-env.sh").stat().st_mode & 0o077 == 0
    assert worker("stop") == "jaxdl-status exited 75"
    worker("start")
    worker.up()
    (worker.home / "end").write_text("0")
    worker.until("jaxdl-status exited 0")
    log = worker("log")
    assert log.count("starts at") == 2
    assert "saved" in log
    assert "hunter2" not in log


def test_exit_codes_and_jobs_that_vanished_are_told_apart(worker):
    worker.job()
    (worker.home / "end").write_text("2")
    worker("start")
    worker.until("jaxdl-status exited 2")
    (worker.home / "end").unlink()
    (worker.home / "up").unlink(missing_ok=True)
    worker("start")
    worker.up()
    os.killpg(int((worker.root / "pid").read_text()), signal.SIGKILL)
    worker.until("jaxdl-status lost")
    # After a restart of the machine the number belongs to another process.
    (worker.root / "pid").write_text(f"{os.getpid()}\n")
    assert worker("status") == "jaxdl-status lost"
    worker("start")
    worker.up()


def test_storage_is_mounted_once(worker):
    log = worker.home / "calls"
    worker.program(
        worker.bin / "sudo", f'#!/bin/bash\nprintf "%s\\n" "$*" >>{shlex.quote(str(log))}\n'
    )
    worker.program(worker.bin / "mount.nfs", "#!/bin/bash\n")
    worker.program(
        worker.bin / "mountpoint", f"#!/bin/bash\ngrep -q 'mount -t' {shlex.quote(str(log))}\n"
    )
    worker.job("nfs", "10.0.0.2:/a b", str(worker.home / "shared"))
    (worker.home / "end").write_text("0")
    worker("start")
    worker.until("jaxdl-status exited 0")
    worker("start")
    lines = log.read_text().splitlines()
    assert [line for line in lines if "mount" in line] == [
        "-n mount -t nfs -o rw,hard 10.0.0.2:/a b /mnt/jaxdl"
    ]
    worker.until("jaxdl-status exited 0")


def test_what_was_not_mounted_is_not_trained_on(worker):
    worker.program(worker.bin / "sudo", "#!/bin/bash\n")
    worker.program(worker.bin / "mount.nfs", "#!/bin/bash\n")
    worker.program(worker.bin / "mountpoint", "#!/bin/bash\nexit 1\n")
    worker.job("nfs", "h:/s")
    assert "was not mounted" in worker("start", code=1)
    assert worker("status") == "jaxdl-status never"


def test_install_is_done_once_for_the_same_sources(worker, tmp_path):
    log = worker.home / "calls"
    text = f'#!/bin/bash\necho "$@" >>{shlex.quote(str(log))}\n'
    worker.program(worker.bin / "python3", text)
    worker.program(worker.root / "venv" / "bin" / "python", "#!/bin/bash\n")
    assert "no sources" in worker("install", code=1)
    (tmp_path / "src").mkdir()
    for content, times in (("one", 1), ("one", 1), ("two", 2)):
        (tmp_path / "src" / "requirements.txt").write_text(content)
        tar = ["tar", "--mtime=@0", "-C", str(tmp_path / "src"), "-cf", "-", "requirements.txt"]
        packed = subprocess.run(tar, capture_output=True, check=True).stdout
        gz = subprocess.run(["gzip", "-n"], input=packed, capture_output=True, check=True).stdout
        (worker.home / "jaxdl-source.tgz").write_bytes(gz)
        worker("install")
        lines = [x for x in log.read_text().splitlines() if "uv pip install" in x]
        assert len(lines) == times
        assert lines[-1].endswith("source[tpu]")
        assert (worker.root / "source" / "requirements.txt").read_text() == content
    worker.program(worker.bin / "python3", "#!/bin/bash\nexit 1\n")
    (worker.root / "installed").unlink()
    worker("install", code=1)
    assert not (worker.root / "installed").exists(), "a half-done installation is done again"

"""tpu/slurm.sh and train.sbatch, with stand-ins for Slurm."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

HOSTILE = ["a 'b'.py", "$HOME;x", '"q"', "", "é\n2", "-- x"]
TRAIN = ["--", "examples/digits.py"]


@pytest.fixture
def venv(cloud) -> str:
    folder = cloud.home / "my venv"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "jaxdl").touch(mode=0o755)
    return str(folder)


def test_submit_twice_is_one_job(cloud, venv):
    cloud.answers("squeue", "--name=run-1", "", "4711")
    words = ["run-1", "--nodes", "4", "--partition", "gpu", "--venv", venv, "--yes"]
    words += ["--sbatch-flag=--constraint=a b", *TRAIN]
    cloud.run("slurm.sh", "submit", *words)
    done = cloud.run("slurm.sh", "submit", *words)
    assert "in the queue already: job 4711" in done.stderr
    (sbatch,) = [each for each in cloud.calls if each[0] == "sbatch"]
    assert {"--nodes=4", "--gpus-per-node=8", "--partition=gpu", "--constraint=a b"} <= set(sbatch)
    assert (cloud.home / "runs" / "run-1").is_dir()


def test_cancel_twice(cloud):
    cloud.answers("squeue", "--name=run-1", "4711", "")
    for _ in range(2):
        cloud.run("slurm.sh", "cancel", "run-1")
    assert [each for each in cloud.calls if each[0] == "scancel"] == [["scancel", "4711"]]


def test_errors(cloud, venv):
    cloud.answers("squeue", "--name=run-1", "")
    cloud.run("slurm.sh", "submit", "run-1", "--venv", venv, *TRAIN, code=1)
    cloud.run("slurm.sh", "submit", "run-1", "--yes", "--venv", "/nowhere", *TRAIN, code=2)
    cloud.run("slurm.sh", "submit", "run-1", "--yes", "--time", "1 day", *TRAIN, code=2)
    unset = ["--yes", "--venv", venv, "--env", "NOT_SET_HERE"]
    cloud.run("slurm.sh", "submit", "run-1", *unset, *TRAIN, code=2)
    assert not [each for each in cloud.calls if each[0] == "sbatch"]
    cloud.answers("sbatch", "run-1", ("", "sbatch: error: invalid partition\n", 1))
    cloud.run("slurm.sh", "submit", "run-1", "--yes", "--venv", venv, *TRAIN, code=1)
    cloud.rules = [("squeue", "", [("", "down\n", 1)])]
    cloud.run("slurm.sh", "submit", "run-1", "--yes", "--venv", venv, *TRAIN, code=1)


VERBS = ["install", "submit", "status", "logs", "collect", "cancel"]


@pytest.mark.parametrize("verb", VERBS)
def test_a_dry_run_prints_what_a_run_calls_and_calls_nothing(cloud, venv, words_of, verb):
    words = ["run-1", "--venv", venv, "--run-dir", "a 'b' $c", "--to", "/x y", "--yes"]
    cloud.program("cp")
    cloud.program("python3")
    dry = cloud.run("slurm.sh", verb, *words, "--dry-run", "--", *HOSTILE)
    assert not cloud.calls
    assert [each.name for each in cloud.home.iterdir()] == ["my venv"]
    assert dry.stdout
    if verb in ("submit", "status", "cancel"):
        cloud.answers("squeue", "--name=run-1", "" if verb == "submit" else "1")
        cloud.run("slurm.sh", verb, *words, "--", *HOSTILE)
        assert words_of(dry.stdout) == cloud.calls


def start(cloud, **variables: str):
    """Runs what was submitted, as a node would."""
    sbatch = next(each for each in cloud.calls if each[0] == "sbatch")
    environment = {
        "PATH": f"{cloud.bin}:/usr/bin:/bin",
        "HOME": str(cloud.home),
        "STAND_IN": str(cloud.folder),
        "SLURM_JOB_ID": "4711",
        **variables,
    }
    return subprocess.run(
        ["bash", *sbatch[-2:]],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )


@pytest.mark.parametrize(
    ("code", "requeued", "ends"), [(0, False, 0), (75, True, 0), (2, False, 2)]
)
def test_a_saved_job_goes_back_into_the_queue(cloud, venv, code, requeued, ends):
    cloud.environment["MY_TOKEN"] = "hunter2"
    cloud.answers("squeue", "--name=run-1", "")
    words = ["run-1", "--nodes", "2", "--yes", "--venv", venv, "--env", "MY_TOKEN"]
    words += ["--run-dir", "runs/a 'b'", "--work-dir", str(cloud.home)]
    cloud.answers("srun", "train", ("", "", code))
    done = cloud.run("slurm.sh", "submit", *words, "--", *HOSTILE)
    assert "hunter2" not in done.stdout + done.stderr + str(cloud.calls)
    cloud.program(
        "srun",
        (cloud.bin / "srun").read_text().replace("printf", 'env >"$STAND_IN/env"\nprintf', 1),
    )
    job = start(cloud, SLURM_JOB_NUM_NODES="2")
    assert job.returncode == ends, job.stderr
    srun = next(each for each in cloud.calls if each[0] == "srun")
    at = srun.index("train")
    folder = str(cloud.home / "runs/a 'b'")
    assert srun[at - 1] == f"{venv}/bin/jaxdl"
    assert srun[at + 1 :] == [HOSTILE[0], "--run-dir", folder, *HOSTILE[1:]]
    again = [each for each in cloud.calls if each[0] == "scontrol"]
    assert again == ([["scontrol", "requeue", "4711"]] if requeued else [])
    seen = (cloud.folder / "env").read_text()
    assert "MY_TOKEN=hunter2" in seen
    assert "JAXDL_DISTRIBUTED=auto" in seen
    written = next(cloud.home.rglob("environment.sh"))
    assert written.stat().st_mode & 0o077 == 0


def test_what_slurm_is_told():
    text = (Path(__file__).parents[2] / "tpu" / "slurm" / "train.sbatch").read_text()
    told = [
        line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH")
    ]
    assert told == ["--requeue", "--open-mode=append", "--signal=TERM@180", "--ntasks-per-node=1"]

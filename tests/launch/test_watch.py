"""tpu/vm.sh watch: from nothing to the end of a run, through preemptions and failures."""

from __future__ import annotations

import pytest

WATCH = [
    "watch",
    "run-1",
    "--slice",
    "v5e-16",
    "--zone",
    "us-west4-a",
    "--poll",
    "0",
    "--spot",
    "--yes",
]
WATCH += ["--nfs", "10.0.0.2:/s", "--run-dir", "runs/one"]
FRESH = "never,never,never,never"
RUNNING = "running,running,running,running"
DONE = "exited 0,exited 0,exited 0,exited 0"


@pytest.fixture
def watch(cloud, checkout):
    def run(*words: str, code: int = 0):
        given = [*WATCH, "--source", str(checkout), *words, "--", "recipe.py", "--steps", "5"]
        return cloud.run("vm.sh", *given, code=code)

    return run


def starts(cloud) -> int:
    return cloud.verbs().count("start")


def test_from_nothing_to_done(cloud, watch):
    cloud.states("ABSENT", "ACTIVE")
    cloud.statuses(FRESH, RUNNING, RUNNING, DONE)
    done = watch()
    verbs = cloud.verbs()
    assert verbs[:8] == [
        "describe",
        "create",
        "describe",
        "status",
        "scp",
        "install",
        "scp",
        "start",
    ]
    assert "the run is done" in done.stderr
    assert starts(cloud) == 1


def test_a_preempted_slice_is_made_again_and_the_same_run_goes_on(cloud, watch):
    cloud.states(
        "ABSENT", "ACTIVE", "ACTIVE", "SUSPENDING", "SUSPENDED", "DELETING", "ABSENT", "ACTIVE"
    )
    cloud.statuses(FRESH, RUNNING, FRESH, RUNNING, DONE)
    done = watch()
    verbs = cloud.verbs()
    assert verbs.count("create") == 2
    assert verbs.count("delete") == 1
    assert verbs.count("install") == 2
    assert starts(cloud) == 2
    assert verbs.index("delete") < len(verbs) - 1 - verbs[::-1].index("create")
    assert "preempted" in done.stderr
    creates = [words for words in cloud.calls if words[4:5] == ["create"]]
    assert creates[0] == creates[1]
    jobs = [words for words in cloud.calls if any("jaxdl-job.sh" in w for w in words)]
    assert len(jobs) == 2
    assert jobs[0] == jobs[1]
    assert "RUN_DIR=/mnt/jaxdl/runs/one\n" in cloud.sent("jaxdl-job.sh").read_text()


def test_exit_code_75_and_lost_jobs_are_started_again(cloud, watch):
    cloud.states("ACTIVE")
    cloud.statuses(
        RUNNING,
        "exited 75,exited 75,exited 75,exited 75",
        "running,running,lost,running",
        "exited 1,exited 134,lost,exited 1",
        "exited 75,exited 1,exited 1,exited 1",
        "running,never,running,running",
        "exited 0,running,running,exited 0",
        DONE,
    )
    watch()
    assert starts(cloud) == 5
    assert cloud.verbs().count("stop") == 5
    assert "create" not in cloud.verbs()


def test_a_run_that_fails_by_itself_is_not_repeated(cloud, watch):
    cloud.states("ACTIVE")
    cloud.statuses("exited 1,exited 1,exited 2,exited 1")
    done = watch(code=1)
    assert starts(cloud) == 0
    assert "4 failed (exit code 1 2)" in done.stderr
    assert "tpu/vm.sh delete run-1" in done.stderr
    assert cloud.verbs()[-1] == "log"


def test_a_failure_because_the_slice_goes_away_is_a_preemption(cloud, watch):
    cloud.states("ACTIVE", "SUSPENDING", "SUSPENDING", "SUSPENDED", "ABSENT", "ACTIVE")
    cloud.statuses("exited 1,exited 1,exited 1,exited 1", FRESH, DONE)
    watch()
    assert cloud.verbs().count("create") == 1
    assert starts(cloud) == 1


def test_the_number_of_starts_is_limited(cloud, watch):
    cloud.states("ACTIVE")
    cloud.statuses("exited 75,exited 75,exited 75,exited 75")
    done = watch("--restarts", "2", code=1)
    assert starts(cloud) == 2
    assert "started again 2 times" in done.stderr


def test_a_request_that_never_becomes_active_ends_too(cloud, watch):
    cloud.states("ABSENT", "FAILED", "FAILED", "ABSENT", "FAILED", "FAILED", "ABSENT", "FAILED")
    done = watch("--restarts", "1", code=1)
    assert "became FAILED" in done.stderr
    assert starts(cloud) == 0


def test_vms_that_do_not_answer_are_waited_for_and_then_named(cloud, watch):
    cloud.states("ACTIVE")
    cloud.statuses("running,running", "", RUNNING, DONE)
    watch()
    cloud.forget()
    cloud.states("ACTIVE")
    cloud.answers("gcloud", "status", ("jaxdl-status running\n", "ssh: connect: refused\n", 255))
    done = watch(code=1)
    assert "3 of 4 VMs do not answer" in done.stderr
    assert "ssh-add" in done.stderr


def test_the_first_creation_is_asked_for_and_the_later_ones_are_not(cloud, checkout):
    words = [each for each in WATCH if each != "--yes"]
    cloud.states("ABSENT")
    given = [*words, "--source", str(checkout), "--", "recipe.py"]
    cloud.run("vm.sh", *given, code=1)
    assert cloud.verbs() == ["describe"]


def test_a_network_that_is_away_for_a_moment_ends_nothing(cloud, watch):
    away = ("", "ERROR: gcloud crashed (ConnectionError): Connection aborted\n", 1)
    cloud.answers("gcloud", "describe", "ACTIVE", away, away, "ACTIVE")
    cloud.statuses(RUNNING, DONE)
    assert "asking again" in watch().stderr
    cloud.forget()
    cloud.answers("gcloud", "describe", away)
    watch(code=1)
    assert cloud.verbs() == ["describe"] * 5


def test_deleted_when_done(cloud, watch):
    cloud.states("ACTIVE", "ACTIVE", "ABSENT")
    cloud.statuses(DONE)
    watch("--delete-when-done")
    assert cloud.verbs()[-2:] == ["delete", "describe"]


def test_local_disk_is_not_deleted_with_its_run(cloud):
    words = ["watch", "run-1", "--slice", "v5e-8", "--zone", "us-west4-a", "--local"]
    cloud.run("vm.sh", *words, "--delete-when-done", "--", "a.py", code=2)
    assert not cloud.calls

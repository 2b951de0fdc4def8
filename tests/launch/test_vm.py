"""tpu/vm.sh against a stand-in for gcloud: what it calls, in which order, and what it says."""

from __future__ import annotations

import subprocess

import pytest

PLACE = ["--zone", "us-west4-a", "--poll", "0"]
ONE = ["run-1", "--slice", "v5e-8", *PLACE]
MANY = ["run-1", "--slice", "v5e-16", *PLACE]
TRAIN = ["--", "recipe.py", "--steps", "5"]
HOSTILE = ["a 'b'.py", "--name=$HOME;rm -rf /", "`id`", '"q"', "-- x", "-", "", "é\n2", "*", "\\"]


def refused(text: str) -> tuple[str, str, int]:
    return ("", f"ERROR: (gcloud.compute.tpus.queued-resources.create) {text}\n", 1)


def test_create_asks_for_what_was_said_and_shows_the_cost_first(cloud):
    cloud.states("ABSENT", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE")
    done = cloud.run("vm.sh", "create", *MANY, "--spot", "--yes", "--project", "p-1")
    assert cloud.verbs() == ["describe", "create", "describe", "describe", "describe"]
    create = cloud.calls[1]
    assert create[:6] == ["gcloud", "compute", "tpus", "queued-resources", "create", "run-1"]
    for flag in ("--accelerator-type=v5litepod-16", "--runtime-version=v2-alpha-tpuv5-lite"):
        assert flag in create
    for flag in ("--node-id=run-1", "--spot", "--zone=us-west4-a", "--project=p-1", "--quiet"):
        assert flag in create
    assert "cost: about $7.68 an hour, $184.32 a day: 16 chips at $0.4800" in done.stderr
    assert "4 VMs of 4 chips" in done.stderr
    assert done.stderr.index("cost:") < done.stderr.index("requested")


def test_create_twice_and_half_done_goes_on(cloud):
    for states in (["ACTIVE"], ["PROVISIONING", "ACTIVE"], ["CREATING", "ACCEPTED", "ACTIVE"]):
        cloud.forget()
        cloud.states(*states)
        cloud.run("vm.sh", "create", *ONE)
        assert set(cloud.verbs()) == {"describe"}
    cloud.forget()
    cloud.states("ABSENT", "ACTIVE")
    cloud.answers("gcloud", "create", refused("ALREADY_EXISTS: requested entity already exists"))
    cloud.run("vm.sh", "create", *ONE, "--yes")


@pytest.mark.parametrize("state", ["SUSPENDED", "FAILED"])
def test_what_is_dead_is_deleted_and_asked_for_again(cloud, state):
    cloud.states(state, "DELETING", "ABSENT", "ACTIVE")
    cloud.run("vm.sh", "create", *ONE, "--yes")
    verbs = cloud.verbs()
    assert verbs == ["describe", "delete", "describe", "describe", "create", "describe"]
    assert "--force" in cloud.calls[1]


def test_nothing_is_created_without_a_yes(cloud):
    cloud.states("ABSENT")
    done = cloud.run("vm.sh", "create", *ONE, code=1)
    assert cloud.verbs() == ["describe"]
    assert "cost: about $9.60 an hour" in done.stderr


def test_a_price_that_is_not_known_is_not_made_up(cloud):
    for words in (["v4-8", "us-central2-b"], ["v6e-8", "southamerica-west1-a"]):
        done = cloud.run("vm.sh", "cost", "x", "--slice", words[0], "--zone", words[1], "--spot")
        assert "price not in the table" in done.stderr
        assert "cloud.google.com/tpu/pricing" in done.stderr
        assert "$" not in done.stderr
    done = cloud.run("vm.sh", "cost", *ONE, "--reserved")
    assert "no price" in done.stderr
    done = cloud.run("vm.sh", "cost", "x", "--slice=v5p-128", "--slices=2", "--zone=us-south1-a")
    assert "128 chips" in done.stderr
    assert "$611.71 an hour" in done.stderr
    done = cloud.run("vm.sh", "cost", "x", "--slice=v5e-8", "--zone=us-south1-ai1b")
    assert "us-south1" in done.stderr
    assert not cloud.calls


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("RESOURCE_EXHAUSTED: Quota limit 'TPUV5sLitepod' has been exceeded", "quota"),
        ("There is no more capacity in the zone", "has none left"),
        ("PERMISSION_DENIED: no", "may not"),
        ("UNAUTHENTICATED: run gcloud auth login", "not signed in"),
        ("something else", "something else"),
    ],
)
def test_refusals_say_what_to_do(cloud, text, says):
    cloud.states("ABSENT")
    cloud.answers("gcloud", "create", refused(text))
    done = cloud.run("vm.sh", "create", *ONE, "--yes", code=1)
    assert says in done.stderr
    assert cloud.verbs() == ["describe", "create"]


def test_delete_twice_and_while_it_is_deleted(cloud):
    cloud.states("ACTIVE", "DELETING", "ABSENT")
    cloud.run("vm.sh", "delete", *ONE)
    assert cloud.verbs() == ["describe", "delete", "describe", "describe"]
    for states, verbs in (
        (["ABSENT"], ["describe"]),
        (["DELETING", "ABSENT"], ["describe", "describe"]),
        (["SUSPENDING", "SUSPENDED", "ABSENT"], ["describe", "describe", "delete", "describe"]),
    ):
        cloud.forget()
        cloud.states(*states)
        cloud.run("vm.sh", "delete", *ONE)
        assert cloud.verbs() == verbs
    cloud.forget()
    cloud.states("ACTIVE", "ABSENT")
    cloud.answers("gcloud", "delete", refused("NOT_FOUND: gone meanwhile"))
    cloud.run("vm.sh", "delete", *ONE)


def test_many_slices_are_nodes_of_one_request(cloud):
    cloud.states("ABSENT", "ACTIVE")
    cloud.run("vm.sh", "create", *MANY, "--slices", "2", "--yes", "--create-flag=--internal-ips")
    create = cloud.calls[1]
    assert {"--node-count=2", "--node-prefix=run-1", "--internal-ips"} <= set(create)
    assert not [word for word in create if word.startswith("--node-id")]


def test_create_is_remembered_and_its_shape_kept(cloud):
    cloud.states("ABSENT", "ACTIVE")
    cloud.run("vm.sh", "create", *MANY, "--reserved", "--nfs", "10.0.0.2:/s", "--yes")
    cloud.forget()
    cloud.states("ACTIVE")
    cloud.statuses("running,running,running,running")
    done = cloud.run("vm.sh", "status", "run-1")
    assert "4 VMs: 4 running" in done.stderr
    assert all("--zone=us-west4-a" in words for words in cloud.calls)
    done = cloud.run("vm.sh", "status", "run-1", "--slice", "v5e-32", code=2)
    assert "was created with --slice v5e-16" in done.stderr


def test_install_packs_what_git_does_not_ignore(cloud, checkout):
    cloud.run("vm.sh", "install", *MANY, "--source", str(checkout))
    assert cloud.verbs() == ["scp", "install"]
    packed = subprocess.run(
        ["tar", "-tzf", str(cloud.sent("jaxdl-source.tgz"))],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert sorted(packed) == sorted([".gitignore", "a 'b'.py", "recipe.py", "requirements.txt"])
    first = cloud.sent("jaxdl-source.tgz").read_bytes()
    cloud.run("vm.sh", "install", *MANY, "--source", str(checkout))
    assert cloud.sent("jaxdl-source.tgz").read_bytes() == first
    for words in cloud.calls:
        assert "--node=all" in words
        assert "--worker=all" in words
    cloud.run("vm.sh", "install", *MANY, "--source", str(cloud.home), code=2)


def test_partial_failures_stop_where_they_are(cloud, checkout):
    for word, verbs in (("scp", ["scp"]), ("install", ["scp", "install"])):
        cloud.forget()
        cloud.answers("gcloud", word, ("", "worker 3 failed\n", 255))
        cloud.run("vm.sh", "install", *MANY, "--source", str(checkout), code=1)
        assert cloud.verbs() == verbs
    cloud.forget()
    cloud.answers("gcloud", "--command=bash jaxdl-on-worker.sh start", ("", "worker 0\n", 1))
    done = cloud.run("vm.sh", "run", *MANY, "--nfs", "h:/s", *TRAIN, code=1)
    assert "did not start on every VM" in done.stderr


def read_job(path) -> dict[str, list[str]]:
    """A job as bash reads it on the worker."""
    line = 'source "$1"; printf "%s\\0" "$RUN_DIR" "$STORAGE_KIND" "$STORAGE" "${TRAIN[@]}"'
    done = subprocess.run(
        ["bash", "-c", line, "x", str(path)], capture_output=True, text=True, check=True
    )
    found = done.stdout.split("\0")[:-1]
    return {"run_dir": found[0], "storage": found[1:3], "train": found[3:]}


def test_hostile_words_arrive_as_they_are(cloud):
    folder = "runs/my $run; 'x' -rf"
    cloud.run("vm.sh", "run", *MANY, "--nfs", "10.0.0.2:/a b", "--run-dir", folder, "--", *HOSTILE)
    job = read_job(cloud.sent("jaxdl-job.sh"))
    assert job["train"] == HOSTILE
    assert job["run_dir"] == f"/mnt/jaxdl/{folder}"
    assert job["storage"] == ["nfs", "10.0.0.2:/a b"]
    everything = [word for words in cloud.calls for word in words]
    assert not [word for word in everything if "rm -rf" in word or "`id`" in word]


def test_secrets_are_sent_and_never_shown(cloud):
    secret = "s3cr'et $value\"\n;"
    cloud.environment["WANDB_API_KEY"] = secret
    words = ["--env", "WANDB_API_KEY", "--env", f"MY_TOKEN={secret}", "--env", "PLAIN=p q"]
    shown = ""
    for extra in ([], ["--dry-run"]):
        done = cloud.run("vm.sh", "run", *MANY, "--nfs", "h:/s", *words, *extra, *TRAIN)
        shown += done.stdout + done.stderr
    assert "s3cr" not in shown
    assert "s3cr" not in str(cloud.calls)
    line = 'source "$1"; printf %s "$WANDB_API_KEY|$MY_TOKEN|$PLAIN|$JAXDL_DISTRIBUTED"'
    sent = cloud.sent("jaxdl-env.sh")
    assert sent.stat().st_mode & 0o077 == 0
    done = subprocess.run(
        ["bash", "-c", line, "x", str(sent)], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{secret}|{secret}|p q|auto"
    assert not list(cloud.home.rglob("jaxdl-env.sh")), "it is removed here after it was sent"
    for wrong in (["--env", "UNSET_KEY"], ["--env", f"no name={secret}"]):
        done = cloud.run("vm.sh", "run", *MANY, "--nfs", "h:/s", *wrong, *TRAIN, code=2)
        assert "s3cr" not in done.stderr


def test_one_vm_needs_no_distributed_runtime(cloud):
    cloud.run("vm.sh", "run", *ONE, "--local", *TRAIN)
    assert "JAXDL_DISTRIBUTED" not in cloud.sent("jaxdl-env.sh").read_text()
    assert read_job(cloud.sent("jaxdl-job.sh"))["run_dir"] == "runs/run-1"


def test_settings_that_cannot_work_are_refused_before_anything_is_called(cloud):
    nfs = ["--nfs", "h:/s"]
    for words in (
        [*MANY, "--local", *TRAIN],
        [*MANY, *TRAIN],
        [*MANY, *nfs, "--bucket", "bkt", *TRAIN],
        [*MANY, "--nfs", "no-share", *TRAIN],
        [*MANY, "--bucket", "b/f", *TRAIN],
        [*MANY, *nfs, "--run-dir", "a/../b", *TRAIN],
        [*MANY, *nfs, "--", "--steps", "5"],
        [*MANY, *nfs, *TRAIN, "--run-dir", "x"],
        [*MANY, *nfs],
        [*MANY, "--spot", "--reserved", *nfs, *TRAIN],
        [*MANY, "--slices", "0", *nfs, *TRAIN],
        [*MANY, "--slices", "two", *nfs, *TRAIN],
        ["run-1", "--slice", "v5e-16", "--zone", "us-west4", *nfs, *TRAIN],
        ["run-1", "--slice", "v5e-17", *PLACE, *nfs, *TRAIN],
        ["run-1", "--slice", "slice", *PLACE, *nfs, *TRAIN],
        ["run-1", *PLACE, *nfs, *TRAIN],
        [*MANY, "--nfs"],
    ):
        cloud.run("vm.sh", "run", *words, code=2)
    assert not cloud.calls
    done = cloud.run("vm.sh", "create", "x", "--slice", "tpu7x-128", *PLACE, "--yes", code=2)
    assert "tpu/gke.sh" in done.stderr


def test_logs_and_collect(cloud):
    cloud.run("vm.sh", "logs", *MANY, "--follow", "--worker", "3", "--ssh-flag=--internal-ip")
    words = cloud.calls[0]
    assert {"--worker=3", "--node=0", "--internal-ip"} <= set(words)
    assert "--command=FOLLOW=yes LINES=200 bash jaxdl-on-worker.sh log" in words
    cloud.run("vm.sh", "collect", *MANY, "--nfs", "h:/s", "--to", "here; 'x'")
    assert cloud.calls[1][5:7] == ["run-1:jaxdl-launch/run", "./here; 'x'"]
    assert (cloud.home / "here; 'x'").is_dir()
    cloud.run("vm.sh", "collect", *MANY, "--bucket", "gs://bkt", "--run-dir", "a b/c")
    assert cloud.calls[2][:5] == ["gcloud", "storage", "rsync", "gs://bkt/a b/c", "./runs/run-1"]


VERBS = ["create", "install", "run", "logs", "status", "stop", "collect", "delete", "watch"]


@pytest.mark.parametrize("verb", VERBS)
def test_a_dry_run_prints_what_a_run_calls_and_calls_nothing(cloud, checkout, words_of, verb):
    words = [*MANY, "--source", str(checkout), "--yes", "--to", "it's $here", "--bucket", "bkt"]
    words += ["--run-dir", "a 'b' $c"]
    dry = cloud.run("vm.sh", verb, *words, "--dry-run", "--", *HOSTILE)
    assert not cloud.calls
    assert not list(cloud.home.iterdir()), "nothing is written"
    first = "ACTIVE" if verb in ("delete", "status") else "ABSENT"
    cloud.states(first, "ABSENT" if verb == "delete" else "ACTIVE")
    cloud.statuses("never,never,never,never", "exited 0,exited 0,exited 0,exited 0")
    cloud.run("vm.sh", verb, *words, "--", *HOSTILE)
    assert words_of(dry.stdout) == cloud.calls
    assert cloud.calls

"""tpu/gke.sh: manifests that Kubernetes takes, and what it calls of kubectl, gcloud and docker."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SCHEMA = json.loads((HERE / "schemas" / "jobset.json").read_text())
IMAGE = ["--image", "eu-docker.pkg.dev/p/r/jaxdl:1"]
TRAIN = ["--", "examples/digits.py", "--steps", "5"]
HOSTILE = ["a 'b'.py", "--x=$HOME $(HOME) $$", "`id`;", '"q" \\', "", "é\n\t2", "- a: b", "{}", "#"]
POOL = ["--cluster", "c-1", "--location", "us-west4"]
STORAGE = {
    "pvc": ["--pvc", "claim"],
    "nfs": ["--nfs", "10.0.0.2:/sh are"],
    "bucket": ["--bucket", "bkt", "--service-account", "trainer"],
}


def validated(text: str):
    manifest = yaml.safe_load(text)
    jsonschema.Draft202012Validator(SCHEMA).validate(manifest)
    return manifest


def render(cloud, *words: str):
    return validated(cloud.run("gke.sh", "render", *words).stdout)


def job_of(manifest):
    (replicated,) = manifest["spec"]["replicatedJobs"]
    return replicated, replicated["template"]["spec"]


def pod_of(manifest):
    pod = job_of(manifest)[1]["template"]
    return pod, pod["spec"]["containers"][0]


@pytest.mark.parametrize(
    ("name", "hosts", "chips", "topology", "label"),
    [
        ("v5e-8", 1, 8, "2x4", "tpu-v5-lite-podslice"),
        ("v5e-256", 64, 4, "16x16", "tpu-v5-lite-podslice"),
        ("v5litepod-16", 4, 4, "4x4", "tpu-v5-lite-podslice"),
        ("v6e-256", 64, 4, "16x16", "tpu-v6e-slice"),
        ("v5p-128", 16, 4, "4x4x4", "tpu-v5p-slice"),
        ("v4-8", 1, 4, "2x2x1", "tpu-v4-podslice"),
        ("tpu7x-128", 16, 4, "4x4x4", "tpu7x"),
    ],
)
def test_the_manifest_has_a_pod_for_every_vm(cloud, name, hosts, chips, topology, label):
    manifest = render(cloud, "run-1", "--slice", name, *IMAGE, *STORAGE["pvc"], *TRAIN)
    replicated, job = job_of(manifest)
    pod, container = pod_of(manifest)
    assert manifest["apiVersion"] == "jobset.x-k8s.io/v1alpha2"
    assert replicated["replicas"] == 1
    assert (job["completions"], job["parallelism"], job["backoffLimit"]) == (hosts, hosts, 0)
    assert container["resources"]["limits"] == {"google.com/tpu": chips}
    assert pod["spec"]["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": label,
        "cloud.google.com/gke-tpu-topology": topology,
    }
    named = {each["name"]: each["value"] for each in container["env"]}
    assert named.get("JAXDL_DISTRIBUTED") == ("auto" if hosts > 1 else None)


@pytest.mark.parametrize("storage", STORAGE)
def test_every_storage_and_many_slices(cloud, storage):
    words = ["run-1", "--slice", "v5p-64", "--slices", "3", "--spot", "--secret", "keys"]
    manifest = render(cloud, *words, *IMAGE, *STORAGE[storage], *TRAIN)
    pod, container = pod_of(manifest)
    assert job_of(manifest)[0]["replicas"] == 3
    note = manifest["metadata"]["annotations"]
    assert note["alpha.jobset.sigs.k8s.io/exclusive-topology"] == "cloud.google.com/gke-nodepool"
    assert pod["spec"]["nodeSelector"]["cloud.google.com/gke-spot"] == "true"
    assert container["envFrom"] == [{"secretRef": {"name": "keys"}}]
    (volume,) = pod["spec"]["volumes"]
    assert container["volumeMounts"] == [{"name": volume["name"], "mountPath": "/mnt/jaxdl"}]
    if storage == "nfs":
        assert volume["nfs"] == {"server": "10.0.0.2", "path": "/sh are"}
    if storage == "bucket":
        assert volume["csi"]["volumeAttributes"]["bucketName"] == "bkt"
        assert pod["metadata"]["annotations"] == {"gke-gcsfuse/volumes": "true"}
        assert pod["spec"]["serviceAccountName"] == "trainer"
    assert pod["spec"].get("hostNetwork", False) == (storage != "bucket")


def test_saved_and_evicted_pods_restart_without_end_and_others_do_not(cloud):
    words = ["run-1", "--slice", "v5e-16", "--restarts", "7", *IMAGE, *STORAGE["pvc"], *TRAIN]
    manifest = render(cloud, *words)
    policy, job = manifest["spec"]["failurePolicy"], job_of(manifest)[1]
    assert policy["maxRestarts"] == 7
    (rule,) = policy["rules"]
    assert rule["action"] == "RestartJobSetAndIgnoreMaxRestarts"
    assert rule["onJobFailureReasons"] == ["PodFailurePolicy"]
    first, second = job["podFailurePolicy"]["rules"]
    assert first["onExitCodes"] == {"containerName": "jaxdl", "operator": "In", "values": [75]}
    assert second["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    assert {first["action"], second["action"]} == {"FailJob"}
    assert job["template"]["spec"]["restartPolicy"] == "Never", "a podFailurePolicy needs it"


def kubernetes_reads(word: str) -> str:
    """How Kubernetes expands a word of a command without variables of that name: $$ is a $."""
    return word.replace("$$", "$")


def test_hostile_words_arrive_as_they_are(cloud):
    words = ["run-1", "--slice", "v5e-8", *IMAGE, *STORAGE["pvc"], "--run-dir", "a $(b) 'c'"]
    words += ["--env", 'A=x "y" $(HOME) \\ # &', "--", *HOSTILE]
    container = pod_of(render(cloud, *words))[1]
    found = [kubernetes_reads(word) for word in container["command"]]
    folder = "/mnt/jaxdl/a $(b) 'c'"
    assert found == ["jaxdl", "train", HOSTILE[0], "--run-dir", folder, *HOSTILE[1:]]
    named = {each["name"]: each["value"] for each in container["env"]}
    assert kubernetes_reads(named["A"]) == 'x "y" $(HOME) \\ # &'


def test_a_wrong_manifest_is_found(cloud):
    manifest = render(cloud, "run-1", "--slice", "v5e-8", *IMAGE, *STORAGE["pvc"], *TRAIN)
    for path, value in (
        (("spec", "failurePolicy", "maxRestart"), 1),
        (("spec", "failurePolicy", "rules"), [{"name": "a", "action": "Restart"}]),
        (("spec", "replicatedJobs"), {}),
    ):
        broken = json.loads(json.dumps(manifest))
        inner = broken
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.Draft202012Validator(SCHEMA).validate(broken)


def test_secrets_do_not_get_into_a_manifest(cloud):
    words = ["run-1", "--slice", "v5e-8", *IMAGE, *STORAGE["pvc"]]
    for name in ("WANDB_API_KEY", "hf_token", "A_SECRET_B", "DB_PASSWORD"):
        done = cloud.run("gke.sh", "render", *words, "--env", f"{name}=hunter2", *TRAIN, code=2)
        assert "hunter2" not in done.stdout + done.stderr
        assert "kubectl create secret" in done.stderr
        cloud.run("gke.sh", "apply", *words, "--yes", "--env", f"{name}=hunter2", *TRAIN, code=2)
    assert not cloud.calls


def test_settings_that_cannot_work_are_refused(cloud):
    one = ["run-1", "--slice", "v5e-8", *IMAGE]
    for words in (
        [*one, *TRAIN],
        [*one, *STORAGE["pvc"], *STORAGE["nfs"], *TRAIN],
        [*one, "--pvc", "A b", *TRAIN],
        [*one, "--pvc", "c", "--slices", "2", *TRAIN],
        [*one, "--pvc", "c", "--run-dir", "/home/x", *TRAIN],
        [*one, "--pvc", "c", "--env", "A", *TRAIN],
        [*one, "--pvc", "c", "--", "a.py", "--run-dir=x"],
        [*one, "--pvc", "c"],
        [*one, "--pvc", "c", "--", "a\x01b"],
        ["run-1", "--slice", "v5e-8", "--pvc", "c", *TRAIN],
    ):
        cloud.run("gke.sh", "apply", "--yes", *words, code=2)
    assert not cloud.calls


def test_pools_are_made_once_and_deleted_twice(cloud):
    gone = ("", "ERROR: ResponseError: code=404, message=Not found: x\n", 1)
    cloud.answers("gcloud", "describe", "RUNNING", gone)
    words = ["run-1", "--slice", "v5p-64", "--slices", "3", "--spot", "--zone", "us-west4-a", *POOL]
    done = cloud.run("gke.sh", "pool", *words, "--yes")
    made = [each for each in cloud.calls if "create" in each]
    assert [each[4] for each in made] == ["run-1-1", "run-1-2"]
    assert {"--machine-type=ct5p-hightpu-4t", "--num-nodes=8", "--tpu-topology=2x4x4"} <= set(
        made[0]
    )
    assert {"--spot", "--node-locations=us-west4-a", "--cluster=c-1"} <= set(made[0])
    assert "price not in the table" in done.stderr
    cloud.forget()
    cloud.answers("gcloud", "describe", gone)
    cloud.run("gke.sh", "pool", *words, code=1)
    assert not [each for each in cloud.calls if "create" in each], "nobody said yes"
    cloud.run("gke.sh", "delete-pool", *words)
    assert not [each for each in cloud.calls if "delete" in each], "they are gone"
    cloud.forget()
    cloud.answers("gcloud", "describe", ("", "PERMISSION_DENIED\n", 1))
    cloud.run("gke.sh", "pool", *words, "--yes", code=1)


def test_a_single_vm_pool_names_no_topology(cloud):
    cloud.answers("gcloud", "describe", ("", "Not found\n", 1))
    cloud.run("gke.sh", "pool", "run-1", "--slice", "v5e-8", *POOL, "--yes")
    made = cloud.calls[-1]
    assert {"--machine-type=ct5lp-hightpu-8t", "--num-nodes=1"} <= set(made)
    assert not [word for word in made if "topology" in word]


def test_apply_sends_what_render_prints_and_delete_may_be_repeated(cloud):
    words = ["run-1", "--slice", "v5e-16", "--context", "a b", *IMAGE, *STORAGE["pvc"]]
    rendered = cloud.run("gke.sh", "render", *words, *TRAIN).stdout
    cloud.run("gke.sh", "apply", *words, *TRAIN, code=1)
    assert not cloud.calls, "nobody said yes"
    for _ in range(2):
        cloud.run("gke.sh", "apply", *words, "--yes", *TRAIN)
    head = ["kubectl", "--context=a b", "--namespace=default", "apply", "--filename"]
    assert [each[:5] for each in cloud.calls] == [head, head]
    assert Path(cloud.calls[0][5]).read_text() == rendered
    for _ in range(2):
        cloud.run("gke.sh", "delete", "run-1")
    assert cloud.calls[-1][2:] == ["delete", "jobset", "run-1", "--ignore-not-found"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            'no matches for kind "JobSet" in version "jobset.x-k8s.io/v1alpha2"',
            "jobset.sigs.k8s.io",
        ),
        ("The connection to the server was refused", "get-credentials"),
        ("field is immutable", "delete it first"),
        ("anything", "anything"),
    ],
)
def test_refusals_say_what_to_do(cloud, text, says):
    cloud.answers("kubectl", "apply", ("", f"error: {text}\n", 1))
    words = ["run-1", "--slice", "v5e-8", *IMAGE, *STORAGE["pvc"], "--yes", *TRAIN]
    assert says in cloud.run("gke.sh", "apply", *words, code=1).stderr


def test_collect_reads_through_a_pod_or_from_the_bucket(cloud):
    words = ["run-1", *IMAGE, *STORAGE["nfs"], "--to", "here $x", "--run-dir", "a b"]
    cloud.run("gke.sh", "collect", *words)
    assert [each[2] for each in cloud.calls] == ["apply", "wait", "cp", "delete"]
    assert cloud.calls[2][3:5] == ["run-1-reader:/mnt/jaxdl/a b", "./here $x"]
    pod = yaml.safe_load(Path(cloud.calls[0][4]).read_text())
    part = {"$ref": "#/$defs/IoK8sApiCoreV1PodSpec", "$defs": SCHEMA["$defs"]}
    jsonschema.Draft202012Validator(part).validate(pod["spec"])
    cloud.forget()
    cloud.run("gke.sh", "collect", "run-1", *STORAGE["bucket"])
    assert cloud.calls == [
        ["gcloud", "storage", "rsync", "gs://bkt/runs/run-1", "./runs/run-1", "--recursive"]
    ]


VERBS = ["image", "pool", "apply", "status", "logs", "collect", "delete", "delete-pool"]


@pytest.mark.parametrize("verb", VERBS)
def test_a_dry_run_prints_what_a_run_calls_and_calls_nothing(cloud, words_of, verb):
    words = ["run-1", "--slice", "v5e-16", "--slices", "2", *IMAGE, *POOL, *STORAGE["nfs"]]
    words += ["--run-dir", "it's $x", "--to", "a b", "--yes", "--source", "/a 'b'"]
    dry = cloud.run("gke.sh", verb, *words, "--dry-run", "--", *HOSTILE)
    assert not cloud.calls
    assert not list(cloud.home.iterdir())
    if verb == "pool":
        cloud.answers("gcloud", "describe", ("", "Not found\n", 1))
    cloud.run("gke.sh", verb, *words, "--", *HOSTILE)
    assert cloud.calls
    assert words_of(dry.stdout) == cloud.calls


def test_the_dockerfile_is_pinned_unprivileged_and_copies_what_is_there():
    """There is no Docker here: what can be seen without building is looked at."""
    text = (ROOT / "tpu" / "gke" / "Dockerfile").read_text()
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    steps = [line.split(maxsplit=1) for line in lines if line.strip() and not line.startswith("#")]
    known = {"FROM", "ENV", "RUN", "WORKDIR", "COPY", "USER", "CMD"}
    assert {word for word, _ in steps} <= known
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-[a-z]+", dict(steps)["FROM"])
    users = [rest for word, rest in steps if word == "USER"]
    assert users == ["1000:1000"]
    assert [word for word, _ in steps][-2:] == ["USER", "CMD"]
    ignored = (ROOT / "tpu" / "gke" / "Dockerfile.dockerignore").read_text().splitlines()
    assert "*" in ignored
    for word, rest in steps:
        if word == "COPY":
            for name in rest.split()[:-1]:
                assert (ROOT / name).exists(), name
                assert f"!{name}" in ignored
        if word == "RUN" and "pip install" in rest:
            assert rest.count("--constraint requirements.txt") == rest.count("pip install")
        assert not re.search(r"(?i)token|secret|password|api_key|--privileged|curl|wget", rest)

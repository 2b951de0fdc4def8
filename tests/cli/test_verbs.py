"""The command itself, ``data`` and ``doctor``."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys

import pytest

from jaxdl import data
from jaxdl.cli.pipes import while_it_is_read


def test_help_is_quick_because_nothing_heavy_is_imported():
    code = (
        "import sys; from jaxdl.cli import main; main(['--help']);"
        "assert not {'jax', 'numpy', 'tyro', 'rich'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for verb in ("train", "evaluate", "data prepare", "data ls", "doctor"):
        assert verb in done.stdout


def test_no_words_show_the_help(jaxdl_command):
    assert jaxdl_command() == jaxdl_command("--help")


def test_version(jaxdl_command):
    assert jaxdl_command("--version") == (0, "0.1.0\n", "")


def test_a_wrong_verb(jaxdl_command):
    code, out, err = jaxdl_command("trian", "examples/digits.py")
    assert (code, out) == (2, "")
    verbs = "train resume checkpoint plan prove rehearse replay evaluate report explain attack "
    verbs += "robustness certify judge data doctor"
    assert err.splitlines() == [
        "error: there is no verb 'trian'",
        f"  expected: one of {', '.join(verbs.split())}",
        "  do: did you mean 'train'? (jaxdl --help lists them)",
    ]


@pytest.mark.parametrize(
    "verb", ["evaluate", "report", "attack", "certify", "judge", "doctor", "data"]
)
def test_every_verb_has_a_help(jaxdl_command, verb):
    code, out, _ = jaxdl_command(verb, "--help")
    assert code == 0
    assert f"jaxdl {verb}" in out


def test_ctrl_c_outside_the_loop(jaxdl_command, monkeypatch):
    def press(words):
        raise KeyboardInterrupt

    monkeypatch.setattr("jaxdl.cli.datasets.run", press)
    assert jaxdl_command("data") == (130, "", "interrupted\n")


def closed():
    """An output whose reader has gone."""
    reads, writes = os.pipe()
    os.close(reads)
    return writes


@pytest.mark.parametrize("words", [["--help"], ["data", "--help"]], ids=" ".join)
def test_output_that_nobody_reads_is_no_error(words):
    code = "import sys; from jaxdl.cli import main; sys.exit(main())"
    output = closed()
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        stdout=output,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(output)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        (lambda: print("x" * 100_000) or 1, 0),
        (lambda: print("x") or 1, 1),
        (lambda: print("x") or sys.exit(0), 0),
    ],
    ids=["within", "at the end", "at an exit"],
)
def test_a_command_keeps_its_exit_code(run, expected, monkeypatch):
    with os.fdopen(closed(), "w") as output:
        monkeypatch.setattr(sys, "stdout", output)
        assert while_it_is_read(run) == expected
        print("nobody reads this either")
        output.flush()


def test_prepared_data_sets_are_listed(jaxdl_command, tmp_path):
    code, out, _ = jaxdl_command("data", "ls", "--data-dir", tmp_path)
    assert (code, out) == (0, f"nothing is prepared in {tmp_path}\n")
    data.digits(split="test", data_dir=tmp_path)
    code, out, _ = jaxdl_command("data", "ls", "--data-dir", tmp_path)
    assert code == 0
    assert "digits" in out
    assert "train 1,257, validation 180, test 360" in " ".join(out.split())


def test_a_wrong_verb_of_data(jaxdl_command):
    code, _, err = jaxdl_command("data", "prepair", "mnist")
    assert code == 2
    assert "did you mean 'prepare'?" in err


def test_preparing_from_a_folder_that_is_not_there(jaxdl_command, tmp_path):
    code, _, err = jaxdl_command("data", "prepare", "mnist", "--from", tmp_path / "gone")
    assert code == 2
    assert "there is no folder" in err


def test_doctor_shows_versions_devices_and_data(jaxdl_command, tmp_path, monkeypatch):
    monkeypatch.setenv("JAXDL_DATA_DIR", str(tmp_path))
    code, out, _ = jaxdl_command("doctor")
    assert code == 0, out
    for text in ("python", "jax", "jaxlib", "optax", "8 x cpu", str(tmp_path)[:20], "ready"):
        assert text in out


def test_doctor_says_what_is_missing_and_does_not_wait_for_ever(
    jaxdl_command, tmp_path, monkeypatch
):
    versions = {"libtpu": "0.0.52", "jax": "0.10.2"}
    needs = {
        "jaxdl": ["jax>=0.10", "rich>=14", "jinja2>=3.1; extra == 'report'"],
        "jax": ["libtpu==0.0.42.*; extra == 'tpu'"],
    }

    def version(package):
        if package in versions:
            return versions[package]
        raise importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr("importlib.metadata.version", version)
    monkeypatch.setattr("importlib.metadata.requires", needs.get)
    code, out, _ = jaxdl_command("doctor", "--timeout", "0.01", "--data-dir", tmp_path / "new")
    assert code == 1
    told = " ".join(out.split())
    assert "! JAX found no devices in 0 s" in told
    assert "! rich is missing: pip install 'rich>=14'" in told
    assert "! libtpu is 0.0.52, JAX wants 0.0.42.*: pip install 'jax[tpu]==0.10.2'" in told
    assert "lacks jinja2: pip install 'jaxdl[report]'" in told

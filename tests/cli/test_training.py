"""``jaxdl train`` and ``jaxdl evaluate``: what they write, print and refuse."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import warnings

import pytest

from jaxdl import checkpoints

FILES = {
    "checkpoints",
    "lock",
    "config.json",
    "metrics.jsonl",
    "recipe.py",
    "summary.json",
    "tensorboard",
}


def test_train_writes_a_run_and_evaluate_finds_the_same_numbers(tiny, jaxdl_command):
    code, out, err = jaxdl_command("train", "tiny.py", "--width", 5)
    assert code == 0, err
    assert "12 steps in" in out
    assert "32 parameters" in out
    assert "step 12/12  validation" in err
    (run,) = (tiny.parent / "runs").iterdir()
    assert run.name.startswith("tiny-")
    assert {path.name for path in run.iterdir()} == FILES
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["steps"], summary["stopped"], summary["parameters"]) == (12, None, 32)
    assert set(summary["scores"]) == {"train", "validation", "test"}
    for split, rows in (("train", 30), ("validation", 16), ("test", 11)):
        matrix = summary["scores"][split]["confusion"]
        assert sum(map(sum, matrix)) == rows
        assert f"{summary['scores'][split]['accuracy']:.4f}" in out
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    seen = [(line["split"], line["step"]) for line in lines]
    assert [step for split, step in seen if split == "train"] == [4, 8, 12]
    assert [step for split, step in seen if split == "validation"] == [6, 12]
    assert lines[-1]["loss"] == summary["scores"]["validation"]["loss"]
    assert json.loads((run / "config.json").read_text())["config"]["width"] == 5

    code, out, _ = jaxdl_command("evaluate", run, "--json")
    assert code == 0
    assert json.loads(out) == summary["scores"]
    code, out, _ = jaxdl_command("evaluate", run, "--split", "test")
    assert code == 0
    assert f"{summary['scores']['test']['loss']:.4f}" in out
    assert "validation" not in out


def test_the_same_command_goes_on_and_another_one_is_refused(tiny, jaxdl_command):
    train = ["train", "tiny.py", "--run-dir", "here", "--steps", 2, "--quiet"]
    assert jaxdl_command(*train)[0] == 0
    before = (tiny.parent / "here" / "metrics.jsonl").read_bytes()
    code, out, err = jaxdl_command(*train)
    assert code == 0, err
    assert "2 steps, gone on with after 2" in out
    code, _, err = jaxdl_command(*train, "--width", 2)
    assert code == 2
    assert "here holds another run already:\n    width: 4 became 2" in err
    assert "--overwrite" in err
    assert (tiny.parent / "here" / "metrics.jsonl").read_bytes() == before
    code, _, err = jaxdl_command(*train, "--overwrite", "--width", 2)
    assert code == 0, err
    assert json.loads((tiny.parent / "here" / "summary.json").read_text())["parameters"] == 14


def test_a_changed_file_is_another_run(tiny, jaxdl_command):
    train = ["train", "tiny.py", "--run-dir", "here", "--steps", 2, "--quiet"]
    assert jaxdl_command(*train)[0] == 0
    tiny.write_text(tiny.read_text().replace("range(", "range( ") + "\nX = 1\n")
    code, _, err = jaxdl_command(*train)
    assert code == 2
    assert "tiny.py is not the file that was run" in err
    assert "jaxdl resume here goes on" in err
    code, _, err = jaxdl_command("resume", "here", "--quiet")
    assert code == 0, err


def test_a_run_in_use_is_not_overwritten(tiny, jaxdl_command):
    train = ["train", "tiny.py", "--run-dir", "here", "--steps", 2, "--quiet"]
    assert jaxdl_command(*train)[0] == 0
    with checkpoints.lock(tiny.parent / "here"):
        code, _, err = jaxdl_command(*train, "--overwrite")
    assert code == 1
    assert "is being trained by process" in err
    assert (tiny.parent / "here" / "summary.json").exists()


def test_a_folder_that_is_no_run_is_never_overwritten(tiny, jaxdl_command):
    precious = tiny.parent / "photos"
    precious.mkdir()
    (precious / "one.png").write_text("")
    code, _, err = jaxdl_command("train", "tiny.py", "--run-dir", precious, "--overwrite")
    assert code == 2
    assert "is no run folder" in err
    assert (precious / "one.png").exists()


def test_a_dry_run_writes_nothing(tiny, jaxdl_command):
    code, out, err = jaxdl_command("train", "tiny.py", "--dry-run")
    assert (code, err) == (0, "")
    assert "26" in out
    assert "x: float32[8, 3]" in out
    assert "12, 3.0 epochs" in out
    assert [path.name for path in tiny.parent.iterdir() if path.suffix != ""] == ["tiny.py"]
    assert not (tiny.parent / "runs").exists()


def test_one_batch_is_learnt_by_heart(tiny, jaxdl_command):
    code, out, err = jaxdl_command(
        "train", "tiny.py", "--overfit-one-batch", "--steps", 100, "--run-dir", "one"
    )
    assert code == 0, err
    scores = json.loads((tiny.parent / "one" / "summary.json").read_text())["scores"]
    assert scores["one batch"]["accuracy"] == 1.0
    assert scores["one batch"]["loss"] < 0.05
    assert "one batch" in out
    assert "validation" not in err


def test_a_loss_that_is_not_finite_fails_the_run(tiny, jaxdl_command):
    options = ["--optimizer.name", "sgd", "--optimizer.learning-rate", 1e30, "--run-dir", "gone"]
    code, _, err = jaxdl_command("train", "tiny.py", *options)
    assert code == 1
    assert len(err.strip().splitlines()[-3:]) == 3
    assert "error: the loss is" in err
    assert "do: lower the learning rate" in err
    assert "Traceback" not in err


def test_ctrl_c_saves_measures_and_says_so(tiny, jaxdl_command):
    press = textwrap.dedent(
        """
        import os, signal
        from jaxdl.hooks import Every
        whole = recipe

        def recipe(config):
            press = Every(5, lambda moment: os.kill(os.getpid(), signal.SIGINT))
            return dataclasses.replace(whole(config), hooks=[press])
        """
    )
    tiny.write_text(tiny.read_text() + press)
    code, out, err = jaxdl_command("train", "tiny.py", "--run-dir", "stopped")
    assert code == 130, err
    assert "Ctrl-C: ending after the running step" in err
    assert "ended before the last step: interrupted by Ctrl-C" in out
    summary = json.loads((tiny.parent / "stopped" / "summary.json").read_text())
    assert summary["steps"] == 5
    assert jaxdl_command("evaluate", "stopped")[0] == 0


def test_help_shows_the_settings_of_the_file_and_of_the_run(tiny, jaxdl_command):
    code, out, _ = jaxdl_command("train", "tiny.py", "--help")
    assert code == 0
    for text in (
        "the sign of the first of three numbers",
        "--width INT",
        "Hidden units",
        "--optimizer.learning-rate FLOAT",
        "--overfit-one-batch",
        "--run-dir FOLDER",
    ):
        assert text in out
    code, out, _ = jaxdl_command("train", "--help")
    assert code == 0
    assert "--dry-run" in out


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--optimizer.learning-rat", "3"], "--optimizer.learning-rate"),
        (["--widht", "3"], "--width"),
        (["--steps", "many"], "--steps"),
        (["--optimizer.name", "adm"], "adam"),
        (["--steps", "0"], "steps is 0"),
        (["--devices", "9"], "JAX has 8"),
    ],
)
def test_wrong_options_name_the_right_ones(tiny, jaxdl_command, options, told):
    code, out, err = jaxdl_command("train", "tiny.py", *options)
    assert code == 2
    assert told in err
    assert out == ""
    assert not (tiny.parent / "runs").exists()


FROZEN = "import dataclasses\n@dataclasses.dataclass(frozen=True)\nclass Config:\n"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("x = 1", "does not define Config, a frozen dataclass"),
        ("class Config: pass\ndef recipe(config): pass", "does not define Config"),
        (FROZEN.replace("(frozen=True)", "") + "    a: int = 1", "Config, a frozen dataclass"),
        (FROZEN + "    a: int = 1", "does not define recipe(config)"),
        (FROZEN + "    a: int = 1\ndef recipe(config): return 3", "returned a int"),
        (FROZEN + "    devices: int = 3\ndef recipe(config): pass", "has the field devices"),
        ("a = 1\nb = a / 0", "line 2, cannot be imported: ZeroDivisionError"),
        ("a =", "line 1, cannot be imported: SyntaxError"),
    ],
)
def test_files_that_are_no_recipe(tiny, jaxdl_command, content, told):
    tiny.write_text(content)
    code, _, err = jaxdl_command("train", "tiny.py")
    assert code == 2
    assert told in err
    assert "\n  expected: " in err
    assert "\n  do: " in err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["train"], "was given no file"),
        (["train", "--steps", "3"], "was given no file, but '--steps'"),
        (["train", "tinny.py"], "did you mean 'tiny'?"),
        (["train", "."], "is no Python file"),
        (["evaluate", "nowhere"], "is no run folder"),
    ],
)
def test_paths_that_are_wrong(tiny, jaxdl_command, words, told):
    code, _, err = jaxdl_command(*words)
    assert code in (1, 2)
    assert told in err


def test_a_run_whose_settings_changed_is_not_evaluated(tiny, jaxdl_command):
    assert jaxdl_command("train", "tiny.py", "--run-dir", "r", "--steps", 2, "--quiet")[0] == 0
    copy = tiny.parent / "r" / "recipe.py"
    copy.write_text(copy.read_text().replace("width: int = 4", "width: int = 6"))
    code, _, err = jaxdl_command("evaluate", "r")
    assert code == 1
    assert "the settings width of r are not those of the run" in err
    assert "[4] became [6]" in err


def test_a_setting_without_a_default_is_asked_for_and_remembered(tiny, jaxdl_command):
    text = tiny.read_text().replace("steps: int = 12", "steps: int")
    tiny.write_text(text.replace("width: int = 4", "width: int"))
    code, _, err = jaxdl_command("train", "tiny.py", "--width", 3)
    assert code == 2
    assert "--steps" in err
    train = ["train", "tiny.py", "--width", 3, "--steps", 2, "--run-dir", "r", "--quiet"]
    assert jaxdl_command(*train)[0] == 0
    assert jaxdl_command("evaluate", "r")[0] == 0


def test_what_lies_beside_the_file_can_be_imported_then_and_later(tiny, jaxdl_command):
    (tiny.parent / "beside_tiny.py").write_text("ROWS = 8\n")
    tiny.write_text("from beside_tiny import ROWS\n" + tiny.read_text())
    assert jaxdl_command("train", "tiny.py", "--run-dir", "r", "--steps", 2, "--quiet")[0] == 0
    assert jaxdl_command("evaluate", "r")[0] == 0


COUNT = textwrap.dedent(
    """
    import sys
    import jax
    from jaxdl.cli import main

    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **_: compiled.append(event)
        if event == "/jax/core/compile/backend_compile_duration" else None
    )
    code = main(["train", "tiny.py", "--run-dir", "r"])
    print("programs", len(compiled), "code", code)
    """
)


def test_a_run_compiles_init_train_and_eval_and_no_more(tiny):
    done = subprocess.run(
        [sys.executable, "-c", COUNT],
        capture_output=True,
        text=True,
        timeout=180,
        check=True,
        env={**os.environ, "XLA_FLAGS": ""},
    )
    assert done.stdout.splitlines()[-1] == "programs 3 code 0"


def test_a_damaged_checkpoint_is_passed_over_in_plain_words(tiny, jaxdl_command):
    train = ["train", "tiny.py", "--run-dir", "here", "--quiet", "--checkpoint-every", 6]
    assert jaxdl_command(*train)[0] == 0
    (tiny.parent / "here" / "checkpoints" / "12" / "record" / "metadata").write_text("{}")
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        code, _, err = jaxdl_command("evaluate", "here")
    assert code == 0
    assert err.startswith("warning: passed over: the checkpoint ")
    assert "12 is damaged: its record is not the one that was written" in err
    assert "measured after step 6 of 12" in err

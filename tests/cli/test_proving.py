"""``jaxdl prove``: a recipe's file, a step by its name, and what is told of a wrong one."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from jaxdl.cli import main
from jaxdl.cli.prove_targets import StepOptions, arguments_of
from jaxdl.errors import ConfigError
from jaxdl.recipe import Recipe
from jaxdl.testing import prove

EXAMPLES = Path(__file__).parents[2] / "examples"
STEPS = """
import jax, jax.numpy as jnp, numpy as np

def loss(params, batch):
    return jnp.mean((batch["x"] * params["w"] - batch["y"]) ** 2)

def step(state, batch):
    value, grads = jax.value_and_grad(loss)(state["params"], batch)
    params = jax.tree.map(lambda p, g: p - 0.1 * g, state["params"], grads)
    return {"params": params}, {"loss": value}

def printing(state, batch):
    print("a step")
    return step(state, batch)

def state():
    return {"params": {"w": jnp.zeros((), jnp.float32)}}

rng = np.random.default_rng(0)
batches = [{"x": rng.normal(size=4).astype("f4"), "y": np.ones(4, "f4")} for _ in range(2)]

def case():
    return dict(step=step, batches=batches, state=state(), loss=loss)

def without_step():
    return dict(batches=batches)

number = 3
"""


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    (tmp_path / "their_steps.py").write_text(STEPS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    # What the verb sets before JAX starts.
    monkeypatch.setenv("XLA_FLAGS", os.environ["XLA_FLAGS"])
    return tmp_path


def told(capsys, *words):
    code = main(["prove", *words])
    output = capsys.readouterr()
    return code, output.out, output.err


def test_a_step_by_its_name_is_proved_and_kept(capsys, project):
    words = ["their_steps:step", "--batches", "their_steps:batches", "--state", "their_steps:state"]
    code, out, _ = told(capsys, *words, "--fast", "--json", "report.json")
    assert code == 0, out
    assert "nothing found" in out
    kept = json.loads((project / "report.json").read_text())
    assert kept["ok"]
    assert {each["check"] for each in kept["outcomes"]} >= {"purity", "learning"}


def test_a_mistake_ends_with_1_its_name_and_its_line(capsys):
    words = ["--batches", "their_steps:batches", "--state", "their_steps:state", "--fast"]
    code, out, _ = told(capsys, "their_steps:printing", *words)
    assert code == 1
    assert "host-print" in out
    assert "their_steps.py:" in out


def test_a_function_may_return_the_arguments_or_a_recipe():
    given = arguments_of("their_steps:case", StepOptions())
    assert prove(**given, fast=True).ok
    found = arguments_of("recipes_of_theirs:digits", StepOptions()) if _digits() else None
    assert isinstance(found, Recipe)


def _digits() -> bool:
    Path("recipes_of_theirs.py").write_text(
        "from pathlib import Path\nfrom jaxdl.cli.files import load\n"
        f"example = load(Path({str(EXAMPLES / 'regression.py')!r}))\n"
        "def digits():\n    return example.build(example.config())\n"
    )
    return True


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "given no step"),
        (["--fast"], "given no step, but '--fast'"),
        (["their_steps"], "names no step"),
        (["no_such_module:step"], "no_such_module cannot be imported"),
        (["their_steps:stp"], "did you mean 'step'"),
        (["their_steps:number"], "is of type int"),
        (["their_steps:without_step"], "a dictionary without step"),
        (["their_steps:step"], "there is no batch"),
        (["their_steps:case", "--skip", "purty"], "there is no check 'purty'"),
        (["their_steps:case", "--devices", "0"], "--devices 0"),
        (["no_such_file.py"], "there is no file no_such_file.py"),
    ],
    ids=lambda value: " ".join(value) or "nothing" if isinstance(value, list) else "",
)
def test_what_cannot_be_proved_is_told_so(capsys, words, said):
    code, _, err = told(capsys, *words)
    assert code == 2
    assert said in err
    assert "expected:" in err
    assert "do:" in err


def test_a_report_that_cannot_be_written_is_an_error(capsys):
    words = ["their_steps:case", "--fast", "--json", "no_such_folder/report.json"]
    code, _, err = told(capsys, *words)
    assert code == 2
    assert "cannot be written" in err


@pytest.mark.slow
def test_the_recipe_of_a_file_is_proved(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("JAXDL_DATA_DIR", str(tmp_path))
    code, out, _ = told(capsys, str(EXAMPLES / "regression.py"), "--rows", "8")
    assert code == 0, out
    assert "everything recomputed" in out


def test_names_are_read_as_values_or_functions():
    options = StepOptions(batches="their_steps:batches", state="their_steps:state")
    given = arguments_of("their_steps:step", options)
    assert len(given["batches"]) == 2
    assert set(given["state"]) == {"params"}
    with pytest.raises(ConfigError, match="no_such"):
        arguments_of("their_steps:step", StepOptions(batches="their_steps:no_such"))

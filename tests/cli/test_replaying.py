"""``jaxdl replay``: the step that spoiled a run, its layer and its example."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

BAD = textwrap.dedent(
    '''
    """A model that takes the logarithm of what it is given."""

    import dataclasses

    import flax.linen as nn
    import jax.numpy as jnp
    import numpy as np

    import jaxdl
    from jaxdl import data, losses, optimizers


    class Logarithm(nn.Module):
        """The layer to be named."""

        @nn.compact
        def __call__(self, x):
            return jnp.log(x)


    class Net(nn.Module):
        """One layer of two."""

        @nn.compact
        def __call__(self, x):
            return nn.Dense(2, name="head")(Logarithm(name="loud")(x))


    @dataclasses.dataclass(frozen=True)
    class Config:
        """Settings."""

        steps: int = 25
        """Updates in all."""
        row: int = 77
        """Which row of the data is bad."""


    def recipe(config):
        x = np.random.default_rng(0).uniform(0.5, 2, size=(200, 3)).astype(np.float32)
        if config.row >= 0:
            x[config.row, 1] = -1.0
        source = data.arrays({"x": x, "label": (x[:, 0] > 1).astype(np.int32)})
        return jaxdl.Recipe(
            name="bad",
            objective=jaxdl.supervised(Net(), losses.softmax_cross_entropy, inputs="x"),
            optimizer=optimizers.OptimizerConfig(learning_rate=0.01).build(config.steps),
            train=data.Batches(source, 8, seed=1),
            steps=config.steps,
            log_every=4,
            checkpoint_every=5,
            layout=jaxdl.single(),
        )
    '''
).lstrip()


@pytest.fixture
def bad(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.py").write_text(BAD)
    return tmp_path


def test_it_names_the_step_the_layer_and_the_example(bad, jaxdl_command):
    code, _, err = jaxdl_command("train", "bad.py", "--run-dir", "run", "--quiet")
    assert code == 1
    assert "jaxdl replay names the operation" in err
    step = int(err.split("nan at step ")[1].split()[0])
    code, out, err = jaxdl_command("replay", "run")
    assert code == 0, err
    assert out.startswith(f"step {step}, reached from ")
    assert "first non-finite value: nan from `log` in Net/loud (forward)" in out
    line = BAD.splitlines().index("        return jnp.log(x)") + 1
    assert f"recipe.py:{line}" in out
    assert "from -1 to" in out
    assert "these are the rows 77 of the training source" in out
    code, again, _ = jaxdl_command("replay", "run", "--step", step)
    assert (code, again) == (0, out)
    done = subprocess.run(
        [sys.executable, f"run/replay-{step}/replay.py"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert f"step {step}: first non-finite value: nan from `log` in Net/loud" in done.stdout
    assert done.stderr.count("FloatingPointError: invalid value (nan) encountered in log") == 1


def test_a_sound_step_is_said_to_be_one(bad, jaxdl_command):
    run = ["train", "bad.py", "--run-dir", "run", "--quiet", "--row", -1, "--steps", 12]
    assert jaxdl_command(*run)[0] == 0
    code, out, _ = jaxdl_command("replay", "run", "--step", 8, "--to", "elsewhere")
    assert code == 0
    assert "step 8, reached from the start by 7 steps" in out
    assert "every value of it is finite" in out
    code, _, err = jaxdl_command("replay", "run")
    assert code == 2
    assert "no step after 12, where its newest checkpoint is, is other than finite" in err


@pytest.mark.parametrize("step", [0, 99])
def test_a_step_that_the_run_has_not(bad, jaxdl_command, step):
    run = ["train", "bad.py", "--run-dir", "run", "--quiet", "--row", -1, "--steps", 3]
    assert jaxdl_command(*run)[0] == 0
    code, _, err = jaxdl_command("replay", "run", "--step", step)
    assert code == 2
    assert f"step {step} was asked for" in err


def test_a_folder_of_something_else_is_left_alone(bad, jaxdl_command):
    run = ["train", "bad.py", "--run-dir", "run", "--quiet", "--row", -1, "--steps", 3]
    assert jaxdl_command(*run)[0] == 0
    (bad / "photos").mkdir()
    (bad / "photos" / "one.png").write_text("")
    code, _, err = jaxdl_command("replay", "run", "--step", 2, "--to", "photos")
    assert code == 1
    assert "holds no replay" in err
    assert (bad / "photos" / "one.png").exists()

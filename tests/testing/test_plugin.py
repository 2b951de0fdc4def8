"""The pytest plugin in a project of its own, as a new user meets it."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

STEP = """
import jax, jax.numpy as jnp

@jax.jit
def train_step(state, batch):
    def loss(w):
        return jnp.mean((batch["x"] @ w - batch["y"]) ** 2)
    value, grad = jax.value_and_grad(loss)(state["params"])
    return {"params": state["params"] - 0.1 * grad}, {"loss": value}
"""

GOOD = """
import jax.numpy as jnp
import numpy as np
import pytest
from jaxdl.testing import assert_learns, prove
from step import train_step

def batch(rng):
    x = rng.numpy.normal(size=(8, 3)).astype(np.float32)
    return {"x": x, "y": x.sum(1)}

def start():
    return {"params": jnp.zeros(3)}

def test_it_is_proved(rng, devices):
    assert len(devices) == 8
    prove(train_step, [batch(rng), batch(rng)], state=start(), fast=True).check()

@pytest.mark.devices(4)
def test_it_learns(rng, mesh, strict_numerics):
    assert dict(mesh.shape) == {"data": 4}
    assert_learns(train_step, [batch(rng)], state=start(), below=0.1)

def test_it_compiles_once(rng, no_recompile):
    state, _ = train_step(start(), batch(rng))
    with no_recompile:
        state, _ = train_step(state, batch(rng))
    with pytest.raises(AssertionError, match="train_step"), no_recompile:
        train_step(state, {k: v[:4] for k, v in batch(rng).items()})
"""

EARLY = """
import jax.numpy as jnp

TABLE = jnp.zeros(3)

def test_it_needs_devices(devices):
    pass
"""


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    # Where jaxdl is installed pytest finds the plugin itself; from a bare checkout it is named.
    found = {each.name for each in importlib.metadata.entry_points(group="pytest11")}
    plugin = [] if "jaxdl" in found else ["-p", "jaxdl.pytest_plugin"]
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *plugin, *words],
        cwd=folder,
        env={**environment, "PYTHONPATH": f"{folder}{os.pathsep}{Path(__file__).parents[2]}"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_three_tests_of_a_step(tmp_path):
    (tmp_path / "step.py").write_text(STEP)
    (tmp_path / "test_step.py").write_text(GOOD)
    found = run(tmp_path)
    assert found.returncode == 0, found.stdout + found.stderr
    assert "3 passed" in found.stdout


def test_a_module_that_started_jax_too_early_is_told_so(tmp_path):
    (tmp_path / "test_early.py").write_text(EARLY)
    found = run(tmp_path)
    assert found.returncode == 1, found.stdout + found.stderr
    assert "JAX had started before jaxdl could ask for them" in found.stdout
    (tmp_path / "pytest.ini").write_text("[pytest]\njaxdl_devices = 8\n")
    found = run(tmp_path)
    assert found.returncode == 0, found.stdout + found.stderr

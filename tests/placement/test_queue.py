"""Several virtual CPU devices: hundreds of steps without a read must not abort the process.

XLA ends the process (SIGABRT) when queued collectives of more devices than cores wait for each
other. It runs in a process of its own, which a failure would kill.
"""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import os
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
import jax, jax.numpy as jnp, numpy as np, optax, jaxdl
from jaxdl.objectives import from_mean
objective = from_mean(
    lambda p, batch: jnp.mean((batch["x"] @ p) ** 2), init=lambda key, batch: jnp.ones((64, 64))
)
step = jaxdl.{place}(jaxdl.make_train_step(objective, optax.sgd(1e-3)))
batch = {{"x": np.ones((64, 64), np.float32)}}
state = step.init(0, batch)
for _ in range(300):
    state, sums = step(state, batch)
print("steps", np.ravel(state.step)[0])
"""


def run(place: str) -> str:
    program = PROGRAM.format(place=place)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_three_hundred_unread_steps_on_eight_devices_jit():
    assert "steps 300" in run("jit")


def test_three_hundred_unread_steps_on_eight_devices_pmap():
    assert "steps 300" in run("pmap")

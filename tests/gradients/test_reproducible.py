"""Bit for bit: one state whatever the devices, the processes and the placement.

Run as a program, with the number of devices set by ``JAX_NUM_CPU_DEVICES``, this module trains 50
steps and prints the SHA-256 of the state; the slow test compares these.
"""

from __future__ import annotations

import functools
import hashlib
import os
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdl
from jaxdl import gradients, losses, metrics, models
from jaxdl.errors import BatchError, LayoutError, ObjectiveError
from jaxdl.layouts import layout
from jaxdl.protocols import Aux, Mean, Objective

SHARDS, ROWS, CLASSES = 8, 32, 10
MODELS = {
    "mlp": models.MLP((16, CLASSES), dropout_rate=0.3),
    "cnn": models.CNN(num_classes=CLASSES, norm="batch", dropout_rate=0.3),
}


def make_batches(steps: int, *, rows: int = ROWS, side: int = 4) -> list[dict[str, np.ndarray]]:
    """Batches with masked rows, one shard of each being all padding."""
    rng = np.random.default_rng(0)
    batches = []
    for step in range(steps):
        mask = (rng.random((SHARDS, rows // SHARDS)) < 0.8).astype(np.float32)
        mask[step % SHARDS] = 0.0
        batches.append(
            {
                "image": rng.normal(size=(rows, side, side, 1)).astype(np.float32),
                "label": rng.integers(0, CLASSES, rows).astype(np.int32),
                "mask": mask.reshape(rows),
            }
        )
    return batches


def make_step(model, **options) -> jaxdl.TrainStep:
    """Dropout in the model, clipping by the global norm, AdamW, a moving average."""
    optimizer = optax.chain(optax.clip_by_global_norm(0.5), optax.adamw(1e-2))
    measured = {"accuracy": metrics.accuracy()}
    objective = jaxdl.supervised(model, losses.softmax_cross_entropy, metrics=measured)
    options = {"gradient": gradients.reproducible(shards=SHARDS), "ema_decay": 0.9, **options}
    return jaxdl.make_train_step(objective, optimizer, **options)


def run(pure: jaxdl.TrainStep, batches, placement: str, devices: int, **options):
    """The last state and its sums, on the host, and the program they came from."""
    chosen = jax.devices()[:devices]
    if placement == "plain":
        init, update = jax.jit(pure.init), jax.jit(pure.update)
    elif placement == "pmap":
        step = jaxdl.pmap(pure, devices=chosen)
        init, update = step.init, step
    else:
        step = jaxdl.jit(pure, devices=chosen, **options)
        init, update = step.init, step
    key = jax.random.key(3)
    state = init(key, batches[0])
    for batch in batches:
        state, sums = update(state, batch)
    program = None if placement == "plain" else step.program
    state = jaxdl.from_pmap_state(state) if placement == "pmap" else state
    return jax.device_get((state.replace(key=None), sums)), program


def digest(tree) -> str:
    """The SHA-256 of all leaves."""
    sha = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        sha.update(np.asarray(leaf).tobytes())
    return sha.hexdigest()


def assert_same_bits(got, expected) -> None:
    for path, a, b in zip(
        jaxdl.tree_paths.leaf_paths(expected),
        jax.tree.leaves(got),
        jax.tree.leaves(expected),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b, err_msg=path)


@functools.cache
def on_one_device():
    return run(make_step(MODELS["mlp"]), make_batches(3), "jit", 1)


@pytest.mark.parametrize(
    ("placement", "devices"), [("plain", 1), ("jit", 2), ("jit", SHARDS), ("pmap", SHARDS)]
)
def test_same_bits_wherever_it_runs(placement, devices):
    """Parameters, optimizer state, moving average and sums, after three masked batches."""
    got, program = run(make_step(MODELS["mlp"]), make_batches(3), placement, devices)
    expected, reference = on_one_device()
    assert_same_bits(got, expected)
    # With one shard a device too, whose loop of one turn is inlined, nothing is fused across.
    walls = reference.as_text().count(" conditional(")
    assert walls == 3, "a shard, its means, the update"
    assert program is None or program.as_text().count(" conditional(") == walls


def test_same_bits_over_two_batch_axes_and_one_that_is_none():
    spread = layout(mesh={"data": 2, "fsdp": 2, "tensor": 2})
    got, _ = run(make_step(MODELS["mlp"]), make_batches(3), "jit", 8, layout=spread)
    assert_same_bits(got, on_one_device()[0])


def linear(**aux) -> Objective:
    """Least squares by hand; ``aux`` adds to its metrics or its state."""

    def loss(params, model_state, batch, key, *, train):
        each = (batch["x"] @ params - batch["y"]) ** 2
        total, weight = jaxdl.reductions.masked_sum(each, batch.get("mask"))
        found = {name: function(batch, weight, key) for name, function in aux.items()}
        state = found.pop("state", model_state)
        return total, Aux(weight, state, {"error": Mean(total, weight), **found})

    return Objective(lambda key, batch: (jnp.ones(3), {}), loss)


def rows(count: int = 16, **more) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(count)
    x = rng.normal(size=(count, 3)).astype(np.float32)
    return {"x": x, "y": rng.normal(size=count).astype(np.float32), **more}


def differentiated(objective, batch, shards: int, params=None, key=None, model_state=None):
    gradient = gradients.reproducible(shards=shards)(objective)
    key = jax.random.key(0) if key is None else key
    params = jnp.ones(3) if params is None else params
    return gradient(params, {} if model_state is None else model_state, batch, key)


@pytest.mark.parametrize("shards", [1, 2, 16])
def test_sum_is_that_of_the_whole_batch(shards):
    batch = rows(mask=np.random.default_rng(1).random(16).astype(np.float32))
    grads, aux = differentiated(linear(), batch, shards)
    expected, whole = gradients.mean()(linear())(jnp.ones(3), {}, batch, jax.random.key(0))
    np.testing.assert_allclose(grads, expected, rtol=1e-5)
    np.testing.assert_allclose(aux.weight, whole.weight, rtol=1e-6)
    np.testing.assert_allclose(aux.metrics["error"].total, whole.metrics["error"].total, rtol=1e-6)


def test_divisor_gives_the_mean():
    gradient = gradients.reproducible(shards=4)(linear())
    grads, aux = gradient(jnp.ones(3), {}, rows(), jax.random.key(0), divisor=lambda w: 2.0 * w)
    total, _ = differentiated(linear(), rows(), 4)
    np.testing.assert_allclose(grads, total / 32.0, rtol=1e-6)
    assert float(aux.weight) == 16.0


def test_a_shard_of_padding_adds_nothing_not_even_nan():
    def loss(params, model_state, batch, key, *, train):
        weight = jnp.sum(batch["mask"])
        total = jnp.sum(batch["mask"] * (batch["x"] @ params)) / weight * weight
        state = {"mean": jnp.sum(batch["mask"] * batch["x"][:, 0]) / weight}
        return total, Aux(weight, state, {"loss": Mean(total, weight)})

    mask = np.ones(16, np.float32)
    mask[4:8], mask[15] = 0.0, 0.0
    batch, old = rows(mask=mask), {"mean": jnp.zeros(())}
    objective = Objective(None, loss)
    grads, aux = differentiated(objective, batch, 4, model_state=old)
    np.testing.assert_allclose(grads, (mask[:, None] * batch["x"]).sum(0), rtol=1e-5)
    np.testing.assert_allclose(aux.model_state["mean"], (mask * batch["x"][:, 0]).sum() / 11, 1e-5)
    assert np.isfinite(aux.metrics["loss"].total)
    assert float(aux.weight) == 11.0


def test_batch_of_padding_changes_nothing():
    def loss(params, model_state, batch, key, *, train):
        weight = jnp.sum(batch["mask"])
        mean = jnp.sum(batch["mask"] * batch["x"][:, 0]) / weight
        return mean * jnp.sum(params), Aux(weight, {"mean": mean}, {})

    objective = Objective(lambda key, batch: (jnp.ones(3), {"mean": jnp.ones(())}), loss)
    estimator = gradients.reproducible(shards=4)
    pure = jaxdl.make_train_step(objective, optax.sgd(0.1), gradient=estimator)
    batch = rows(mask=np.zeros(16, np.float32))
    (state, sums), _ = run(pure, [batch], "plain", 1)
    assert float(state.model_state["mean"]) == 1.0
    np.testing.assert_array_equal(state.params, np.ones(3))
    assert float(sums["loss"].weight) == float(sums["loss"].total) == 0.0


def test_model_state_is_the_mean_by_weight_and_counters_agree():
    def state_of(batch, weight, key):
        return {"mean": jnp.sum(batch["x"]) / batch["x"].size, "seen": jnp.asarray(7, jnp.int32)}

    old = {"mean": jnp.zeros(()), "seen": jnp.asarray(6, jnp.int32)}
    batch = rows(mask=np.repeat([1.0, 0.5], 8).astype(np.float32))
    _, aux = differentiated(linear(state=state_of), batch, 2, model_state=old)
    halves = batch["x"].reshape(2, -1).mean(1)
    np.testing.assert_allclose(aux.model_state["mean"], (2 * halves[0] + halves[1]) / 3, rtol=1e-5)
    assert int(aux.model_state["seen"]) == 7
    assert aux.model_state["seen"].dtype == jnp.int32


@pytest.mark.parametrize(("placement", "devices"), [("plain", 1), ("jit", 4), ("pmap", 2)])
def test_each_shard_has_the_key_of_its_place(placement, devices):
    def draw(batch, weight, key):
        return jnp.zeros(SHARDS).at[batch["shard"][0]].set(jax.random.uniform(key))

    batch = rows(shard=np.repeat(np.arange(SHARDS), 2))
    estimator = gradients.reproducible(shards=SHARDS)
    pure = jaxdl.make_train_step(linear(drawn=draw), optax.sgd(0.1), gradient=estimator)
    (_, sums), _ = run(pure, [batch], placement, devices)
    _, state_key = jax.random.split(jax.random.key(3))
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(
        jax.random.fold_in(state_key, 0), jnp.arange(SHARDS)
    )
    np.testing.assert_array_equal(sums["drawn"], jax.vmap(jax.random.uniform)(keys))


def test_half_precision_is_added_in_float32():
    def loss(params, model_state, batch, key, *, train):
        return jnp.sum(params * batch["x"]), Aux(1.0, model_state, {})

    batch = {"x": np.ones((512, 1), jnp.bfloat16)}
    grads, _ = differentiated(Objective(None, loss), batch, 512, jnp.ones((), jnp.bfloat16))
    assert grads.dtype == jnp.bfloat16
    assert float(grads) == 512.0, "a sum in bfloat16 stays at 256"


def test_frozen_parameters_and_batches_of_any_structure():
    def loss(params, model_state, batch, key, *, train):
        x, y = batch
        each = (x @ params["w"] + params["b"] - y) ** 2
        return jnp.sum(each), Aux(float(each.size), model_state, {})

    def init(key, batch):
        return {"w": jnp.ones(3), "b": jnp.zeros(())}, {}

    pure = jaxdl.make_train_step(
        Objective(init, loss),
        optax.sgd(0.1),
        gradient=gradients.reproducible(shards=4),
        freeze="b",
        nonfinite="skip",
    )
    batch = (rows()["x"], rows()["y"])
    (one, _), _ = run(pure, [batch] * 2, "jit", 1)
    (four, sums), _ = run(pure, [batch] * 2, "jit", 4)
    assert_same_bits(four, one)
    assert float(one.params["b"]) == 0.0
    assert int(sums["skipped"]) == 0


@pytest.mark.parametrize("wrong", [0, -2, 2.0])
def test_shards_are_a_positive_integer(wrong, untyped):
    with pytest.raises(ObjectiveError, match="expected: a positive number of shards"):
        gradients.reproducible(shards=wrong)


@pytest.mark.parametrize("placement", ["jit", "pmap"])
def test_what_does_not_divide_is_named(placement):
    pure = make_step(MODELS["mlp"])
    with pytest.raises(BatchError, match="36 rows do not divide into 8 shards") as caught:
        run(pure, [{k: v[:36] for k, v in make_batches(1, rows=40)[0].items()}], placement, 2)
    assert "32 or 40" in str(caught.value)
    with pytest.raises(LayoutError, match="8 shards do not divide over 3 devices") as caught:
        run(pure, make_batches(1, rows=24), placement, 3)
    assert "such as 6 or 9" in str(caught.value)


def trained(name: str, placement: str) -> str:
    """The SHA-256 of everything after 50 steps of a model."""
    pure = make_step(
        {"mlp": models.MLP((128, 64, CLASSES), dropout_rate=0.3), "cnn": MODELS["cnn"]}[name]
    )
    batches = make_batches(50, rows=64, side=28 if name == "mlp" else 12)
    parts, me = jax.process_count(), jax.process_index()
    own = [{k: np.split(v, parts)[me] for k, v in batch.items()} for batch in batches]
    result, _ = run(pure, own, placement, jax.device_count())
    return digest(result)


def trained_elsewhere(placement: str, devices: int, processes: int = 1) -> list[list[str]]:
    """What processes of their own print, each with so many devices."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    environment = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "JAX_PLATFORMS")}
    # On one thread, as on a machine of one core, XLA's sums round otherwise than on several.
    environment |= {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices), "NPROC": "2"}
    running = [
        subprocess.Popen(
            [sys.executable, __file__, placement, str(port), str(processes), str(process)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for process in range(processes)
    ]
    printed = []
    for process in running:
        out, errors = process.communicate(timeout=500)
        assert process.returncode == 0, errors[-2000:]
        # Collectives between processes announce themselves among the lines.
        printed.append([line for line in out.splitlines() if line.startswith("sha256")])
    return printed


@pytest.mark.slow
def test_fifty_steps_in_processes_of_their_own():
    """1, 2, 4 and 8 devices, two processes of two devices, and ``pmap``: one SHA-256 a model."""
    expected = trained_elsewhere("jit", 1)
    assert [len(line) for line in expected] == [len(MODELS)]
    for devices in (2, 4, 8):
        assert trained_elsewhere("jit", devices) == expected, f"{devices} devices"
    assert trained_elsewhere("jit", 2, processes=2) == expected * 2, "2 processes"
    assert trained_elsewhere("pmap", 8) == expected, "pmap"
    assert trained_elsewhere("plain", 1) == expected, "jax.jit of the pure update"


def main() -> None:
    placement, port, processes, process = sys.argv[1], *map(int, sys.argv[2:])
    if processes > 1:
        jax.distributed.initialize(f"localhost:{port}", processes, process)
    for name in MODELS:
        print("sha256", name, trained(name, placement), flush=True)


if __name__ == "__main__":
    main()

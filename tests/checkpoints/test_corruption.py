"""Any damage to any file of a checkpoint is detected, or harmless because the values are equal."""

from __future__ import annotations

import random
import shutil
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from states import like, numbers

from jaxdl import checkpoints
from jaxdl.checkpoints import Checkpoints
from jaxdl.errors import DamagedError

TRIALS = 300


def make_state(step: int):
    rng = np.random.default_rng(step)
    return {
        "params": {
            "noise": jnp.asarray(rng.normal(size=(300, 70)), jnp.float32),
            "half": jnp.asarray(rng.normal(size=(40, 9)), jnp.bfloat16),
            "zeros": jnp.zeros((200, 50)),
        },
        "count": jnp.asarray(step, jnp.int32),
        "small": jnp.asarray(rng.integers(0, 5, (60, 60)), jnp.int8),
        "key": jax.random.key(step),
        "none": jnp.zeros((0, 4)),
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    store = Checkpoints(folder)
    for step in (1, 2):
        store.save(step, make_state(step), record={"seed": step}, window=[np.arange(4.0)])
    store.close()
    return folder


def damage(path, rng) -> str:
    """Flips a bit, cuts, empties, lengthens or deletes the file."""
    content = path.read_bytes()
    kind = rng.choice(["flip"] * 6 + ["truncate"] * 2 + ["empty", "append", "delete"])
    if kind == "delete":
        path.unlink()
    elif kind == "flip" and content:
        place = rng.randrange(len(content))
        flipped = content[place] ^ (1 << rng.randrange(8))
        path.write_bytes(content[:place] + bytes([flipped]) + content[place + 1 :])
    elif kind == "truncate" and content:
        path.write_bytes(content[: rng.randrange(len(content))])
    elif kind == "append":
        path.write_bytes(content + b"\x00")
    else:
        path.write_bytes(b"")
    return f"{kind} {path.name}"


def same(a, b) -> bool:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(
        (x.shape, x.dtype) == (y.shape, y.dtype) and numbers(x).tobytes() == numbers(y).tobytes()
        for x, y in pairs
    )


@pytest.mark.slow
def test_nothing_is_silently_wrong(whole, tmp_path):
    states = {step: make_state(step) for step in (1, 2)}
    rng = random.Random(0)
    outcomes: dict[str, list[str]] = {"detected": [], "harmless": [], "wrong": []}
    for trial in range(TRIALS):
        folder = tmp_path / str(trial)
        shutil.copytree(whole, folder)
        files = sorted(path for path in (folder / "2").rglob("*") if path.is_file())
        # Every file in turn, then by chance, every other time by size: TensorStore names its files
        # at random, and most of the small ones hold nothing that is read.
        sizes = [path.stat().st_size for path in files] if trial % 2 else None
        victim = files[trial] if trial < len(files) else rng.choices(files, sizes)[0]
        what = damage(victim, rng)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            restored = Checkpoints(folder).restore(like(states[2]))
        values = same(restored.state, states[restored.step])
        values = values and restored.record["seed"] == restored.step
        values = values and np.array_equal(restored.window[0], np.arange(4.0))
        loud = any("passed over" in str(each.message) for each in told)
        if not values or (restored.step == 1) != loud:
            outcomes["wrong"].append(what)
        else:
            outcomes["detected" if restored.step == 1 else "harmless"].append(what)
        shutil.rmtree(folder)
    assert outcomes["wrong"] == []
    assert len(outcomes["detected"]) > TRIALS // 5, outcomes["harmless"]
    assert len(outcomes["detected"]) + len(outcomes["harmless"]) == TRIALS


def test_every_bit_of_the_array_data_counts(whole, tmp_path):
    """What Orbax restores silently wrong: one flipped bit in the largest file, all over it."""
    state = make_state(2)
    for trial in range(40):
        folder = tmp_path / str(trial)
        shutil.copytree(whole, folder)
        largest = max((folder / "2").rglob("*"), key=lambda path: path.stat().st_size)
        content = bytearray(largest.read_bytes())
        place = len(content) * (2 * trial + 1) // 80
        content[place] ^= 1 << (trial % 8)
        largest.write_bytes(content)
        manifest, _ = checkpoints.open_step(folder, 2)
        found = checkpoints.verify(folder / "2", manifest)
        if found:
            with pytest.raises(DamagedError, match="is damaged"):
                Checkpoints(folder).restore(like(state), step=2)
        else:
            assert same(Checkpoints(folder).restore(like(state), step=2).state, state)
        shutil.rmtree(folder)

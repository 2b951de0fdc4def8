"""Keys, and a small checkpoint with everything in it that is hard to store."""

from __future__ import annotations

import shutil
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import security
from jaxdl.checkpoints import Checkpoints

CHUNK = 256


class Keys(NamedTuple):
    train: security.Secret
    evaluate: security.Secret
    export: security.Secret
    other: security.Secret
    signer: security.Secret
    stranger: security.Secret

    @property
    def trust(self):
        return security.Trust([bytes.fromhex(security.public_text(self.signer)[8:])])

    @property
    def holders(self):
        return [(role, getattr(self, role)) for role in ("train", "evaluate", "export")]


def secret(seed):
    return security.Secret(np.random.default_rng(seed).bytes(32))


@pytest.fixture(scope="session")
def keys():
    return Keys(*map(secret, range(6)))


def make_state():
    weights = jax.random.normal(jax.random.key(1), (7, 100))
    return {
        "params": {
            "dense_0": {"kernel": weights, "bias": jnp.ones(3, jnp.bfloat16)},
            "a/b %": {"": jnp.int8(5) + jnp.zeros((1,), jnp.int8)},
        },
        "ema": {"dense_0": {"kernel": weights * 2}},
        "model_state": {"batch_stats": {"mean": jnp.zeros((0, 4))}},
        "opt_state": [{"mu": weights * 3}, jnp.int32(4)],
        "key": jax.random.key(9),
        "step": jnp.int32(12),
        "scale": jnp.float32(1.5),
    }


@pytest.fixture(scope="session")
def state():
    return make_state()


@pytest.fixture(scope="session")
def checkpoint(state, tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    store = Checkpoints(folder)
    store.save(
        12,
        state,
        record={"position": 34, "note": "é"},
        window=[np.arange(5.0)],
        metrics={"validation/loss": 0.25},
    )
    store.close()
    return folder / "12"


@pytest.fixture(scope="session")
def sealed_once(checkpoint, keys, tmp_path_factory):
    out = tmp_path_factory.mktemp("sealed") / "12.sealed"
    return security.seal(checkpoint, out, keys.holders, signer=keys.signer, chunk=CHUNK).path


@pytest.fixture
def sealed(sealed_once, tmp_path):
    """A sealed checkpoint to do with what one likes."""
    return shutil.copytree(sealed_once, tmp_path / "12.sealed")


@pytest.fixture
def open_all(keys):
    """Opens a folder with a key and reads everything that it opens."""

    def run(folder, holder=keys.train, **options):
        options.setdefault("trust", keys.trust)
        found = security.open_sealed(folder, holder, **options)
        return {name: found.read(name).tobytes() for name in found.items}

    return run

"""What sealing costs beside a plain save: encrypting, signing, opening, verifying.

Run with ``python benchmarks/sealing.py [--megabytes N] [--json FILE]``. The state is parameters and
the moments of Adam. A plain save is ``Checkpoints.save`` until it is on disk, with its hashes. All
are taken in turn, in one run, on one file system: times of one machine mean little, ratios more.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np
import safetensors.numpy

from jaxdl import security
from jaxdl.checkpoints import Checkpoints

ROUNDS = 5


def make_state(megabytes: int):
    """Parameters and two moments: 24 leaves of noise."""
    rows = megabytes * 1_000_000 // 24 // 4 // 1024

    @jax.jit
    def make(key):
        keys = jax.random.split(key, 24)
        leaves = [jax.random.normal(each, (rows, 1024)) for each in keys]
        return {"params": leaves[:8], "opt_state": leaves[8:]}

    return jax.block_until_ready(make(jax.random.key(0)))


def seconds(work: Callable[[], object]) -> float:
    """How long it takes."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def plain(folder: Path, state) -> None:
    """A save, until it is on disk."""
    shutil.rmtree(folder, ignore_errors=True)
    store = Checkpoints(folder)
    store.save(1, state)
    store.close()


def written(path: Path, arrays) -> None:
    """A .safetensors file, until it is on disk: nothing is hashed."""
    safetensors.numpy.save_file(arrays, path)
    with path.open("rb") as file:
        os.fsync(file.fileno())


def once(folder: Path, state, keys: dict[str, security.Secret]) -> dict[str, float]:
    """Seconds of each, in turn."""
    signer = keys["sign"]
    trust = security.Trust([bytes.fromhex(security.public_text(signer).partition(":")[2])])
    holders = [("train", keys["train"]), ("export", keys["export"])]
    copy, memory, disk = folder / "plain", folder / "memory", folder / "disk"
    file, sealed_file = folder / "state.safetensors", folder / "file"
    arrays = {str(i): np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(state))}
    for each in (memory, disk, sealed_file):
        shutil.rmtree(each, ignore_errors=True)

    def read_all() -> None:
        found = security.open_sealed(memory, keys["train"], trust=trust)
        for name in found.items:
            found.read(name)

    source = security.state_source(state, 1)
    return {
        "plain save": seconds(lambda: plain(copy, state)),
        "seal from memory": seconds(lambda: security.seal(source, memory, holders, signer=signer)),
        "seal a checkpoint": seconds(
            lambda: security.seal(copy / "1", disk, holders, signer=signer)
        ),
        "plain safetensors file": seconds(lambda: written(file, arrays)),
        "seal that file": seconds(lambda: security.seal(file, sealed_file, holders, signer=signer)),
        "open and decrypt all": seconds(read_all),
        "verify": seconds(lambda: security.verify_sealed(memory, trust=trust)),
        "revoke": seconds(
            lambda: security.revoke(memory, "export", holder=keys["train"], signer=signer)
        ),
        "rotate": seconds(
            lambda: security.rotate(memory, holders, holder=keys["train"], signer=signer)
        ),
    }


def main() -> None:
    """Prints the table; appends one JSON line a row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    state = make_state(options.megabytes)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        keys = {each: security.new_key(folder / each) for each in ("train", "export", "sign")}
        rounds = [once(folder, state, keys) for _ in range(options.rounds + 1)][1:]
    rows = []
    for row in rounds[0]:
        ratio = statistics.median(each["plain save"] / each[row] for each in rounds)
        taken = statistics.median(each[row] for each in rounds)
        rows.append({"what": row, "ms": taken * 1e3, "megabytes": size / 1e6, "ratio": ratio})
        print(f"{row:22} {taken * 1e3:9.1f} ms {ratio:8.2f} x as fast as a plain save")
    if options.json:
        with options.json.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)


if __name__ == "__main__":
    main()

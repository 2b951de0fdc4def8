"""What the logits of a large vocabulary cost, whole and in chunks: temporary memory by XLA.

Run with ``python benchmarks/logits.py``. Nothing is run: the loss and its gradients are compiled
for one device.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp

from jaxdl.losses import chunked_cross_entropy, softmax_cross_entropy

FEATURES, WORDS = 256, 50_304
SHAPES = ((4, 1024), (1, 2048), (8, 128))


def whole(hidden, embedding, targets):
    """The plain loss, which holds all logits."""
    return softmax_cross_entropy(jnp.einsum("btd,vd->btv", hidden, embedding), targets)


def temporary_bytes(loss, rows: int, length: int) -> int:
    """Temporaries of the loss and both its gradients."""
    hidden = jax.ShapeDtypeStruct((rows, length, FEATURES), jnp.float32)
    embedding = jax.ShapeDtypeStruct((WORDS, FEATURES), jnp.float32)
    targets = jax.ShapeDtypeStruct((rows, length), jnp.int32)

    def total(hidden, embedding, targets):
        return jnp.sum(loss(hidden, embedding, targets))

    program = jax.jit(jax.value_and_grad(total, (0, 1))).lower(hidden, embedding, targets)
    return program.compile().memory_analysis().temp_size_in_bytes


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, default=None, help="append one JSON line a row here")
    options = parser.parse_args()
    sizes = ("auto", 128, 16)
    print(f"hidden [B, T, {FEATURES}], {WORDS:,} words; MiB of temporaries on {jax.devices()[0]}")
    print(f"{'B x T':>10} {'chunk':>6} {'whole':>9} {'chunked':>9} {'times less':>10}")
    rows = []
    for shape in SHAPES:
        plain = temporary_bytes(whole, *shape)
        for size in sizes:
            bytes_ = temporary_bytes(partial(chunked_cross_entropy, chunk_size=size), *shape)
            rows.append({"rows": shape[0], "length": shape[1], "chunk_size": size})
            rows[-1] |= {"whole_bytes": plain, "chunked_bytes": bytes_}
            print(
                f"{shape[0]:>4} x {shape[1]:<4}{size!s:>6} {plain / 2**20:9.1f} "
                f"{bytes_ / 2**20:9.1f} {plain / bytes_:10.1f}"
            )
    if options.json is not None:
        with options.json.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)


if __name__ == "__main__":
    main()

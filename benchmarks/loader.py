"""The loader: rows a second against a bare numpy gather, and against decoding record by record.

Run with ``python benchmarks/loader.py [--data-dir DIR]``. With a data folder that holds a prepared
MNIST it is measured on that; otherwise on the digits.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from pairs import Row, compare, show

from jaxdl import data

BATCH = 128


def gather_row(source: data.Columns, pairs: int) -> Row:
    """One shuffled epoch of ``Batches``, its order included, over the same rows by ``np.take``."""
    batches = data.Batches(source, BATCH, remainder="drop")
    rng = np.random.default_rng(0)
    epoch = iter(range(10**9))

    def ours() -> None:
        for _ in batches.epoch(next(epoch)):
            pass

    def bare() -> None:
        order = rng.permutation(len(source))
        for start in range(0, len(source) - BATCH + 1, BATCH):
            rows = order[start : start + BATCH]
            for column in source.columns.values():
                np.take(column, rows, axis=0)

    return compare(
        "Batches over bare gather", ours, bare, pairs=pairs, units=batches.batches_per_epoch
    )


def grain_row(source: data.Columns, records: data.Records, pairs: int) -> Row:
    """Grain's loader over decoded-on-demand records, over ``Batches`` on columns."""
    import grain

    steps = max(1, min(8, len(source) // BATCH))
    batches = data.Batches(source, BATCH, remainder="drop")
    decoded = (
        grain.MapDataset.range(len(records))
        .shuffle(seed=0)
        .map(lambda i: {k: v[0] for k, v in records.gather(np.array([i])).items()})
        .batch(BATCH, drop_remainder=True)
    )

    def ours() -> None:
        for k in range(steps):
            batches[k]

    def theirs() -> None:
        for k in range(steps):
            decoded[k]

    return compare("Batches over Grain, per record", ours, theirs, pairs=pairs, units=steps)


def prefetch_row(source: data.Columns, pairs: int) -> Row:
    """A loop whose consumer sleeps 0.5 ms a batch, prefetched, over the same sleeps alone."""
    batches = data.Batches(source, BATCH, remainder="drop")
    steps = 400

    def ours() -> None:
        with data.prefetch(batches, lambda b: b, stop=steps) as ahead:
            for _ in ahead:
                time.sleep(0.0005)

    def theirs() -> None:
        for _ in range(steps):
            time.sleep(0.0005)

    return compare("prefetch beside a sleeping step", ours, theirs, pairs=pairs, units=steps)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", default=None, help="folder of a prepared TFDS mnist")
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--json", type=Path, default=None, help="append one JSON line a row here")
    options = parser.parse_args()
    name, where = ("mnist", options.data_dir) if options.data_dir else ("digits", None)
    if name == "digits":
        data.digits(split="train")
    source = data.tfds(name, split="train", data_dir=where)
    records = data.tfds(name, split="train", data_dir=where, cache=False)
    rows = [
        gather_row(source, options.pairs),
        grain_row(source, records, max(3, options.pairs // 3)),
        prefetch_row(source, max(3, options.pairs // 3)),
    ]
    print(f"{name}: {len(source)} rows, batches of {BATCH}; times are for one batch")
    show(rows, options.json)


if __name__ == "__main__":
    main()

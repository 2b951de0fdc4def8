"""What ``import jaxdl`` adds over jax + flax + optax, in milliseconds.

Each sample is a new process that imports the three first, then times ``import jaxdl`` alone, and
after it the import of everything that a step needs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

PROBE = """
import time
import jax, flax, optax, flax.linen, flax.nnx
start = time.perf_counter()
import jaxdl
first = time.perf_counter()
jaxdl.make_train_step, jaxdl.jit, jaxdl.supervised, jaxdl.losses, jaxdl.metrics, jaxdl.models
print(first - start, time.perf_counter() - first)
"""


def main() -> None:
    """Prints the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=9)
    parser.add_argument("--json", type=Path, default=None, help="append one JSON line here")
    options = parser.parse_args()
    rows: list[tuple[float, float]] = []
    for _ in range(options.samples):
        out = subprocess.run(
            [sys.executable, "-c", PROBE], capture_output=True, text=True, check=True
        )
        alone, used = map(float, out.stdout.split())
        rows.append((alone * 1e3, used * 1e3))
    row = {
        "name": "import jaxdl",
        "alone_ms": statistics.median(r[0] for r in rows),
        "with_first_use_ms": statistics.median(r[1] for r in rows),
        "samples": options.samples,
    }
    print(f"import jaxdl: {row['alone_ms']:.2f} ms; first use of the step: "
          f"{row['with_first_use_ms']:.1f} ms more (medians of {options.samples})")  # fmt: skip
    if options.json is not None:
        with options.json.open("a") as file:
            file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()

"""A small run that a test starts, kills and starts again, in a process of its own.

``python runner.py FOLDER [--kill PHASE:N] [--coordinator ADDRESS --process I --of N ...]``
prints the digests of the finished run as JSON. With ``--kill`` it kills itself with SIGKILL at the
``N``-th time it comes to ``PHASE``; other options make it wait somewhere.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import sys
import time
from pathlib import Path

STEPS = 60


def recipe(steps: int = STEPS, pause: float = 0.0, stall: int | None = None):
    """Dropout, EMA, clipping, a schedule, a padded last batch, an evaluation and an early stop."""
    import numpy as np
    import optax

    import jaxdl
    from jaxdl import data, hooks, losses, metrics, models

    def batches(rows, **options):
        x = np.random.default_rng(rows).normal(size=(rows, 6)).astype(np.float32)
        source = data.arrays({"x": x, "label": (x[:, 0] * x[:, 1] > 0).astype(np.int32)})
        return data.Batches(source, 16, **options)

    made = iter(range(10**6))

    def slowly(batch, rng):
        time.sleep(600 if next(made) == stall else pause)
        return batch

    schedule = optax.cosine_decay_schedule(0.02, steps)
    return jaxdl.Recipe(
        name="durable",
        objective=jaxdl.supervised(
            models.MLP((16, 2), dropout_rate=0.2),
            losses.softmax_cross_entropy,
            metrics={"accuracy": metrics.accuracy()},
            inputs="x",
        ),
        optimizer=optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule)),
        train=batches(150, seed=3, transform=slowly if pause or stall else None),
        validation=batches(40),
        train_eval=batches(150),
        metrics={"confusion": metrics.confusion_matrix(2)},
        ema_decay=0.9,
        steps=steps,
        seed=5,
        log_every=7,
        eval_every=10,
        checkpoint_every=6,
        early_stop=hooks.EarlyStop("validation/accuracy", patience=40, mode="max"),
    )


def digests(state, folder: Path) -> dict[str, str]:
    """SHA-256 of what must be the same however often the run was cut."""
    import jax
    import numpy as np

    def of(tree):
        sha = hashlib.sha256()
        for leaf in jax.tree.leaves(tree):
            if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                leaf = jax.random.key_data(leaf)
            sha.update(np.asarray(leaf).tobytes())
        return sha.hexdigest()

    found = {name: of(getattr(state, name)) for name in ("params", "opt_state", "ema", "step")}
    found["log"] = hashlib.sha256("\n".join(log(folder)).encode()).hexdigest()
    return found


def log(folder: Path) -> list[str]:
    """The records of a run without the clock's figures."""
    lines = []
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        timed = {"time", "stall", *(name for name in record if "_per_second" in name)}
        kept = {name: value for name, value in record.items() if name not in timed}
        lines.append(json.dumps(kept, sort_keys=True))
    return lines


def teller():
    """A hook that tells every step that was made."""
    from jaxdl.protocols import Hook

    class Tell(Hook):
        def tick(self, step):
            print(f"step {step}", flush=True)

    return Tell()


def restored(folder: Path) -> dict[str, str]:
    """The digests of what the newest checkpoint holds, read onto this process's devices."""
    from jaxdl.checkpoints import Checkpoints
    from jaxdl.recipe import place

    placed = place(recipe())
    state = Checkpoints(folder / "checkpoints").restore(placed.state).state
    return {name: value for name, value in digests(state, folder).items() if name != "log"}


def main() -> None:
    """Runs it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kill", default=None)
    parser.add_argument("--pause", type=float, default=0.0)
    parser.add_argument("--restore", action="store_true")
    parser.add_argument("--tell", action="store_true")
    parser.add_argument("--stall", type=int, default=None)
    parser.add_argument("--slow-evaluation", type=int, default=None)
    parser.add_argument("--slow-save", action="store_true")
    parser.add_argument("--slow-compile", action="store_true")
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--coordinator", default=None)
    parser.add_argument("--process", type=int, default=0)
    parser.add_argument("--of", type=int, default=1)
    options = parser.parse_args()
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
    import jax

    jax.config.update("jax_num_cpu_devices", options.devices)
    if options.coordinator:
        jax.distributed.initialize(
            options.coordinator, options.of, options.process, heartbeat_timeout_seconds=10
        )
    from moments import arm, slow_down

    from jaxdl.recipe import train

    if options.kill:
        arm(options.kill)
    if options.restore:
        print(json.dumps(restored(options.folder)), flush=True)
        return
    slow_down(options)
    made = recipe(pause=options.pause, stall=options.stall)
    print("begun", file=sys.stderr, flush=True)
    if options.tell:
        made = dataclasses.replace(made, hooks=[teller()])
    outcome = train(made, options.folder, progress=False)
    if outcome.result.preempted:
        raise SystemExit(75)
    if options.process == 0:
        print(json.dumps(digests(outcome.result.state, options.folder)), flush=True)


if __name__ == "__main__":
    main()

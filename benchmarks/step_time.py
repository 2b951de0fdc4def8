"""Tokens or images a second of whole train steps on the device at hand, and the share of its peak.

Run with ``python benchmarks/step_time.py --peak 989`` on the machine to be measured. A step is the
one of ``examples/gpt.py`` or ``examples/imagenet.py``: bfloat16 computation, float32 parameters,
AdamW or SGD with momentum, one batch given again and again, so that no data is read. Ten steps are
not counted; the median of the rounds is given.

Model FLOPs by formula, 6 N a token and 12 L D T for attention counted in full (nanoGPT's
convention, https://github.com/karpathy/nanoGPT), half of the latter where causality is counted;
three times 8.2 GFLOPs an image for ResNet-50, a multiplication and an addition being two.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxdl
from jaxdl import losses, models, objectives

VOCABULARY, LENGTH, SIDE = 50_304, 1024, 224
GPTS = {
    "gpt-124m": models.gpt2_124m,
    "gpt-350m": models.gpt2_350m,
    "gpt-774m": models.gpt2_774m,
    "gpt-1.5b": models.gpt2_1_5b,
}
RESNET_FLOPS = 3 * 8.2e9


class Workload(NamedTuple):
    """A step to be timed.

    Attributes:
        step: placed.
        batch: on the host.
        items: tokens or images in it.
        flops: model FLOPs of a step by convention; recomputation is not counted.
    """

    step: Any
    batch: dict[str, np.ndarray]
    items: int
    flops: dict[str, float]


def gpt(name: str, rows: int, options: argparse.Namespace) -> Workload:
    """GPT-2 at a published size."""
    model = GPTS[name](
        vocab_size=VOCABULARY,
        max_length=LENGTH,
        dtype=jnp.bfloat16,
        scan_layers=options.scan,
        remat=options.remat,
    )
    objective = objectives.language_model(model, chunk_size=options.chunk or None)
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(6e-4, b2=0.95, weight_decay=0.1)
    )
    step = jaxdl.jit(jaxdl.make_train_step(objective, optimizer))
    batch = {"tokens": np.random.default_rng(0).integers(0, VOCABULARY, (rows, LENGTH + 1))}
    batch["tokens"] = batch["tokens"].astype(np.int32)
    shapes = jax.eval_shape(step.pure.init, jax.eval_shape(jax.random.key, 0), batch).params
    sizes = {
        "/".join(str(each.key) for each in path): leaf.size
        for path, leaf in jax.tree_util.tree_leaves_with_path(shapes)
    }
    # The embedding of positions is looked up, never multiplied.
    dense = sum(size for path, size in sizes.items() if "position" not in path)
    tokens = rows * LENGTH
    attention = 12 * model.num_layers * model.hidden_dim * LENGTH
    flops = {
        "full": tokens * (6 * dense + attention),
        "causal": tokens * (6 * dense + attention / 2),
    }
    return Workload(step, batch, tokens, flops)


def resnet(rows: int) -> Workload:
    """ResNet-50 on images of 224 pixels."""
    model = models.resnet50(num_classes=1000, dtype=jnp.bfloat16)
    objective = jaxdl.supervised(model, losses.softmax_cross_entropy)
    step = jaxdl.jit(jaxdl.make_train_step(objective, optax.sgd(0.1, momentum=0.9, nesterov=True)))
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.normal(size=(rows, SIDE, SIDE, 3)).astype(np.float32),
        "label": rng.integers(0, 1000, rows).astype(np.int32),
    }
    return Workload(step, batch, rows, {"full": rows * RESNET_FLOPS})


def timed(work: Workload, steps: int, rounds: int) -> tuple[float, float]:
    """Median seconds of a step, and the seconds of the first, which compiles."""
    began = time.perf_counter()
    state = work.step.init(0, work.batch)
    batch = jax.device_put(work.batch)
    run: Callable[..., Any] = work.step
    state, sums = run(state, batch)
    jax.block_until_ready(sums)
    first = time.perf_counter() - began
    for _ in range(10):
        state, sums = run(state, batch)
    jax.block_until_ready(sums)
    took: list[float] = []
    for _ in range(rounds):
        began = time.perf_counter()
        for _ in range(steps):
            state, sums = run(state, batch)
        jax.block_until_ready((state, sums))
        took.append((time.perf_counter() - began) / steps)
    return statistics.median(took), first


def main() -> None:
    """Prints one line a workload."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workloads", nargs="+", help="NAME:ROWS, such as gpt-124m:32 resnet50:256")
    parser.add_argument("--peak", type=float, required=True, help="bf16 TFLOP/s of the device")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--chunk", type=int, default=0, help="tokens whose logits are held at once")
    parser.add_argument("--remat", default=None)
    parser.add_argument("--scan", action="store_true")
    options = parser.parse_args()
    device = jax.devices()[0]
    print(f"{device.device_kind}, jax {jax.__version__}, {jax.device_count()} device(s)")
    for text in options.workloads:
        name, _, rows = text.partition(":")
        work = resnet(int(rows)) if name == "resnet50" else gpt(name, int(rows), options)
        seconds, first = timed(work, options.steps, options.rounds)
        peak = options.peak * 1e12 * jax.device_count()
        stats = device.memory_stats() or {}
        row = {
            "workload": text,
            "ms": round(seconds * 1e3, 2),
            "items_per_second": round(work.items / seconds),
            **{f"mfu_{key}": round(f / seconds / peak, 4) for key, f in work.flops.items()},
            "first_step_seconds": round(first, 1),
            "peak_gib": round(stats.get("peak_bytes_in_use", 0) / 2**30, 2),
            **{key: getattr(options, key) for key in ("chunk", "remat", "scan")},
        }
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()

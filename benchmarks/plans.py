"""Plans of the examples on several slices, as ``jaxdl plan`` prints them: the files of docs/plans.

Each compile takes about half a minute, more on a busy machine; plans of programs that were compiled
before are remembered. Needs libtpu (``pip install 'jaxdl[tpu]'``), and no TPU. Run it in
the repository's root: ``python benchmarks/plans.py [NAME ...]`` makes all of them, or those named.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

FOLDER = Path("docs/plans")
ABOUT = """What `jaxdl plan` prints of the examples on TPU slices. libtpu, the compiler of TPUs,
compiled every program on a CPU machine. No TPU was used: times are predictions of a model that was
not calibrated on one. `python benchmarks/plans.py` makes the files again."""
GPT, RESNET, IMAGENET = "examples/gpt.py", "examples/resnet.py", "examples/imagenet.py"
SMALL = [GPT, "--size", "124m", "--layout", "data", "--remat", "full"]
LARGE = [GPT, "--size", "1.5b", "--remat", "full"]
IMAGES = [RESNET, "--images", "random", "--depth", "50", "--image-size", "224"]
PHOTOS = ["--classes", "1000", "--batch-size", "1024", "--dtype", "bfloat16", "--on", "v5e-16"]
LAYERS = ["--scan-layers", "--remat", "full"]
BERT = ["examples/sentiment.py", "--size", "large", "--length", "512", "--dtype", "bfloat16"]
SPEECH = ["examples/speech.py", "--size", "published", "--dtype", "bfloat16"]
OWN = """
import importlib.util, json, sys
import jax, numpy as np, optax, jaxdl
from jaxdl.protocols import Objective
from jaxdl.tpu.showing import rendering
from jaxdl.tpu.plans.planning import plan

spec = importlib.util.spec_from_file_location("own_objective", "examples/own_objective.py")
own = importlib.util.module_from_spec(spec)
spec.loader.exec_module(own)
step = jaxdl.make_train_step(Objective(own.init, own.loss), optax.adam(1e-2), ema_decay=0.98)
batch = {"image": jax.ShapeDtypeStruct((4096, 8, 8), np.uint8),
         "label": jax.ShapeDtypeStruct((4096,), np.int32)}
found = plan(step, batch, "v5e-16")
print(rendering.table(found))
"""

PLANS: dict[str, list[str]] = {
    "gpt2-1.5b-data-on-v5e-16": [
        *[GPT, "--size", "1.5b", "--layout", "data", "--batch-size", "64"],
        *["--on", "v5e-16"],
    ],
    "gpt2-124m-on-v5e-16": [*SMALL, "--batch-size", "128", "--on", "v5e-16"],
    "gpt2-1.5b-on-v5e-16": [
        *[*LARGE, "--layout", "fsdp", "--batch-size", "64", "--on", "v5e-16"],
    ],
    "gpt2-1.5b-on-v5e-256": [
        *[*LARGE, "--layout", "fsdp", "--mesh", "data=16,fsdp=16", "--batch-size", "1024"],
        *["--on", "v5e-256"],
    ],
    "gpt2-124m-on-v5e-256": [*SMALL, "--batch-size", "2048", "--on", "v5e-256"],
    "resnet50-on-v5e-256": [*IMAGES, "--batch-size", "16384", "--on", "v5e-256"],
    "gpt2-1.5b-on-v5p-128": [
        *[*LARGE, "--layout", "data", "--batch-size", "512", "--on", "v5p-128"],
    ],
    "gpt2-124m-on-v5p-128": [*SMALL, "--batch-size", "1024", "--on", "v5p-128"],
    "gpt2-1.5b-on-v6e-256": [
        *[*LARGE, "--layout", "fsdp", "--mesh", "data=16,fsdp=16", "--batch-size", "2048"],
        *["--on", "v6e-256"],
    ],
    "gpt2-124m-on-v6e-256": [*SMALL, "--batch-size", "4096", "--on", "v6e-256"],
    "resnet50-on-v5e-16": [IMAGENET, "--model", "resnet50", "--image-size", "224", *PHOTOS],
    "vgg16-on-v5e-16": [IMAGENET, "--model", "vgg16", "--image-size", "224", *PHOTOS],
    "inception-v3-on-v5e-16": [IMAGENET, "--model", "inception_v3", "--image-size", "299", *PHOTOS],
    "vit-l16-on-v5e-16": [
        *[IMAGENET, "--model", "vit_l16", "--image-size", "224", *LAYERS, *PHOTOS],
    ],
    "bert-large-on-v5e-16": [*BERT, *LAYERS, "--batch-size", "256", "--on", "v5e-16"],
    "deepspeech2-on-v5e-16": [*SPEECH, "--batch-size", "512", "--on", "v5e-16"],
    "wavenet-on-v5e-16": [
        *["examples/wavenet.py", "--size", "published", "--length", "7680", "--batch-size", "32"],
        *["--dtype", "bfloat16", "--on", "v5e-16"],
    ],
    "moe-on-v5e-16": [
        *["examples/moe.py", "--size", "large", "--batch-size", "128", "--on", "v5e-16"],
    ],
    "own-objective-on-v5e-16": [],
    "gpt2-124m-sweep-on-v5e-16": [*SMALL, "--batch-size", "128", "--on", "v5e-16", "--sweep"],
}


def main() -> None:
    """Writes the files, and says of each what came out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(PLANS))
    parser.add_argument("--json", type=Path, default=None, help="append one JSON line a plan here")
    parser.add_argument("--index", action="store_true", help="write the index alone")
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in PLANS]
    if unknown:
        parser.error(f"there is no plan {unknown[0]}; there are {', '.join(PLANS)}")
    FOLDER.mkdir(exist_ok=True)
    if options.index:
        index()
        return
    for name in options.names or PLANS:
        row = own() if name == "own-objective-on-v5e-16" else made(name)
        print(json.dumps(row), flush=True)
        if options.json is not None:
            with options.json.open("a") as lines:
                lines.write(json.dumps(row) + "\n")
    index()


def made(name: str) -> dict[str, Any]:
    """Asks the command line for one plan, and keeps what it prints."""
    words = PLANS[name]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "plan.json"
        started = "import sys; from jaxdl.cli.verbs import main; sys.exit(main())"
        done = subprocess.run(
            [sys.executable, "-c", started, "plan", *words, "--json", str(file)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode not in (0, 1):
            raise SystemExit(f"{name}: {done.stderr}")
        plan = json.loads(file.read_text())
    written(name, " ".join(["jaxdl", "plan", *words]), done.stdout, done.stderr)
    return {"plan": name, "exit": done.returncode, **plan_row(plan)}


def own() -> dict[str, Any]:
    """Plans the step of one's own, which is no recipe, by a call."""
    name = "own-objective-on-v5e-16"
    done = subprocess.run(
        [sys.executable, "-c", OWN],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    code = "\n  ".join(line for line in OWN.strip().splitlines())
    written(name, f"python  # with\n  {code}", done.stdout, "")
    return {"plan": name, "exit": 0}


def written(name: str, command: str, printed: str, progress: str) -> None:
    """Leaves a file; of the progress only what a search said."""
    said = [line for line in progress.splitlines() if ": " in line and "compiling" not in line]
    parts = [f"$ {command}", *said, printed.rstrip()]
    text = "\n".join(parts) + "\n"
    (FOLDER / f"{name}.txt").write_text("\n".join(map(str.rstrip, text.split("\n"))))


def index() -> None:
    """Writes the list of the plans that are there."""
    rows = [name for name in PLANS if (FOLDER / f"{name}.txt").exists()]
    lines = [
        *["# Plans", "", ABOUT],
        *["", "| plan | step | memory | time of a step, predicted |", "|---|---|---|---|"],
    ]
    for name in rows:
        text = (FOLDER / f"{name}.txt").read_text().splitlines()
        step = next((line for line in text if line.startswith("layout ") and " rows" in line), "")
        fits = next((line for line in text if line.startswith(("fits", "does not fit"))), "")
        ends = [after(text, words) for words in ("  all overlap ", "  nothing overlaps ")]
        lines.append(
            f"| [{name}]({name}.txt) | {step} | {fits} | {' to '.join(filter(None, ends))} |"
        )
    (FOLDER / "index.md").write_text("\n".join(lines) + "\n")


def after(lines: list[str], words: str) -> str:
    """What follows on the first line that begins with these words."""
    return next((line.removeprefix(words).strip() for line in lines if line.startswith(words)), "")


def plan_row(plan: dict[str, Any]) -> dict[str, Any]:
    """The figures of a plan in one line."""
    memory = plan.get("facts", plan).get("memory", {})
    return {key: memory.get(key) for key in ("peak", "available", "refusal")}


if __name__ == "__main__":
    main()

"""``import jaxdl`` does nothing: no device, no file, no environment, no heavy module."""

from __future__ import annotations

import json
import subprocess
import sys

PROBE = """
import json, os, sys
import jax, flax, optax, flax.linen, flax.struct
before, environment = set(sys.modules), dict(os.environ)
options = {{k: getattr(jax.config, k) for k in ("jax_enable_x64", "jax_platforms")}}
opened = []
def watch(event, args):
    if event == "open" and isinstance(args[0], str):
        opened.append([args[0], str(args[1])])
sys.addaudithook(watch)
import jaxdl
{more}
new = sorted(set(sys.modules) - before)
files = [name for name, mode in opened if not name.endswith((".py", ".pyc"))]
reading = ("r", "rb", "None")
wrote = [name for name, mode in opened if mode not in reading and "__pycache__" not in name]
from jax.extend import backend
print(json.dumps({{
    "new": [m for m in new if not m.startswith("jaxdl")],
    "files": files, "wrote": wrote,
    "environment": environment == dict(os.environ),
    "options": options == {{k: getattr(jax.config, k) for k in options}},
}}))
"""

HEAVY = ("orbax", "grain", "tensorflow_datasets", "sklearn", "matplotlib", "rich", "tyro",
         "tensorboardX", "PIL", "array_record")  # fmt: skip


def probe(more: str = "") -> dict:
    done = subprocess.run(
        [sys.executable, "-c", PROBE.format(more=more)],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return json.loads(done.stdout)


def test_import_alone_loads_nothing_but_itself():
    seen = probe()
    assert seen["new"] == []
    assert seen["files"] == seen["wrote"] == []
    assert seen["environment"]
    assert seen["options"]


def test_whole_core_loads_nothing_heavy():
    seen = probe(
        "import jaxdl.step, jaxdl.placement, jaxdl.data, jaxdl.models, jaxdl.optimizers, jaxdl.loop"
    )
    heavy = [m for m in seen["new"] if m.split(".")[0] in HEAVY]
    assert heavy == []
    assert seen["wrote"] == []
    assert seen["environment"]


def test_import_starts_no_backend():
    """A number of devices can still be chosen after the import: JAX has not been started."""
    program = (
        "import jax, jaxdl, jaxdl.step, jaxdl.placement, jaxdl.models, jaxdl.data\n"
        "jax.config.update('jax_num_cpu_devices', 3)\n"
        "print(len(jax.devices('cpu')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        env={"JAX_PLATFORMS": "cpu", "PATH": "/usr/bin:/bin"},
    )
    assert done.stdout.strip() == "3"

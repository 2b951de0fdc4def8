"""Plans of programs that were compiled before, kept on disk by what went into them.

Reads from: data, tpu.plans.facts, tpu.plans.encoding. Used by: tpu.plans.planning.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxdl import data
from jaxdl.tpu.plans import encoding
from jaxdl.tpu.plans.facts import Plan

__all__ = ["keep", "plans_folder", "recall"]


def plans_folder() -> Path:
    """``plans`` in the data folder (``$JAXDL_DATA_DIR``, else ``~/.cache/jaxdl``)."""
    return data.data_folder() / "plans"


def recall(key: Mapping[str, Any]) -> Plan | None:
    """The plan that was kept under a key; ``None`` when there is none that can be read.

    Args:
        key: everything that the plan follows from.
    """
    path = _path(key)
    try:
        kept = json.loads(path.read_text())
        return encoding.from_json(kept["plan"]) if kept["key"] == _plain(key) else None
    # A torn, altered or older entry costs one compile, whatever is wrong with it.
    except Exception:  # noqa: BLE001
        return None


def keep(key: Mapping[str, Any], plan: Plan) -> None:
    """Keeps a plan; a disk that is full or may not be written is no error.

    Args:
        key: everything that the plan follows from.
        plan: the plan.
    """
    path = _path(key)
    entry = {"key": _plain(key), "plan": encoding.as_json(plan)}
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        new.write_text(json.dumps(entry))
        new.replace(path)


def _path(key: Mapping[str, Any]) -> Path:
    written = json.dumps(_plain(key), sort_keys=True)
    return plans_folder() / f"{hashlib.sha256(written.encode()).hexdigest()}.json"


def _plain(key: Mapping[str, Any]) -> Any:
    """As it comes back from JSON."""
    return json.loads(json.dumps(key))

"""``jaxdl doctor``: what is here, what is missing, and the command that brings it.

JAX is asked for its devices in a process of its own with a time limit, because a machine whose
accelerator is not well can make it wait for ever.

Reads from: data, cli.datasets, cli.tables. Used by: cli.verbs.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from jaxdl import data
from jaxdl.cli.datasets import prepared
from jaxdl.cli.tables import table

__all__ = ["DoctorOptions", "run"]

_ASK = (
    "import jax, json; d = jax.devices();"
    "print(json.dumps([d[0].platform, d[0].device_kind, len(d), jax.process_count()]))"
)


@dataclass(frozen=True)
class DoctorOptions:
    """Shows versions and devices, what is missing, and the command that brings it."""

    data_dir: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """The data folder; $JAXDL_DATA_DIR or ~/.cache/jaxdl when not given."""
    timeout: Annotated[float, tyro.conf.arg(metavar="SECONDS")] = 60.0
    """Seconds to wait for JAX to find its devices."""


def run(argv: Sequence[str]) -> int:
    """The verb.

    Args:
        argv: the words after ``doctor``.

    Returns:
        0 when training can start, 1 when something that it needs is missing.
    """
    options = tyro.cli(DoctorOptions, prog="jaxdl doctor", args=list(argv))
    rows: list[list[str]] = [["python", platform.python_version(), ""]]
    problems: list[str] = []
    rows += _devices(options.timeout, problems)
    rows += [["jaxlib", _version("jaxlib") or "missing", ""], *_packages(problems)]
    rows += _libtpu(problems)
    rows += _data(data.data_folder(options.data_dir), problems)
    table(rows, ["", "found", "note"])
    for problem in problems:
        print(f"! {problem}")
    print("ready to train" if not problems else f"{len(problems)} thing(s) to mend")
    return 1 if problems else 0


def _devices(timeout: float, problems: list[str]) -> list[list[str]]:
    try:
        answer = subprocess.run(
            [sys.executable, "-c", _ASK],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=True,
        )
        name, kind, count, processes = json.loads(answer.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        problems.append(
            f"JAX found no devices in {timeout:.0f} s: another process may hold the accelerator; "
            "JAX_PLATFORMS=cpu trains without it"
        )
        return [["devices", "no answer", ""]]
    except (subprocess.CalledProcessError, ValueError, IndexError) as error:
        told = getattr(error, "stderr", None) or str(error)
        problems.append(f"JAX does not start: {told.strip().splitlines()[-1]}")
        return [["devices", "none", ""]]
    cores = f"{os.cpu_count()} CPU cores"
    note = cores if processes == 1 else f"{cores}, process 1 of {processes}"
    return [
        ["devices", f"{count} x {kind}" if kind == name else f"{count} x {kind} ({name})", note]
    ]


def _packages(problems: list[str]) -> list[list[str]]:
    """Each dependency with its version; of an extra that is not whole, how to get it."""
    rows: list[list[str]] = []
    extras: dict[str, list[str]] = {}
    for requirement in importlib.metadata.requires("jaxdl") or []:
        name = re.match(r"[\w.-]+", requirement)
        extra = re.search(r"extra\s*==\s*['\"](\w+)['\"]", requirement)
        if name is None or name[0] == "jaxdl":
            continue
        version = _version(name[0])
        if extra is not None:
            extras.setdefault(extra[1], [])
            if version is None:
                extras[extra[1]].append(name[0])
        elif version is None:
            problems.append(f"{name[0]} is missing: pip install '{requirement}'")
            rows.append([name[0], "missing", requirement])
        else:
            rows.append([name[0], version, ""])
    for extra, missing in extras.items():
        if extra == "tpu" and _version("libtpu") is None:
            missing.append("libtpu")
        note = f"lacks {', '.join(missing)}: pip install 'jaxdl[{extra}]'" if missing else ""
        rows.append([f"extra {extra}", "not installed" if missing else "installed", note])
    return rows


def _libtpu(problems: list[str]) -> list[list[str]]:
    """The version of libtpu must be the one that JAX names: another compiles and then fails."""
    found = _version("libtpu")
    if found is None:
        return []
    wanted = [
        match[1]
        for requirement in importlib.metadata.requires("jax") or []
        if (match := re.match(r"libtpu\s*==\s*([\d.]+)", requirement))
    ]
    if wanted and not f"{found}.".startswith(f"{wanted[0].rstrip('.')}."):
        problems.append(
            f"libtpu is {found}, JAX wants {wanted[0]}*: pip install 'jax[tpu]=={_version('jax')}'"
        )
    return [["libtpu", found, f"JAX wants {wanted[0]}*" if wanted else ""]]


def _data(root: Path, problems: list[str]) -> list[list[str]]:
    sets = [f"{name} {version}" for name, version, *_ in prepared(root)] if root.is_dir() else []
    nearest = next(path for path in (root.absolute(), *root.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=nearest):
            note = "writable"
    except OSError as error:
        note = "not writable"
        problems.append(f"{root} cannot be written ({error.strerror}): set JAXDL_DATA_DIR")
    return [["data folder", str(root), note], ["prepared", ", ".join(sets) or "nothing yet", ""]]


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None

"""What must be the same on every host, in words and hashes that can be compared.

Reads from: nothing of jaxdl. Used by: recipe, and by hand.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

__all__ = ["flat", "packages", "program_hash", "source_hash", "versions"]

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "orbax-checkpoint", "libtpu")
_LOCATION = re.compile(r" loc\((?:[^()\"]|\"[^\"]*\"|\([^()]*\))*\)|^#loc.*$", re.MULTILINE)


def versions() -> dict[str, str]:
    """The versions of Python and of what a run computes with, by name."""
    return {"python": platform.python_version(), **packages(_PACKAGES)}


def packages(names: Iterable[str]) -> dict[str, str]:
    """The versions of packages, by name.

    Args:
        names: of packages; one that is not there reads as ``"not installed"``.
    """
    found: dict[str, str] = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def source_hash(*places: Path) -> str:
    """A hash of source code.

    Args:
        places: Python files, and folders whose Python files count, with their names in it.

    Returns:
        16 hexadecimal digits.
    """
    sha = hashlib.sha256()
    for place in places:
        inside = sorted(place.rglob("*.py")) if place.is_dir() else [place]
        for path in inside:
            name = path.relative_to(place).as_posix() if place.is_dir() else ""
            text = path.read_bytes().replace(b"\r\n", b"\n")
            sha.update(f"{name} {len(text)}\n".encode() + text)
    return sha.hexdigest()[:16]


def program_hash(text: str) -> str:
    """A hash of a lowered program, without the places in files that it was written at.

    Args:
        text: StableHLO, from ``jax.stages.Lowered.as_text``.

    Returns:
        16 hexadecimal digits.
    """
    return hashlib.sha256(_LOCATION.sub("", text).encode()).hexdigest()[:16]


def flat(name: str, values: Mapping[str, Any]) -> dict[str, str]:
    """Nested settings as facts, one a leaf.

    Args:
        name: before every key.
        values: by key; mappings in it become keys with a dot.

    Examples:
        >>> flat("settings", {"steps": 3, "optimizer": {"name": "adam"}})
        {'settings.steps': '3', 'settings.optimizer.name': "'adam'"}
    """
    found: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found.update(flat(f"{name}.{key}", value))  # pyright: ignore[reportUnknownArgumentType]  # settings are of any kind
        else:
            found[f"{name}.{key}"] = repr(value)
    return found

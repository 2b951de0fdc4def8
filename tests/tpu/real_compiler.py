"""The real TPU compiler in a test: a mark for tests that need it, and a program that asks it."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

INSTALLED = bool(os.environ.get("TPU_LIBRARY_PATH")) or importlib.util.find_spec("libtpu")
needs_libtpu = [
    pytest.mark.slow,
    pytest.mark.skipif(not INSTALLED, reason="libtpu is not installed"),
]


def printed(
    program: str, *, folder: Path | None = None, timeout: float = 300, **settings: str
) -> str:
    """What a program prints, run where the CPU is the only backend.

    Args:
        program: its source.
        folder: where it runs.
        timeout: seconds.
        **settings: more of its environment.
    """
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env={**os.environ, "JAX_PLATFORMS": "cpu", **settings},
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout

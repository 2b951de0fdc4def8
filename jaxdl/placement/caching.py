"""Compiled programs kept on disk, so that a run that starts again does not compile again.

JAX has the cache; here is when it is on, where it lies, and how large it may grow.

Reads from: nothing of jaxdl. Used by: loop.
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax

__all__ = ["MAX_BYTES", "VARIABLE", "cache_folder", "compile_cache"]

VARIABLE = "JAXDL_COMPILE_CACHE"
"""The environment variable that names the folder; ``off`` keeps nothing."""

MAX_BYTES = 8 * 2**30
"""How large the folder may grow, in bytes; then what was used longest ago goes. Without the package
``filelock``, which JAX needs for it, there is no bound."""


def cache_folder() -> Path | None:
    """``$JAXDL_COMPILE_CACHE``, else ``~/.cache/jaxdl/compiled``; ``None`` when that is ``off``."""
    named = os.environ.get(VARIABLE)
    if named is None or not named.strip():
        return Path.home() / ".cache" / "jaxdl" / "compiled"
    return None if named.strip().lower() in ("off", "0", "false", "none") else Path(named)


@contextmanager
def compile_cache(folder: str | Path | bool | None = True) -> Generator[Path | None]:
    """While open, every program that is compiled is kept on disk, and looked for there first.

    What the user has said goes before: where ``jax_compilation_cache_dir`` is set or
    ``jax_enable_compilation_cache`` is off, nothing is changed. A folder that cannot be written is
    warned of and not used. JAX's settings are afterwards what they were. Programs are told apart by
    their text, the versions of JAX and XLA, the flags and the kind of device.

    Args:
        folder: where; that of ``cache_folder`` when ``True``. ``False`` or ``None`` changes
            nothing.

    Yields:
        The folder in use, or ``None`` when this changes nothing.
    """
    chosen = cache_folder() if folder is True else folder
    settings: Any = jax.config
    users = settings.jax_compilation_cache_dir or not settings.jax_enable_compilation_cache
    if not chosen or users:
        yield None
        return
    path = Path(chosen).expanduser()
    problem = _problem(path)
    if problem is not None:
        warnings.warn(
            f"compiled programs are not kept: {path} {problem}; training goes on. Set {VARIABLE} "
            "to a folder that can be written, or to 'off'",
            stacklevel=3,
        )
        yield None
        return
    wanted = {
        "jax_compilation_cache_dir": str(path),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    if importlib.util.find_spec("filelock") is not None:
        wanted["jax_compilation_cache_max_size"] = MAX_BYTES
    before = {name: getattr(settings, name) for name in wanted}
    _set(wanted)
    try:
        yield path
    finally:
        _set(before)


def _set(values: dict[str, Any]) -> None:
    from jax.experimental.compilation_cache import compilation_cache

    for name, value in values.items():
        jax.config.update(name, value)
    # JAX reads the settings at its first program, and not again until it is told to.
    compilation_cache.reset_cache()


def _problem(path: Path) -> str | None:
    """Why a folder cannot be used, if so."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return None
    except OSError as error:
        return f"cannot be written ({error.strerror})"

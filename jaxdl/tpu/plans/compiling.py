"""The TPU compiler on a machine without a TPU: found, checked, asked; its refusals in words.

libtpu holds the whole compiler. It describes slices that are not there and compiles for them; no
TPU is looked for or touched.

Reads from: errors, tpu.slices.names. Used by: tpu.plans.planning, cli.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jaxdl.errors import PlanError
from jaxdl.tpu.slices.names import Topology

__all__ = [
    "QUIET",
    "Compiler",
    "compile_for_tpu",
    "find_compiler",
    "program_text",
    "topology_devices",
]

QUIET = {
    # Any valid pair: without one libtpu looks for a TPU machine's metadata and says what it lacks.
    # They do not touch the slice that is compiled for.
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "TPU_WORKER_HOSTNAMES": "localhost",
    # A process that has libtpu loaded holds a lock, which would stop the next one.
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_LOG_DIR": "disabled",
}
"""What libtpu finds in the environment when it is loaded, so that it stays silent."""

_INSTALL = "pip install 'jaxdl[tpu]'"
# A kernel can also ask for more of the memories within a core than there is.
_INSIDE = re.compile(r"space[= ](vmem|smem|sflag|cmem)", re.IGNORECASE)
_OUT_OF_MEMORY = re.compile(r"resource_exhausted|out of memory", re.IGNORECASE)


class Compiler(NamedTuple):
    """A libtpu.

    Attributes:
        path: of the library.
        version: of the package it came in; ``"unknown"`` when it lies elsewhere.
        wanted: the version that the installed JAX names, such as ``"0.0.42."``, or ``""``.
    """

    path: Path
    version: str
    wanted: str

    @property
    def matches(self) -> bool:
        """Whether it is the version that JAX names, as far as that is known."""
        known = self.wanted and self.version != "unknown"
        return not known or f"{self.version}.".startswith(f"{self.wanted.rstrip('.')}.")


def find_compiler() -> Compiler:
    """The libtpu that JAX would load: ``$TPU_LIBRARY_PATH``, else the installed package.

    Raises:
        PlanError: there is none.
    """
    given = os.environ.get("TPU_LIBRARY_PATH")
    path = Path(given) if given else _packaged()
    if path is None or not path.is_file():
        where = (
            f"TPU_LIBRARY_PATH names {given}, which is no file" if given else "libtpu is missing"
        )
        raise PlanError(
            f"there is no TPU compiler: {where}",
            expected=f"the package libtpu{'==' + wanted + '*' if (wanted := _wanted()) else ''}, "
            "which runs on the CPU and needs no TPU",
            do=_INSTALL,
        )
    return Compiler(path, _version(path), _wanted())


def topology_devices(topology: Topology) -> list[Any]:
    """The devices of a slice that is not there. Programs can be compiled for them, not run.

    Warns when libtpu is not the version that JAX names: with another one programs compile, but
    their text may not be readable, and sizes differ.

    Args:
        topology: the slice, or several.

    Raises:
        PlanError: libtpu is missing, cannot be loaded, or does not know the slice.
    """
    from jax.experimental import topologies

    found = find_compiler()
    if not found.matches:
        warnings.warn(
            f"libtpu is {found.version}, jax {jax.__version__} was made for {found.wanted}*: the "
            f"plan may be wrong or fail; {_INSTALL} installs that one",
            stacklevel=2,
        )
    try:
        with _quiet():
            return list(topologies.get_topology_desc(**topology.options).devices)
    except (RuntimeError, NotImplementedError, ValueError) as error:
        told = _first_line(error)
        locked = "lockfile" in told
        raise PlanError(
            f"libtpu cannot describe {topology.name} ({topology.topology_name}): {told}",
            expected="a libtpu that this process can load, and that knows the slice",
            do="end the other process that has libtpu loaded, or set ALLOW_MULTIPLE_LIBTPU_LOAD=1"
            if locked
            else f"check `jaxdl doctor`; {_INSTALL} brings the libtpu that goes with this JAX",
        ) from error


def compile_for_tpu(lowered: jax.stages.Lowered) -> jax.stages.Compiled | str:
    """Compiles a program for the devices it was lowered for.

    JAX's persistent cache is off meanwhile: it stores such programs and cannot read them again.

    Args:
        lowered: the program.

    Returns:
        The program, or the compiler's own words when it needs more memory than there is.

    Raises:
        PlanError: the compiler fails for another reason.
    """
    try:
        with _quiet(), _no_cache():
            return lowered.compile()
    except (jax.errors.JaxRuntimeError, NotImplementedError) as error:
        told = str(error)
        inside = _INSIDE.search(told)
        if _OUT_OF_MEMORY.search(told) and "hbm" in told.lower() and not inside:
            return told
        raise PlanError(
            f"the TPU compiler does not take the program: {_first_line(error)}",
            expected="a step that compiles for a TPU",
            do="give the kernel that it names smaller blocks: they must fit the core's own memory"
            if inside
            else "see what it names: some types, custom calls and callbacks do not exist there",
        ) from error


def program_text(compiled: jax.stages.Compiled) -> str:
    """The optimised program.

    Args:
        compiled: for a TPU.

    Raises:
        PlanError: this libtpu compiles it and cannot print it, as one of another version than
            JAX names does.
    """
    try:
        text = compiled.as_text()
    except (jax.errors.JaxRuntimeError, RuntimeError) as error:
        found = find_compiler()
        raise PlanError(
            f"libtpu {found.version} compiled the program and cannot print it: "
            f"{_first_line(error)}",
            expected=f"libtpu {found.wanted}*, which jax {jax.__version__} was made for",
            do=_INSTALL,
        ) from error
    return text or ""


@contextmanager
def _quiet() -> Generator[None]:
    """The environment in which libtpu is loaded silently; put back afterwards."""
    before = {name: os.environ.get(name) for name in QUIET}
    os.environ.update({name: value for name, value in QUIET.items() if before[name] is None})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)


@contextmanager
def _no_cache() -> Generator[None]:
    from jax.experimental.compilation_cache import compilation_cache

    settings: Any = jax.config
    enabled = bool(settings.jax_enable_compilation_cache)
    if not enabled:
        yield
        return
    # JAX asks once whether the cache is on, and remembers the answer until it is reset.
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", enabled)
        compilation_cache.reset_cache()


def _packaged() -> Path | None:
    spec = importlib.util.find_spec("libtpu")
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent / "libtpu.so"


def _version(path: Path) -> str:
    """Of the package beside whose metadata the library lies."""
    home = str(path.resolve().parent.parent)
    for each in importlib.metadata.distributions(name="libtpu", path=[home]):
        return each.version
    return "unknown"


def _wanted() -> str:
    for requirement in importlib.metadata.requires("jax") or []:
        if match := re.match(r"libtpu\s*==\s*([\d.]+)", requirement):
            return match[1]
    return ""


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), repr(error))

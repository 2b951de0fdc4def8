"""The pytest plugin: devices, a mesh, keys, and guards, for tests of anybody's step.

It is loaded wherever jaxdl is installed, so it imports nothing heavy and changes nothing until a
test asks: JAX is told how many CPU devices to make when a test uses ``devices`` or ``mesh``, or
carries ``@pytest.mark.devices(n)``, or at once with ``--jaxdl-devices``, the setting
``jaxdl_devices``, or ``-p jaxdl``.

Reads from: errors, testing. Used by: pytest, by its entry point.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import zlib
from collections.abc import Iterator
from typing import Any

import pytest

__all__ = [
    "Recompiles",
    "Rng",
    "devices",
    "mesh",
    "no_recompile",
    "pytest_addoption",
    "pytest_collection_modifyitems",
    "pytest_configure",
    "rng",
    "strict_numerics",
]

_DEVICES = 8
_FIXTURES = {"devices", "mesh"}
_COMPILING = re.compile(r"Compiling ([\w<>.()]+)")


def pytest_addoption(parser: pytest.Parser) -> None:
    """The plugin's options and settings.

    Args:
        parser: pytest's.
    """
    group = parser.getgroup("jaxdl")
    group.addoption(
        "--jaxdl-devices",
        type=int,
        metavar="N",
        help="how many CPU devices JAX makes, from the start of the session",
    )
    group.addoption(
        "--jaxdl-platform",
        metavar="NAME",
        help="the platform that JAX runs on: cpu, gpu or tpu",
    )
    parser.addini("jaxdl_devices", "as --jaxdl-devices", default="")
    parser.addini("jaxdl_platform", "as --jaxdl-platform", default="")


def pytest_configure(config: pytest.Config) -> None:
    """Declares the marker, and makes the devices where that is asked for from the start.

    Args:
        config: pytest's.
    """
    config.addinivalue_line(
        "markers", "devices(n): the test needs n devices; jaxdl makes them on the CPU"
    )
    platform = config.getoption("--jaxdl-platform") or config.getini("jaxdl_platform")
    if platform:
        os.environ["JAX_PLATFORMS"] = platform
        if "jax" in sys.modules:
            _set("jax_platforms", platform, "--jaxdl-platform")
    wanted = _from_start(config)
    if wanted:
        _make_devices(wanted)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Makes the devices before the first test, where any test needs them.

    Args:
        config: pytest's.
        items: the tests.
    """
    del config
    wanted = max((_needed(item) for item in items), default=0)
    if wanted:
        _make_devices(wanted, told=False)


def _from_start(config: pytest.Config) -> int:
    number = config.getoption("--jaxdl-devices") or config.getini("jaxdl_devices")
    if number:
        return int(number)
    named = config.getoption("plugins", default=None) or []
    return _DEVICES if "jaxdl" in named else 0


def _needed(item: pytest.Item) -> int:
    mark = item.get_closest_marker("devices")
    if mark is not None:
        return _marked(mark)
    return _DEVICES if _FIXTURES & set(getattr(item, "fixturenames", ())) else 0


def _marked(mark: pytest.Mark) -> int:
    if len(mark.args) == 1 and isinstance(mark.args[0], int) and mark.args[0] > 0:
        return mark.args[0]
    raise pytest.UsageError(
        f"@pytest.mark.devices{mark.args}: it takes one number of devices, such as "
        "@pytest.mark.devices(4)"
    )


def _make_devices(count: int, *, told: bool = True) -> None:
    """Asks JAX for CPU devices. Where it has started already, the fixture says so."""
    import jax

    if getattr(jax.config, "jax_num_cpu_devices", -1) >= count or "device_count" in os.environ.get(
        "XLA_FLAGS", ""
    ):
        return
    if told:
        _set("jax_num_cpu_devices", count, "--jaxdl-devices")
        return
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", count)


def _set(name: str, value: Any, option: str) -> None:
    import jax

    try:
        jax.config.update(name, value)
    except RuntimeError as error:
        raise pytest.UsageError(
            f"{option}: JAX has already started, so that it takes no other devices. A conftest.py "
            "or a plugin made an array or asked for jax.devices() when it was imported: move that "
            "into a fixture"
        ) from error


@pytest.fixture
def devices(request: pytest.FixtureRequest) -> list[Any]:
    """The CPU devices: 8 of them, or as many as ``@pytest.mark.devices(n)`` says.

    Args:
        request: pytest's.
    """
    import jax

    mark = request.node.get_closest_marker("devices")
    count = _DEVICES if mark is None else _marked(mark)
    found = jax.devices()
    if len(found) < count:
        pytest.fail(
            f"the test needs {count} devices and JAX has {len(found)} "
            f"({found[0].platform}). JAX had started before jaxdl could ask for them: a test "
            "module, or a conftest.py, makes an array or calls jax.devices() while it is "
            f"imported. Move that into a fixture or a test, or set jaxdl_devices = {count} in "
            "pytest's settings, which is read before any of them",
            pytrace=False,
        )
    return list(found[:count])


@pytest.fixture
def mesh(devices: list[Any]) -> Any:
    """A ``jax.sharding.Mesh`` over ``devices``, with the one axis ``"data"``.

    Args:
        devices: the fixture.
    """
    import numpy as np
    from jax.sharding import Mesh

    return Mesh(np.array(devices), ("data",))


@pytest.fixture
def strict_numerics() -> Iterator[None]:
    """While the test runs: ranks do not promote silently, and NaN is an error where it arises."""
    import jax

    with jax.numpy_rank_promotion("raise"), jax.debug_nans(True):
        yield


class Rng:
    """Keys and numbers that follow from the test's name: the same in any order, on any worker.

    Args:
        name: of the test.
    """

    def __init__(self, name: str):
        import numpy as np

        self.seed = zlib.crc32(name.encode())
        self.numpy = np.random.default_rng(self.seed)
        self._count = 0

    def key(self) -> Any:
        """A new key, another at each call."""
        import jax

        self._count += 1
        return jax.random.fold_in(jax.random.key(self.seed), self._count)


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> Rng:
    """``rng.key()`` gives a new key at each call; ``rng.numpy`` is a NumPy generator.

    Args:
        request: pytest's.
    """
    return Rng(request.node.nodeid)


class Recompiles:
    """A context in which nothing may be compiled. See the fixture ``no_recompile``."""

    def __init__(self) -> None:
        self.compiled: list[str] = []

    def __enter__(self) -> Recompiles:
        """Starts to listen."""
        import jax

        self.compiled = []
        self._stack = contextlib.ExitStack()
        self._stack.enter_context(jax.log_compiles(True))
        handler = _Names(self.compiled)
        logger = logging.getLogger("jax")
        logger.addHandler(handler)
        self._stack.callback(logger.removeHandler, handler)
        return self

    def __exit__(self, kind: object, value: object, traceback: object) -> None:
        """Fails when anything was compiled."""
        self._stack.close()
        if kind is None and self.compiled:
            from jaxdl.errors import ProofError

            raise ProofError(
                f"compiled again: {', '.join(self.compiled)}",
                expected="nothing to compile: every call fits the program of an earlier one",
                do="have it named: jaxdl.testing.assert_compiles_once(step, batches, state=...)",
            )


class _Names(logging.Handler):
    def __init__(self, names: list[str]):
        super().__init__(logging.DEBUG)
        self._names = names

    def emit(self, record: logging.LogRecord) -> None:
        match = _COMPILING.match(record.getMessage())
        if match:
            self._names.append(match[1])


@pytest.fixture
def no_recompile() -> Recompiles:
    """``with no_recompile:`` fails when JAX compiles anything within.

    Call the step once or twice before it, and once for each of the batches within.
    """
    return Recompiles()

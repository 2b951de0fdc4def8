"""The strict rig: 8 CPU devices, typed shapes, no silent promotion, every warning an error."""

from __future__ import annotations

import importlib.metadata
import os

os.environ["JAX_PLATFORMS"] = "cpu"
# Programs of tests are small and run a few times: twelve of the shelf took 57 s in place of 153 s.
# CI runs the tests of equality with JAXDL_TEST_OPTIMIZED=1 too. XLA ends the process at a flag that
# it does not know, and flags come and go.
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        *(
            []
            if os.environ.get("JAXDL_TEST_OPTIMIZED")
            or not importlib.metadata.version("jaxlib").startswith("0.10.")
            else [
                "--xla_backend_optimization_level=1",
                "--xla_cpu_parallel_codegen_split_count=1",
                "--xla_cpu_use_fusion_emitters=false",
            ]
        ),
        "--xla_force_host_platform_device_count=8",
        "--xla_cpu_multi_thread_eigen=false",
    ]
).strip()

# Programs that tests start keep nothing in the home folder.
os.environ.setdefault("JAXDL_COMPILE_CACHE", "off")

import jax
import pytest
from hypothesis import settings
from jaxtyping import config as jaxtyping_config
from jaxtyping import install_import_hook

# The default suite checks every call. Of the longer tests, which trace large models, that took an
# eighth of the time: `make slow` leaves it out.
if not os.environ.get("JAXDL_TEST_UNTYPED"):
    install_import_hook("jaxdl", "beartype.beartype")
# The first example of a property compiles; a deadline would time the compiler.
settings.register_profile("jaxdl", deadline=None, max_examples=25, derandomize=True)
settings.load_profile("jaxdl")


@pytest.fixture(scope="session", autouse=True)
def compile_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """One compile cache for all workers of a run, so that equal programs are compiled once.

    Of one run only: the cache's keys leave out the names of operations, which some tests read.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "jax-compile-cache"
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


@pytest.fixture(autouse=True)
def strict_numerics():
    """Ranks never promote silently in a test."""
    with jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture(scope="session")
def devices() -> list[jax.Device]:
    """The 8 CPU devices of the rig."""
    found = jax.devices()
    assert len(found) == 8, f"the rig needs 8 CPU devices, JAX started with {len(found)}"
    return found


@pytest.fixture
def untyped():
    """Turns the rig's type checks off, for tests of what jaxdl says to arguments of wrong types."""
    jaxtyping_config.update("jaxtyping_disable", True)
    yield
    jaxtyping_config.update("jaxtyping_disable", False)

"""What the cache of compiled programs sets, and what the environment says of it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import jax
import pytest

from jaxdl.placement import caching


@pytest.mark.parametrize(
    ("said", "folder"),
    [
        ("", "home"),
        ("  ", "home"),
        ("off", None),
        (" OFF ", None),
        ("0", None),
        ("false", None),
        ("none", None),
        ("here", "here"),
    ],
)
def test_what_the_variable_says(monkeypatch, tmp_path, said, folder):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("JAXDL_COMPILE_CACHE", said)
    home = tmp_path / ".cache" / "jaxdl" / "compiled"
    expected = {"home": home, "here": Path("here"), None: None}[folder]
    assert caching.cache_folder() == expected


def test_every_program_is_kept_within_a_bound(no_cache, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with caching.compile_cache("~/programs") as used:
        assert used == tmp_path / "programs"
        assert jax.config.jax_compilation_cache_dir == str(used)
        assert jax.config.jax_persistent_cache_min_compile_time_secs == 0.0
        assert jax.config.jax_persistent_cache_min_entry_size_bytes == -1
        if importlib.util.find_spec("filelock") is not None:
            assert jax.config.jax_compilation_cache_max_size == caching.MAX_BYTES
    assert not list(used.iterdir()), "the probe is taken away"
    assert 2**30 < caching.MAX_BYTES < 2**40


def test_a_cache_that_the_user_turned_off_stays_off(no_cache, tmp_path):
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        with caching.compile_cache(tmp_path / "ours") as used:
            assert used is None
    finally:
        jax.config.update("jax_enable_compilation_cache", True)
    assert not (tmp_path / "ours").exists()

"""The cache of compiled programs: a second start compiles less, and a bad folder stops nothing."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdl
from jaxdl.objectives import from_mean
from jaxdl.placement import caching

BATCHES = [{"x": np.full(8, 3.0, np.float32)}] * 3


def train(**options):
    """A run of the loop, and how many programs came from disk and how many did not."""
    objective = from_mean(lambda p, b: jnp.mean((p - b["x"]) ** 2), lambda key, b: jnp.zeros(()))
    step = jaxdl.jit(jaxdl.make_train_step(objective, optax.sgd(0.1)), devices=jax.devices()[:1])
    seen = {"cache_hits": 0, "cache_misses": 0}

    def listen(event, **_):
        name = event.rpartition("/")[2]
        if name in seen:
            seen[name] += 1

    jax.monitoring.register_event_listener(listen)
    try:
        result = jaxdl.fit(step, BATCHES, steps=3, **options)
    finally:
        jax.monitoring.unregister_event_listener(listen)
    return float(result.state.params), seen


def test_a_second_start_reads_what_the_first_compiled(no_cache, tmp_path, monkeypatch):
    monkeypatch.setenv(caching.VARIABLE, str(tmp_path / "new" / "folder"))
    first, cold = train()
    second, warm = train()
    assert first == second
    assert cold["cache_misses"] > 0
    assert warm["cache_hits"] >= 2
    assert warm["cache_misses"] == 0
    assert list((tmp_path / "new" / "folder").iterdir())
    assert jax.config.jax_compilation_cache_dir is None


def test_off_is_off(no_cache, tmp_path, monkeypatch):
    monkeypatch.setenv(caching.VARIABLE, str(tmp_path / "never"))
    for off in (None, False):
        assert train(compile_cache=off)[1] == {"cache_hits": 0, "cache_misses": 0}
    assert not (tmp_path / "never").exists()
    monkeypatch.setenv(caching.VARIABLE, "off")
    assert caching.cache_folder() is None
    with caching.compile_cache() as used:
        assert used is None


def test_the_default_folder(monkeypatch, tmp_path):
    monkeypatch.delenv(caching.VARIABLE, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert caching.cache_folder() == tmp_path / ".cache" / "jaxdl" / "compiled"


def test_what_the_user_set_is_left_alone(no_cache, tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "theirs"))
    with caching.compile_cache(tmp_path / "ours") as used:
        assert used is None
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "theirs")
    assert not (tmp_path / "ours").exists()


def test_settings_come_back_after_an_error(no_cache, tmp_path):
    names = ("min_compile_time_secs", "min_entry_size_bytes")
    before = [getattr(jax.config, f"jax_persistent_cache_{name}") for name in names]
    with pytest.raises(KeyError), caching.compile_cache(tmp_path):
        raise KeyError
    assert before == [getattr(jax.config, f"jax_persistent_cache_{name}") for name in names]
    assert jax.config.jax_compilation_cache_dir is None


def test_a_folder_that_cannot_be_written_is_warned_of(no_cache, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.warns(UserWarning, match="training goes on"):
        value, seen = train(compile_cache=tmp_path / "file" / "folder")
    assert value == pytest.approx(3 * (1 - 0.8**3))
    assert seen["cache_hits"] == 0

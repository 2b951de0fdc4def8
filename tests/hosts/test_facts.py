"""Hashes and words that hosts compare."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxdl import hosts


def test_versions_name_what_a_run_computes_with():
    found = hosts.versions()
    assert found["jax"] == jax.__version__
    assert set(found) == {
        *("python", "jax", "jaxlib", "flax", "optax", "numpy", "orbax-checkpoint", "libtpu")
    }
    assert hosts.packages(["no-such-package"]) == {"no-such-package": "not installed"}


def test_source_is_compared_by_content_and_by_place_inside_a_folder(tmp_path):
    (tmp_path / "a" / "inner").mkdir(parents=True)
    (tmp_path / "b" / "inner").mkdir(parents=True)
    for folder in ("a", "b"):
        (tmp_path / folder / "inner" / "x.py").write_text("x = 1\n")
    (tmp_path / "b" / "notes.txt").write_text("no code")
    assert hosts.source_hash(tmp_path / "a") == hosts.source_hash(tmp_path / "b")
    (tmp_path / "b" / "inner" / "x.py").write_bytes(b"x = 1\r\n")
    assert hosts.source_hash(tmp_path / "a") == hosts.source_hash(tmp_path / "b")
    (tmp_path / "b" / "inner" / "x.py").rename(tmp_path / "b" / "x.py")
    assert hosts.source_hash(tmp_path / "a") != hosts.source_hash(tmp_path / "b")
    one, other = tmp_path / "one.py", tmp_path / "other.py"
    one.write_text("x = 1\n")
    other.write_text("x = 1\n")
    assert hosts.source_hash(one) == hosts.source_hash(other)
    other.write_text("x = 2\n")
    assert hosts.source_hash(one) != hosts.source_hash(other)


def test_a_program_is_compared_without_the_places_it_was_written_at():
    x = jnp.ones(3)
    first = jax.jit(lambda x: x * 2).lower(x)

    second = jax.jit(lambda x: x * 2).lower(x)
    texts = [each.as_text(debug_info=True) for each in (first, second)]
    assert texts[0] != texts[1]
    assert hosts.program_hash(texts[0]) == hosts.program_hash(texts[1])
    other = jax.jit(lambda x: x * 3).lower(x).as_text(debug_info=True)
    assert hosts.program_hash(texts[0]) != hosts.program_hash(other)

"""Two checkpoints compared: equal to the bit, or what differs, where and by how much."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from states import alter

from jaxdl.checkpoints import Checkpoints, comparing, diff
from jaxdl.errors import DamagedError


def saved(folder, *states):
    """The folders of the checkpoints."""
    store = Checkpoints(folder)
    for step, state in enumerate(states, 1):
        store.save(step, state)
    store.close()
    return [folder / str(step) for step in range(1, len(states) + 1)]


def test_a_row_for_every_tensor(tmp_path):
    one = {
        "params": {"same": jnp.ones(3), "moved": jnp.arange(4.0), "gone": jnp.zeros(2)},
        "wide": jnp.zeros((2, 3)),
        "half": jnp.asarray([1.0, 2.5], jnp.bfloat16),
        "key": jax.random.key(1),
        "count": jnp.asarray(3),
    }
    other = {
        "params": {"same": jnp.ones(3), "moved": jnp.asarray([0.0, 1.5, 2.0, 2.0])},
        "wide": jnp.zeros((2, 4)),
        "half": jnp.asarray([1.0, 2.0], jnp.float32),
        "key": jax.random.key(1, impl="rbg"),
        "count": jnp.asarray(3),
        "new": jnp.zeros(1),
    }
    found = diff(*saved(tmp_path, one, other))
    rows = {row.path: row for row in found}
    assert {path: row.verdict for path, row in rows.items()} == {
        "params/same": "equal",
        "params/moved": "values differ",
        "params/gone": "only in a",
        "wide": "shape differs",
        "half": "dtype differs",
        "key": "shape differs",
        "count": "equal",
        "new": "only in b",
    }
    assert (rows["params/moved"].max_abs, rows["params/moved"].entries) == (1.0, 2)
    assert (rows["half"].max_abs, rows["half"].entries) == (0.5, 1)
    assert rows["wide"].max_abs is None
    assert not found.same()
    assert len(found.differing()) == 6
    lines = str(found).splitlines()
    assert "params/moved: values differ, 2 entries, by at most 1" in lines
    assert "wide: shape differs, float32[2, 3] and float32[2, 4]" in lines
    assert lines[-1] == "2 tensors are equal, 6 are not"


def test_a_checkpoint_is_equal_to_itself_however_it_lay(tmp_path, devices):
    """Blocks of other hashes are read, and their values compared."""
    mesh = Mesh(np.asarray(devices[:4], dtype=object), ("x",))
    values = jnp.asarray([[jnp.nan, -0.0], [1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    spread = jax.device_put(values, NamedSharding(mesh, PartitionSpec("x")))
    a, b = saved(tmp_path, {"w": values}, {"w": spread})
    for found in (diff(a, a), diff(a, b)):
        assert found.same()
        assert str(found) == "1 tensors are equal, 0 are not"


def test_only_what_differs_is_read(tmp_path):
    a, b = saved(
        tmp_path, {"w": jnp.ones(3), "v": jnp.ones(3)}, {"w": jnp.ones(3), "v": jnp.zeros(3)}
    )
    alter(b, "state/w")
    assert [row.verdict for row in diff(a, b)] == ["values differ", "equal"]
    alter(b, "state/v")
    with pytest.raises(DamagedError, match="state/v: its values were altered"):
        diff(a, b)


FLOATS = hnp.arrays(np.float32, st.shared(hnp.array_shapes(max_dims=3), key="shape"))


@given(a=FLOATS, b=FLOATS, dtype=st.sampled_from([np.float32, ml_dtypes.bfloat16, np.int8, bool]))
@settings(max_examples=100)
def test_the_distance_is_that_of_numpy(a, b, dtype):
    """In pieces as in one; with NaN and the infinities."""
    with np.errstate(all="ignore"):
        a, b = a.astype(dtype), b.astype(dtype)
        gaps = np.abs(a.astype(np.float64) - b.astype(np.float64))
    pairs = zip(a.reshape(-1), b.reshape(-1), gaps.reshape(-1), strict=True)
    expected = [gap for x, y, gap in pairs if x.tobytes() != y.tobytes()]
    pytest.MonkeyPatch().setattr(comparing, "_CHUNK", 3)
    largest, entries = comparing._distance(a, b)
    assert entries == len(expected)
    np.testing.assert_array_equal(largest, np.max(expected, initial=0.0))

"""Hypothesis strategies: trees of arrays, batches with masks, shardings and layouts.

Needs ``pip install hypothesis``.

Reads from: errors, layouts. Used by: tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec

from jaxdl import layouts
from jaxdl.protocols import MASK

__all__ = ["arrays", "batches", "layouts_of", "pytrees", "shardings"]

_DTYPES = ("float32", "bfloat16", "float16", "int32", "uint8", "bool")


@st.composite
def arrays(
    draw: Any,
    *,
    dtypes: Sequence[str] = _DTYPES,
    max_rank: int = 3,
    max_side: int = 5,
    shape: tuple[int, ...] | None = None,
) -> np.ndarray:
    """NumPy arrays of small finite numbers.

    Args:
        draw: Hypothesis's.
        dtypes: to choose from.
        max_rank: of the shape.
        max_side: of the shape; sides may be 0.
        shape: a fixed one.
    """
    sides = st.lists(st.integers(0, max_side), max_size=max_rank)
    chosen = tuple(draw(sides)) if shape is None else shape
    seed = draw(st.integers(0, 2**32 - 1))
    values = np.random.default_rng(seed).integers(-8, 9, chosen) / 2
    dtype = jax.numpy.dtype(draw(st.sampled_from(list(dtypes))))
    return np.asarray(np.abs(values) if dtype.kind == "u" else values, dtype)


def pytrees(leaves: st.SearchStrategy[Any] | None = None, *, max_leaves: int = 8) -> Any:
    """Nested dictionaries, lists and tuples of arrays; empty ones among them.

    Args:
        leaves: a strategy; ``arrays()`` when ``None``.
        max_leaves: about how many.
    """
    names = st.text("abcdefgh_", min_size=1, max_size=6)
    return st.recursive(
        arrays() if leaves is None else leaves,
        lambda inner: st.one_of(
            st.dictionaries(names, inner, max_size=4),
            st.lists(inner, max_size=3),
            st.lists(inner, max_size=3).map(tuple),
        ),
        max_leaves=max_leaves,
    )


@st.composite
def batches(
    draw: Any,
    fields: dict[str, tuple[tuple[int, ...], str]],
    *,
    rows: tuple[int, int] = (1, 16),
    classes: int = 10,
    masked: bool = True,
) -> dict[str, np.ndarray]:
    """Batches of rows, with a mask that has at least one real row.

    Args:
        draw: Hypothesis's.
        fields: by name, the shape of a row and the dtype.
        rows: the fewest and the most.
        classes: integers are from 0 to one less.
        masked: whether there is a mask.
    """
    count = draw(st.integers(*rows))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    batch: dict[str, np.ndarray] = {}
    for name, (shape, dtype) in fields.items():
        whole = np.issubdtype(np.dtype(dtype), np.integer)
        size = (count, *shape)
        values = rng.integers(0, classes, size) if whole else rng.normal(size=size)
        batch[name] = values.astype(dtype)
    if masked:
        mask = np.array(draw(st.lists(st.integers(0, 1), min_size=count, max_size=count)), np.int32)
        mask[draw(st.integers(0, count - 1))] = 1
        batch[MASK] = mask
    return batch


@st.composite
def shardings(draw: Any, mesh: Any, shape: tuple[int, ...]) -> NamedSharding:
    """Shardings of a shape over a mesh: each mesh axis on an array axis that it divides, or none.

    Args:
        draw: Hypothesis's.
        mesh: a ``jax.sharding.Mesh``.
        shape: of the array.
    """
    spec: list[str | None] = [None] * len(shape)
    for name, size in mesh.shape.items():
        fits = [i for i, side in enumerate(shape) if spec[i] is None and side % size == 0]
        chosen = draw(st.sampled_from([None, *fits]))
        if chosen is not None:
            spec[chosen] = name
    return NamedSharding(mesh, PartitionSpec(*spec))


def layouts_of(*, tensor_rules: Sequence[Any] = ()) -> st.SearchStrategy[layouts.Layout]:
    """Jaxdl's layouts for 8 devices.

    Args:
        tensor_rules: a model's rules; with them tensor parallelism is among the layouts.
    """
    made = [layouts.data_parallel(), layouts.fsdp(), layouts.zero1()]
    if tensor_rules:
        made.append(layouts.tensor_parallel(tensor_rules, tensor=2))
    return st.sampled_from(made)

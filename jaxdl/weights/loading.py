"""A model's variables from a safetensors file.

Reads from: errors, tree_paths, weights.converting, weights.files, weights.fitting. Used by:
recipes, by choice.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxdl.errors import CheckpointError, ConfigError
from jaxdl.tree_paths import path_name
from jaxdl.weights.converting import assembled
from jaxdl.weights.files import Stored
from jaxdl.weights.fitting import Fit, Table, fitted

__all__ = ["load"]


def load(
    path: str | os.PathLike[str],
    *,
    into: Any,
    names: Table = None,
    dtype: Any = None,
    start: Mapping[str, Any] | None = None,
    fresh: str | Sequence[str] = (),
    ignore: str | Sequence[str] = (),
    shardings: Any = None,
) -> dict[str, Any]:
    """Reads a model's variables from safetensors, tensor by tensor, each once.

    Nothing of PyTorch is needed, and a pickle is never read. Names, shapes and shards are all
    checked before the first value is read.

    Args:
        path: a ``.safetensors`` file, a folder with ``model.safetensors`` or with a sharded set
            and its ``model.safetensors.index.json``, or that index.
        into: the model, a Linen module of the sizes of the file.
        names: its name table (see ``Names``); the family's own when ``None``.
        dtype: of the result's floats; the file's when ``None``.
        start: variables that the ``fresh`` leaves are taken from.
        fresh: regular expressions of paths such as ``"^head/"`` that are not read: a new head.
        ignore: regular expressions of names in the file that may be left over.
        shardings: a ``Sharding``, or a tree of them like the result, that each leaf is put on as
            soon as it is read; ``None`` leaves NumPy arrays on the host.

    Returns:
        ``{"params": ...}``, with ``"batch_stats"`` where the model has running statistics.

    Raises:
        CheckpointError: the file does not fit the model (all that is wrong is listed), or files
            are missing.
        ConfigError: no table, a file of another format, or ``fresh`` without ``start``.
        DamagedError: a file is truncated or corrupt, or an index points out of its folder.
    """
    fresh, ignore = _several(fresh), _several(ignore)
    if bool(fresh) != (start is not None):
        raise ConfigError(
            "fresh and start come together: what is not read, and where it comes from",
            expected="both or neither",
            do="give start=model.init(...) and fresh='^head/'",
        )
    stored = Stored(Path(path))
    try:
        fit = fitted(into, stored.shapes, names, where=str(path), ignore=ignore, fresh=fresh)
        leaves = _kept(fit, start, fresh)
        _check_ties(fit, stored)

        def read(name: str) -> Any:
            return _cast(stored.read(fit.stored[name]), dtype)

        places = _shardings(fit, shardings)
        leaves |= assembled(fit, read, lambda leaf, value: _placed(value, places.get(leaf)))
    finally:
        stored.close()
    return jax.tree_util.tree_map_with_path(lambda keys, _: leaves[path_name(keys)], fit.shapes)


def _several(patterns: str | Sequence[str]) -> tuple[str, ...]:
    return (patterns,) if isinstance(patterns, str) else tuple(patterns)


def _kept(fit: Fit, start: Mapping[str, Any] | None, fresh: Sequence[str]) -> dict[str, Any]:
    """The leaves that are not read."""
    if start is None:
        return {}
    read = {place.leaf for place in fit.places}
    given = {path_name(keys): x for keys, x in jax.tree_util.tree_leaves_with_path(dict(start))}
    model = [path_name(keys) for keys, _ in jax.tree_util.tree_leaves_with_path(fit.shapes)]
    idle = [p for p in fresh if not any(re.search(p, path.partition("/")[2]) for path in model)]
    kept = [path for path in model if path not in read]
    absent = [path for path in kept if path not in given]
    if idle or absent:
        raise CheckpointError(
            f"fresh={list(fresh)} finds no leaf by {idle}, and start lacks {absent}",
            expected="patterns of the model's paths, and variables that hold those leaves",
            do="give start=model.init(...)",
        )
    return {path: given[path] for path in kept}


def _check_ties(fit: Fit, stored: Stored) -> None:
    for name, same in fit.names.tied.items():
        first, second = fit.stored.get(name), fit.stored.get(same)
        if first is None or second is None:
            continue
        if not np.array_equal(stored.read(first), stored.read(second)):
            raise CheckpointError(
                f"{first} is not {second}, which the model uses in its place",
                expected="a file of a model whose two are tied",
                do="load it into a model with a head of its own",
            )


def _cast(tensor: Any, dtype: Any) -> Any:
    if dtype is None or not jax.numpy.issubdtype(tensor.dtype, jax.numpy.floating):
        return tensor
    return tensor.astype(jax.numpy.dtype(dtype), copy=False)


def _shardings(fit: Fit, shardings: Any) -> dict[str, Any]:
    if shardings is None:
        return {}
    if isinstance(shardings, jax.sharding.Sharding):
        shardings = jax.tree.map(lambda _: shardings, fit.shapes)
    same = jax.tree.map(lambda _, sharding: sharding, fit.shapes, dict(shardings))
    return {path_name(keys): x for keys, x in jax.tree_util.tree_leaves_with_path(same)}


def _placed(value: Any, sharding: Any) -> Any:
    if sharding is None:
        return value
    # Each host gives its own devices their parts.
    return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])

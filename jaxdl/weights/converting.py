"""Variables from named tensors and back, in memory: weights, gradients, whatever has their shapes.

Reads from: errors, tree_paths, weights.fitting, weights.names. Used by: weights.loading,
weights.exporting, parity tests.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.errors import CheckpointError
from jaxdl.tree_paths import path_name
from jaxdl.weights.families import tables_of
from jaxdl.weights.fitting import Fit, Place, Table, fitted, places_of, shapes_of, wrong

__all__ = ["assembled", "convert", "given", "grouped", "named"]


def convert(
    tensors: Mapping[str, Any],
    *,
    into: Any,
    names: Table = None,
    collections: Collection[str] | None = None,
) -> dict[str, Any]:
    """A model's variables from another library's tensors, by name.

    It only rearranges, so that it serves gradients too.

    Args:
        tensors: arrays by name; a PyTorch tensor on the CPU is one.
        into: the model, a Linen module.
        names: its table, where it is not the family's own.
        collections: ``("params",)`` for tensors without running statistics, such as gradients.

    Returns:
        ``{"params": ..., "batch_stats": ...}``, NumPy arrays (JAX arrays where given such).

    Raises:
        CheckpointError: the tensors do not fit the model; all that is wrong is listed.
        ConfigError: the model has no table, or it lacks a rule.

    Examples:
        >>> from jaxdl.models import GPT
        >>> model = GPT(vocab_size=5, num_layers=1, num_heads=1, hidden_dim=2, max_length=3)
        >>> variables = model.init(jax.random.key(0), jnp.zeros((1, 1), int))
        >>> tensors = named(variables, model)
        >>> tensors["transformer.h.0.attn.c_attn.weight"].shape
        (2, 6)
        >>> jax.tree.map(jnp.shape, convert(tensors, into=model)) == jax.tree.map(
        ...     jnp.shape, variables)
        True
    """
    arrays = {name: _array(tensor) for name, tensor in tensors.items()}
    shapes = {name: tuple(array.shape) for name, array in arrays.items()}
    fit = fitted(into, shapes, names, where="the mapping of tensors", collections=collections)
    leaves = assembled(fit, lambda name: arrays[fit.stored[name]], lambda leaf, value: value)
    kept = {
        name: tree for name, tree in fit.shapes.items() if not collections or name in collections
    }
    return _tree(kept, leaves)


def named(variables: Mapping[str, Any], model: Any, *, names: Table = None) -> dict[str, Any]:
    """Undoes ``convert``: a model's variables as another library's tensors, by name.

    Args:
        variables: ``{"params": ...}``, with ``"batch_stats"`` where the model has them.
        model: the Linen module.
        names: its table, where it is not the family's own.

    Raises:
        CheckpointError: the variables are not those of the model; all that is wrong is listed.
        ConfigError: the model has no table, or it lacks a rule.
    """
    leaves, groups = grouped(variables, model, names)
    return {name: given(places, leaves) for name, places in groups.items()}


def _array(tensor: Any) -> Any:
    if isinstance(tensor, jax.Array | np.ndarray):
        return tensor
    return np.asarray(tensor.detach() if hasattr(tensor, "detach") else tensor)


def assembled(
    fit: Fit, read: Callable[[str], Any], done: Callable[[str, Any], Any]
) -> dict[str, Any]:
    """The leaves of a model, each tensor of theirs read once.

    Args:
        fit: what goes where.
        read: a tensor of theirs by the table's name.
        done: ``(leaf's path, value) -> value``, called once a leaf is whole.
    """
    groups: dict[str, list[Place]] = {}
    for place in fit.places:
        groups.setdefault(place.name, []).append(place)
    depth = _depths(fit.places)
    leaves: dict[str, Any] = {}
    layers: dict[str, dict[int, Any]] = {}
    for name, places in groups.items():
        tensor = read(name)
        for place in places:
            value = place.move.take(_part(tensor, place.move), place.shape)
            if isinstance(value, np.ndarray):
                value = np.asarray(value, order="C")
            if place.layer is not None:
                stack = layers.setdefault(place.leaf, {})
                stack[place.layer] = value
                if len(stack) < depth[place.leaf]:
                    continue
                value = _stacked(layers.pop(place.leaf))
            leaves[place.leaf] = done(place.leaf, value)
    return leaves


def _depths(places: list[Place]) -> dict[str, int]:
    depth: dict[str, int] = {}
    for place in places:
        depth[place.leaf] = depth.get(place.leaf, 0) + 1
    return depth


def _part(tensor: Any, move: Any) -> Any:
    if move.parts == 1:
        return tensor
    size = tensor.shape[move.axis] // move.parts
    index = [slice(None)] * tensor.ndim
    index[move.axis] = slice(move.part * size, (move.part + 1) * size)
    return tensor[tuple(index)]


def _stacked(stack: dict[int, Any]) -> Any:
    values = [stack[layer] for layer in range(len(stack))]
    return np.stack(values) if isinstance(values[0], np.ndarray) else jnp.stack(values)


def grouped(
    variables: Mapping[str, Any], model: Any, names: Table
) -> tuple[dict[str, Any], dict[str, list[Place]]]:
    """The leaves of variables by path, and the places that each tensor of theirs is made of.

    Args:
        variables: see ``named``.
        model: the Linen module.
        names: see ``named``.

    Raises:
        CheckpointError: the variables are not those of the model.
    """
    table = tables_of(model, names)[0]
    shapes = {name: t for name, t in shapes_of(model, table).items() if name in variables}
    leaves = _leaves({name: tree for name, tree in variables.items() if tree})
    expected = {path: tuple(leaf.shape) for path, leaf in _leaves(shapes or {"params": {}}).items()}
    lines = [f"{path} is missing" for path in expected if path not in leaves]
    lines += [f"{path} is left over" for path in leaves if path not in expected]
    lines += [
        f"{path} is {list(np.shape(leaves[path]))}, the model has {list(shape)}"
        for path, shape in expected.items()
        if path in leaves and np.shape(leaves[path]) != shape
    ]
    if "params" not in variables:
        lines = ["there is no 'params'", *lines]
    if lines:
        raise CheckpointError(
            wrong("the variables are not those of the model", lines),
            expected='{"params": ..., "batch_stats": ...} of this very model',
            do="pass the model that the variables were made with",
        )
    groups: dict[str, list[Place]] = {}
    for place in places_of(shapes, table):
        groups.setdefault(place.name, []).append(place)
    return leaves, groups


def given(places: list[Place], leaves: Mapping[str, Any]) -> Any:
    """One tensor of theirs.

    Args:
        places: what it is made of.
        leaves: ours by path.
    """
    parts: list[Any] = []
    for place in sorted(places, key=lambda place: place.move.part):
        leaf = leaves[place.leaf]
        parts.append(place.move.give(leaf if place.layer is None else leaf[place.layer]))
    if len(parts) == 1:
        # In order, as safetensors writes the memory of a transposed view without a word.
        return np.asarray(parts[0], order="C") if isinstance(parts[0], np.ndarray) else parts[0]
    join = np.concatenate if isinstance(parts[0], np.ndarray) else jnp.concatenate
    return join(parts, axis=places[0].move.axis)


def _leaves(tree: Any) -> dict[str, Any]:
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _tree(shapes: Any, leaves: Mapping[str, Any]) -> dict[str, Any]:
    return jax.tree_util.tree_map_with_path(lambda path, _: leaves[path_name(path)], shapes)

"""Where every leaf of a train state lies: the optimizer's state follows its parameter.

Reads from: protocols, tree_paths, layouts.placing. Used by: layouts.explaining, placement.
"""

from __future__ import annotations

from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from jaxdl.layouts.placing import Layout, Placing
from jaxdl.protocols import PyTree
from jaxdl.tree_paths import leaf_paths, match_mask

__all__ = ["state_placings", "state_shardings"]


def state_placings(chosen: Layout, mesh: Mesh | AbstractMesh, state: PyTree) -> list[Placing]:
    """The spec of every leaf of a train state, with its reason, in tree order.

    A leaf of the optimizer's state or of the EMA follows the parameter whose path it ends with
    and whose shape it has. What else the optimizer keeps, such as Adafactor's rows and columns, is
    divided by its own size where the layout divides by size; everything else (counters, keys,
    statistics) is replicated.

    Args:
        chosen: the layout.
        mesh: its mesh.
        state: a ``TrainState`` of arrays or ``jax.ShapeDtypeStruct``; in a state of another
            type, which has no ``params``, every leaf counts as a parameter.

    Raises:
        PathError: a rule's pattern finds no parameter.
        LayoutError: as ``Layout.place``.
    """
    has_params = hasattr(state, "params")
    params = state.params if has_params else state
    if chosen.rules:
        match_mask([pattern for pattern, _ in chosen.rules], params)
    paths = leaf_paths(params)
    placed = {
        path: (leaf.shape, chosen.place(path, leaf.shape, mesh))
        for path, leaf in zip(paths, jax.tree.leaves(params), strict=True)
    }

    def placing(path: str, shape: tuple[int, ...]) -> Placing:
        if not has_params:
            return placed[path][1]
        home, *inner = path.split("/")
        if home == "params":
            return placed["/".join(inner)][1]
        for start in range(len(inner) + 1):
            parameter = "/".join(inner[start:])
            wanted, own = placed.get(parameter, (None, None))
            if own is not None and wanted == shape:
                role = "optimizer" if home in ("opt_state", "ema") else "parameter"
                found = chosen.place(parameter, shape, mesh, role=role)
                name = parameter or "the parameter"
                return Placing(own.spec, f"as {name}") if found.spec == own.spec else found
        if home == "opt_state":
            return chosen.place_other(shape, mesh)
        return Placing(PartitionSpec(), "no parameter: replicated")

    leaves = zip(leaf_paths(state), jax.tree.leaves(state), strict=True)
    return [placing(path, leaf.shape) for path, leaf in leaves]


def state_shardings(chosen: Layout, mesh: Mesh, state: PyTree) -> PyTree:
    """The sharding of every leaf of a train state.

    Args:
        chosen: the layout.
        mesh: its mesh.
        state: as for ``state_placings``.

    Returns:
        A tree of ``NamedSharding`` of the state's structure.

    Raises:
        PathError: a rule's pattern finds no parameter.
        LayoutError: as ``Layout.place``.
    """
    placings = state_placings(chosen, mesh, state)
    shardings: list[Any] = [NamedSharding(mesh, placing.spec) for placing in placings]
    return jax.tree.unflatten(jax.tree.structure(state), shardings)

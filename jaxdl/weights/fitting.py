"""A model's tensors beside the names of a file: what goes where, or everything that does not fit.

Reads from: errors, models, protocols, tree_paths, weights.families, weights.moves, weights.names.
Used by: weights.converting, weights.loading, weights.exporting.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from jaxdl.errors import CheckpointError, ConfigError, closest
from jaxdl.tree_paths import path_name
from jaxdl.weights.families import tables_of
from jaxdl.weights.moves import Move
from jaxdl.weights.names import Names, their_name

__all__ = ["Fit", "Place", "Table", "fitted", "places_of", "shapes_of", "wrong"]

_COLLECTIONS = ("params", "batch_stats")
_WRAPPERS = re.compile(r"^((module|_orig_mod)\.)+")
_SHOWN = 20

Table = Names | Callable[[Any], Names] | None
"""A table, a function from the model to one, or ``None`` for the family's own."""


class Place(NamedTuple):
    """One tensor of ours, or one layer of a stacked one.

    Attributes:
        leaf: the path of the leaf, with its collection.
        layer: which entry of its first axis; ``None`` for the whole leaf.
        shape: of it.
        name: of theirs, as the table writes it.
        move: from theirs to it.
        theirs: the shape of theirs.
    """

    leaf: str
    layer: int | None
    shape: tuple[int, ...]
    name: str
    move: Move
    theirs: tuple[int, ...]


class Fit(NamedTuple):
    """What is read from a file.

    Attributes:
        shapes: of the model, by collection.
        places: where each tensor goes.
        stored: the file's name for each name of the table.
        names: the table that fits best.
    """

    shapes: dict[str, Any]
    places: list[Place]
    stored: dict[str, str]
    names: Names


def shapes_of(model: Any, names: Names) -> dict[str, Any]:
    """The shapes of a model's variables: parameters and running statistics.

    Args:
        model: a Linen module.
        names: its table, which knows what ``init`` takes.
    """
    shapes = jax.eval_shape(lambda key: model.init(key, *names.inputs(model)), jax.random.key(0))
    return {name: shapes[name] for name in _COLLECTIONS if name in shapes}


def places_of(shapes: Any, names: Names) -> list[Place]:
    """What the table says of each tensor of a model.

    Args:
        shapes: see ``shapes_of``.
        names: the table.

    Raises:
        ConfigError: it has no rule for a tensor, or two.
    """
    places: list[Place] = []
    without: list[str] = []
    for keys, leaf in jax.tree_util.tree_leaves_with_path(shapes):
        path = path_name(keys)
        for inner, layer, shape in _layers(path, tuple(leaf.shape)):
            named = [(their_name(rule, inner), rule.move) for rule in names.rules]
            found = [(name, move) for name, move in named if name is not None]
            if len(found) != 1:
                without.append(f"{inner}: {len(found)} rules")
                continue
            name, move = found[0]
            places.append(Place(path, layer, shape, name, move, _theirs(move, shape)))
    if without:
        raise ConfigError(
            wrong("the name table does not say what these tensors are called", without),
            expected="one rule for each",
            do="add rules to the table, or check the paths that it names",
        )
    return places


def _layers(path: str, shape: tuple[int, ...]) -> Iterable[tuple[str, int | None, tuple[int, ...]]]:
    parts = path.split("/")[1:]
    if "blocks" not in parts:
        return [("/".join(parts), None, shape)]
    at = parts.index("blocks")
    return [
        ("/".join([*parts[:at], f"block_{layer}", *parts[at + 1 :]]), layer, shape[1:])
        for layer in range(shape[0])
    ]


def _theirs(move: Move, shape: tuple[int, ...]) -> tuple[int, ...]:
    given = jax.eval_shape(move.give, jax.ShapeDtypeStruct(shape, "float32"))
    sizes = list(given.shape)
    if move.parts > 1:
        sizes[move.axis] *= move.parts
    return tuple(sizes)


def fitted(
    model: Any,
    stored: Mapping[str, tuple[int, ...]],
    table: Table = None,
    *,
    where: str,
    ignore: Sequence[str] = (),
    fresh: Sequence[str] = (),
    collections: Collection[str] | None = None,
) -> Fit:
    """Finds the table that a file follows, and checks that every tensor has its place.

    Args:
        model: a Linen module.
        stored: the shape of each tensor of the file.
        table: see ``Table``.
        where: the file, for messages.
        ignore: regular expressions of names in the file that may be left over.
        fresh: regular expressions of paths of ours that are not read.
        collections: of the model that are read; all when ``None``.

    Raises:
        CheckpointError: names are missing or left over, or shapes differ; all are listed.
        ConfigError: there is no table, or it lacks a rule.
    """
    fits: list[Fit] = []
    tables = tables_of(model, table)
    shapes = shapes_of(model, tables[0])
    for names in tables:
        places = places_of(shapes, names)
        known = _renamed(stored, names)
        for short in (False, True) if names.prefix else (False,):
            there = {place.name: _without(names.prefix, place.name, short) for place in places}
            there |= {name: _without(names.prefix, name, short) for name in _ties(names)}
            found = {name: known[other] for name, other in there.items() if other in known}
            fits.append(Fit(shapes, places, found, names))
    best = max(fits, key=lambda fit: len({place.name for place in fit.places} & fit.stored.keys()))
    _check(best, stored, where, ignore=ignore, fresh=fresh, collections=collections)
    return best._replace(places=_read(best.places, fresh, collections))


def _renamed(stored: Iterable[str], names: Names) -> dict[str, str]:
    known: dict[str, str] = {}
    for name in stored:
        new = _WRAPPERS.sub("", name)
        for pattern, replacement in names.renames:
            new = re.sub(pattern, replacement, new)
        known[new] = name
    return known


def _ties(names: Names) -> set[str]:
    return set(names.tied) | set(names.tied.values())


def _without(prefix: str, name: str, short: bool) -> str:
    return name.removeprefix(prefix) if short else name


def _read(
    places: Iterable[Place], fresh: Sequence[str], collections: Collection[str] | None
) -> list[Place]:
    def wanted(place: Place) -> bool:
        collection, _, path = place.leaf.partition("/")
        known = collections is None or collection in collections
        return known and not any(re.search(pattern, path) for pattern in fresh)

    return [place for place in places if wanted(place)]


def _check(
    fit: Fit,
    stored: Mapping[str, tuple[int, ...]],
    where: str,
    *,
    ignore: Sequence[str],
    fresh: Sequence[str],
    collections: Collection[str] | None,
) -> None:
    passed = [*fit.names.skipped, *ignore]
    left = set(stored) - set(fit.stored.values())
    left = {name for name in left if not any(re.search(pattern, name) for pattern in passed)}
    lines: list[str] = []
    for name, place in {p.name: p for p in _read(fit.places, fresh, collections)}.items():
        if name not in fit.stored:
            hint = closest(name, left) if left else ""
            lines.append(f"{name} is missing" + (f"; {hint}" if "mean" in hint else ""))
        elif tuple(stored[fit.stored[name]]) != place.theirs:
            got, want = list(stored[fit.stored[name]]), list(place.theirs)
            lines.append(f"{fit.stored[name]} is {got}, the model has {want}")
    lines += [f"{name} is left over" for name in sorted(left)]
    if lines:
        raise CheckpointError(
            wrong(f"{where} does not fit the model", lines),
            expected=f"the tensors of a {_owner(fit)}",
            do="build the model with the sizes of the file; fresh=... keeps tensors of your own, "
            "ignore=... passes over what is left over",
        )


def _owner(fit: Fit) -> str:
    return f"model with {len({place.name for place in fit.places})} tensors, named as in its table"


def wrong(what: str, lines: Sequence[str]) -> str:
    """A message with a line for each thing that is wrong.

    Args:
        what: is wrong.
        lines: each of it.
    """
    more = [f"and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
    return "\n    ".join([f"{what}:", *lines[:_SHOWN], *more])

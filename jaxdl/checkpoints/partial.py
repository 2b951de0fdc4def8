"""Parameters of another run taken over, leaf by leaf: a new head, a frozen trunk, other names.

Reads from: errors, protocols, checkpoints.choosing, .manifest, .matching, .reading, .tensors.
Used by: checkpoints.starting, and by hand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.checkpoints.choosing import check_finite, checkpoints_of, newest_whole
from jaxdl.checkpoints.manifest import Entry, Manifest
from jaxdl.checkpoints.matching import Patterns, Table, match
from jaxdl.checkpoints.reading import STATE, load, open_step, read_checked, step_folder
from jaxdl.checkpoints.tensors import generator, named, rebuilt, spec_of, words
from jaxdl.errors import CheckpointError, closest
from jaxdl.protocols import PyTree

__all__ = ["Partial", "Source", "load_partial"]

Source: TypeAlias = Literal["params", "ema"]

_MODEL_STATE = "model_state"
_THREADS = 4


class Partial(NamedTuple):
    """What was taken over of a checkpoint.

    Attributes:
        params: the tree that was asked for, filled.
        model_state: likewise; ``None`` when it was not asked for.
        table: what happened to every leaf.
        step: updates that the checkpoint's run had done.
        record: what was saved beside it.
        passed_over: one line for each newer checkpoint that is not whole.
    """

    params: Any
    model_state: Any
    table: Table
    step: int
    record: dict[str, Any]
    passed_over: tuple[str, ...]


def load_partial(
    folder: Path,
    like: PyTree,
    *,
    step: int | None = None,
    source: Source = "params",
    rename: Sequence[tuple[str, str]] = (),
    only: Patterns = None,
    new: Patterns = None,
    ignore: Patterns = None,
    cast: bool = False,
    strict: bool = True,
    model_state: PyTree = None,
) -> Partial:
    r"""Fills parameters from a checkpoint of another run, every leaf accounted for.

    Patterns are regular expressions for paths (``re.search``), one or several; each must match
    something.

    Args:
        folder: of a run, or of checkpoints.
        like: the parameters to fill: arrays or ``jax.ShapeDtypeStruct``. A leaf is placed on its
            sharding, a NumPy array is filled by one. A leaf that nothing fills is given back as it
            is.
        step: the checkpoint of which step; the newest whole one when ``None``.
        source: the parameters as they were trained, or their moving average.
        rename: pairs of a pattern for stored paths and its replacement, as ``re.sub`` takes them;
            the first that matches a path rewrites it: ``[("^layer_(\d+)/", r"block_\1/")]``.
        only: the wanted leaves to fill. The others stay new, and what is stored for them is left
            out.
        new: wanted leaves that stay as they are, whether something is stored for them or not.
        ignore: stored leaves, by the path that they are stored under, that may be left out.
        cast: convert floating-point leaves whose dtype differs.
        strict: a leaf that is missing, unused or of another shape or dtype is an error. Otherwise
            it stays new, and ``table`` says so.
        model_state: the model's other state, such as batch statistics, to fill likewise; its paths
            begin with ``model_state/``. What is stored of it does not count when ``None``.

    Returns:
        The filled tree and the table of what happened.

    Raises:
        CheckpointError: there is no such checkpoint; it does not fit (the whole table is
            printed); or a cast overflows.
        DamagedError: no checkpoint is whole, or the one asked for is not. The hashes of what is
            loaded are compared.
        PathError: a pattern matches nothing.

    Warns:
        UserWarning: for every checkpoint that is passed over because it is not whole.
    """
    wanted = _wanted(like, model_state)
    folder = checkpoints_of(Path(folder))
    specs = {path: spec_of(leaf) for path, leaf in wanted.items()}

    def read(candidate: int) -> _Found:
        manifest, record = open_step(folder, candidate)
        path = step_folder(folder, candidate)
        check_finite(path, manifest)
        stored = _stored(path, manifest, source, with_state=model_state is not None)
        found = {name: manifest.tensors[full].spec for name, full in stored.items()}
        table = match(found, specs, rename=rename, only=only, new=new, ignore=ignore, cast=cast)
        _check(path, table, strict=strict)
        places = {place: stored[name] for place, name in table.filled().items()}
        leaves = _read(path, {k: (v, manifest.tensors[v]) for k, v in places.items()}, wanted)
        return _Found(candidate, record, table, leaves)

    found, passed = newest_whole(folder, step, read)
    # Casts are programs on all devices, so they wait until all processes have read.
    filled = {path: _cast(path, leaf, wanted[path]) for path, leaf in found.leaves.items()}
    tensors = {**wanted, **filled}
    state = None if model_state is None else _rebuilt(model_state, tensors, _MODEL_STATE)
    params = rebuilt(like, tensors)
    return Partial(params, state, found.table, found.step, found.record, passed)


class _Found(NamedTuple):
    step: int
    record: dict[str, Any]
    table: Table
    leaves: dict[str, Any]


def _wanted(like: PyTree, model_state: PyTree) -> dict[str, Any]:
    wanted = named(like)
    if model_state is None:
        return wanted
    more = named({_MODEL_STATE: model_state})
    clash = sorted(wanted.keys() & more.keys())
    if clash:
        raise CheckpointError(
            f"a parameter and a leaf of the model state are both named {clash[0]!r}",
            expected="no parameters in a part named 'model_state'",
            do="rename that part of the model",
        )
    return {**wanted, **more}


def _rebuilt(like: PyTree, tensors: Mapping[str, Any], prefix: str) -> PyTree:
    return rebuilt({prefix: like}, tensors)[prefix]


def _stored(path: Path, manifest: Manifest, source: Source, *, with_state: bool) -> dict[str, str]:
    """Full names of what is stored, by the path that patterns see."""
    stored: dict[str, str] = {}
    parts: set[str] = set()
    for full in manifest.tensors:
        name = full.removeprefix(STATE)
        part, _, rest = name.partition("/")
        parts.add(part)
        if part == source and full.startswith(STATE):
            stored[rest or "%"] = full
        elif part == _MODEL_STATE and with_state and full.startswith(STATE):
            stored[name] = full
    if source not in parts:
        raise CheckpointError(
            f"the checkpoint {path} holds no {source}",
            expected=f"one of {', '.join(sorted(parts - {'window'}))}",
            do="take source='params'; only a recipe with ema_decay keeps an average",
        )
    return stored


def _check(path: Path, table: Table, *, strict: bool) -> None:
    faults = table.faults() if strict else ()
    if not faults and (table.filled() or not table):
        return
    outcomes = [row.outcome for row in faults]
    counts = [f"{outcomes.count(each)} {each}" for each in dict.fromkeys(outcomes)]
    raise CheckpointError(
        f"the checkpoint {path} does not fit ({', '.join(counts) or 'nothing would be loaded'}):\n"
        + "\n".join(f"    {line}" for line in str(table).splitlines()),
        expected="every wanted leaf filled or declared new, every stored one used or ignored, of "
        "one shape and dtype",
        do=_advice(table),
    )


def _advice(table: Table) -> str:
    """One hint for each kind of fault."""
    by_outcome = {row.outcome: row for row in reversed(table)}
    unused = [row.path for row in table if row.outcome == "unused"]
    hints: list[str] = []
    if "missing" in by_outcome:
        name = by_outcome["missing"].path
        near = f" ({closest(name, unused)})" if 0 < len(unused) <= 20 else ""
        hints.append(f"rename stored leaves to {name!r} and the like{near}, or declare them new")
    if unused:
        hints.append(f"ignore {unused[0]!r} and the like, or rename them")
    if "shape differs" in by_outcome:
        hints.append(f"declare {by_outcome['shape differs'].path!r} and the like new")
    if "dtype differs" in by_outcome:
        hints.append("cast=True converts floating-point numbers")
    return "; ".join(hints) or "check rename, only and new"


def _read(
    path: Path, places: Mapping[str, tuple[str, Entry]], wanted: Mapping[str, Any]
) -> dict[str, Any]:
    def one(place: str) -> Any:
        name, entry = places[place]
        leaf = wanted[place]
        if isinstance(leaf, np.ndarray | np.generic):
            return read_checked(path, name, entry)
        sharding = words(leaf).sharding
        shape = jax.ShapeDtypeStruct(
            entry.spec.shape, jnp.dtype(entry.spec.dtype), sharding=sharding
        )
        return load(path, name, entry, shape)

    # Arrays over several processes must be made in one order by all of them.
    threads = _THREADS if jax.process_count() == 1 else 1
    with ThreadPoolExecutor(threads) as pool:
        return dict(zip(places, pool.map(one, places), strict=True))


def _cast(path: str, found: Any, wanted: Any) -> Any:
    kind = generator(wanted)
    if kind is not None:
        return jax.random.wrap_key_data(found, impl=kind)
    if found.dtype == wanted.dtype:
        return found
    with np.errstate(over="ignore"):
        made = found.astype(wanted.dtype)
    if not bool(jnp.all(jnp.isfinite(made))):
        raise CheckpointError(
            f"{path} overflows in {wanted.dtype}",
            expected="numbers in the range of the dtype",
            do=f"load it as {found.dtype}",
        )
    return made

"""Which stored leaf fills which wanted one: a table by path, made before anything is read.

Reads from: errors, tree_paths, checkpoints.tensors. Used by: checkpoints.partial.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

from jax.numpy import complexfloating, dtype, floating, issubdtype

from jaxdl.checkpoints.tensors import Spec, in_words
from jaxdl.errors import PathError
from jaxdl.tree_paths import match_mask

__all__ = ["Outcome", "Patterns", "Row", "Table", "match", "renamed"]

Outcome: TypeAlias = Literal[
    "loaded", "cast", "new", "ignored", "missing", "unused", "shape differs", "dtype differs"
]
"""What happened to a leaf; the last four are faults."""

Patterns: TypeAlias = str | Sequence[str] | None
"""One or several regular expressions for paths (``re.search``), or none."""

_FAULTS = ("missing", "unused", "shape differs", "dtype differs")


class Row(NamedTuple):
    """One wanted leaf, or a stored one that goes nowhere.

    Attributes:
        path: where it is wanted, or would have gone.
        stored: the stored path that belongs to it, if any.
        wanted: what is wanted there; ``None`` when nothing is.
        found: what is stored; ``None`` when nothing is.
        outcome: what happened: ``"loaded"``; ``"cast"`` to another dtype; ``"new"``, left as it
            was; ``"ignored"``, stored and left out; ``"missing"``, wanted and not stored;
            ``"unused"``, stored and not wanted; or its shape or dtype differs.
    """

    path: str
    stored: str | None
    wanted: Spec | None
    found: Spec | None
    outcome: Outcome

    def fault(self) -> bool:
        """Whether it is not as it was asked for."""
        return self.outcome in _FAULTS


class Table(tuple[Row, ...]):
    """Every wanted leaf once, in tree order, then the stored ones that go nowhere.

    ``str()`` aligns it, a ``!`` before each fault.
    """

    __slots__ = ()

    def faults(self) -> tuple[Row, ...]:
        """The rows that are not as they were asked for."""
        return tuple(row for row in self if row.fault())

    def filled(self) -> dict[str, str]:
        """The stored path of each wanted one that is filled."""
        return {
            row.path: row.stored
            for row in self
            if row.stored is not None and row.outcome in ("loaded", "cast")
        }

    def __str__(self) -> str:
        cells = [("", "path", "from", "shape", "what happened"), *map(_cells, self)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = (
            " ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            for row in cells
        )
        return "\n".join(line.rstrip() for line in lines)


def _cells(row: Row) -> tuple[str, ...]:
    specs = [in_words(spec) for spec in (row.wanted, row.found) if spec is not None]
    differ = row.outcome in ("cast", "shape differs", "dtype differs")
    shape = f"{specs[0]}, stored {specs[1]}" if differ else specs[0]
    # Nothing comes from a stored leaf whose place stays new.
    source = "" if row.stored is None or row.outcome == "new" else row.stored
    return "!" if row.fault() else " ", row.path, source, shape, row.outcome


def match(
    stored: Mapping[str, Spec],
    wanted: Mapping[str, Spec],
    *,
    rename: Sequence[tuple[str, str]] = (),
    only: Patterns = None,
    new: Patterns = None,
    ignore: Patterns = None,
    cast: bool = False,
) -> Table:
    """Pairs stored with wanted leaves.

    Args:
        stored: what there is, by path.
        wanted: what is to be filled, by path.
        rename: pairs of a pattern for stored paths and its replacement.
        only: the wanted paths to fill.
        new: wanted paths that stay as they are.
        ignore: stored paths that may be left out.
        cast: whether floating-point numbers may change their dtype.

    Raises:
        PathError: a pattern matches nothing, is no regular expression, or two stored leaves would
            go to one place.

    Examples:
        >>> f32 = lambda *shape: Spec(shape, "float32")
        >>> print(match({"trunk/w": f32(4, 3), "head/w": f32(3, 9)},
        ...             {"encoder/w": f32(4, 3), "head/w": f32(3, 2)},
        ...             rename=[("^trunk/", "encoder/")]))
          path      from    shape                               what happened
          encoder/w trunk/w float32[4, 3]                       loaded
        ! head/w    head/w  float32[3, 2], stored float32[3, 9] shape differs
    """
    left_out = _matched(ignore, stored)
    stays = _matched(new, wanted) | (
        set() if only is None else wanted.keys() - _matched(only, wanted)
    )
    targets = {k: v for k, v in renamed(stored, rename).items() if k not in left_out}
    sources = _inverted(targets)
    rows: list[Row] = []
    for path, spec in wanted.items():
        source = sources.get(path)
        found = None if source is None else stored[source]
        outcome = "new" if path in stays else _outcome(spec, found, cast=cast)
        rows.append(Row(path, source, spec, found, outcome))
    for name, spec in stored.items():
        target = targets.get(name, name)
        if name in left_out or target not in wanted:
            apart = name in left_out or (only is not None and not _found(only, target))
            rows.append(Row(target, name, None, spec, "ignored" if apart else "unused"))
    return Table(rows)


def _outcome(wanted: Spec, found: Spec | None, *, cast: bool) -> Outcome:
    if found is None:
        return "missing"
    if (wanted.shape, wanted.generator) != (found.shape, found.generator):
        return "shape differs"
    if wanted.dtype == found.dtype:
        return "loaded"
    return (
        "cast" if cast and _castable(dtype(wanted.dtype), dtype(found.dtype)) else "dtype differs"
    )


def _castable(one: Any, other: Any) -> bool:
    kinds: tuple[Any, ...] = (floating, complexfloating)
    return any(issubdtype(one, kind) and issubdtype(other, kind) for kind in kinds)


def _found(patterns: str | Sequence[str], path: str) -> bool:
    each = [patterns] if isinstance(patterns, str) else patterns
    return any(re.search(pattern, path) for pattern in each)


def _matched(patterns: Patterns, paths: Iterable[str]) -> set[str]:
    """The paths that any pattern finds; each must find one."""
    if patterns is None:
        return set()
    mask = match_mask(patterns, dict.fromkeys(paths, 0))
    return {path for path, found in mask.items() if found}


def renamed(stored: Iterable[str], rename: Sequence[tuple[str, str]]) -> dict[str, str]:
    r"""Where each stored path goes: the first pattern that finds something in it rewrites it.

    Args:
        stored: the paths.
        rename: pairs of a regular expression and its replacement, as ``re.sub`` takes them.

    Raises:
        PathError: a pattern matches no path, or only such as a pattern before it takes; or it or
            its replacement cannot be used.

    Examples:
        >>> renamed(["h/0/w", "h/1/w", "ln/w"], [(r"^h/(\d)/", r"block_\1/")])
        {'h/0/w': 'block_0/w', 'h/1/w': 'block_1/w', 'ln/w': 'ln/w'}
    """
    targets = {path: path for path in stored}
    left = set(targets)
    for pattern, replacement in rename:
        taken = _matched(pattern, targets) & left
        if not taken:
            raise PathError(
                f"the pattern {pattern!r} renames nothing: patterns before it take every path that "
                "it matches",
                expected="at least one path that it is the first to match",
                do="put it before them, or leave it out",
            )
        for path in taken:
            targets[path] = _substituted(pattern, replacement, path)
        left -= taken
    return targets


def _substituted(pattern: str, replacement: str, path: str) -> str:
    try:
        return re.sub(pattern, replacement, path)
    except (re.error, IndexError) as error:
        raise PathError(
            f"{replacement!r} is no replacement for {pattern!r}: {error}",
            expected=r"a text such as 'encoder/' or r'block_\1/', with groups of its pattern",
            do="mend the replacement",
        ) from error


def _inverted(targets: Mapping[str, str]) -> dict[str, str]:
    sources: dict[str, str] = {}
    for name, target in targets.items():
        if target in sources:
            raise PathError(
                f"{sources[target]!r} and {name!r} would both go to {target!r}",
                expected="one stored leaf a place",
                do="make the patterns of rename narrower, or ignore one of the two",
            )
        sources[target] = name
    return sources

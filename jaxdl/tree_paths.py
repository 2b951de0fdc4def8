"""The names of a tree's leaves, and the patterns that choose among them.

A path is the leaf's keys joined by ``/``: ``dense_0/kernel``. One definition serves decay masks,
freezing, sharding rules and checkpoints.

Reads from: errors. Used by: optimizers, layouts, step, checkpoints.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

import jax

from jaxdl.errors import PathError, closest
from jaxdl.protocols import PyTree

__all__ = ["combine", "leaf_paths", "map_with_path", "match_mask", "partition", "path_name"]


def path_name(path: Iterable[Any]) -> str:
    """Joins a JAX key path by ``/``: dictionary keys, attribute names and indices alike.

    Args:
        path: the entries that ``jax.tree_util`` gives for a leaf.
    """
    return jax.tree_util.keystr(tuple(path), simple=True, separator="/")


def leaf_paths(tree: PyTree) -> list[str]:
    """The path of every leaf, in tree order.

    Args:
        tree: any pytree.

    Examples:
        >>> leaf_paths({"dense": {"kernel": 1, "bias": 2}})
        ['dense/bias', 'dense/kernel']
    """
    return [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def map_with_path(fn: Callable[..., Any], tree: PyTree, *rest: PyTree) -> PyTree:
    """``jax.tree.map`` with the leaf's path as first argument of ``fn``.

    Args:
        fn: ``(path, leaf, ...) -> leaf``.
        tree: any pytree.
        rest: more trees of its structure.
    """
    return jax.tree_util.tree_map_with_path(lambda path, *xs: fn(path_name(path), *xs), tree, *rest)


def match_mask(pattern: str | Iterable[str], tree: PyTree) -> PyTree:
    """Marks the leaves whose path a regular expression finds (``re.search``).

    Args:
        pattern: one or several regular expressions; each must find at least one leaf.
        tree: any pytree.

    Returns:
        A tree of the same structure with ``True`` where any pattern matches.

    Raises:
        PathError: a pattern matches no leaf, or is no regular expression.

    Examples:
        >>> match_mask("bias$", {"dense": {"kernel": 1, "bias": 2}})
        {'dense': {'bias': True, 'kernel': False}}
    """
    patterns = [pattern] if isinstance(pattern, str) else list(pattern)
    paths = leaf_paths(tree)
    for each in patterns:
        _check_pattern(each, paths)
    return map_with_path(lambda path, _: any(re.search(p, path) for p in patterns), tree)


def _check_pattern(pattern: str, paths: list[str]) -> None:
    try:
        found = any(re.search(pattern, path) for path in paths)
    except re.error as error:
        raise PathError(
            f"{pattern!r} is no regular expression: {error}",
            expected="a pattern for parameter paths, such as 'bias$' or '^encoder/'",
            do="mend the pattern; re.escape quotes a literal path",
        ) from error
    if not found:
        raise PathError(
            f"the pattern {pattern!r} matches no parameter",
            expected="at least one parameter path that it finds",
            do=closest(pattern.strip("^$"), paths),
        )


def partition(tree: PyTree, mask: PyTree) -> tuple[PyTree, PyTree]:
    """Splits a tree in two of its own shape: leaves where the mask is true, and the others.

    The leaves that went to the other side are ``None``, which every JAX tree function passes over.

    Args:
        tree: any pytree.
        mask: booleans of its structure.
    """
    chosen = jax.tree.map(lambda keep, x: x if keep else None, mask, tree)
    others = jax.tree.map(lambda keep, x: None if keep else x, mask, tree)
    return chosen, others


def combine(chosen: PyTree, others: PyTree) -> PyTree:
    """Undoes ``partition``.

    Args:
        chosen: a tree with ``None`` where ``others`` has a leaf.
        others: a tree with ``None`` where ``chosen`` has a leaf.
    """
    return jax.tree.map(
        lambda a, b: b if a is None else a, chosen, others, is_leaf=lambda x: x is None
    )

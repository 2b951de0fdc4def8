"""A state as named tensors and back: what is stored is logical, how it lay is not.

A name is the leaf's path with its entries joined by ``/``. Containers have no say: a tuple, a
named tuple and a dictionary with the same entries store the same names. A typed key is stored as
its words, with the name of its generator.

Reads from: errors, protocols. Used by: the rest of checkpoints.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple
from urllib.parse import quote

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.errors import CheckpointError
from jaxdl.protocols import PyTree

__all__ = [
    "Spec",
    "differences",
    "generator",
    "in_words",
    "is_key",
    "named",
    "rebuilt",
    "spec_of",
    "words",
]


class Spec(NamedTuple):
    """What a stored tensor is.

    Attributes:
        shape: as stored; a key's words are its last axis.
        dtype: NumPy's name of it.
        generator: of a typed key, such as ``"threefry2x32"``; ``None`` of numbers.
    """

    shape: tuple[int, ...]
    dtype: str
    generator: str | None = None

    def nbytes(self) -> int:
        """How many bytes it holds."""
        return math.prod(self.shape) * jax.numpy.dtype(self.dtype).itemsize


def named(state: PyTree) -> dict[str, Any]:
    """The leaves of a state by name.

    Args:
        state: a pytree of arrays, typed keys or ``jax.ShapeDtypeStruct``.

    Returns:
        The leaves as they are, in tree order.

    Raises:
        CheckpointError: two leaves have one name, or a leaf is no array.

    Examples:
        >>> list(named({"dense": {"kernel": np.ones(2)}, "moments": (np.ones(2),)}))
        ['dense/kernel', 'moments/0']
    """
    found: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        name = "/".join(map(_entry, path)) or "%"
        if name in found:
            raise CheckpointError(
                f"two leaves of the state are named {name!r}",
                expected="one name a leaf; the number 0 and the text '0' are the same name",
                do="rename one of the two",
            )
        if not hasattr(leaf, "shape") or not hasattr(leaf, "dtype"):
            raise CheckpointError(
                f"the leaf {name!r} of the state is a {type(leaf).__name__}",
                expected="an array",
                do="wrap it in jax.numpy.asarray, or keep it out of the state",
            )
        found[name] = leaf
    return found


def _entry(key: Any) -> str:
    # "%" alone is no quoting, so an empty entry cannot be mistaken for another.
    return quote(jax.tree_util.keystr((key,), simple=True), safe=" ()[]{}<>=,:;'+*@!$&") or "%"


def rebuilt(like: PyTree, tensors: Mapping[str, Any]) -> PyTree:
    """The structure of ``like`` with other leaves.

    Args:
        like: the structure.
        tensors: a leaf for each of its names.
    """
    leaves = [tensors[name] for name in named(like)]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def is_key(leaf: Any) -> bool:
    """Whether a leaf is made of typed keys.

    Args:
        leaf: an array or ``jax.ShapeDtypeStruct``.
    """
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def words(leaf: Any) -> Any:
    """The leaf as numbers: the words of typed keys, anything else itself.

    Args:
        leaf: an array or ``jax.ShapeDtypeStruct``; of the latter the shape of its words, with its
            sharding, which leaves the axis of the words whole.
    """
    if not is_key(leaf):
        return leaf
    if not isinstance(leaf, jax.ShapeDtypeStruct):
        return jax.random.key_data(leaf)
    flat = jax.eval_shape(jax.random.key_data, jax.ShapeDtypeStruct(leaf.shape, leaf.dtype))
    return jax.ShapeDtypeStruct(flat.shape, flat.dtype, sharding=leaf.sharding)


def generator(leaf: Any) -> str | None:
    """The name of a typed key's generator, ``None`` for anything else.

    Args:
        leaf: an array or ``jax.ShapeDtypeStruct``.
    """
    if not is_key(leaf):
        return None
    found: list[Any] = []
    # An abstract key has no generator to ask for; its tracer has.
    shape = jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
    jax.eval_shape(lambda key: found.append(jax.random.key_impl(key)), shape)
    return str(found[0])


def spec_of(leaf: Any) -> Spec:
    """What a leaf is once stored.

    Args:
        leaf: an array, typed key or ``jax.ShapeDtypeStruct``.
    """
    flat = words(leaf)
    return Spec(tuple(flat.shape), str(np.dtype(flat.dtype)), generator(leaf))


def differences(stored: Mapping[str, Spec], wanted: Mapping[str, Spec]) -> list[str]:
    """One line for each name that only one side has, or has in another shape or dtype.

    Args:
        stored: what a checkpoint holds.
        wanted: what the state has.

    Returns:
        The lines, parameters first: what else differs mostly follows from them.
    """
    lines = dict.fromkeys(wanted.keys() - stored.keys(), "not stored")
    lines |= dict.fromkeys(stored.keys() - wanted.keys(), "stored, but not expected")
    for name in stored.keys() & wanted.keys():
        if stored[name] != wanted[name]:
            lines[name] = f"stored as {in_words(stored[name])}, not {in_words(wanted[name])}"
    return [f"{name}: {lines[name]}" for name in _parameters_first(lines)]


def _parameters_first(names: Iterable[str]) -> list[str]:
    return sorted(names, key=lambda name: (not name.startswith("params/"), name))


def in_words(spec: Spec) -> str:
    """What a tensor is, for people.

    Args:
        spec: of it.

    Examples:
        >>> in_words(Spec((4, 3), "float32"))
        'float32[4, 3]'
    """
    text = f"{spec.dtype}{list(spec.shape)}"
    return text if spec.generator is None else f"{text} (a {spec.generator} key)"

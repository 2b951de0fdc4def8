"""What a family's tensors are called elsewhere: a table of rules, read in both directions.

Reads from: errors, weights.moves. Used by: weights.fitting, the tables of the families.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from jaxdl.errors import ConfigError
from jaxdl.weights.moves import AS_IS, KERNEL, Move, part_of

__all__ = [
    "Names",
    "Rule",
    "batch_norm",
    "dense",
    "embedding",
    "joined",
    "norm",
    "their_name",
]

_HOLE = re.compile(r"\{(\w+)(?:\+(\d+))?\}")


class Rule(NamedTuple):
    """One tensor, or one of each layer.

    Attributes:
        ours: its path without the collection: ``"block_{i}/mlp_in/kernel"``, where ``{i}`` stands
            for a whole number. Layers of a scanned stack are named as those of an unrolled one.
        theirs: its name in their file, with the same numbers: ``"h.{i}.mlp.c_fc.weight"``;
            ``{i+1}`` counts from 1.
        move: what is done with it.
    """

    ours: str
    theirs: str
    move: Move = AS_IS


@dataclass(frozen=True)
class Names:
    """The name table of a model.

    Attributes:
        rules: one for every tensor of the model; those that find none are passed over.
        inputs: ``model -> arguments`` of its ``init``, of any small size; asked for shapes only.
        prefix: what begins names in files of a whole model, and may be absent in a file.
        renames: regular expressions and what replaces them in a file's names, for old names.
        skipped: regular expressions of a file's names that hold nothing to load: buffers,
            counters, heads that the model does not have.
        tied: names that some files hold a second time, and the name they must be equal to.
    """

    rules: Sequence[Rule]
    inputs: Callable[[Any], tuple[Any, ...]]
    prefix: str = ""
    renames: Sequence[tuple[str, str]] = ()
    skipped: Sequence[str] = ()
    tied: Mapping[str, str] = field(default_factory=dict[str, str])


def their_name(rule: Rule, path: str) -> str | None:
    """What a rule calls a tensor of ours, ``None`` where it is about another.

    Args:
        rule: the rule.
        path: of ours, without the collection.

    Raises:
        ConfigError: their name has a number that ours does not have.

    Examples:
        >>> their_name(Rule("block_{i}/norm/scale", "layers.{i+1}.norm.weight"),
        ...            "block_3/norm/scale")
        'layers.4.norm.weight'
    """
    found = _pattern(rule.ours).fullmatch(path)
    if found is None:
        return None

    def filled(hole: re.Match[str]) -> str:
        if hole[1] not in found.groupdict():
            raise ConfigError(
                f"the rule of {rule.ours!r} names {rule.theirs!r}",
                expected="numbers on the right that are on the left too",
                do=f"write {{{hole[1]}}} on both sides",
            )
        return str(int(found[hole[1]]) + int(hole[2] or 0))

    return _HOLE.sub(filled, rule.theirs)


# A table is tried rule by rule on every tensor, and re keeps no more than a few hundred patterns.
@functools.lru_cache(maxsize=8192)
def _pattern(ours: str) -> re.Pattern[str]:
    pieces = re.split(r"\{(\w+)\}", ours)
    return re.compile(
        "".join(
            rf"(?P<{piece}>\d+)" if place % 2 else re.escape(piece)
            for place, piece in enumerate(pieces)
        )
    )


def dense(ours: str, theirs: str, *, kernel: Move = KERNEL) -> tuple[Rule, ...]:
    """The kernel and bias of a dense layer or convolution: ``weight`` and ``bias``.

    Args:
        ours: the path of the layer.
        theirs: its name.
        kernel: how the kernel is stored.
    """
    return (
        Rule(f"{ours}/kernel", f"{theirs}.weight", kernel),
        Rule(f"{ours}/bias", f"{theirs}.bias"),
    )


def norm(ours: str, theirs: str) -> tuple[Rule, ...]:
    """The scale and bias, where it has one, of a normalisation: ``weight`` and ``bias``.

    Args:
        ours: the path of the layer.
        theirs: its name.
    """
    return (
        Rule(f"{ours}/scale", f"{theirs}.weight"),
        Rule(f"{ours}/bias", f"{theirs}.bias"),
    )


def batch_norm(ours: str, theirs: str) -> tuple[Rule, ...]:
    """``norm`` with the running mean and variance.

    Args:
        ours: the path of the layer.
        theirs: its name.
    """
    return (
        *norm(ours, theirs),
        Rule(f"{ours}/mean", f"{theirs}.running_mean"),
        Rule(f"{ours}/var", f"{theirs}.running_var"),
    )


def embedding(ours: str, theirs: str) -> tuple[Rule, ...]:
    """The table of an embedding: ``weight``.

    Args:
        ours: the path of the layer.
        theirs: its name.
    """
    return (Rule(f"{ours}/embedding", f"{theirs}.weight"),)


def joined(ours: Sequence[str], theirs: str, *, kernel: Move = KERNEL) -> tuple[Rule, ...]:
    """Several dense layers of one size, which they hold as one: query, key and value.

    Args:
        ours: the paths of the layers, in the order in which their outputs lie in theirs.
        theirs: its name.
        kernel: how the kernel is stored.
    """
    # Where the outputs lie: the first axis of KERNEL, the last of kernels that are as ours.
    axis = 0 if kernel is KERNEL else -1
    rules: list[Rule] = []
    for part, path in enumerate(ours):
        weight = part_of(kernel, part, len(ours), axis=axis)
        bias = part_of(AS_IS, part, len(ours), axis=0)
        rules += [
            Rule(f"{path}/kernel", f"{theirs}.weight", weight),
            Rule(f"{path}/bias", f"{theirs}.bias", bias),
        ]
    return tuple(rules)

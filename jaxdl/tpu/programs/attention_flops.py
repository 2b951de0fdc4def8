"""FLOPs of causal attention's own products, ``Q K^T`` and ``weights V``, which the mask halves.

Reads from: tpu.programs.contractions, tpu.programs.flops. Used by: tpu.plans.planning.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from jaxdl.tpu.programs.contractions import CONTRACTIONS
from jaxdl.tpu.programs.flops import count_jaxpr

__all__ = ["count_attention"]

_ATTENTION = re.compile(r"attention|attn", re.IGNORECASE)
_CAUSAL = re.compile("causal", re.IGNORECASE)


def count_attention(program: Any) -> int:
    """FLOPs of the products of two activations within causal attention, forwards and backwards.

    Recomputation is left out, as in ``Flops.model``. What counts is a product within a scope whose
    name has ``attention`` or ``attn`` in it, and within one with ``causal``, which may be the same:
    ``models.attention`` has the scope ``causal_attention`` where it is causal. Of these:

    * a ``dot_general`` with two or more batch dimensions (rows and heads), or with one directly in
      that scope (rows, of a single head). A projection by a kernel, and its gradients, have none,
      and have a scope of their own inside when they are mapped over examples;
    * every product of a Pallas kernel.

    Attention that is causal and does not say so is not counted: no program says what its masks
    hide.

    Args:
        program: a jaxpr, as for ``count_jaxpr``.
    """
    return count_jaxpr(_Only(program, (), kernel=False)).model


class _Only:
    """A program with those of its products alone that are attention's; counted as any other."""

    def __init__(self, program: Any, names: tuple[str, ...], *, kernel: bool) -> None:
        self.eqns: list[Any] = []
        for eqn in getattr(program, "jaxpr", program).eqns:
            here = (*names, *str(eqn.source_info.name_stack).split("/"))
            name = eqn.primitive.name
            if name in CONTRACTIONS:
                if _is_product(eqn, here, kernel=kernel):
                    self.eqns.append(eqn)
                continue
            inside = kernel or name == "pallas_call"
            params = {key: _within(value, here, inside) for key, value in eqn.params.items()}
            self.eqns.append(
                SimpleNamespace(
                    primitive=eqn.primitive,
                    source_info=eqn.source_info,
                    invars=eqn.invars,
                    outvars=eqn.outvars,
                    params=params,
                )
            )


def _within(value: Any, names: tuple[str, ...], kernel: bool) -> Any:
    if isinstance(value, (tuple, list)) and any(_is_program(each) for each in value):
        return tuple(_within(each, names, kernel) for each in value)
    return _Only(value, names, kernel=kernel) if _is_program(value) else value


def _is_program(value: Any) -> bool:
    return hasattr(getattr(value, "jaxpr", value), "eqns")


def _is_product(eqn: Any, names: Sequence[str], *, kernel: bool) -> bool:
    found = [place for place, name in enumerate(names) if _ATTENTION.search(name)]
    if not found or not any(_CAUSAL.search(name) for name in names):
        return False
    if kernel:
        return True
    if eqn.primitive.name != "dot_general":
        return False
    _, (batched, _) = eqn.params["dimension_numbers"]
    # What einsum calls itself, "btd,bsd->bts", is no scope of a module.
    direct = all("->" in name or not name for name in names[found[-1] + 1 :])
    return len(batched) >= 2 or (len(batched) == 1 and direct)

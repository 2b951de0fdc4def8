"""FLOPs of the primitives that do the work: matrix products, convolutions, fused attention.

Reads from: nothing. Used by: tpu.programs.flops.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

__all__ = [
    "CONTRACTIONS",
    "convolution",
    "fused_attention",
    "fused_attention_gradient",
    "product",
    "ragged_product",
]


def product(eqn: Any) -> int:
    """``dot_general``: 2 FLOPs for each element of the result and each place that is summed over.

    Args:
        eqn: the equation.
    """
    (contracted, _), _ = eqn.params["dimension_numbers"]
    return 2 * math.prod(eqn.outvars[0].aval.shape) * _sizes(eqn.invars[0], contracted)


def ragged_product(eqn: Any) -> int:
    """``ragged_dot_general``: each row meets the matrix of its own group only.

    Args:
        eqn: the equation.
    """
    numbers = eqn.params["ragged_dot_dimension_numbers"]
    (contracted, _), _ = numbers.dot_dimension_numbers
    made = math.prod(eqn.outvars[0].aval.shape)
    # When the rows are summed over, each group makes a matrix from its own share of them.
    groups = eqn.invars[2].aval.shape[-1]
    if set(numbers.lhs_ragged_dimensions) & set(contracted):
        made //= groups
    return 2 * made * _sizes(eqn.invars[0], contracted)


def convolution(eqn: Any) -> int:
    """``conv_general_dilated``: its gradients and its transpose count what the forward one does.

    Along an axis, each pair of a tap and an output meets at most one input, and each pair of a tap
    and an input at most one output: the smaller number of pairs is what a formula counts. So zeros
    that a dilation or the padding of a gradient puts in are left out, and the padding of a forward
    ``SAME`` convolution, which formulas count, is not.

    Args:
        eqn: the equation.
    """
    numbers = eqn.params["dimension_numbers"]
    left, right = (v.aval.shape for v in eqn.invars[:2])
    made = eqn.outvars[0].aval.shape
    work = 2 * made[numbers.out_spec[0]] * made[numbers.out_spec[1]] * right[numbers.rhs_spec[1]]
    places = zip(numbers.lhs_spec[2:], numbers.rhs_spec[2:], numbers.out_spec[2:], strict=True)
    for read, tap, written in places:
        work *= right[tap] * min(left[read], made[written])
    return work


def fused_attention(eqn: Any) -> int:
    """Attention by cuDNN: two products over the whole square of queries and keys, mask or not.

    Args:
        eqn: the equation; its first inputs are the query ``[B, T, N, H]`` and the key
            ``[B, S, N, H]``, or with heads before time where its ``layout`` is 1.
    """
    query, key = (v.aval.shape for v in eqn.invars[:2])
    keys = key[2 if eqn.params.get("layout") == 1 else 1]
    return 2 * 2 * math.prod(query) * keys


def fused_attention_gradient(eqn: Any) -> int:
    """Its gradient: four products. The scores it makes again are not counted, as in formulas.

    Args:
        eqn: as ``fused_attention``.
    """
    return 2 * fused_attention(eqn)


def _sizes(variable: Any, axes: Any) -> int:
    return math.prod(variable.aval.shape[axis] for axis in axes)


CONTRACTIONS: Mapping[str, Callable[[Any], int]] = MappingProxyType(
    {
        "dot_general": product,
        "ragged_dot_general": ragged_product,
        "conv_general_dilated": convolution,
        "dot_product_attention_fwd_wrapper": fused_attention,
        "dot_product_attention_bwd_wrapper": fused_attention_gradient,
    }
)

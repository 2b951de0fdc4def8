"""A stack of equal layers: unrolled or scanned, with or without rematerialisation.

Reads from: errors. Used by: the models beside it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdl.errors import ConfigError, PathError, closest
from jaxdl.protocols import Params

__all__ = ["REMAT_POLICIES", "run_layers", "stack_layers", "unstack_layers"]

REMAT_POLICIES: Mapping[str, Callable[..., Any]] = {
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots_no_batch": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "dots": jax.checkpoint_policies.dots_saveable,
}
"""What a layer keeps for the backward pass, least first: its input alone; the products with its
weights too; all matrix products, attention scores included. The rest is computed again."""


def run_layers(
    block: type[nn.Module],
    options: Mapping[str, Any],
    x: Any,
    mask: Any,
    *,
    num_layers: int,
    scan_layers: bool,
    remat: str | None,
) -> Any:
    """Runs ``num_layers`` blocks, one after the other. Called in a compact method.

    Unrolled, their parameters are ``block_0``, ``block_1``, ...; scanned, one tree ``blocks`` with
    a first axis over layers, and the program is as long as one layer's.

    Args:
        block: called as ``block(**options)(x, mask) -> x``.
        options: of every block.
        x: the first block's input.
        mask: handed to every block; any tree of arrays.
        num_layers: how many.
        scan_layers: ``nn.scan`` over the layers.
        remat: a name of ``REMAT_POLICIES``, or ``None`` to keep everything.

    Raises:
        ConfigError: no such policy, or no layer.
    """
    _check(num_layers, remat)
    if remat is not None:
        # Within a scan the loop itself keeps the compiler from merging the two computations.
        block = nn.remat(block, policy=REMAT_POLICIES[remat], prevent_cse=not scan_layers)
    if not scan_layers:
        for index in range(num_layers):
            x = block(**options, name=f"block_{index}")(x, mask)
        return x
    scanned = nn.scan(
        lambda layer, x: (layer(x, mask), None),
        variable_axes={"params": 0, "cache": 0, "intermediates": 0},
        # Every stream, jaxdl's LAYER_STREAM included: each layer draws its own.
        split_rngs={True: True},
        length=num_layers,
    )
    return scanned(block(**options, name="blocks"), x)[0]


def _check(num_layers: int, remat: str | None) -> None:
    if num_layers < 1:
        raise ConfigError(
            f"num_layers is {num_layers}", expected="at least 1", do="give the stack a layer"
        )
    if remat is not None and remat not in REMAT_POLICIES:
        raise ConfigError(
            f"remat is {remat!r}",
            expected=f"None or one of {', '.join(REMAT_POLICIES)}",
            do=closest(remat, REMAT_POLICIES),
        )


def stack_layers(params: Params) -> Params:
    """Parameters of an unrolled stack as those of a scanned one.

    Args:
        params: a mapping with ``block_0``, ``block_1``, ... among its keys.

    Returns:
        The mapping with ``blocks`` in their place.

    Raises:
        PathError: there are no such keys, or one is missing.

    Examples:
        >>> stack_layers({"block_0": {"b": jnp.zeros(3)}, "block_1": {"b": jnp.ones(3)}}
        ...             )["blocks"]["b"].shape
        (2, 3)
    """
    names = [name for name in params if re.fullmatch(r"block_\d+", name)]
    ordered = [f"block_{index}" for index in range(len(names))]
    if not names or set(names) != set(ordered):
        raise PathError(
            f"the parameters have the layers {', '.join(sorted(names)) or 'none'}",
            expected="block_0, block_1, ... without a gap",
            do="pass the parameters of a model made with scan_layers=False",
        )
    blocks = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(params[name] for name in ordered))
    return {**{k: v for k, v in params.items() if k not in names}, "blocks": blocks}


def unstack_layers(params: Params) -> Params:
    """Undoes ``stack_layers``.

    Args:
        params: a mapping with ``blocks`` among its keys.

    Raises:
        PathError: there is no such key.
    """
    if "blocks" not in params:
        raise PathError(
            f"the parameters have no 'blocks' (there are: {', '.join(params)})",
            expected="the parameters of a scanned stack",
            do="pass the parameters of a model made with scan_layers=True",
        )
    blocks = params["blocks"]
    count = jax.tree.leaves(blocks)[0].shape[0]
    layers = {
        f"block_{index}": jax.tree.map(lambda x, i=index: x[i], blocks) for index in range(count)
    }
    return {**{k: v for k, v in params.items() if k != "blocks"}, **layers}

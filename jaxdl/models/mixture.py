"""Mixture of experts: a feed-forward layer of which each token uses a few parts.

Reads from: errors, models.activations. Used by: the models beside it.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jax.sharding import PartitionSpec as P

from jaxdl.errors import BatchError, ConfigError
from jaxdl.models.activations import constrain

__all__ = ["EXPERT_RULES", "SCANNED_EXPERT_RULES", "MixtureFeedForward", "Routing", "route"]

EXPERT_RULES = ((r"(^|/)(in|out)_kernel$", P("expert", None, None)),)
"""Expert parallelism (Lepikhin et al. 2020, arXiv:2006.16668): the kernels by whole experts. Their
number must be a multiple of the axis. For ``layouts.expert_parallel``."""

SCANNED_EXPERT_RULES = ((r"(^|/)(in|out)_kernel$", P(None, "expert", None, None)),)
"""``EXPERT_RULES`` where the kernels have a first axis over layers."""


class Routing(NamedTuple):
    """Which expert reads which token, for rows of ``T`` tokens, ``E`` experts, ``C`` places.

    Attributes:
        dispatch: booleans ``[B, T, E, C]``: the token has this place of this expert.
        combine: float32 ``[B, T, E, C]``: the share of the expert's output that the token gets.
        balance: float32 ``[B]``, 1 where the tokens of a row are evenly spread, up to ``E``.
        z: float32 ``[B]``: the mean square of the logits' log-sum-exp.
    """

    dispatch: jax.Array
    combine: jax.Array
    balance: jax.Array
    z: jax.Array


def route(logits: Any, *, top_k: int, capacity: int, real: Any = None) -> Routing:
    r"""Gives each token its ``top_k`` experts, while these have places.

    The shares are the softmax over all experts; with ``top_k`` above 1 those of the chosen are made
    to add up to 1. Places are given in the order of the tokens, and of a token's choices, so that
    what a token gets does not depend on those after it. A token that finds an expert full
    gets nothing from it. Places are counted for each row, so other rows change nothing.

    The balance of a row is :math:`E \sum_e f_e p_e`, with :math:`f_e` the share of the choices
    that fell on expert :math:`e` and :math:`p_e` the mean of its probability.

    Source: Shazeer et al. 2017, arXiv:1701.06538 (top k); Fedus et al. 2021, arXiv:2101.03961,
    equations 1 to 6 (one expert, capacity, balance); Lepikhin et al. 2020, arXiv:2006.16668
    (shares of two, there with second choices after all first ones); Zoph et al. 2022,
    arXiv:2202.08906, equation 5 (z).

    Args:
        logits: the router's, float32 ``[B, T, E]``.
        top_k: experts of a token.
        capacity: places of an expert in each row.
        real: shape ``[B, T]``, 0 on tokens that are not routed and count nowhere.

    Examples:
        >>> logits = jnp.array([[[5.0, 0.0], [5.0, 0.0]]])
        >>> route(logits, top_k=1, capacity=1).dispatch[0, :, :, 0].astype(int).tolist()
        [[1, 0], [0, 0]]
    """
    rows, length, experts = logits.shape
    counts = jnp.ones((rows, length), bool) if real is None else jnp.asarray(real) != 0
    share = jax.nn.softmax(logits, axis=-1)
    gates, chosen = jax.lax.top_k(share, top_k)
    if top_k > 1:
        gates = gates / jnp.sum(gates, axis=-1, keepdims=True)
    picks = jax.nn.one_hot(chosen, experts, dtype=jnp.float32) * counts[..., None, None]
    picked = jnp.sum(picks, axis=2).astype(jnp.int32)
    gate = jnp.einsum("btk,btke->bte", gates, picks)
    # A place beyond the capacity is no place: its one-hot vector is zeros.
    slots = jax.nn.one_hot(jnp.cumsum(picked, axis=1) - picked, capacity, dtype=jnp.float32)
    slots = slots * picked[..., None]
    tokens = jnp.maximum(jnp.sum(counts, axis=1), 1).astype(jnp.float32)
    spread = jnp.sum(picked, axis=1) / (top_k * tokens[:, None])
    mean = jnp.sum(jnp.where(counts[..., None], share, 0.0), axis=1) / tokens[:, None]
    square = jnp.square(jax.nn.logsumexp(logits, axis=-1))
    return Routing(
        dispatch=slots > 0,
        combine=gate[..., None] * slots,
        balance=experts * jnp.sum(spread * mean, axis=-1),
        z=jnp.sum(jnp.where(counts, square, 0.0), axis=1) / tokens,
    )


class MixtureFeedForward(nn.Module):
    r"""Two dense layers for each of ``E`` experts, of which a token uses ``top_k``.

    A token gets :math:`\sum_e g_e W^{out}_e gelu(W^{in}_e x)` over its experts, see ``route``. One
    whose experts are all full, or that is padding, gets zeros: around it the residual path is all
    there is. An expert has :math:`C = \lceil k T c / E \rceil` places in each row of ``T`` tokens,
    at most ``T``. The router is computed in float32. There are no biases.

    What the row's router adds to the loss, ``balance_weight`` times its balance plus ``z_weight``
    times its z, shape ``[B]``, is sown as ``auxiliary_loss`` among the ``intermediates``; the
    objective ``language_model`` adds it to each token's loss in training.

    Attributes:
        num_experts: ``E``.
        mlp_dim: the width of an expert's hidden layer.
        top_k: experts of a token.
        capacity_factor: :math:`c`, places for each choice were all spread evenly; ``None`` gives
            every expert ``T`` places, so that no token is dropped.
        balance_weight: 0.01 in Fedus et al. 2021.
        z_weight: 0.001 in Zoph et al. 2022.
        kernel_init: of each expert's first layer, and the router.
        out_init: of each expert's second layer.
        dtype: of the experts' computation; the parameters' and input's when ``None``.
        param_dtype: of the parameters.

    Examples:
        >>> layer, x = MixtureFeedForward(num_experts=4, mlp_dim=16), jnp.ones((2, 6, 8))
        >>> out, variables = layer.init_with_output(jax.random.key(0), x)
        >>> out.shape, variables["params"]["in_kernel"].shape
        ((2, 6, 8), (4, 8, 16))
    """

    num_experts: int
    mlp_dim: int
    top_k: int = 2
    capacity_factor: float | None = 1.25
    balance_weight: float = 0.01
    z_weight: float = 0.001
    kernel_init: Any = nn.initializers.normal(0.02)
    out_init: Any = nn.initializers.normal(0.02)
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, mask: Any = None) -> jax.Array:
        """Maps ``[B, T, D]`` to ``[B, T, D]``.

        Args:
            x: shape ``[B, T, D]``.
            mask: shape ``[B]`` or ``[B, T]``, 0 on padding; or ``[B, T, T]``, where a token that
                does not see itself is padding (``segment_mask``).

        Raises:
            ConfigError: there are not that many experts, or no capacity.
            BatchError: the mask does not fit.
        """
        self._check()
        router = nn.Dense(
            self.num_experts,
            use_bias=False,
            dtype=jnp.float32,
            param_dtype=self.param_dtype,
            kernel_init=self.kernel_init,
            name="router",
        )
        routing = route(
            router(x.astype(jnp.float32)),
            top_k=self.top_k,
            capacity=self.capacity(x.shape[1]),
            real=_real(mask, x.shape[0], x.shape[1]),
        )
        auxiliary = self.balance_weight * routing.balance + self.z_weight * routing.z
        self.sow("intermediates", "auxiliary_loss", auxiliary)
        inner, outer = self._kernels(x.shape[-1])
        x, inner, outer = promote_dtype(x, inner, outer, dtype=self.dtype)
        routed = jnp.einsum("btec,btd->ebcd", routing.dispatch.astype(x.dtype), x)
        # Gathered where the tokens are, then handed to where the experts are: an all-to-all.
        routed = constrain(routed, ("slots", "batch", "slots", "features"))
        routed = constrain(routed, ("experts", "routed", "slots", "features"))
        y = nn.gelu(jnp.einsum("ebcd,edh->ebch", routed, inner), approximate=True)
        y = constrain(y, ("experts", "routed", "slots", None))
        y = jnp.einsum("ebch,ehd->ebcd", y, outer)
        y = constrain(y, ("experts", "routed", "slots", "features"))
        y = constrain(y, ("slots", "batch", "slots", "features"))
        y = jnp.einsum("btec,ebcd->btd", routing.combine.astype(x.dtype), y)
        return constrain(y, ("batch", "time", "features"))

    def capacity(self, length: int) -> int:
        """The places that each expert has in a row.

        Args:
            length: ``T``.
        """
        if self.capacity_factor is None:
            return length
        even = self.top_k * length * self.capacity_factor / self.num_experts
        # Rounded first: 1.2 * 5 / 3 must be 2 places, whatever the last bit of the product says.
        return min(max(math.ceil(round(even, 9)), 1), length)

    def _kernels(self, width: int) -> tuple[jax.Array, jax.Array]:
        def each(init: Any) -> Any:
            # Expert by expert: an initializer that looks at fan-in must not count the experts.
            return lambda key, shape, dtype: jax.vmap(lambda k: init(k, shape[1:], dtype))(
                jax.random.split(key, shape[0])
            )

        count, hidden = self.num_experts, self.mlp_dim
        inner = self.param(
            "in_kernel", each(self.kernel_init), (count, width, hidden), self.param_dtype
        )
        outer = self.param(
            "out_kernel", each(self.out_init), (count, hidden, width), self.param_dtype
        )
        return inner, outer

    def _check(self) -> None:
        factor = self.capacity_factor
        if not 1 <= self.top_k <= self.num_experts or (factor is not None and not factor > 0):
            raise ConfigError(
                f"{self.top_k} of {self.num_experts} experts, capacity_factor {factor}",
                expected="top_k from 1 to num_experts, and a capacity_factor above 0 or None",
                do="change one of the three",
            )


def _real(mask: Any, rows: int, length: int) -> jax.Array | None:
    """Which tokens are routed, ``[B, T]``."""
    if mask is None:
        return None
    mask = jnp.asarray(mask) != 0
    if mask.shape == (rows, length, length):
        return jnp.diagonal(mask, axis1=1, axis2=2)
    if mask.shape not in ((rows,), (rows, length)):
        raise BatchError(
            f"the mask has shape {list(mask.shape)}",
            expected=f"{[rows]}, {[rows, length]} or {[rows, length, length]}",
            do="give one entry a token, or a pair of tokens",
        )
    return jnp.broadcast_to(mask if mask.ndim == 2 else mask[:, None], (rows, length))

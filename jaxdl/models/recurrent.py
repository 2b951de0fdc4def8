"""One recurrent layer in one direction: LSTM, GRU, or a plain cell with a clipped ReLU.

The input's product with its weights is taken for all steps at once, before the loop, which leaves
one product with the state to a step. ``flax.linen.RNN`` takes both inside the loop, where each has
only the rows of the batch to work on.

Reads from: errors, models.activations, models.layers. Used by: models.rnn, models.deepspeech.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype

from jaxdl.errors import BatchError, ConfigError, closest
from jaxdl.models.activations import constrain
from jaxdl.models.layers import BatchNorm

__all__ = ["CELLS", "Carry", "RecurrentLayer"]

Carry: TypeAlias = tuple[jax.Array, ...]
"""``(h,)`` or, of an LSTM, ``(h, c)``; float32 or wider, each of shape ``[B, H]``."""

CELLS = {"lstm": ("i", "f", "g", "o"), "gru": ("r", "z", "n"), "relu": ("h",)}
"""Cells and their gates, in the order of the second axis of their kernels, which is PyTorch's."""

_CLIP = 20.0


def _lstm(inputs: jax.Array, products: jax.Array, carry: Carry, _: Any) -> Carry:
    i, f, g, o = _gates(inputs + products)
    cell = jax.nn.sigmoid(f) * carry[1] + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(cell), cell


def _gru(inputs: jax.Array, products: jax.Array, carry: Carry, bias: Any) -> Carry:
    (r, z), n = _gates(inputs[:, :2] + products[:, :2]), inputs[:, 2]
    new = jnp.tanh(n + jax.nn.sigmoid(r) * (products[:, 2] + bias[None]))
    keep = jax.nn.sigmoid(z)
    return ((1.0 - keep) * new + keep * carry[0],)


def _relu(inputs: jax.Array, products: jax.Array, carry: Carry, _: Any) -> Carry:
    del carry
    return (jnp.clip((inputs + products)[:, 0], 0.0, _CLIP),)


def _gates(x: jax.Array) -> tuple[jax.Array, ...]:
    return tuple(x[:, index] for index in range(x.shape[1]))


_STEPS: dict[str, Callable[..., Carry]] = {"lstm": _lstm, "gru": _gru, "relu": _relu}


class RecurrentLayer(nn.Module):
    r"""Runs a cell along ``T``, over the real steps of each row only.

    LSTM (Hochreiter and Schmidhuber 1997, "Long short-term memory"; forget gate: Gers et al. 2000,
    "Learning to forget"): :math:`c' = \sigma(f) c + \sigma(i) \tanh(g)`,
    :math:`h' = \sigma(o) \tanh(c')`. GRU (Cho et al. 2014, arXiv:1406.1078), with the reset gate
    after the product as in PyTorch and cuDNN: :math:`n = \tanh(W x + r (U h + b))`,
    :math:`h' = (1 - z) n + z h`. The plain cell is :math:`\min(\max(W x + U h + b, 0), 20)`
    (Amodei et al. 2015, arXiv:1512.02595).

    One bias a gate, where PyTorch has two that are only ever added; the GRU's new gate needs both.
    Kernels start Glorot-uniform (Glorot and Bengio 2010) a gate, recurrent ones orthogonal
    (Saxe et al. 2013, arXiv:1312.6120) a gate, biases 0 but the forget gate's 1 (Gers et al.;
    Jozefowicz et al. 2015, "An empirical exploration of recurrent network architectures").

    Attributes:
        hidden_dim: ``H``.
        cell: a name of ``CELLS``.
        reverse: whether it runs from the last step to the first.
        norm: whether the input's product is batch-normalised over rows and steps, each gate by
            itself (Amodei et al. 2015, section 3.2).
        axis_name: the mapped axis that BatchNorm sums over.
        unroll: how many steps one turn of the loop makes.
        dtype: of the products; the state is float32 or wider.
        param_dtype: of the parameters.
    """

    hidden_dim: int
    cell: Literal["lstm", "gru", "relu"] = "lstm"
    reverse: bool = False
    norm: bool = False
    axis_name: str | None = None
    unroll: int = 1
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, keep: Any = None, carry: Carry | None = None, *, train: bool = False
    ) -> tuple[jax.Array, Carry]:
        """Maps ``[B, T, D]`` to outputs ``[B, T, H]`` and the last carry.

        Args:
            x: floats, shape ``[B, T, D]``.
            keep: booleans, shape ``[B, T]``: false on steps that change no state and whose output
                is 0.
            carry: what to begin with; zeros when ``None``.
            train: whether BatchNorm uses the batch.

        Raises:
            ConfigError: no such cell, or ``hidden_dim`` is below 1.
            BatchError: the carry does not fit.
        """
        self._check()
        if keep is not None:
            x = jnp.where(keep[..., None], x, jnp.zeros_like(x))
        gates = CELLS[self.cell]
        kernel = self._kernel("kernel", _glorot, x.shape[-1])
        recurrent = self._kernel("recurrent_kernel", _orthogonal, self.hidden_dim)
        bias = self.param("bias", self._first_bias, (len(gates), self.hidden_dim), self.param_dtype)
        extra = None
        if self.cell == "gru":
            zeros = nn.initializers.zeros
            extra = self.param("recurrent_bias", zeros, (self.hidden_dim,), self.param_dtype)
        x, kernel, recurrent = promote_dtype(x, kernel, recurrent, dtype=self.dtype)
        inputs = jnp.einsum("btd,dgh->btgh", x, kernel)
        if self.norm:
            inputs = self._normalised(inputs, keep, gates, train)
        inputs = constrain(inputs, ("batch", "keys", None, "hidden"))
        wide = jnp.promote_types(inputs.dtype, jnp.float32)
        carry = self._started(carry, x.shape[0], wide)

        def advance(carry: Carry, step: Any) -> tuple[Carry, jax.Array]:
            now, real = step
            products = jnp.einsum(
                "bh,hgk->bgk", carry[0].astype(x.dtype), recurrent, preferred_element_type=wide
            )
            now = now.astype(wide) + bias[None].astype(wide)
            new = _STEPS[self.cell](now, products, carry, _cast(extra, wide))
            out = new[0]
            if real is not None:
                new = tuple(jnp.where(real[:, None], a, b) for a, b in zip(new, carry, strict=True))
                out = jnp.where(real[:, None], out, jnp.zeros_like(out))
            return new, out.astype(x.dtype)

        steps = jnp.swapaxes(inputs, 0, 1), None if keep is None else jnp.swapaxes(keep, 0, 1)
        last, outputs = jax.lax.scan(
            advance, carry, steps, reverse=self.reverse, unroll=self.unroll
        )
        return constrain(jnp.swapaxes(outputs, 0, 1), ("batch", "keys", "hidden")), last

    def _kernel(self, name: str, init: Any, rows: int) -> jax.Array:
        shape = (rows, len(CELLS[self.cell]), self.hidden_dim)
        return self.param(name, init, shape, self.param_dtype)

    def _first_bias(self, key: Any, shape: tuple[int, int], dtype: Any) -> jax.Array:
        del key
        ones = [1.0 if gate == "f" else 0.0 for gate in CELLS[self.cell]]
        return jnp.broadcast_to(jnp.asarray(ones, dtype)[:, None], shape)

    def _normalised(self, inputs: jax.Array, keep: Any, gates: Any, train: bool) -> jax.Array:
        def norm(name: str) -> BatchNorm:
            return BatchNorm(axis_name=self.axis_name, param_dtype=self.param_dtype, name=name)

        parts = [
            norm(f"norm_{gate}")(inputs[:, :, index], train=train, mask=keep)
            for index, gate in enumerate(gates)
        ]
        return jnp.stack(parts, axis=2)

    def _started(self, carry: Carry | None, rows: int, dtype: Any) -> Carry:
        count, shape = (2 if self.cell == "lstm" else 1), (rows, self.hidden_dim)
        if carry is None:
            return tuple(jnp.zeros(shape, dtype) for _ in range(count))
        if [jnp.shape(part) for part in carry] != [shape] * count:
            raise BatchError(
                f"the carry has the shapes {[list(jnp.shape(part)) for part in carry]}",
                expected=f"{count} of {list(shape)}: h, and of an LSTM c",
                do="pass the last carry of a layer of the same cell, size and number of rows",
            )
        return tuple(jnp.asarray(part, dtype) for part in carry)

    def _check(self) -> None:
        if self.cell not in CELLS:
            raise ConfigError(
                f"cell is {self.cell!r}",
                expected=f"one of {', '.join(CELLS)}",
                do=closest(str(self.cell), CELLS),
            )
        if self.hidden_dim < 1 or self.unroll < 1:
            raise ConfigError(
                f"hidden_dim is {self.hidden_dim} and unroll {self.unroll}",
                expected="both at least 1",
                do="give the layer a size",
            )


def _cast(x: Any, dtype: Any) -> Any:
    return None if x is None else x.astype(dtype)


def _glorot(key: Any, shape: tuple[int, int, int], dtype: Any) -> jax.Array:
    limit = (6.0 / (shape[0] + shape[2])) ** 0.5
    return jax.random.uniform(key, shape, dtype, -limit, limit)


def _orthogonal(key: Any, shape: tuple[int, int, int], dtype: Any) -> jax.Array:
    draw = nn.initializers.orthogonal()
    keys = jax.random.split(key, shape[1])
    return jnp.stack([draw(k, (shape[0], shape[2]), dtype) for k in keys], axis=1)

"""Recurrent networks: layers in one or both directions, and the heads on top of them.

Reads from: errors, products, models.layers, models.recurrent. Used by: models.deepspeech, recipes,
by choice.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from jaxdl.errors import BatchError, ConfigError
from jaxdl.models.activations import constrain
from jaxdl.models.layers import check_rank
from jaxdl.models.recurrent import Carry, RecurrentLayer
from jaxdl.products import wide_logits

__all__ = [
    "RNN",
    "RNN_TENSOR_RULES",
    "RNNClassifier",
    "RNNLanguageModel",
    "RNNTagger",
    "States",
    "steps_kept",
]

RNN_TENSOR_RULES = (
    (r"(forward|backward)_\d+/(kernel|recurrent_kernel)$", P(None, None, "tensor")),
    (r"(forward|backward)_\d+/bias$", P(None, "tensor")),
    (r"(forward|backward)_\d+/recurrent_bias$", P("tensor")),
)
"""Tensor parallelism of an ``RNN``: each gate by its units. The state is gathered at every step,
so it is for layers that do not fit a device, not for speed."""

States: TypeAlias = tuple[tuple[Carry, ...], ...]
"""The carry of each layer and, within it, of each direction."""


def steps_kept(mask: Any, shape: tuple[int, int]) -> Any:
    """A mask as booleans ``[B, T]``, or ``None`` for ``None``.

    Args:
        mask: shape ``[B, T]``, 0 on padding, or ``[B]``, for whole rows.
        shape: ``(B, T)``.

    Raises:
        BatchError: it has another shape.
    """
    if mask is None:
        return None
    mask = jnp.asarray(mask)
    if mask.shape not in (shape, shape[:1]):
        raise BatchError(
            f"the mask has shape {list(mask.shape)}, the rows {list(shape)}",
            expected=f"{list(shape)}, 0 on padding, or {list(shape[:1])}",
            do="give the mask one entry a step",
        )
    wide = mask != 0
    return jnp.broadcast_to(wide if wide.ndim == 2 else wide[:, None], shape)


class RNN(nn.Module):
    """A stack of recurrent layers over rows of different lengths.

    A padded step changes no state, so the forward direction ends with the last real step and the
    backward direction begins with it. Outputs of padded steps are 0. For the cells and how they
    start see ``RecurrentLayer``.

    Attributes:
        hidden_dim: ``H``, of each direction.
        num_layers: how many.
        cell: ``"lstm"``, ``"gru"`` or ``"relu"``.
        bidirectional: both directions in each layer (Schuster and Paliwal 1997, "Bidirectional
            recurrent neural networks").
        merge: whether directions are put side by side (``2 H``) or added (``H``).
        dropout_rate: of what goes from one layer to the next (Zaremba et al. 2014,
            arXiv:1409.2329), nowhere else.
        norm: see ``RecurrentLayer``; the first layer has none.
        axis_name: the mapped axis that BatchNorm sums over.
        unroll: how many steps one turn of the loop makes.
        dtype: of the products.
        param_dtype: of the parameters.

    Examples:
        >>> model = RNN(hidden_dim=4, bidirectional=True)
        >>> (y, states), _ = model.init_with_output(jax.random.key(0), jnp.ones((2, 5, 3)))
        >>> y.shape, states[0][1][0].shape
        ((2, 5, 8), (2, 4))
    """

    hidden_dim: int
    num_layers: int = 1
    cell: Literal["lstm", "gru", "relu"] = "lstm"
    bidirectional: bool = False
    merge: Literal["concat", "sum"] = "concat"
    dropout_rate: float = 0.0
    norm: bool = False
    axis_name: str | None = None
    unroll: int = 1
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Any, *, train: bool = False, mask: Any = None, states: States | None = None
    ) -> tuple[jax.Array, States]:
        """Maps ``[B, T, D]`` to outputs ``[B, T, H or 2 H]`` and the last states.

        Args:
            x: floats, shape ``[B, T, D]``.
            train: whether dropout is on and BatchNorm uses the batch.
            mask: shape ``[B, T]``, 0 on padding, or ``[B]``.
            states: what to begin with, as returned; zeros when ``None``.

        Raises:
            BatchError: ``x`` has other than three axes, or mask or states do not fit it.
            ConfigError: the settings make no network.
        """
        self._check(states)
        check_rank(x, 3, "[B, T, D]", "RNN")
        x = jnp.asarray(x)
        keep = steps_kept(mask, x.shape[:2])
        found: list[tuple[Carry, ...]] = []
        for index in range(self.num_layers):
            if index > 0:
                x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
            outputs: list[jax.Array] = []
            carries: list[Carry] = []
            for place, reverse in enumerate((False, True) if self.bidirectional else (False,)):
                layer = RecurrentLayer(
                    self.hidden_dim,
                    cell=self.cell,
                    reverse=reverse,
                    norm=self.norm and index > 0,
                    axis_name=self.axis_name,
                    unroll=self.unroll,
                    dtype=self.dtype,
                    param_dtype=self.param_dtype,
                    name=f"{'backward' if reverse else 'forward'}_{index}",
                )
                first = None if states is None else states[index][place]
                y, carry = layer(x, keep, first, train=train)
                outputs.append(y)
                carries.append(carry)
            added = self.merge == "sum" and self.bidirectional
            x = outputs[0] + outputs[1] if added else jnp.concatenate(outputs, axis=-1)
            found.append(tuple(carries))
        return constrain(x, ("batch", "keys", "features")), tuple(found)

    def _check(self, states: States | None) -> None:
        if self.num_layers < 1 or self.merge not in ("concat", "sum"):
            raise ConfigError(
                f"num_layers is {self.num_layers} and merge {self.merge!r}",
                expected="at least one layer, and 'concat' or 'sum'",
                do="correct the one that is wrong",
            )
        shape = [1 + self.bidirectional] * self.num_layers
        if states is not None and [len(layer) for layer in states] != shape:
            raise BatchError(
                f"the states are of {[len(layer) for layer in states]} directions by layer",
                expected=str(shape),
                do="pass the states that this network returned",
            )


def _embedded(module: nn.Module, x: Any, rnn: RNN, vocab_size: int | None, size: int) -> jax.Array:
    """Floats ``[B, T, D]`` as they are; tokens ``[B, T]`` looked up."""
    x = jnp.asarray(x)
    tokens = jnp.issubdtype(x.dtype, jnp.integer) and x.ndim == 2
    name = type(module).__name__
    if (vocab_size is None) == tokens or x.ndim not in (2, 3):
        raise BatchError(
            f"{name} with vocab_size={vocab_size} got {x.dtype} of shape {list(x.shape)}",
            expected="integers [B, T] with a vocab_size, floats [B, T, D] without",
            do="pass vocab_size for tokens, and leave it out for features",
        )
    if vocab_size is None:
        return x
    return nn.Embed(
        vocab_size,
        size,
        embedding_init=nn.initializers.normal(size**-0.5),
        dtype=rnn.dtype,
        param_dtype=rnn.param_dtype,
        name="embedding",
    )(x)


def _head(rnn: RNN, outputs: int) -> nn.Dense:
    return nn.Dense(outputs, dtype=rnn.dtype, param_dtype=rnn.param_dtype, name="head")


class RNNClassifier(nn.Module):
    """One class for a row, from the last state of the last layer, of each direction.

    Attributes:
        rnn: the network.
        num_classes: the number of outputs.
        vocab_size: of tokens, which are embedded; ``None`` for rows of floats.
        embedding_dim: of tokens; the network's ``hidden_dim`` when ``None``.
        dropout_rate: of embedded tokens and of what the head reads.
    """

    rnn: RNN
    num_classes: int
    vocab_size: int | None = None
    embedding_dim: int | None = None
    dropout_rate: float = 0.0

    @nn.compact
    def __call__(self, x: Any, *, train: bool = False, mask: Any = None) -> jax.Array:
        """Maps rows to logits, float32 ``[B, num_classes]``.

        Args:
            x: tokens ``[B, T]`` or floats ``[B, T, D]``.
            train: whether dropout is on.
            mask: shape ``[B, T]``, 0 on padding, or ``[B]``.

        Raises:
            BatchError: ``x`` or the mask has the wrong shape or dtype.
        """
        size = self.embedding_dim or self.rnn.hidden_dim
        drop = nn.Dropout(self.dropout_rate, deterministic=not train)
        x = drop(_embedded(self, x, self.rnn, self.vocab_size, size))
        _, states = self.rnn(x, train=train, mask=mask)
        last = jnp.concatenate([carry[0] for carry in states[-1]], axis=-1)
        return _head(self.rnn, self.num_classes)(drop(last)).astype(jnp.float32)


class RNNTagger(nn.Module):
    """One class for each step.

    Attributes:
        rnn: the network.
        num_classes: the number of outputs.
        vocab_size: of tokens, which are embedded; ``None`` for rows of floats.
        embedding_dim: of tokens; the network's ``hidden_dim`` when ``None``.
        dropout_rate: of embedded tokens and of what the head reads.
    """

    rnn: RNN
    num_classes: int
    vocab_size: int | None = None
    embedding_dim: int | None = None
    dropout_rate: float = 0.0

    @nn.compact
    def __call__(self, x: Any, *, train: bool = False, mask: Any = None) -> jax.Array:
        """Maps rows to logits, float32 ``[B, T, num_classes]``.

        Args:
            x: tokens ``[B, T]`` or floats ``[B, T, D]``.
            train: whether dropout is on.
            mask: shape ``[B, T]``, 0 on padding, or ``[B]``.

        Raises:
            BatchError: ``x`` or the mask has the wrong shape or dtype.
        """
        size = self.embedding_dim or self.rnn.hidden_dim
        drop = nn.Dropout(self.dropout_rate, deterministic=not train)
        x = drop(_embedded(self, x, self.rnn, self.vocab_size, size))
        x, _ = self.rnn(x, train=train, mask=mask)
        return _head(self.rnn, self.num_classes)(drop(x)).astype(jnp.float32)


class RNNLanguageModel(nn.Module):
    """The next token from those before it; the head is the word embedding.

    Tied as in Press and Wolf 2016, arXiv:1608.05859; so tokens are embedded in ``hidden_dim``.

    With ``decode=True`` the collection ``"cache"`` holds the states: it is made by initialising
    with ``decode=True``, and each call continues where the last one ended.

    Attributes:
        rnn: the network, of one direction.
        vocab_size: ``V``.
        dropout_rate: of embedded tokens and of what the head reads.
    """

    rnn: RNN
    vocab_size: int
    dropout_rate: float = 0.0

    def __call__(
        self, tokens: Any, *, train: bool = False, mask: Any = None, decode: bool = False
    ) -> jax.Array:
        """Maps tokens ``[B, T]`` to logits, float32 ``[B, T, V]``.

        Args:
            tokens: integers, shape ``[B, T]``.
            train: whether dropout is on.
            mask: shape ``[B, T]``, 0 on padding, or ``[B]``.
            decode: whether to continue from the cache.

        Raises:
            BatchError: as ``hidden``.
            ConfigError: as ``hidden``.
        """
        x, embedding = self.hidden(tokens, train=train, mask=mask, decode=decode)
        return constrain(wide_logits(x, embedding), ("batch", "keys", None))

    @nn.compact
    def hidden(
        self, tokens: Any, *, train: bool = False, mask: Any = None, decode: bool = False
    ) -> tuple[jax.Array, jax.Array]:
        """What the logits are the product of, for losses that never hold them.

        Args:
            tokens: integers, shape ``[B, T]``.
            train: whether dropout is on.
            mask: shape ``[B, T]``, 0 on padding, or ``[B]``.
            decode: whether to continue from the cache.

        Returns:
            ``(hidden [B, T, D], embedding [V, D])``.

        Raises:
            BatchError: ``tokens`` or the mask has the wrong shape or dtype.
            ConfigError: the network looks ahead.
        """
        if self.rnn.bidirectional:
            raise ConfigError(
                "the network of a language model is bidirectional",
                expected="one direction: the other would see the tokens to be predicted",
                do="leave bidirectional out",
            )
        size = self.rnn.hidden_dim
        drop = nn.Dropout(self.dropout_rate, deterministic=not train)
        x = drop(_embedded(self, tokens, self.rnn, self.vocab_size, size))
        # A cache that is only now made stays at its zeros.
        made = self.has_variable("cache", "states")
        cache = self.variable("cache", "states", self._zeros, x.shape[0]) if decode else None
        first = None if cache is None else cache.value
        x, last = self.rnn(x, train=train, mask=mask, states=first)
        if cache is not None and made and not self.is_initializing():
            cache.value = last
        table = self.variables["params"]["embedding"]["embedding"]
        return drop(x), table

    def _zeros(self, rows: int) -> States:
        wide = jnp.promote_types(self.rnn.dtype or self.rnn.param_dtype, jnp.float32)
        part = jnp.zeros((rows, self.rnn.hidden_dim), wide)
        count = 2 if self.rnn.cell == "lstm" else 1
        return tuple(((part,) * count,) for _ in range(self.rnn.num_layers))

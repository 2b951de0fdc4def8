"""ViT: a transformer encoder over the patches of an image.

Reads from: errors, models.activations, models.attention, models.layers, models.stack. Used by:
recipes, by choice.
"""

from __future__ import annotations

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from jaxdl.errors import BatchError, ConfigError, closest
from jaxdl.models.activations import constrain
from jaxdl.models.attention import SelfAttention
from jaxdl.models.layers import check_rank
from jaxdl.models.stack import run_layers

__all__ = [
    "SCANNED_TENSOR_RULES",
    "TENSOR_RULES",
    "ViT",
    "ViTBlock",
    "resize_positions",
    "vit_b16",
    "vit_l16",
    "vit_s16",
    "vit_ti16",
]

_POOLS = ("token", "mean")
_RESIDUAL = ("batch", "time", "features")
_XAVIER = nn.initializers.xavier_uniform()
_BLOCK_RULES = (
    (r"attention/(query|key|value)/kernel$", (None, "tensor")),
    (r"attention/(query|key|value)/bias$", ("tensor",)),
    (r"attention/out/kernel$", ("tensor", None)),
    (r"mlp_in/kernel$", (None, "tensor")),
    (r"mlp_in/bias$", ("tensor",)),
    (r"mlp_out/kernel$", ("tensor", None)),
)

TENSOR_RULES = tuple((rf"block_\d+/{path}", P(*s)) for path, s in _BLOCK_RULES)
"""Tensor parallelism of an unrolled ``ViT`` (Shoeybi et al. 2019, arXiv:1909.08053): columns of
query, key, value and the first dense layer, rows of the projections back. ``num_heads`` should be a
multiple of the axis."""

SCANNED_TENSOR_RULES = tuple((rf"blocks/{path}", P(None, *s)) for path, s in _BLOCK_RULES)
"""``TENSOR_RULES`` for ``scan_layers=True``, where kernels have a first axis over layers."""


class ViTBlock(nn.Module):
    """One pre-norm layer: ``x + attention(norm(x))``, then ``x + mlp(norm(x))``.

    Attributes:
        num_heads: ``N``.
        mlp_dim: the width of the hidden dense layer.
        dropout_rate: of the hidden dense layer and of what either half adds.
        attention_dropout_rate: of the attention weights.
        epsilon: of the norms.
        train: whether dropout is on.
        dtype: of the computation.
        param_dtype: of the parameters.
        implementation: see ``attention``.
    """

    num_heads: int
    mlp_dim: int
    dropout_rate: float = 0.0
    attention_dropout_rate: float = 0.0
    epsilon: float = 1e-6
    train: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32
    implementation: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, mask: Any = None) -> jax.Array:
        """Maps ``[B, T, D]`` to ``[B, T, D]``.

        Args:
            x: shape ``[B, T, D]``.
            mask: see ``attention``.
        """
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        drop = nn.Dropout(self.dropout_rate, deterministic=not self.train)
        inside = nn.Dropout(self.dropout_rate, deterministic=not self.train)
        attend = SelfAttention(
            self.num_heads,
            dropout_rate=self.attention_dropout_rate,
            kernel_init=_XAVIER,
            out_init=_XAVIER,
            implementation=self.implementation,
            name="attention",
            **types,
        )

        def dense(features: int, name: str) -> nn.Dense:
            bias = nn.initializers.normal(1e-6)
            return nn.Dense(features, kernel_init=_XAVIER, bias_init=bias, name=name, **types)

        y = _norm(self.epsilon, "attention_norm", types)(x)
        x = x + drop(attend(y, mask, train=self.train))
        y = dense(self.mlp_dim, "mlp_in")(_norm(self.epsilon, "mlp_norm", types)(x))
        y = inside(nn.gelu(constrain(y, ("batch", "time", "hidden")), approximate=False))
        y = dense(x.shape[-1], "mlp_out")(y)
        return x + drop(constrain(y, _RESIDUAL))


class ViT(nn.Module):
    r"""The vision transformer.

    Patches of the image mapped by one dense layer (a convolution with its stride), a class token
    before them, learned positions, pre-norm layers, GELU by its exact formula, a last LayerNorm, a
    dense layer on the class token. Kernels start Xavier uniform, the patches' LeCun normal,
    positions normal with deviation 0.02, the class token and the head at 0, hidden biases normal
    with 1e-6, others at 0.

    Source: Dosovitskiy et al. 2020, "An image is worth 16x16 words: transformers for image
    recognition at scale", arXiv:2010.11929, and its code,
    github.com/google-research/vision_transformer, vit_jax/models_vit.py, whose LayerNorm has
    Flax's epsilon of 1e-6; weights of ``transformers`` are trained or converted with 1e-12 in
    their configuration.

    Attributes:
        num_classes: ``K``; ``None`` returns what the head would read, ``[B, D]``.
        num_layers: how many blocks.
        num_heads: ``N``; must divide ``hidden_dim``.
        hidden_dim: ``D``.
        patch_size: pixels on a side of a patch.
        image_size: pixels on a side of the images, or ``(height, width)``; multiples of
            ``patch_size``. For weights of another size see ``resize_positions``.
        mlp_dim: width of the hidden dense layers; ``4 D`` when ``None``.
        pool: what the head reads: the class ``"token"``, or the ``"mean"`` of all patches, which
            then have no class token before them.
        representation_dim: width of a dense layer with a tanh before the head, which the paper has
            in pretraining; none when ``None``.
        dropout_rate: of the embeddings, the hidden dense layers and what each half of a layer adds.
        attention_dropout_rate: of the attention weights.
        epsilon: of the norms.
        dtype: of the computation; the parameters' when ``None``.
        param_dtype: of the parameters.
        scan_layers: one scanned layer in place of a program that grows with ``num_layers``; the
            parameters are then stacked, see ``stack_layers``.
        remat: what a layer keeps for the backward pass, a name of ``REMAT_POLICIES``.
        implementation: see ``attention``.

    Examples:
        >>> model = ViT(10, num_layers=1, num_heads=2, hidden_dim=8, patch_size=4, image_size=8)
        >>> logits, variables = model.init_with_output(jax.random.key(0), jnp.zeros((2, 8, 8, 3)))
        >>> logits.shape, variables["params"]["position_embedding"].shape
        ((2, 10), (5, 8))
    """

    num_classes: int | None
    num_layers: int
    num_heads: int
    hidden_dim: int
    patch_size: int = 16
    image_size: int | tuple[int, int] = 224
    mlp_dim: int | None = None
    pool: Literal["token", "mean"] = "token"
    representation_dim: int | None = None
    dropout_rate: float = 0.0
    attention_dropout_rate: float = 0.0
    epsilon: float = 1e-6
    dtype: Any = None
    param_dtype: Any = jnp.float32
    scan_layers: bool = False
    remat: str | None = None
    implementation: str | None = None

    @nn.compact
    def __call__(self, x: Any, *, train: bool = False, mask: Any = None) -> jax.Array:
        """Maps images ``[B, H, W, C]`` to logits ``[B, K]``, float32 or wider.

        Args:
            x: floating-point images, channels last, of ``image_size``.
            train: whether dropout is on.
            mask: shape ``[B]``; changes nothing, since no row looks at another.

        Raises:
            BatchError: the input is no floating-point ``[B, H, W, C]`` of that size.
            ConfigError: an attribute is out of range.
        """
        del mask
        x = self._checked(x)
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        patch = (self.patch_size, self.patch_size)
        embed = nn.Conv(self.hidden_dim, patch, patch, "VALID", name="patch_embedding", **types)
        x = embed(x).reshape(x.shape[0], -1, self.hidden_dim)
        x = self._placed(constrain(x, _RESIDUAL))
        x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        x = run_layers(
            ViTBlock,
            self._block_options(train),
            x,
            None,
            num_layers=self.num_layers,
            scan_layers=self.scan_layers,
            remat=self.remat,
        )
        x = _norm(self.epsilon, "norm", types)(x)
        x = x[:, 0] if self.pool == "token" else jnp.mean(x, axis=1)
        x = constrain(x, ("batch", "features"))
        if self.representation_dim:
            x = jnp.tanh(nn.Dense(self.representation_dim, name="representation", **types)(x))
        if self.num_classes is not None:
            zeros = nn.initializers.zeros
            x = nn.Dense(self.num_classes, kernel_init=zeros, name="head", **types)(x)
        return x.astype(jnp.promote_types(x.dtype, jnp.float32))

    def _placed(self, x: jax.Array) -> jax.Array:
        """The patches with the class token before them and their places added."""
        if self.pool == "token":
            zeros = nn.initializers.zeros
            token = self.param("class_token", zeros, (self.hidden_dim,), self.param_dtype)
            first = jnp.broadcast_to(token.astype(x.dtype), (x.shape[0], 1, self.hidden_dim))
            x = jnp.concatenate([first, x], axis=1)
        start = nn.initializers.normal(0.02)
        shape = x.shape[1:]
        places = self.param("position_embedding", start, shape, self.param_dtype)
        ahead = constrain(places[None].astype(x.dtype), (None, "keys", "features"))
        return constrain(x + ahead, _RESIDUAL)

    def _block_options(self, train: bool) -> dict[str, Any]:
        return {
            "num_heads": self.num_heads,
            "mlp_dim": self.mlp_dim or 4 * self.hidden_dim,
            "dropout_rate": self.dropout_rate,
            "attention_dropout_rate": self.attention_dropout_rate,
            "epsilon": self.epsilon,
            "train": train,
            "dtype": self.dtype,
            "param_dtype": self.param_dtype,
            "implementation": self.implementation,
        }

    def _checked(self, x: Any) -> jax.Array:
        size = self.image_size
        height, width = (size, size) if isinstance(size, int) else size
        if self.pool not in _POOLS:
            raise ConfigError(
                f"ViT has pool={self.pool!r}",
                expected=f"one of {', '.join(_POOLS)}",
                do=closest(str(self.pool), _POOLS),
            )
        fits = self.patch_size > 0 and min(height, width) > 0
        if not fits or height % self.patch_size or width % self.patch_size:
            raise ConfigError(
                f"ViT has image_size={size} and patch_size={self.patch_size}",
                expected="a height and width that are whole numbers of patches",
                do="change one of the two",
            )
        check_rank(x, 4, "[B, H, W, C]", "ViT")
        x = jnp.asarray(x)
        if x.shape[1:3] != (height, width) or not jnp.issubdtype(x.dtype, jnp.floating):
            raise BatchError(
                f"ViT got images of shape {list(x.shape)} and dtype {x.dtype}",
                expected=f"floats [B, {height}, {width}, C], channels last",
                do="resize the images or set image_size (resize_positions fits weights to it); "
                "models.to_float scales integers to 0 .. 1",
            )
        return x


def _norm(epsilon: float, name: str, types: dict[str, Any]) -> nn.LayerNorm:
    return nn.LayerNorm(epsilon=epsilon, use_fast_variance=False, name=name, **types)


def resize_positions(positions: Any, grid: tuple[int, int], *, from_grid: Any = None) -> jax.Array:
    """Positions learned at one image size, for another.

    Linear between the learned places, with the corners of both grids on each other, as the paper's
    code does it (vit_jax/checkpoint.py, ``interpolate_posembed``).

    Args:
        positions: ``params["position_embedding"]``, shape ``[T, D]``, of a square image unless
            ``from_grid`` says otherwise. With a class token its place is kept as it is.
        grid: patches down and across in the new size.
        from_grid: patches down and across in the old size.

    Returns:
        Shape ``[grid[0] * grid[1], D]``, one more with a class token.

    Raises:
        ConfigError: the positions are neither those of a grid nor of one with a class token.

    Examples:
        >>> resize_positions(jnp.arange(5.0)[:, None], (1, 3), from_grid=(1, 4))[:, 0].tolist()
        [0.0, 1.0, 2.5, 4.0]
    """
    positions = jnp.asarray(positions)
    count = positions.shape[0]
    side = round((count - 1) ** 0.5) if round(count**0.5) ** 2 != count else round(count**0.5)
    old = (side, side) if from_grid is None else tuple(from_grid)
    extra = count - old[0] * old[1]
    if extra not in (0, 1) or min(*old, *grid) < 1:
        raise ConfigError(
            f"{count} positions are to be resized from {list(old)} to {list(grid)}",
            expected="those of all patches, with or without a class token",
            do="give from_grid=(down, across) where the image was not square",
        )
    places = positions[extra:].reshape(*old, -1)
    for axis, (before, after) in enumerate(zip(old, grid, strict=True)):
        places = _stretched(places, axis, before, after)
    return jnp.concatenate([positions[:extra], places.reshape(grid[0] * grid[1], -1)])


def _stretched(x: jax.Array, axis: int, before: int, after: int) -> jax.Array:
    """``before`` entries along an axis as ``after``, linear between them, ends on ends."""
    at = jnp.linspace(0.0, before - 1.0, after, dtype=x.dtype)
    low = jnp.clip(jnp.floor(at).astype(int), 0, max(before - 2, 0))
    high = jnp.minimum(low + 1, before - 1)
    share = (at - low).reshape((-1,) + (1,) * (x.ndim - 1 - axis))[(None,) * axis]
    return (1 - share) * jnp.take(x, low, axis) + share * jnp.take(x, high, axis)


def _published(num_layers: int, num_heads: int, hidden_dim: int, options: dict[str, Any]) -> ViT:
    sizes: dict[str, Any] = {
        "num_classes": 1000,
        "num_layers": num_layers,
        "num_heads": num_heads,
        "hidden_dim": hidden_dim,
    }
    return ViT(**{**sizes, **options})


def vit_ti16(**options: Any) -> ViT:
    """ViT-Ti/16 of Touvron et al. 2020, arXiv:2012.12877: 12 x 192, 5,717,416 parameters.

    Args:
        **options: attributes of ``ViT`` that are to be others.
    """
    return _published(12, 3, 192, options)


def vit_s16(**options: Any) -> ViT:
    """ViT-S/16 of Touvron et al. 2020, arXiv:2012.12877: 12 x 384, 22,050,664 parameters.

    Args:
        **options: attributes of ``ViT`` that are to be others.
    """
    return _published(12, 6, 384, options)


def vit_b16(**options: Any) -> ViT:
    """ViT-B/16: 12 layers x 768, 86,567,656 parameters at 1,000 classes.

    Args:
        **options: attributes of ``ViT`` that are to be others.
    """
    return _published(12, 12, 768, options)


def vit_l16(**options: Any) -> ViT:
    """ViT-L/16: 24 layers x 1024, 304,326,632 parameters at 1,000 classes.

    Args:
        **options: attributes of ``ViT`` that are to be others.
    """
    return _published(24, 16, 1024, options)

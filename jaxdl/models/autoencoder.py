"""Autoencoders: an encoder and a decoder, plain or variational, of dense or convolutional layers.

Reads from: errors, models.activations, models.layers. Used by: recipes, by choice.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdl.errors import BatchError, ConfigError
from jaxdl.models.activations import constrain
from jaxdl.models.layers import check_rank, to_float
from jaxdl.models.mlp import MLP

__all__ = ["VAE", "Autoencoder", "ConvDecoder", "ConvEncoder", "MLPDecoder", "vae_conv", "vae_mlp"]


class MLPDecoder(nn.Module):
    """Dense layers from a code to an image.

    Attributes:
        features: the width of each hidden layer.
        shape: of the image, ``(H, W, C)`` or any other.
        activation: after each hidden layer.
        dtype: of the computation; the parameters' when ``None``.
        param_dtype: of the parameters.
    """

    features: Sequence[int]
    shape: Sequence[int]
    activation: Callable[[jax.Array], jax.Array] = nn.tanh
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, z: Any) -> jax.Array:
        """Maps codes ``[B, D]`` to ``[B, *shape]``.

        Args:
            z: shape ``[B, D]``.
        """
        layers = MLP(
            (*self.features, math.prod(self.shape)),
            activation=self.activation,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name="layers",
        )
        return layers(z).reshape(z.shape[0], *self.shape)


class ConvEncoder(nn.Module):
    """Convolutions of 3 taps and stride 2 with ReLU, then one dense layer.

    Attributes:
        features: channels of each convolution.
        hidden_dim: of the dense layer.
        dtype: of the computation; the parameters' when ``None``.
        param_dtype: of the parameters.
    """

    features: Sequence[int] = (32, 64)
    hidden_dim: int = 256
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Any) -> jax.Array:
        """Maps images ``[B, H, W, C]`` to ``[B, hidden_dim]``.

        Args:
            x: images; integers are scaled to 0 .. 1.

        Raises:
            BatchError: the input has other than four axes.
        """
        check_rank(x, 4, "[B, H, W, C]", "ConvEncoder")
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = to_float(x)
        for index, width in enumerate(self.features):
            x = nn.Conv(width, (3, 3), strides=2, name=f"conv_{index}", **types)(x)
            x = nn.relu(constrain(x, ("batch", None, None, "features")))
        x = x.reshape(x.shape[0], -1)
        return nn.relu(nn.Dense(self.hidden_dim, name="dense", **types)(x))


class ConvDecoder(nn.Module):
    """A dense layer to a small image, then transposed convolutions of stride 2 with ReLU.

    Images whose sides are no multiple of what the strides give are cut from a larger one.

    Attributes:
        features: channels of what each transposed convolution reads.
        shape: of the image, ``(H, W, C)``.
        dtype: of the computation; the parameters' when ``None``.
        param_dtype: of the parameters.
    """

    features: Sequence[int]
    shape: Sequence[int]
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, z: Any) -> jax.Array:
        """Maps codes ``[B, D]`` to images ``[B, H, W, C]``.

        Args:
            z: shape ``[B, D]``.
        """
        height, width, channels = self.shape
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        times = 2 ** len(self.features)
        small = (-(-height // times), -(-width // times), self.features[0])
        x = nn.relu(nn.Dense(math.prod(small), name="dense", **types)(z))
        x = x.reshape(z.shape[0], *small)
        widths = (*self.features[1:], channels)
        for index, features in enumerate(widths):
            x = nn.ConvTranspose(features, (3, 3), (2, 2), name=f"conv_{index}", **types)(x)
            x = constrain(x, ("batch", None, None, "features"))
            x = nn.relu(x) if index + 1 < len(widths) else x
        return x[:, :height, :width]


class Autoencoder(nn.Module):
    """``decoder(encoder(x))``, for ``objectives.autoencoder``.

    Source: Hinton and Salakhutdinov 2006, "Reducing the dimensionality of data with neural
    networks", without the layerwise start.

    Attributes:
        encoder: a module, inputs to codes.
        decoder: a module, codes to outputs of the inputs' shape.

    Examples:
        >>> model = Autoencoder(MLP((8, 2)), MLPDecoder((8,), (4, 4, 1)))
        >>> x = jnp.zeros((3, 4, 4, 1))
        >>> model.init_with_output(jax.random.key(0), x)[0].shape
        (3, 4, 4, 1)
    """

    encoder: nn.Module
    decoder: nn.Module

    def __call__(self, x: Any, *, train: bool = False, mask: Any = None) -> jax.Array:
        """Maps inputs ``[B, ...]`` to their reconstruction.

        Args:
            x: the inputs.
            train: handed to both parts where they take it.
            mask: handed to both parts where they take it.
        """
        return self.decode(self.encode(x, train=train, mask=mask), train=train, mask=mask)

    def encode(self, x: Any, *, train: bool = False, mask: Any = None) -> jax.Array:
        """The codes of inputs.

        Args:
            x: the inputs.
            train: as the call.
            mask: as the call.
        """
        return _called(self.encoder, x, train=train, mask=mask)

    def decode(self, z: Any, *, train: bool = False, mask: Any = None) -> jax.Array:
        """The outputs of codes.

        Args:
            z: the codes.
            train: as the call.
            mask: as the call.
        """
        return _called(self.decoder, z, train=train, mask=mask)


class VAE(nn.Module):
    """The variational autoencoder with a Gaussian posterior of independent components.

    A dense layer reads the posterior's mean and log-variance from what the encoder returns. The
    log-variance's starts at 0, so that noise and prior agree at first. Noise comes from outside
    (``objectives.vae`` draws it example by example); without it the code is the posterior's mean.

    Source: Kingma and Welling 2013, "Auto-encoding variational Bayes", arXiv:1312.6114.

    Attributes:
        encoder: a module, inputs to features ``[B, D]``.
        decoder: a module, codes ``[B, latent_dim]`` to logits or means of the inputs' shape.
        latent_dim: how many components a code has.
        param_dtype: of the dense layer's parameters; it computes in float32 or wider.

    Examples:
        >>> model = vae_mlp((4, 4, 1), hidden_dim=8, latent_dim=2)
        >>> x = jnp.zeros((3, 4, 4, 1))
        >>> (outputs, mean, log_variance), variables = model.init_with_output(jax.random.key(0), x)
        >>> outputs.shape, mean.shape, log_variance.shape
        ((3, 4, 4, 1), (3, 2), (3, 2))
        >>> drawn = model.apply(variables, jax.random.key(1), 5, method="sample")
        >>> drawn.shape
        (5, 4, 4, 1)
    """

    encoder: nn.Module
    decoder: nn.Module
    latent_dim: int
    param_dtype: Any = jnp.float32

    def setup(self) -> None:
        """Makes the layer of the posterior."""
        if self.latent_dim < 1:
            raise ConfigError(
                f"VAE has latent_dim={self.latent_dim}", expected="at least 1", do="20 is usual"
            )
        wide = jnp.promote_types(self.param_dtype, jnp.float32)
        types: dict[str, Any] = {"dtype": wide, "param_dtype": self.param_dtype}
        self.mean = nn.Dense(self.latent_dim, **types)
        zeros = nn.initializers.zeros
        self.log_variance = nn.Dense(self.latent_dim, kernel_init=zeros, **types)

    def __call__(
        self, x: Any, *, noise: Any = None, train: bool = False, mask: Any = None
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Maps inputs ``[B, ...]`` to ``(outputs, mean, log_variance)``.

        Args:
            x: the inputs.
            noise: standard normal numbers ``[B, latent_dim]``; the code is ``mean + deviation *
                noise``. The mean when ``None``.
            train: handed to encoder and decoder where they take it.
            mask: handed to encoder and decoder where they take it.

        Raises:
            BatchError: the encoder returns no ``[B, D]``.
        """
        mean, log_variance = self.encode(x, train=train, mask=mask)
        z = mean if noise is None else mean + jnp.exp(0.5 * log_variance) * noise
        return self.decode(z, train=train, mask=mask), mean, log_variance

    def encode(
        self, x: Any, *, train: bool = False, mask: Any = None
    ) -> tuple[jax.Array, jax.Array]:
        """The posterior of inputs: its mean and log-variance, ``[B, latent_dim]`` each.

        Args:
            x: the inputs.
            train: as the call.
            mask: as the call.

        Raises:
            BatchError: the encoder returns no ``[B, D]``.
        """
        features = _called(self.encoder, x, train=train, mask=mask)
        if features.ndim != 2:
            raise BatchError(
                f"VAE's encoder returned shape {list(features.shape)}",
                expected="[B, D]",
                do="flatten or pool at the encoder's end",
            )
        return self.mean(features), self.log_variance(features)

    def decode(self, z: Any, *, train: bool = False, mask: Any = None) -> jax.Array:
        """The outputs of codes ``[B, latent_dim]``.

        Args:
            z: the codes.
            train: as the call.
            mask: as the call.
        """
        return _called(self.decoder, z, train=train, mask=mask)

    def sample(self, key: Any, count: int) -> jax.Array:
        """Outputs of codes drawn from the prior; ``jax.nn.sigmoid`` of them for Bernoulli pixels.

        Args:
            key: a typed key.
            count: how many.
        """
        return self.decode(jax.random.normal(key, (count, self.latent_dim)))


def _called(module: nn.Module, x: Any, *, train: bool, mask: Any) -> jax.Array:
    takes = inspect.signature(type(module).__call__).parameters
    given = {"train": train, "mask": mask}
    return module(x, **{name: value for name, value in given.items() if name in takes})


def vae_mlp(
    shape: Sequence[int] = (28, 28, 1),
    *,
    hidden_dim: int = 500,
    latent_dim: int = 20,
    dtype: Any = None,
    param_dtype: Any = jnp.float32,
) -> VAE:
    """The networks of the paper: one hidden layer of tanh on either side; 500 wide for MNIST.

    Kernels start LeCun normal; the paper draws them with deviation 0.01 (section 5).

    Args:
        shape: of the images.
        hidden_dim: of the hidden layers.
        latent_dim: of the codes; the paper has 3 to 200.
        dtype: of the computation.
        param_dtype: of the parameters.
    """
    types: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype}
    hidden = nn.Sequential([MLP((hidden_dim,), **types), nn.tanh])
    decoder = MLPDecoder((hidden_dim,), shape, **types)
    return VAE(hidden, decoder, latent_dim, param_dtype=param_dtype)


def vae_conv(
    shape: Sequence[int] = (28, 28, 1),
    *,
    features: Sequence[int] = (32, 64),
    hidden_dim: int = 256,
    latent_dim: int = 20,
    dtype: Any = None,
    param_dtype: Any = jnp.float32,
) -> VAE:
    """Convolutions of stride 2 on either side.

    Args:
        shape: of the images, ``(H, W, C)``.
        features: channels of the encoder's convolutions; the decoder's are those reversed.
        hidden_dim: of the encoder's dense layer.
        latent_dim: of the codes.
        dtype: of the computation.
        param_dtype: of the parameters.
    """
    types: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype}
    decoder = ConvDecoder(tuple(features)[::-1], shape, **types)
    return VAE(
        ConvEncoder(features, hidden_dim, **types), decoder, latent_dim, param_dtype=param_dtype
    )

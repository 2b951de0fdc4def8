"""Autoencoders, plain and variational."""

from __future__ import annotations

import numpy as np
from shelf_case import Case

from jaxdl import models, objectives

SHAPE = (5, 6, 1)


def images(rows: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {"image": rng.integers(0, 256, (rows, *SHAPE)).astype(np.uint8)}


def plain(dtype, _):
    encoder = models.MLP((8, 3), dtype=dtype)
    decoder = models.MLPDecoder((8,), SHAPE, dtype=dtype)
    return objectives.autoencoder(models.Autoencoder(encoder, decoder))


def variational(dtype, _):
    model = models.vae_conv(SHAPE, features=(3, 4), hidden_dim=8, latent_dim=2, dtype=dtype)
    return objectives.vae(model, beta=0.5)


CASES = [Case("autoencoder", plain, images), Case("vae", variational, images)]

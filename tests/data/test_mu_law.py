"""Mu-law: every code comes back, the curve is G.711's, NumPy and JAX agree."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.data import mu_law_decode, mu_law_encode
from jaxdl.errors import ConfigError, DataError


@pytest.mark.parametrize("levels", [2, 3, 16, 255, 256, 1024, 65_536])
def test_every_code_comes_back(levels):
    codes = np.arange(levels)
    sound = mu_law_decode(codes, levels)
    assert sound.dtype == np.float32
    assert np.all(np.diff(sound) > 0)
    assert (sound[0], sound[-1]) == (-1, 1)
    np.testing.assert_array_equal(mu_law_encode(sound, levels), codes)


def test_every_code_comes_back_on_the_device():
    codes = jnp.arange(256).reshape(2, 128)
    sound = jax.jit(mu_law_decode)(codes)
    again = jax.jit(mu_law_encode)(sound)
    assert again.dtype == jnp.int32
    np.testing.assert_array_equal(again, codes)
    np.testing.assert_allclose(sound, mu_law_decode(np.asarray(codes)), rtol=1e-5, atol=1e-7)


def test_pcm_is_encoded_as_the_formula_says():
    pcm = np.arange(-32_768, 32_768).astype(np.int16)
    x = pcm.astype(np.float64) / 32_768
    wanted = np.floor(255 * (np.sign(x) * np.log(1 + 255 * np.abs(x)) / np.log(256) + 1) / 2 + 0.5)
    codes = mu_law_encode(pcm)
    assert codes.dtype == np.int32
    assert np.max(np.abs(codes - wanted)) <= 1  # where the formula falls on a boundary
    assert np.mean(codes != wanted) < 1e-3
    assert codes[32_768] == 128 == mu_law_encode(np.zeros(()))
    # A step of the curve is the error: small where it is quiet.
    error = np.abs(mu_law_decode(codes) - x)
    assert error.max() < 0.0225
    assert error[np.abs(x) < 0.01].max() < 0.0004
    on_device = np.asarray(mu_law_encode(jnp.asarray(pcm)))
    assert np.max(np.abs(on_device - codes)) <= 1
    assert np.mean(on_device != codes) < 1e-3


def test_loud_sound_is_cut_off():
    assert mu_law_encode(np.array([-7.0, 3.0])).tolist() == [0, 255]


def test_wrong_input_is_named():
    with pytest.raises(DataError, match="dtype int32"):
        mu_law_encode(np.arange(4, dtype=np.int32))
    with pytest.raises(DataError, match="dtype float32"):
        mu_law_decode(np.zeros(3, np.float32))
    with pytest.raises(ConfigError, match="levels=1"):
        mu_law_encode(np.zeros(3), 1)

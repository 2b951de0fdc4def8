"""Corruptions: the authors' definitions, severities in order, draws of each image alone."""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from jaxdl import data
from jaxdl.errors import BatchError, ConfigError
from jaxdl.robustness import CORRUPTIONS, SEVERITIES, Corruption, corrupt, corrupt_image

KEY = jax.random.key(4)
every_kind = pytest.mark.parametrize("name", CORRUPTIONS)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Smooth pictures with edges, of 28 pixels on a side."""
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(12, 28, 28, 3))
    smooth = ndimage.gaussian_filter(noise, (0, 3, 3, 0))
    return np.clip(0.5 + 4 * smooth, 0, 1).astype(np.float32)


@functools.cache
def run(name):
    return jax.jit(lambda x, severity, key: corrupt(x, name, severity, key))


@every_kind
def test_worse_with_every_severity(images, name):
    distances = [
        float(np.mean((run(name)(images, severity, KEY) - images) ** 2)) for severity in SEVERITIES
    ]
    assert all(a < b for a, b in itertools.pairwise(distances)), distances
    assert distances[0] > 0


@every_kind
def test_pixels_keep_their_range_dtype_and_shape(images, name):
    for x in (images, images.astype(jnp.bfloat16), np.round(255 * images).astype(np.uint8)):
        spoiled = np.asarray(run(name)(x, 5, KEY))
        assert (spoiled.shape, spoiled.dtype) == (x.shape, x.dtype)
        top = 255 if x.dtype == np.uint8 else 1
        assert 0 <= spoiled.min() <= spoiled.max() <= top
        assert spoiled.std() > 0
    whole = np.asarray(run(name)(np.round(255 * images).astype(np.uint8), 2, KEY), np.float32)
    exact = np.asarray(run(name)(np.round(255 * images) / np.float32(255), 2, KEY))
    np.testing.assert_allclose(whole / 255, exact, atol=0.51 / 255)


@every_kind
def test_an_image_is_spoiled_by_its_own_key(images, name):
    whole = run(name)(images, 3, KEY)
    np.testing.assert_allclose(corrupt(images, name, 3, KEY), whole, atol=1e-6)
    keys = jax.vmap(lambda row: jax.random.fold_in(KEY, row))(jnp.arange(len(images)))
    part = corrupt(images[4:6], name, 3, keys[4:6])
    np.testing.assert_allclose(part, whole[4:6], atol=1e-6)
    other = corrupt(images, name, 3, jax.random.key(5))
    assert np.allclose(other, whole, atol=1e-6) is (name in ("gaussian_blur", "contrast"))
    if name not in ("gaussian_blur", "contrast"):
        same = corrupt(np.repeat(images[:1], 12, axis=0), name, 3, KEY)
        assert len({row.tobytes() for row in np.asarray(same)}) > 2


@pytest.mark.parametrize(("side", "sigmas"), [(28, (0.4, 0.6, 0.7, 0.8, 1.0)), (64, (1, 2, 3))])
def test_blur_is_that_of_scipy(side, sigmas):
    image = np.random.default_rng(1).uniform(size=(1, side, side, 2)).astype(np.float32)
    for severity, sigma in enumerate(sigmas, 1):
        found = run("gaussian_blur")(image, severity, KEY)[0]
        expected = ndimage.gaussian_filter(
            image[0].astype(np.float64), (sigma, sigma, 0), mode="nearest", truncate=4.0
        )
        np.testing.assert_allclose(found, expected, atol=2e-6)


def test_noise_and_contrast_have_the_constants_of_the_authors():
    grey = np.full((4, 80, 80, 1), 0.5, np.float32)
    for severity, sigma, share in ((1, 0.08, 0.03), (3, 0.18, 0.09)):
        noise = np.asarray(run("gaussian_noise")(grey, severity, KEY)) - 0.5
        assert np.std(noise) == pytest.approx(sigma, rel=0.03)
        hit = np.asarray(run("impulse_noise")(grey, severity, KEY))
        assert np.mean(hit != 0.5) == pytest.approx(share, rel=0.08)
        assert np.mean(hit == 1) == pytest.approx(share / 2, rel=0.15)
        assert set(np.unique(hit)) == {0.0, 0.5, 1.0}
    small = np.full((1, 40, 40, 1), 0.5, np.float32)
    noise = np.asarray(run("gaussian_noise")(small, 5, KEY)) - 0.5
    assert np.std(noise) == pytest.approx(0.10, rel=0.05)
    half = np.zeros((1, 8, 8, 2), np.float32)
    half[:, :4, :, 0] = 1.0
    found = np.asarray(run("contrast")(half, 5, KEY))
    np.testing.assert_allclose(np.unique(found[..., 0]), [0.425, 0.575], atol=1e-6)
    assert not found[..., 1].any()


def test_a_shift_moves_the_picture_and_a_cut_takes_a_part_of_it(images):
    for row in range(6):
        moved = np.asarray(run("shift")(images, 4, KEY)[row])
        # A fifth of 28 pixels is 6.
        found = [
            (down, right)
            for down in (-6, 0, 6)
            for right in (-6, 0, 6)
            if np.array_equal(moved, ndimage.shift(images[row], (down, right, 0), order=0))
        ]
        assert len(found) == 1
        assert found != [(0, 0)]
    cut = np.asarray(run("cut")(np.ones((50, 20, 30, 1), np.float32), 5, KEY))
    assert np.all(np.sum(cut == 0, axis=(1, 2, 3)) == 12 * 18)
    assert len({row.tobytes() for row in cut}) > 10


def test_as_a_transform_of_batches(images):
    spoil = functools.partial(corrupt_image, name="contrast", severity=3)
    batches = data.Batches(data.arrays({"image": images}), 12, transform=data.augmented(spoil))
    plain = data.Batches(data.arrays({"image": images}), 12)
    expected = corrupt(plain[0]["image"], "contrast", 3, KEY)
    np.testing.assert_allclose(batches[0]["image"], expected, atol=1e-6)


def test_what_there_is_not():
    with pytest.raises(ConfigError, match="did you mean 'contrast'"):
        Corruption("contrst")
    with pytest.raises(ConfigError, match="the severity of cut is 0"):
        Corruption("cut", 0)
    with pytest.raises(ConfigError, match="the severity of cut is 6"):
        corrupt(np.zeros((1, 4, 4, 1), np.float32), "cut", 6, KEY)
    with pytest.raises(BatchError, match=r"shape \[4, 4, 1\]"):
        corrupt(np.zeros((4, 4, 1), np.float32), "cut", 1, KEY)
    with pytest.raises(BatchError, match="int32"):
        corrupt(np.zeros((1, 4, 4, 1), np.int32), "cut", 1, KEY)

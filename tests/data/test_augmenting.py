"""Image transforms: against Pillow, by their properties, and as a part of batch k."""

from __future__ import annotations

import colorsys
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from jaxdl import data
from jaxdl.data.randaugment import OPERATIONS
from jaxdl.errors import BatchError, ConfigError

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(20, 230, (17, 24, 3)).astype(np.uint8)
# Smooth, so that a pixel's neighbour is near it.
SMOOTH = np.asarray(Image.fromarray(IMAGE).resize((33, 40), Image.Resampling.BICUBIC))
KEYS = jax.random.split(jax.random.key(3), 200)


def test_random_crop_takes_every_place():
    image = np.arange(1, 17, dtype=np.uint8).reshape(4, 4, 1)
    crops = np.asarray(jax.vmap(lambda k: data.random_crop(k, image, padding=1))(KEYS))
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)))
    places = {padded[i : i + 4, j : j + 4].tobytes() for i in range(3) for j in range(3)}
    assert {crop.tobytes() for crop in crops} == places
    assert data.random_crop(KEYS[0], image, padding=0, size=(2, 3)).shape == (2, 3, 1)
    np.testing.assert_array_equal(data.random_crop(KEYS[0], image, padding=0), image)


def test_random_flip():
    flips = np.asarray(jax.vmap(lambda k: data.random_flip(k, IMAGE))(KEYS))
    turned = (flips == IMAGE[:, ::-1]).all((1, 2, 3))
    assert (turned | (flips == IMAGE).all((1, 2, 3))).all()
    assert 70 < turned.sum() < 130
    assert flips.dtype == np.uint8


def test_center_crop_and_normalized():
    np.testing.assert_array_equal(data.center_crop(IMAGE, (5, 4)), IMAGE[6:11, 10:14])
    got = data.normalized(IMAGE, data.IMAGENET_MEAN, data.IMAGENET_STD)
    want = (IMAGE / 255 - data.IMAGENET_MEAN) / data.IMAGENET_STD
    np.testing.assert_allclose(got, want, atol=1e-5)
    np.testing.assert_allclose(
        data.normalized(np.float32(IMAGE / 255), data.IMAGENET_MEAN, data.IMAGENET_STD),
        want,
        atol=1e-5,
    )


@pytest.mark.slow
def test_resized_crop_of_the_whole_is_a_resize():
    crop = data.random_resized_crop(
        KEYS[0], SMOOTH, (13, 11), scale=(1.0, 1.0), ratio=(33 / 40, 33 / 40)
    )
    resized = Image.fromarray(SMOOTH).resize((11, 13), Image.Resampling.BILINEAR)
    assert np.abs(np.asarray(crop, int) - np.asarray(resized, int)).max() <= 1
    assert crop.dtype == jnp.uint8


@pytest.mark.slow
def test_resized_crop_draws_permitted_parts():
    # A ramp along both axes shows which part was taken.
    ramp = np.stack(np.meshgrid(np.arange(60.0), np.arange(50.0)), -1).astype(np.float32)
    crops = jax.vmap(lambda k: data.random_resized_crop(k, ramp, (40, 40)))(KEYS)
    inner = np.asarray(crops)[:, 5:-5, 5:-5]
    width = (inner[:, 0, -1, 0] - inner[:, 0, 0, 0]) / 29 * 40
    height = (inner[:, -1, 0, 1] - inner[:, 0, 0, 1]) / 29 * 40
    share = width * height / 3000
    assert share.min() > 0.06
    assert share.max() < 1.05
    assert 0.45 < share.mean() < 0.62
    assert ((width / height > 0.68) & (width / height < 1.45)).all()


@pytest.mark.slow
def test_a_part_that_never_fits_is_the_middle():
    tall = np.float32(np.arange(400).reshape(100, 4, 1))
    got = data.random_resized_crop(KEYS[0], tall, (5, 4), scale=(1.0, 1.0))
    # Four wide, five high: the most that a ratio of 3/4 permits.
    assert float(np.abs(np.asarray(got)[..., 0] - tall[47:52, :, 0]).max()) <= 2.0


def test_cutout():
    image = np.ones((12, 10, 2), np.float32)
    cut = np.asarray(jax.vmap(lambda k: data.cutout(k, image, size=4))(KEYS))
    holes = (cut == 0).sum((1, 2, 3)) // 2
    assert holes.max() == 16
    assert holes.min() == 4
    assert (cut[..., 0] == cut[..., 1]).all()


@pytest.mark.slow
def test_color_jitter():
    same = data.color_jitter(KEYS[0], IMAGE)
    np.testing.assert_array_equal(same, IMAGE)
    full = jax.jit(
        functools.partial(data.color_jitter, brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2)
    )
    out = np.asarray(full(KEYS[0], IMAGE))
    assert out.dtype == np.uint8
    assert (out != IMAGE).any()
    turned = np.asarray(data.color_jitter(KEYS[1], np.float32(IMAGE / 255), hue=0.5))
    hues = [
        [colorsys.rgb_to_hsv(*map(float, pixel)) for pixel in pixels.reshape(-1, 3)]
        for pixels in (IMAGE / 255, turned)
    ]
    before, after = np.asarray(hues)
    np.testing.assert_allclose(after[:, 1:], before[:, 1:], atol=1e-4)
    turns = (after[:, 0] - before[:, 0]) % 1
    assert np.ptp(turns) < 1e-3


@pytest.mark.slow
def test_gaussian_blur():
    one = np.zeros((9, 9, 1), np.float32)
    one[4, 4] = 1
    blur = functools.partial(data.gaussian_blur, sigma=(1.0, 1.0), probability=1.0, taps=5)
    got = np.asarray(blur(KEYS[0], one))[..., 0]
    weights = np.exp(-0.5 * np.arange(-2, 3) ** 2)
    weights /= weights.sum()
    np.testing.assert_allclose(got[2:7, 2:7], np.outer(weights, weights), atol=1e-6)
    np.testing.assert_array_equal(data.gaussian_blur(KEYS[0], IMAGE, probability=0.0), IMAGE)


def test_random_grayscale():
    got = np.asarray(data.random_grayscale(KEYS[0], IMAGE, 1.0))
    want = np.asarray(Image.fromarray(IMAGE).convert("L"))
    assert np.abs(got[..., 1].astype(int) - want).max() <= 1


def pillow(name: str, image: Image.Image, strength: float) -> Image.Image:
    width, height = image.size
    if name in ("color", "contrast", "brightness", "sharpness"):
        return getattr(ImageEnhance, name.capitalize())(image).enhance(1 + 0.9 * strength)
    affine = {
        "shear_x": (1, 0.3 * strength, 0, 0, 1, 0),
        "shear_y": (1, 0, 0, 0.3 * strength, 1, 0),
        "translate_x": (1, 0, 150 / 331 * width * strength, 0, 1, 0),
        "translate_y": (1, 0, 0, 0, 1, 150 / 331 * height * strength),
    }
    if name in affine:
        kind = Image.Transform.AFFINE
        return image.transform(image.size, kind, affine[name], fillcolor=(128,) * 3)
    return {
        "identity": lambda: image,
        "auto_contrast": lambda: ImageOps.autocontrast(image),
        "equalize": lambda: ImageOps.equalize(image),
        "rotate": lambda: image.rotate(30 * strength, fillcolor=(128,) * 3),
        "solarize": lambda: ImageOps.solarize(image, 256 * (1 - abs(strength))),
        "posterize": lambda: ImageOps.posterize(image, 8 - round(4 * abs(strength))),
    }[name]()


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_are_pillow_s(name):
    strengths = (0.3, -0.75, 0.0, 1.0)
    apply = jax.jit(jax.vmap(OPERATIONS[name], in_axes=(None, 0)))
    results = np.asarray(apply(SMOOTH.astype(np.float32), jnp.array(strengths))).astype(int)
    for strength, got in zip(strengths, results, strict=True):
        want = np.asarray(pillow(name, Image.fromarray(SMOOTH), strength)).astype(int)
        apart = np.abs(got - want).max(-1)
        if name == "rotate":
            # A pixel halfway between two may fall to either.
            assert (apart > 0).mean() < 0.01
        else:
            assert apart.max() <= 1, strength


def test_equalize_spreads_counts_and_keeps_a_flat_image():
    flat = np.full((6, 6, 3), 7, np.float32)
    for name in ("equalize", "auto_contrast"):
        np.testing.assert_array_equal(OPERATIONS[name](jnp.asarray(flat), 0.0), flat)


@pytest.mark.slow
def test_rand_augment():
    augment = jax.jit(jax.vmap(lambda k: data.rand_augment(k, IMAGE, num_ops=2, magnitude=9.0)))
    out = np.asarray(augment(KEYS[:24]))
    assert out.dtype == np.uint8
    assert len({image.tobytes() for image in out}) > 15
    np.testing.assert_array_equal(data.rand_augment(KEYS[0], IMAGE, num_ops=0), IMAGE)


SOURCE = {"image": RNG.integers(0, 256, (10, 8, 8, 3)).astype(np.uint8), "label": np.arange(10) % 4}


def batches(transform, **options):
    return data.Batches(data.arrays(SOURCE), 4, transform=transform, **options)


def augment(key, image):
    crop, flip = jax.random.split(key)
    return data.random_flip(flip, data.random_crop(crop, image, padding=2))


@pytest.mark.parametrize(
    "make",
    [lambda: data.augmented(augment), lambda: data.mixup(4), lambda: data.cutmix(4)],
    ids=["augmented", "mixup", "cutmix"],
)
def test_batch_k_is_a_function_of_seed_and_k(make):
    first = batches(make(), seed=5)
    for k in (7, 0, 3):
        again = batches(make(), seed=5)[k]
        for name, value in first[k].items():
            np.testing.assert_array_equal(value, again[name])
    hosts = [batches(make(), seed=5).host(i, 2)[3]["image"] for i in range(2)]
    np.testing.assert_array_equal(np.concatenate(hosts), first[3]["image"])
    assert (batches(make(), seed=6)[3]["image"] != first[3]["image"]).any()
    # The same rows in another epoch are drawn anew.
    plain = batches(make(), seed=5, shuffle=False)
    assert (plain[0]["image"] != plain[plain.batches_per_epoch]["image"]).any()


def test_mixup_mixes_images_and_labels_alike():
    # Images that are their own labels.
    eye = np.eye(6, dtype=np.float32)
    mixed = data.mixup(6, alpha=1.0)({"image": eye, "label": np.arange(6)}, RNG)
    np.testing.assert_allclose(mixed["image"], mixed["label"], atol=1e-6)
    np.testing.assert_allclose(mixed["label"].sum(1), 1, atol=1e-6)
    assert mixed["label"].dtype == np.float32
    assert (mixed["label"].max(1) < 1).any()


def test_cutmix_weighs_labels_by_area():
    rows = 50
    images = np.broadcast_to(np.arange(rows)[:, None, None, None], (rows, 9, 7, 1)).astype(np.uint8)
    mixed = data.cutmix(rows)({"image": images, "label": np.arange(rows)}, np.random.default_rng(1))
    assert mixed["image"].dtype == np.uint8
    counts = [np.bincount(image.ravel(), minlength=rows) / 63 for image in mixed["image"]]
    np.testing.assert_allclose(mixed["label"], counts, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: data.random_flip(KEYS[0], IMAGE[None]), BatchError),
        (lambda: data.random_crop(KEYS[0], IMAGE, padding=0, size=(40, 4)), ConfigError),
        (lambda: data.center_crop(IMAGE, (18, 4)), ConfigError),
        (lambda: data.random_resized_crop(KEYS[0], IMAGE, (4, 4), scale=(1.0, 0.5)), ConfigError),
        (lambda: data.normalized(IMAGE, (0.5,), (0.5,)), ConfigError),
        (lambda: data.color_jitter(KEYS[0], IMAGE, hue=0.7), ConfigError),
        (lambda: data.color_jitter(KEYS[0], IMAGE[..., :1], hue=0.1), BatchError),
        (lambda: data.gaussian_blur(KEYS[0], IMAGE, taps=4), ConfigError),
        (lambda: data.rand_augment(KEYS[0], np.float32(IMAGE)), BatchError),
        (lambda: data.rand_augment(KEYS[0], IMAGE, magnitude=11.0), ConfigError),
        (lambda: data.mixup(4, alpha=0.0), ConfigError),
        (lambda: batches(data.mixup(2))[0], BatchError),
        (lambda: batches(data.augmented(augment, field="imag"))[0], BatchError),
    ],
)
def test_what_cannot_be(call, error):
    with pytest.raises(error):
        call()


def test_a_folder_of_jpegs(tmp_path):
    for name, index in (("cat", 0), ("dog", 1)):
        (tmp_path / name).mkdir()
        wide = np.zeros((30, 60, 3), np.uint8)
        # The middle square is one colour, what lies beside it another.
        wide[:, 15:45] = (200, 40 + 100 * index, 90)
        Image.fromarray(wide).save(tmp_path / name / "a.jpg", quality=95)
    source = data.image_folder(tmp_path, size=(16, 16), crop=True, cache=False)
    plain = data.image_folder(tmp_path, size=(16, 16), cache=False)
    assert source.fingerprint != plain.fingerprint
    rows = source.gather(np.array([0, 1]))
    assert np.abs(rows["image"][1, 2:-2, 2:-2].astype(int) - (200, 140, 90)).max() < 8
    assert (plain.gather(np.array([1]))["image"][0, 8, 0] < 20).all()

    def crop(key, image):
        part = data.random_resized_crop(key, image, (12, 12))
        return data.normalized(part, data.IMAGENET_MEAN, data.IMAGENET_STD)

    batch = data.Batches(source, 2, transform=data.augmented(crop))[0]
    assert batch["image"].shape == (2, 12, 12, 3)
    assert batch["image"].dtype == np.float32

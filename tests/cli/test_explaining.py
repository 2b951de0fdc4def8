"""``jaxdl explain``: of rows, images and tokens, by every method."""

from __future__ import annotations

import textwrap

import numpy as np
import pytest

from jaxdl.cli import main

FILE = textwrap.dedent(
    '''
    """Images whose bright half says the class, and texts whose first word does."""

    import dataclasses
    from typing import Literal

    import numpy as np
    import optax

    import jaxdl
    from jaxdl import data, losses, models


    @dataclasses.dataclass(frozen=True)
    class Config:
        """Settings."""

        kind: Literal["images", "tokens"] = "images"
        """What to read."""


    def token_names(config):
        return ["<pad>", "bad", "good", *(f"word{i}" for i in range(3, 8))]


    def recipe(config):
        def batches(seed, rows, **options):
            rng = np.random.default_rng(seed)
            label = rng.integers(0, 2, rows).astype(np.int32)
            if config.kind == "images":
                image = rng.integers(0, 60, (rows, 8, 8, 1)).astype(np.uint8)
                for row, own in enumerate(label):
                    image[row, :, 4 * own : 4 * own + 4] += 150
                return data.Batches(data.arrays({"image": image, "label": label}), 8, **options)
            tokens = rng.integers(3, 8, (rows, 6)).astype(np.int32)
            tokens[np.arange(rows), rng.integers(1, 3, rows)] = label + 1
            mask = (np.arange(6)[None] < rng.integers(4, 7, (rows, 1))).astype(np.int32)
            return data.Batches(
                data.arrays({"tokens": tokens * mask, "mask": mask, "label": label}), 8, **options
            )

        bert = models.BERT(
            vocab_size=8, num_layers=1, num_heads=2, hidden_dim=16, max_length=6, dropout_rate=0.0
        )
        model = {
            "images": models.CNN(num_classes=2),
            "tokens": models.BERTClassifier(bert, 2),
        }[config.kind]
        return jaxdl.Recipe(
            name="halves",
            objective=jaxdl.supervised(
                model,
                losses.softmax_cross_entropy,
                inputs={"images": "image", "tokens": "tokens"}[config.kind],
            ),
            optimizer=optax.adam(5e-3),
            train=batches(0, 64),
            test=batches(2, 11),
            steps={"images": 30, "tokens": 60}[config.kind],
            eval_every=1000,
        )
    '''
)


def made(folder, kind):
    path = folder / "halves.py"
    path.write_text(FILE)
    run = folder / "run"
    assert main(["train", str(path), "--kind", kind, "--run-dir", str(run), "--quiet"]) == 0
    return run


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return made(tmp_path_factory.mktemp("images"), "images")


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    return made(tmp_path_factory.mktemp("tokens"), "tokens")


def explained(run, capsys, *words):
    capsys.readouterr()
    code = main(["explain", str(run), *words])
    said = capsys.readouterr()
    assert code == 0, said.err
    (file,) = [line for line in said.out.splitlines() if line.endswith(".npz")]
    return dict(np.load(file)), said


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    [
        *("integrated-gradients", "saliency", "gradient-x-input", "smoothgrad", "occlusion"),
        *("grad-cam", "nearest-examples"),
    ],
)
def test_images_are_explained_and_drawn(images, method, capsys):
    arrays, said = explained(images, capsys, "--method", method, "--count", "5", "--window", "4")
    assert arrays["inputs"].shape == (5, 8, 8, 1)
    assert arrays["inputs"].dtype == np.uint8
    assert set(arrays["index"].tolist()) < set(range(11))
    np.testing.assert_array_equal(arrays["target"], arrays["predicted"])
    np.testing.assert_array_equal(arrays["predicted"], arrays["scores"].argmax(axis=1))
    assert arrays["confidence"].min() > 0.5
    picture = images / "explanations" / f"test-{method}.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert str(picture) in said.out
    if method == "nearest-examples":
        assert arrays["neighbours"].shape == (5, 5)
        assert np.all(np.diff(arrays["distances"], axis=1) >= 0)
        assert arrays["neighbour_inputs"].shape == (5, 5, 8, 8, 1)
        # Images that look alike to the model are of one class.
        same = arrays["neighbour_labels"] == arrays["label"][:, None]
        assert same.mean() > 0.9
        return
    shape = (5, 8, 8) if method == "grad-cam" else (5, 8, 8, 1)
    assert arrays["attributions"].shape == shape
    if method == "integrated-gradients":
        total = arrays["attributions"].sum(axis=(1, 2, 3))
        np.testing.assert_allclose(total - arrays["change"], arrays["error"], atol=1e-4)
        assert np.all(np.abs(arrays["error"]) <= 0.01 * np.abs(arrays["change"]))
    if method == "occlusion":
        bright = arrays["inputs"][..., 0] > 100
        found = arrays["attributions"][..., 0]
        assert found[bright].mean() > found[~bright].mean()


@pytest.mark.slow
def test_which_examples_and_which_score(images, capsys):
    first, _ = explained(images, capsys, "--which", "first", "--count", "3", "--target", "1")
    assert first["index"].tolist() == [0, 1, 2]
    assert first["target"].tolist() == [1, 1, 1]
    drawn, _ = explained(images, capsys, "--which", "random", "--count", "4", "--target", "label")
    np.testing.assert_array_equal(drawn["target"], drawn["label"])
    assert len(set(drawn["index"].tolist())) == 4
    every, _ = explained(images, capsys, "--count", "99")
    shifted = every["scores"] - every["scores"].max(axis=1, keepdims=True)
    share = np.exp(shifted) / np.exp(shifted).sum(axis=1, keepdims=True)
    loss = -np.log(share[np.arange(11), every["label"]])
    assert np.all(np.diff(loss) <= 1e-6)
    assert sorted(every["index"].tolist()) == list(range(11))


@pytest.mark.slow
def test_any_number_of_devices_finds_the_same(images, tmp_path, capsys):
    found = [
        explained(images, capsys, "--count", "5", "--devices", count, "--to", str(tmp_path))[0]
        for count in ("1", "8")
    ]
    for name in found[0]:
        np.testing.assert_allclose(found[0][name], found[1][name], atol=2e-5, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    [
        *("integrated-gradients", "saliency", "gradient-x-input"),
        *("attention-rollout", "nearest-examples"),
    ],
)
def test_tokens_are_explained_and_written(tokens, method, capsys):
    arrays, _ = explained(tokens, capsys, "--method", method, "--count", "6")
    assert arrays["inputs"].shape == arrays["mask"].shape == (6, 6)
    page = (tokens / "explanations" / f"test-{method}.html").read_text()
    assert "&lt;pad&gt;" not in page
    assert "<script" not in page
    assert ("good" in page) or ("bad" in page)
    if method == "nearest-examples":
        assert arrays["neighbour_mask"].shape == (6, 5, 6)
        return
    found = arrays["attributions"]
    assert found.shape == (6, 6)
    assert not found[arrays["mask"] == 0].any()
    if method == "integrated-gradients":
        np.testing.assert_allclose(found.sum(axis=1), arrays["change"], atol=0.05)
        telling = np.isin(arrays["inputs"], [1, 2])
        assert np.abs(found[telling]).mean() > 2 * np.abs(found[~telling]).mean()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--method", "attention-rollout"), "there are 0 layers of self-attention"),
        (("--target", "2"), "the target is '2'"),
        (("--layer", "conv_7", "--method", "grad-cam"), "no layer 'conv_7' is called"),
        (("--field", "imag"), "there is no field 'imag'"),
        (("--split", "validation"), "has no split 'validation'"),
        (("--count", "0"), "count is 0"),
        (("--method", "occlusion", "--stride", "4"), "a window of 3 with stride 4"),
    ],
    ids=lambda value: value[-1] if isinstance(value, tuple) else "",
)
def test_what_cannot_be_done(images, words, said, capsys):
    capsys.readouterr()
    assert main(["explain", str(images), *words]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.startswith("error: ")
    assert "\n  do: " in err


NUMBERS = textwrap.dedent(
    '''
    """A number from rows of three, by NNX."""

    import dataclasses

    import numpy as np
    import optax
    from flax import nnx

    import jaxdl
    from jaxdl import data


    @dataclasses.dataclass(frozen=True)
    class Config:
        """Settings."""


    def recipe(config):
        x = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
        batches = data.Batches(data.arrays({"x": x, "label": x.sum(axis=1)}), 8)
        return jaxdl.Recipe(
            name="numbers",
            objective=jaxdl.from_nnx(
                lambda rngs: nnx.Linear(3, 1, rngs=rngs),
                lambda y, t: (y[:, 0] - t) ** 2,
                inputs="x",
            ),
            optimizer=optax.adam(0.1),
            train=batches,
            steps=60,
            eval_every=1000,
        )
    '''
)


@pytest.mark.slow
def test_numbers_of_an_nnx_module(tmp_path, capsys):
    path, run = tmp_path / "numbers.py", tmp_path / "run"
    path.write_text(NUMBERS)
    assert main(["train", str(path), "--run-dir", str(run), "--quiet"]) == 0
    words = ("--split", "train", "--count", "3")
    assert main(["explain", str(run), *words]) == 2
    assert "the worst examples are asked for" in capsys.readouterr().err
    assert main(["explain", str(run), *words, "--method", "nearest-examples"]) == 2
    assert "explain.nnx_layer" in capsys.readouterr().err
    arrays, said = explained(run, capsys, *words, "--which", "first")
    assert "score" in said.out
    assert not {"predicted", "target", "confidence"} & set(arrays)
    # The sum that it learned: each number's part is itself.
    np.testing.assert_allclose(arrays["attributions"], arrays["inputs"], atol=0.2)


@pytest.mark.slow
def test_tokens_have_no_occlusion(tokens, capsys):
    assert main(["explain", str(tokens), "--method", "occlusion"]) == 2
    assert "occlusion does not explain tokens" in capsys.readouterr().err


def test_rows_of_numbers_are_explained_without_a_picture(trained, capsys):
    arrays, said = explained(trained, capsys, "--count", "4", "--which", "first")
    assert arrays["attributions"].shape == (4, 3)
    assert np.all(np.abs(arrays["error"]) <= 0.01 * np.abs(arrays["change"]) + 1e-6)
    assert [each.name for each in (trained / "explanations").iterdir()] == [
        "test-integrated-gradients.npz"
    ]
    assert "error" in said.out

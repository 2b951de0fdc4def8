"""Sources: arrays, archives, image folders and the digits through TFDS."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from jaxdl import data
from jaxdl.errors import DataError, MissingExtraError


def test_arrays_are_gathered_by_index():
    source = data.arrays({"image": np.arange(12).reshape(4, 3), "label": np.array([0, 1, 0, 1])})
    rows = source.gather(np.array([3, 0, 3]))
    np.testing.assert_array_equal(rows["image"], [[9, 10, 11], [0, 1, 2], [9, 10, 11]])
    assert source.spec["image"].shape == (3,)
    assert source.fingerprint == data.arrays(dict(source.columns)).fingerprint
    assert source.fingerprint != data.arrays({"image": source.columns["image"]}).fingerprint


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"x": np.ones(3), "y": np.ones(2)}, "one number of rows for all"),
        ({}, "no field"),
        ({"x": np.ones((0, 2))}, "the data set is empty"),
        ({"x": np.array(["a"])}, "field 'x' is <U1"),
        ({"x": np.array(1.0)}, "field 'x' is float64"),
        ({"example_key": np.ones(3)}, "which the train step adds itself"),
    ],
)
def test_fields_that_cannot_be_batches(fields, message):
    with pytest.raises(DataError, match=message):
        data.arrays(fields)


@pytest.mark.parametrize("label", [-1, 3, 10])
def test_labels_out_of_range_name_their_rows(label):
    labels = np.array([0, 1, label, 2])
    with pytest.raises(DataError, match=rf"holds \[{label}\] at rows \[2\](.|\n)*from 0 to 2"):
        data.arrays({"label": labels}, num_classes=3)
    with pytest.raises(DataError, match="field 'label' is float64"):
        data.arrays({"label": labels.astype(float)}, num_classes=3)


def test_npz(tmp_path):
    path = tmp_path / "set.npz"
    np.savez(path, x_train=np.ones((3, 2)), y_train=np.array([0, 1, 1]))
    source = data.npz(path, {"image": "x_train", "label": "y_train"}, num_classes=2)
    assert len(source) == 3
    assert sorted(source.spec) == ["image", "label"]
    assert sorted(data.npz(path).spec) == ["x_train", "y_train"]
    with pytest.raises(DataError, match="did you mean 'x_train'"):
        data.npz(path, {"image": "x_trian"})


def test_npz_that_cannot_be_read(tmp_path):
    with pytest.raises(DataError, match="there is no file"):
        data.npz(tmp_path / "none.npz")
    pickled = tmp_path / "pickled.npz"
    np.savez(pickled, x=np.array([{"a": 1}], dtype=object))
    with pytest.raises(DataError, match=r"(?i)pickle"):
        data.npz(pickled)
    broken = tmp_path / "broken.npz"
    broken.write_bytes(b"PK\x03\x04 not a zip")
    with pytest.raises(DataError, match="cannot be read as"):
        data.npz(broken)


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "pictures"
    for label, name in enumerate(("cat", "dog")):
        (root / name).mkdir(parents=True)
        for i in range(3):
            pixels = np.full((5 + i, 6, 3), 40 * label + 10 * i, np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return root


def test_image_folder(folder, tmp_path):
    source = data.image_folder(folder, size=(4, 4), cache_dir=tmp_path / "cache")
    rows = source.gather(np.arange(6))
    assert rows["image"].shape == (6, 4, 4, 3)
    assert rows["image"].dtype == np.uint8
    assert rows["label"].tolist() == [0, 0, 0, 1, 1, 1]
    assert rows["image"][:, 0, 0, 0].tolist() == [0, 10, 20, 40, 50, 60]
    assert source.class_names["label"] == ("cat", "dog")


def test_image_folder_that_is_wrong(folder, tmp_path):
    with pytest.raises(DataError, match="there is no folder"):
        data.image_folder(tmp_path / "nowhere", size=(4, 4))
    (folder / "dog" / "9.png").write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"9.png cannot be read"):
        data.image_folder(folder, size=(4, 4), cache_dir=tmp_path / "cache")
    (folder / "empty").mkdir()
    with pytest.raises(DataError, match="holds no image"):
        data.image_folder(folder, size=(4, 4), cache_dir=tmp_path / "cache")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return tmp_path_factory.mktemp("tfds")


def test_digits_take_the_path_of_any_tfds_set(prepared):
    from sklearn.datasets import load_digits

    splits = {name: data.digits(split=name, data_dir=prepared) for name in
              ("train", "validation", "test")}  # fmt: skip
    assert sum(map(len, splits.values())) == 1797
    images = np.concatenate([s.gather(np.arange(len(s)))["image"] for s in splits.values()])
    assert images.shape == (1797, 8, 8, 1)
    assert images.dtype == np.uint8
    original = load_digits().images
    assert len(np.unique(images.reshape(1797, -1), axis=0)) == len(
        np.unique(original.reshape(1797, -1), axis=0)
    )
    for source in splits.values():
        labels = source.gather(np.arange(len(source)))["label"]
        assert np.bincount(labels, minlength=10).min() >= 0.08 * len(source), "stratified"
    through = data.tfds("digits", split="train", data_dir=prepared)
    np.testing.assert_array_equal(
        through.gather(np.arange(5))["image"], splits["train"].gather(np.arange(5))["image"]
    )
    assert len(data.tfds("digits", split="train[:10%]", data_dir=prepared)) < 200


def test_a_set_that_is_not_prepared(prepared, tmp_path):
    with pytest.raises(DataError, match=r"(.|\n)*jaxdl data prepare mnist --from FOLDER"):
        data.tfds("mnist", split="train", data_dir=tmp_path)
    data.digits(split="test", data_dir=prepared)
    with pytest.raises(DataError, match=r"no split 'tset'(.|\n)*did you mean 'test'"):
        data.tfds("digits", split="tset", data_dir=prepared)
    with pytest.raises(DataError, match=r"no feature 'images'(.|\n)*did you mean 'image'"):
        data.tfds("digits", split="test", data_dir=prepared, fields=["images"])


def test_preparing_without_tensorflow_says_so(tmp_path):
    with pytest.raises(MissingExtraError, match=r"jaxdl\[prepare\]"):
        data.prepare("mnist", tmp_path, data_dir=tmp_path / "out")
    with pytest.raises(DataError, match="there is no folder"):
        data.prepare("mnist", tmp_path / "nowhere")


def test_records_decode_each_row_and_keep_one_shape():
    rows = [{"x": np.full(2, i)} for i in range(3)]
    source = data.records(rows, fingerprint="three")
    np.testing.assert_array_equal(source.gather(np.array([2, 0]))["x"], [[2, 2], [0, 0]])
    uneven = data.records([*rows, {"x": np.ones(3, int)}], fingerprint="four")
    with pytest.raises(DataError, match=r"int64\[3\] in row 3 and int64\[2\] in row 0"):
        uneven.gather(np.arange(4))

"""The example of translation: its number words, and a few steps of it."""

from __future__ import annotations

import gzip
import runpy
from pathlib import Path

import jax
import pytest

from jaxdl.cli.files import load
from jaxdl.errors import DataError
from jaxdl.optimizers import OptimizerConfig
from jaxdl.recipe import place, train

pytest.importorskip("tokenizers")
pytest.importorskip("sacrebleu")

PATH = Path(__file__).parents[2] / "examples" / "translation.py"
EXAMPLE = load(PATH)


def test_number_words():
    names = runpy.run_path(str(PATH))
    english, german = names["english"], names["german"]
    assert english(42) == "forty-two"
    assert german(42) == "zwei und vierzig"
    assert english(70_511) == "seventy thousand five hundred eleven"
    assert german(21_101) == "ein und zwanzig tausend ein hundert eins"
    assert english(0) == "zero"
    pairs = names["number_words"]()
    assert not set(pairs["train"]) & set(pairs["test"])
    assert len({source for split in ("train", "test") for source, _ in pairs[split]}) == 8500


def test_missing_files_are_named(tmp_path):
    with pytest.raises(DataError, match=r"train\.en\.gz"):
        EXAMPLE.build(EXAMPLE.config(data=tmp_path))


def test_multi30k_is_read(tmp_path):
    """Of the folder's files: pairs line by line, the test those of 2016."""
    for file, rows in (("train", 40), ("val", 3), ("test_2016_flickr", 2)):
        for language, word in (("en", "dog"), ("de", "Hund")):
            text = "".join(f"{file} {row} {word}\n" for row in range(rows))
            (tmp_path / f"{file}.{language}.gz").write_bytes(gzip.compress(text.encode()))
    splits = runpy.run_path(str(PATH))["multi30k"](tmp_path)
    assert {name: len(pairs) for name, pairs in splits.items()} == {
        "train": 40,
        "train_eval": 40,
        "validation": 3,
        "test": 2,
    }
    assert splits["test"][1] == ("test_2016_flickr 1 dog", "test_2016_flickr 1 Hund")
    recipe = EXAMPLE.build(EXAMPLE.config(data=tmp_path))
    assert (recipe.steps, recipe.train[0]["source"].shape) == (2000, (32, 32))
    batch = recipe.test[0]
    assert batch["source_mask"].sum() == (batch["source"] != 0).sum() > 0


@pytest.mark.slow
def test_a_few_steps_and_a_translation(capsys):
    optimizer = OptimizerConfig(name="adamw", learning_rate=2e-3)
    sizes = {"hidden_dim": 16, "num_layers": 1, "beams": 2, "translated": 5, "length": 12}
    recipe = EXAMPLE.build(EXAMPLE.config(steps=2, optimizer=optimizer, **sizes))
    train(recipe, placed=place(recipe, devices=jax.devices()[:1]), progress=False)
    assert "copy_bleu" in capsys.readouterr().out

"""The example of translation: its number words, and a few steps of it."""

from __future__ import annotations

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


@pytest.mark.slow
def test_a_few_steps_and_a_translation(capsys):
    optimizer = OptimizerConfig(name="adamw", learning_rate=2e-3)
    sizes = {"hidden_dim": 16, "num_layers": 1, "beams": 2, "translated": 5, "length": 12}
    recipe = EXAMPLE.build(EXAMPLE.config(steps=2, optimizer=optimizer, **sizes))
    train(recipe, placed=place(recipe, devices=jax.devices()[:1]), progress=False)
    assert "copy_bleu" in capsys.readouterr().out

"""The example of characters: how a text is cut, what is told early, and that it is learned."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxdl.cli.files import load
from jaxdl.errors import ConfigError, DataError
from jaxdl.optimizers import OptimizerConfig
from jaxdl.recipe import place, train

FILE = Path(__file__).parents[2] / "examples" / "shakespeare.py"
TEXT = "To be, or not to be: that is the question.\n" * 10
TINY = {"num_layers": 1, "num_heads": 2, "hidden_dim": 16, "length": 16, "batch_size": 16}


def make_recipe(**settings):
    example = load(FILE)
    return example.build(example.config(**settings))


@pytest.fixture
def text_file(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT, "utf-8")
    return path


def test_the_last_tenth_is_held_out_and_the_rest_is_read_from_any_character(text_file):
    recipe = make_recipe(data=text_file, **TINY)
    letters = np.array(sorted(set(TEXT)))

    def rows(batches):
        found = batches.source.gather(np.arange(len(batches.source)))["tokens"]
        return ["".join(letters[row]) for row in found]

    # 430 characters: 387 of training, 43 of validation.
    assert rows(recipe.train) == [TEXT[i : i + 17] for i in range(387 - 16)]
    assert rows(recipe.train_eval) == [TEXT[i : i + 17] for i in (0, 160, 320)]
    assert rows(recipe.validation) == [TEXT[i : i + 17] for i in (387, 403)]
    assert recipe.train[0]["tokens"].shape == (16, 17)


def test_the_fingerprint_knows_the_text_and_how_it_is_cut(text_file):
    recipe = make_recipe(data=text_file, **TINY)
    again = make_recipe(data=text_file, **TINY)
    splits = (recipe.train, recipe.train_eval, recipe.validation)
    assert recipe.train.source.fingerprint == again.train.source.fingerprint
    assert len({batches.source.fingerprint for batches in splits}) == 3


def test_a_folder_is_its_texts_by_name(tmp_path):
    (tmp_path / "b.txt").write_text("second", "utf-8")
    (tmp_path / "a.txt").write_text("first", "utf-8")
    (tmp_path / "c.md").write_text("not this", "utf-8")
    assert runpy.run_path(str(FILE))["read"](tmp_path) == "first\nsecond"


def test_what_is_no_text_is_told(tmp_path):
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(DataError, match=re.escape(str(path))) as caught:
            make_recipe(data=path)
        assert "Tiny Shakespeare" in caught.value.expected
        assert "--data" in caught.value.do
    (tmp_path / "sound.txt").write_bytes(b"\xff\xfe\xfd")
    with pytest.raises(DataError, match=r"sound\.txt is no text"):
        make_recipe(data=tmp_path)
    (tmp_path / "sound.txt").write_text("short", "utf-8")
    with pytest.raises(DataError, match="at least 129, one row"):
        make_recipe(data=tmp_path, prompt="s")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prompt": "ß"}, "the prompt has"),
        ({"prompt": ""}, "the prompt is empty"),
        ({"top_k": 0}, "top_k is 0"),
        ({"temperature": -1.0}, "temperature is -1"),
        ({"length": 1}, "length is 1"),
    ],
    ids=["unknown", "empty", "top_k", "temperature", "length"],
)
def test_what_no_sample_can_be_written_with_is_told_before_the_run(text_file, settings, message):
    with pytest.raises(ConfigError, match=message):
        make_recipe(data=text_file, **settings)


def test_it_is_placed_without_a_text_of_ones_own():
    recipe = make_recipe(layout="fsdp", scan_layers=True)
    letters = len(set(runpy.run_path(str(FILE))["standard_library"]()))
    blocks = 4 * (12 * 128**2 + 13 * 128)
    assert place(recipe).parameters == 128 * (letters + 128) + blocks + 2 * 128


@pytest.mark.slow
def test_it_learns_and_writes(capsys):
    """Better than the frequencies of the characters, in characters of the text."""
    optimizer = OptimizerConfig(name="adamw", learning_rate=1e-2, clip_norm=1.0)
    # The prompt is half a context, as every continuation is: one program writes all.
    settings = {"prompt": "    def ", "characters": 30, "samples": 2, "steps": 150}
    recipe = make_recipe(optimizer=optimizer, **settings, **TINY)
    outcome = train(recipe, placed=place(recipe, devices=jax.devices()[:1]), progress=False)
    text = runpy.run_path(str(FILE))["standard_library"]()
    shares = np.unique(list(text), return_counts=True)[1] / len(text)
    assert outcome.scores["validation"]["loss"] < -np.sum(shares * np.log(shares)) - 0.2
    printed = capsys.readouterr().out
    found = re.split(r"--- sample \d ---\n", printed)[1:]
    assert len(found) == 2
    for sample in found:
        assert sample.startswith("    def ")
        # A line's end of print follows.
        assert len(sample) == 31
        assert set(sample) <= set(text)
    assert found[0] != found[1]

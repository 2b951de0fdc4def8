"""The sentiment example: its lines, its tokens, its made sentences, its weights, what it learns."""

from __future__ import annotations

import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import weights
from jaxdl.cli.files import load
from jaxdl.errors import ConfigError, DataError
from jaxdl.models import BERTMaskedLM, bert_tiny
from jaxdl.recipe import place, train

FILE = Path(__file__).parents[2] / "examples" / "sentiment.py"
EXAMPLE = load(FILE)
SENTIMENT = runpy.run_path(str(FILE))
LINES = [f"word{i % 30} and word{i % 7} !\t{'up' if i % 3 else 'down'}" for i in range(200)]


def make(**settings):
    return EXAMPLE.build(EXAMPLE.config(**settings))


@pytest.fixture
def lines(tmp_path):
    path = tmp_path / "lines.tsv"
    path.write_text("\n".join(["sentence\tlabel", *LINES, ""]))
    return path


def test_made_sentences_fit_together():
    recipe = make()
    batch = recipe.train[0]
    params, _ = jax.eval_shape(recipe.objective.init, jax.random.key(0), batch)
    tokens = len(SENTIMENT["vocabulary"]([text for text, _ in SENTIMENT["made"]("train")], 999)) + 4
    # Tiny without its 30,522 words and 512 places, and the layer of two classes.
    expected = 4_385_920 + (tokens - 30_522 + 32 - 512) * 128 + 2 * 129
    assert sum(x.size for x in jax.tree.leaves(params)) == expected
    assert batch["tokens"].shape == batch["mask"].shape == (32, 32)
    np.testing.assert_array_equal(batch["mask"], batch["tokens"] != 0)
    # Held-out sentences bring no new word and no sentence of training.
    made = {name: SENTIMENT["made"](name) for name in ("train", "validation", "test")}
    split = SENTIMENT["split_words"]
    known = {word for text, _ in made["train"] for word in split(text)}
    seen = {text for text, _ in made["train"]}
    for name in ("validation", "test"):
        assert {word for text, _ in made[name] for word in split(text)} <= known
        assert not seen & {text for text, _ in made[name]}
        share = np.mean([label == "good" for _, label in made[name]])
        assert 0.4 < share < 0.6
    assert made == {name: SENTIMENT["made"](name) for name in made}


def test_an_lstm_reads_them_too():
    recipe = make(model="lstm")
    params, _ = jax.eval_shape(recipe.objective.init, jax.random.key(0), recipe.train[0])
    # A kernel and a recurrent one of four gates for each of two directions.
    sizes = [x.size for x in jax.tree.leaves(params)]
    assert sum(size >= 4 * 128**2 for size in sizes) == 4


def test_lines_of_a_file(lines, tmp_path):
    recipe = make(data=lines, length=6)
    batch = recipe.train[0]
    assert batch["tokens"].shape == (32, 6)
    assert set(np.unique(batch["label"])) == {0, 1}
    splits = SENTIMENT["sentences"](EXAMPLE.config(data=lines))
    assert sum(map(len, splits.values())) == 200
    texts = {name: {text for text, _ in rows} for name, rows in splits.items()}
    assert not texts["train"] & (texts["validation"] | texts["test"])
    # A test file of its own leaves more to train on.
    other = tmp_path / "test.tsv"
    other.write_text("word1 word2\tup\n")
    splits = SENTIMENT["sentences"](EXAMPLE.config(data=lines, test_data=other))
    assert splits["test"] == [("word1 word2", "up")]
    assert len(splits["train"]) + len(splits["validation"]) == 200


def test_words_are_counted_and_cut():
    vocabulary = SENTIMENT["vocabulary"](["b b a", "a b c"], 2)
    assert vocabulary == {"b": 4, "a": 5}
    tokens, mask = SENTIMENT["encode_words"](["B, a", "a a a a a a"], vocabulary, 5)
    assert tokens.tolist() == [[2, 4, 1, 5, 3], [2, 5, 5, 5, 3]]
    assert mask.all()


def test_wrong_lines_are_named(tmp_path):
    path = tmp_path / "lines.tsv"
    path.write_text("good film\tup\nno label here\n")
    with pytest.raises(DataError, match=r"line 2 of (.|\n)*'no label here'"):
        make(data=path)
    path.write_text("one\tup\n")
    with pytest.raises(DataError, match="lines are 0"):
        make(data=path)
    path.write_text("\n".join(LINES))
    with pytest.raises(ConfigError, match="vocabulary=None"):
        make(data=path, weights=path)
    words = tmp_path / "vocab.txt"
    words.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n")
    with pytest.raises(ConfigError, match="model='lstm'"):
        make(data=path, weights=path, vocabulary=words, model="lstm")


@pytest.mark.slow
def test_weights_and_their_vocabulary_begin_a_run(lines, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "and", "!", "word", "##1", "##2"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    model = BERTMaskedLM(bert_tiny(vocab_size=len(words), num_layers=2))
    tokens = jnp.zeros((1, 1), int)
    variables = model.init(jax.random.key(5), tokens)
    weights.export(variables, tmp_path / "model.safetensors", model)
    settings = {"weights": tmp_path / "model.safetensors", "vocabulary": tmp_path / "vocab.txt"}
    recipe = make(data=lines, length=8, steps=150, batch_size=8, **settings)
    assert recipe.train[0]["tokens"].max() < len(words)
    placed = place(recipe, devices=jax.devices()[:1])
    state = placed.train.init(0, recipe.train[0])
    before = np.asarray(state.params["classifier"]["kernel"])
    new, _ = recipe.init_from.fill(state)
    jax.tree.map(np.testing.assert_array_equal, new.params["bert"], variables["params"]["bert"])
    np.testing.assert_array_equal(new.params["classifier"]["kernel"], before)
    outcome = train(recipe, placed=placed, progress=False)
    assert outcome.scores["test"]["loss"] < 1.5


@pytest.mark.slow
def test_it_learns_made_sentences():
    recipe = make(steps=300, batch_size=32)
    outcome = train(recipe, placed=place(recipe, devices=jax.devices()[:1]), progress=False)
    assert outcome.scores["test"]["accuracy"] > 0.65

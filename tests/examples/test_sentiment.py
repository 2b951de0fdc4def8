"""The sentiment example: its lines, its tokens, its made sentences, its weights, what it learns."""

from __future__ import annotations

import dataclasses
import functools
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import checkpoints, weights
from jaxdl.cli import main
from jaxdl.cli.files import load
from jaxdl.errors import CheckpointError, ConfigError, DataError
from jaxdl.models import BERTMaskedLM, bert_tiny
from jaxdl.recipe import place, train

FILE = Path(__file__).parents[2] / "examples" / "sentiment.py"
EXAMPLE = load(FILE)
SENTIMENT = runpy.run_path(str(FILE))
LINES = [f"word{i % 30} and word{i % 7} !\t{'up' if i % 3 else 'down'}" for i in range(200)]

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "and", "!", "word", "##1", "##2"]


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


def saved(folder, layers):
    """A BERT of so many layers as a hub gives it, in safetensors; and its parameters."""
    model = BERTMaskedLM(bert_tiny(vocab_size=len(WORDS), num_layers=layers))
    variables = model.init(jax.random.key(5), jnp.zeros((1, 1), int))
    path = folder / f"{layers}.safetensors"
    weights.export(variables, path, model)
    return path, variables["params"]["bert"]


@pytest.mark.slow
def test_weights_begin_a_run_of_the_command_line(lines, tmp_path, capsys):
    pytest.importorskip("tokenizers")
    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text("\n".join(WORDS))
    path, bert = saved(tmp_path, 2)
    settings = {"data": lines, "length": 8, "steps": 2, "batch_size": 8}
    settings |= {"weights": path, "vocabulary": vocabulary}
    # A rate at which two steps change no weight to speak of.
    words = ["--optimizer.learning-rate", "1e-9", "--optimizer.warmup-steps", "0"]
    for name, value in settings.items():
        words += [f"--{name.replace('_', '-')}", str(value)]
    command = ["train", str(FILE), "--run-dir", str(tmp_path / "run"), "--devices", "1", *words]
    assert main([*command, "--quiet"]) == 0, capsys.readouterr().err
    rate = EXAMPLE.config().optimizer
    rate = dataclasses.replace(rate, learning_rate=1e-9, warmup_steps=0)
    recipe = make(**settings, optimizer=rate)
    assert recipe.train[0]["tokens"].max() < len(WORDS)
    placed = place(recipe, devices=jax.devices()[:1])
    fresh = placed.train.init(0, recipe.train[0])
    kept = checkpoints.Checkpoints(tmp_path / "run" / "checkpoints").restore(fresh).state.params
    close = functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-7)
    jax.tree.map(close, kept["bert"], bert)
    jax.tree.map(close, kept["classifier"], fresh.params["classifier"])
    first = [tree["token_embedding"]["embedding"][0] for tree in (fresh.params["bert"], bert)]
    assert not np.allclose(*first)
    # One of another size is refused by name.
    other = dataclasses.replace(recipe.init_from, folder=saved(tmp_path, 1)[0])
    with pytest.raises(CheckpointError, match=r"layer\.1|block_1"):
        other.fill(fresh)


@pytest.mark.slow
def test_it_learns_made_sentences():
    recipe = make(steps=300, batch_size=32)
    outcome = train(recipe, placed=place(recipe, devices=jax.devices()[:1]), progress=False)
    assert outcome.scores["test"]["accuracy"] > 0.65

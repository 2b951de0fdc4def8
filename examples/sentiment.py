"""The mood of a sentence: BERT or an LSTM on lines of text and label.

``--data train.tsv`` reads a file of ``text<TAB>label`` lines, of which a tenth each is held out for
validation and test unless ``--test-data`` names another. Without a file the sentences are made:
patterns that negate and contrast, with an opening and an ending, of which validation and test have
combinations that training lacks.

Measured, seed 0, on the made sentences: BERT tiny reaches a test accuracy of 80.4 % and 85.2 % on
validation in 600 steps, still rising, in 127 s on 2 CPU cores, which did other work too. The LSTM
(``--model lstm --steps 400 --optimizer.learning-rate 1e-3``) reaches 98.0 % and 99.2 % in 85 s.
Not measured: SST-2 or other sentences that people wrote, and what published weights reach.
"""

from __future__ import annotations

import collections
import functools
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import jaxdl
from jaxdl import checkpoints, data, losses, metrics, models, optimizers, weights
from jaxdl.data.tokenizing import load_tokenizer, train_wordpiece
from jaxdl.errors import ConfigError, DataError
from jaxdl.models.rnn import RNN, RNNClassifier

Rows = list[tuple[str, str]]
Encode = Callable[[list[str]], tuple[Any, Any]]
SIZES = {"tiny": models.bert_tiny, "base": models.bert_base, "large": models.bert_large}
LAYOUTS = {"data": jaxdl.data_parallel, "zero1": jaxdl.zero1, "fsdp": jaxdl.fsdp}
PAD, UNKNOWN, FIRST, LAST = range(4)
SPECIAL = 4
PUBLISHED_WORDS = 30_522


@dataclass(frozen=True)
class Config:
    """Settings, all on the command line."""

    data: Path | None = None
    """A file of text<TAB>label lines; made sentences when there is none."""
    test_data: Path | None = None
    """Such a file for the test; else a tenth of the lines is held out."""
    model: Literal["bert", "lstm"] = "bert"
    """What reads the sentence."""
    size: Literal["tiny", "base", "large"] = "tiny"
    """Of BERT; base and large have all 30,522 words and 512 places of the published ones."""
    weights: Path | None = None
    """A safetensors file or folder of a BERT of this size to begin with; needs its vocabulary."""
    vocabulary: Path | None = None
    """A vocab.txt or tokenizer.json, in place of one made of the training lines."""
    tokenizer: Literal["words", "wordpiece"] = "words"
    """What is made of the training lines; pieces of words need the extra "text"."""
    vocab_size: int = 8000
    """Tokens at most of what is made of the training lines."""
    length: int = 32
    """Tokens of a sentence that are read; the rest is cut off."""
    steps: int = 600
    """Updates in all."""
    batch_size: int = 32
    """Sentences in a batch."""
    dropout_rate: float = 0.1
    """In training."""
    layout: Literal["data", "zero1", "fsdp"] = "data"
    """Where arrays lie."""
    remat: Literal["none", "dots", "dots_no_batch", "full"] = "none"
    """What a layer of BERT computes again for its gradient: nothing up to everything."""
    scan_layers: bool = False
    """Compile one layer of BERT for all; its parameters are then stacked."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the computation; parameters are float32."""
    seed: int = 0
    """Of the parameters, the order of the sentences, and dropout."""
    optimizer: optimizers.OptimizerConfig = field(
        default_factory=lambda: optimizers.OptimizerConfig(
            name="adamw",
            learning_rate=5e-4,
            schedule="cosine",
            warmup_steps=100,
            weight_decay=0.01,
            decay_mask=("kernel$", "embedding$"),
            clip_norm=1.0,
        )
    )
    """The learning rate is for training from the start; from weights 2e-5 to 5e-5 is usual."""


def recipe(config: Config) -> jaxdl.Recipe:
    """The run that the settings describe."""
    splits = sentences(config)
    classes = sorted({label for _, label in splits["train"]})
    encode, tokens = tokenizing(config, [text for text, _ in splits["train"]])
    sources = {name: labelled(rows, encode, classes) for name, rows in splits.items()}
    model = build(config, tokens, len(classes))

    def batches(split: str, **options: Any) -> data.Batches:
        return data.Batches(sources[split], config.batch_size, **options)

    return jaxdl.Recipe(
        name=f"sentiment-{config.model}",
        objective=jaxdl.supervised(
            model,
            losses.softmax_cross_entropy,
            metrics={"accuracy": metrics.accuracy()},
            inputs="tokens",
        ),
        optimizer=config.optimizer.build(config.steps),
        layout=LAYOUTS[config.layout](),
        train=batches("train", seed=config.seed),
        validation=batches("validation", shuffle=False),
        test=batches("test", shuffle=False),
        init_from=None if config.weights is None else FromFile(config.weights, model=model),
        steps=config.steps,
        eval_every=max(config.steps // 5, 1),
        seed=config.seed,
    )


def build(config: Config, tokens: int, classes: int) -> nn.Module:
    """The model; nothing is allocated yet."""
    if config.weights is not None and (config.vocabulary is None or config.model == "lstm"):
        raise ConfigError(
            f"there are weights, {config.weights}, for model={config.model!r} with "
            f"vocabulary={config.vocabulary}",
            expected="those of a BERT, and the vocabulary that they were trained with",
            do="give --model bert --vocabulary vocab.txt",
        )
    dtype = jnp.dtype(config.dtype)
    if config.model == "lstm":
        rnn = RNN(128, 1, cell="lstm", bidirectional=True, dtype=dtype)
        return RNNClassifier(rnn, classes, tokens, dropout_rate=config.dropout_rate)
    published = config.size != "tiny"
    bert = SIZES[config.size](
        vocab_size=tokens if config.vocabulary or not published else max(tokens, PUBLISHED_WORDS),
        max_length=512 if published or config.weights else config.length,
        dropout_rate=config.dropout_rate,
        remat=None if config.remat == "none" else config.remat,
        scan_layers=config.scan_layers,
        dtype=dtype,
    )
    return models.BERTClassifier(bert, classes)


@dataclass(frozen=True)
class FromFile(checkpoints.InitFrom):
    """A run that begins with published weights, under a new layer of classes."""

    model: Any = None

    def fill(
        self, state: jaxdl.TrainState, opt_init: Any = None
    ) -> tuple[jaxdl.TrainState, checkpoints.Partial]:
        """The state of a new run, each tensor read to where it lies."""
        del opt_init
        params = weights.load(
            self.folder,
            into=self.model,
            dtype=jnp.float32,
            start={"params": state.params},
            fresh="^classifier/",
            shardings={"params": jax.tree.map(lambda leaf: leaf.sharding, state.params)},
        )["params"]
        taken = checkpoints.Partial(params, state.model_state, checkpoints.Table(), 0, {}, ())
        return replace(state, params=params), taken


def sentences(config: Config) -> dict[str, Rows]:
    """Text and label of every line, by split."""
    if config.data is None:
        return {name: made(name) for name in ("train", "validation", "test")}
    rows = read(config.data)
    splits: dict[str, Rows] = {"train": [], "validation": [], "test": []}
    for text, label in rows:
        # By what the line says, so that one said twice is in one split.
        digit = hashlib.sha256(text.encode()).digest()[0] % 10
        held_out = {0: "validation", 1: "train" if config.test_data else "test"}
        splits[held_out.get(digit, "train")].append((text, label))
    if config.test_data is not None:
        splits["test"] = read(config.test_data)
    known = {label for _, label in splits["train"]}
    for name, part in splits.items():
        strange = {label for _, label in part} - known
        if not part or strange:
            raise DataError(
                f"the {name} lines are {len(part)}, with the labels {sorted(strange)} that the "
                "training lines lack",
                expected="lines for every split, and every label among those of training",
                do="give more lines, or correct the labels",
            )
    return splits


def read(path: Path) -> Rows:
    """The lines of a file; one that says ``label`` where the label is, is its head."""
    rows: Rows = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        text, tab, label = line.rpartition("\t")
        if not line.strip() or (number == 1 and label.strip() == "label"):
            continue
        if not tab or not text.strip() or not label.strip():
            raise DataError(
                f"line {number} of {path} is {line[:60]!r}",
                expected="a text, a tab and a label",
                do="give one sentence a line",
            )
        rows.append((text.strip(), label.strip()))
    return rows


def tokenizing(config: Config, texts: list[str]) -> tuple[Encode, int]:
    """How texts become ``(tokens, mask)``, and how many tokens there are."""
    if config.vocabulary is None and config.tokenizer == "words":
        words = vocabulary(texts, config.vocab_size - SPECIAL)
        encode = functools.partial(encode_words, words=words, length=config.length)
        return encode, len(words) + SPECIAL
    tokenizer = (
        train_wordpiece(texts, config.vocab_size)
        if config.vocabulary is None
        else load_tokenizer(config.vocabulary)
    )

    def encode_pieces(texts: list[str]) -> tuple[Any, Any]:
        found = tokenizer.encode(texts, length=config.length, start="[CLS]", end="[SEP]")
        return found.tokens, found.mask

    return encode_pieces, tokenizer.vocab_size


def token_names(config: Config) -> list[str] | None:
    """The word of each token, which ``jaxdl explain`` shows; ``None`` for pieces of words."""
    if config.vocabulary is not None or config.tokenizer != "words":
        return None
    texts = [text for text, _ in sentences(config)["train"]]
    return ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *vocabulary(texts, config.vocab_size - SPECIAL)]


def split_words(text: str) -> list[str]:
    """Words and signs, in small letters."""
    return re.findall(r"\w+|[^\w\s]", text.lower())


def vocabulary(texts: list[str], size: int) -> dict[str, int]:
    """The most frequent words and their numbers, those of special tokens left free."""
    counts = collections.Counter(word for text in texts for word in split_words(text))
    kept = sorted(counts, key=lambda word: (-counts[word], word))[:size]
    return {word: number for number, word in enumerate(kept, SPECIAL)}


def encode_words(texts: list[str], words: dict[str, int], length: int) -> tuple[Any, Any]:
    """Tokens ``[rows, length]`` between a first and a last, and the mask of what is real."""
    tokens = np.full((len(texts), length), PAD, np.int32)
    for row, text in zip(tokens, texts, strict=True):
        numbers = [words.get(word, UNKNOWN) for word in split_words(text)][: length - 2]
        row[: len(numbers) + 2] = [FIRST, *numbers, LAST]
    return tokens, (tokens != PAD).astype(np.int32)


def labelled(rows: Rows, encode: Encode, classes: list[str]) -> data.Source:
    """Tokens, their mask and a label for each line."""
    tokens, mask = encode([text for text, _ in rows])
    labels = np.array([classes.index(label) for _, label in rows], np.int32)
    return data.arrays({"tokens": tokens, "mask": mask, "label": labels})


THINGS = "film story plot cast music ending script scene book meal room service song game"
GOOD = "good great lovely brilliant funny moving clever fresh charming superb warm fine"
BAD = "bad awful dull boring weak stale clumsy poor dreadful bland cold stupid"
OPENINGS = """
to be fair ,|my friends say that|as far as i can tell|last night we all agreed that|i must say|
in my opinion|after a long day|when all is said ,|like many here i think that|well ,
"""
# Each pattern, and whether its mood is that of {a}; {b} is of the other mood, {c} of the same.
PATTERNS = {
    "the {x} was {a}": True,
    "the {x} was not {a}": False,
    "this is a {a} {x} and a {c} {y}": True,
    "nobody thought the {x} was {a}": False,
    "the {x} was {b} , but the {y} was {a}": True,
    "it is a {a} {x}": True,
    "this is not a {a} {x}": False,
    "nobody would call this {x} {a}": False,
    "although the {x} was {b} , it was {a} too": True,
    "the {x} seemed {a} and the {y} {c}": True,
    "there is nothing {a} about the {x}": False,
    "the {x} is hardly {a}": False,
    "the {x} is {a} , not {b}": True,
    "you would never call the {x} {a}": False,
}
ENDINGS = """
from start to end|as i remember it|in every way|if you ask me|for its price|this time|
like the one before|and that is all i have to say|as we had heard|on the whole
"""
MADE = {"train": 4000, "validation": 500, "test": 500}


def made(split: str) -> Rows:
    """Sentences of the patterns of a split, the same each time.

    An opening, a pattern and an ending that are together in one split are so in no other.
    """
    rng = np.random.default_rng([0, sorted(MADE).index(split)])
    things, good_words, bad_words = (words.split() for words in (THINGS, GOOD, BAD))
    rows: Rows = []
    while len(rows) < MADE[split]:
        opening, ending = (
            str(rng.choice(parts.strip().replace("\n", "").split("|")))
            for parts in (OPENINGS, ENDINGS)
        )
        pattern = str(rng.choice(list(PATTERNS)))
        whole = f"{opening} {pattern} {ending}"
        digit = hashlib.sha256(whole.encode()).digest()[0] % 10
        if split != {0: "validation", 1: "test"}.get(digit, "train"):
            continue
        good = bool(rng.integers(2))
        own, other = (good_words, bad_words) if good else (bad_words, good_words)
        a, c = rng.choice(own, 2, replace=False)
        x, y = rng.choice(things, 2, replace=False)
        text = whole.format(a=a, c=c, b=rng.choice(other), x=x, y=y)
        rows.append((text, "good" if good == PATTERNS[pattern] else "bad"))
    return rows

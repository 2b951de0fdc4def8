"""A Transformer that translates English into German, with byte-level BPE and beam search.

Without files it learns number words (``forty-two`` to ``zwei und vierzig``), which every machine
can make; numbers of the test are not in the training text. ``--data FOLDER`` reads Multi30k
(Elliott et al. 2016: 29,000 descriptions of images), as ``train.en.gz``, ``train.de.gz`` and the
same for ``val`` and ``test_2016_flickr``. At the end the test is translated, and BLEU (sacrebleu,
13a) is logged beside that of copying the source. ``--hidden-dim 512 --num-layers 6`` is the
published base.

Measured, seed 0. Number words, 400 steps: BLEU 99.5 on the 500 numbers of the test, 97.8 % of them
without a mistake, against BLEU 0.0 of copies, in 60 s on 2 CPU cores that did other work too.
Multi30k, 2,000 steps (2.2 epochs): BLEU 30.0 on the 1,000 pairs of ``test_2016_flickr``, against
BLEU 0.5 of copies, in 638 s on the same cores.
"""

from __future__ import annotations

import functools
import gzip
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxdl
from jaxdl import data, hooks, metrics, optimizers
from jaxdl.data.tokenizing import Tokenizer, train_bpe
from jaxdl.errors import DataError
from jaxdl.generation.translating import translate
from jaxdl.metrics.translation import bleu
from jaxdl.models.transformer import Transformer
from jaxdl.objectives.seq2seq import seq2seq
from jaxdl.protocols import Moment, Record

START, END = "[START]", "[END]"
ENGLISH = """
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
sixteen seventeen eighteen nineteen
"""
GERMAN = """
null eins zwei drei vier fünf sechs sieben acht neun zehn elf zwölf dreizehn vierzehn fünfzehn
sechzehn siebzehn achtzehn neunzehn
"""
TENS = """
twenty thirty forty fifty sixty seventy eighty ninety
zwanzig dreißig vierzig fünfzig sechzig siebzig achtzig neunzig
"""

Pairs = list[tuple[str, str]]


@dataclass(frozen=True)
class Config:
    """Settings, all on the command line. Where the default is None it depends on the data."""

    data: Path | None = None
    """A folder with Multi30k; number words when None."""
    steps: int | None = None
    """Updates in all; 400 for number words, else 2,000."""
    batch_size: int | None = None
    """Pairs in a batch; 64 for number words, else 32."""
    length: int | None = None
    """Tokens of a text, the rest is cut; 24 for number words, else 32."""
    vocab_size: int | None = None
    """Tokens of both languages together; 320 for number words, else 4,000."""
    num_layers: int = 2
    """Of the encoder, and of the decoder."""
    hidden_dim: int | None = None
    """Features; 64 for number words, else 160."""
    num_heads: int = 4
    """Heads of attention."""
    dropout_rate: float | None = None
    """In training; 0.1 for number words, else 0: 2,000 steps see a pair but twice."""
    beams: int = 4
    """Hypotheses that the search at the end keeps open."""
    translated: int = 1000
    """How many pairs of the test are translated at the end."""
    seed: int = 0
    """Of the parameters and the order of the pairs."""
    optimizer: optimizers.OptimizerConfig = field(
        default_factory=lambda: optimizers.OptimizerConfig(
            name="adamw",
            learning_rate=2e-3,
            schedule="cosine",
            warmup_steps=50,
            clip_norm=1.0,
        )
    )
    """The learning rate is that of the small models here."""


def recipe(config: Config) -> jaxdl.Recipe:
    """The run that the settings describe."""
    real = config.data is not None
    steps = config.steps or (2000 if real else 400)
    splits = multi30k(config.data) if config.data is not None else number_words()
    texts = [text for pair in splits["train"] for text in pair]
    tokenizer = train_bpe(texts, config.vocab_size or (4000 if real else 320))
    length = config.length or (32 if real else 24)
    rows = config.batch_size or (32 if real else 64)
    model = build(config, tokenizer.vocab_size)
    sources = {name: encoded(pairs, tokenizer, length) for name, pairs in splits.items()}

    def batches(split: str, **options: Any) -> data.Batches:
        return data.Batches(sources[split], rows, **options)

    end = hooks.Every(
        steps,
        functools.partial(
            report,
            model=model,
            tokenizer=tokenizer,
            config=config,
            pairs=splits["test"][: config.translated],
            length=length,
        ),
    )
    return jaxdl.Recipe(
        name="translation",
        objective=seq2seq(
            model,
            start_token=tokenizer.number(START),
            metrics={"accuracy": metrics.accuracy()},
        ),
        optimizer=config.optimizer.build(steps),
        train=batches("train", seed=config.seed),
        train_eval=batches("train_eval", shuffle=False),
        validation=batches("validation", shuffle=False),
        test=batches("test", shuffle=False),
        steps=steps,
        eval_every=max(steps // 4, 1),
        seed=config.seed,
        hooks=(end,),
    )


def build(config: Config, vocab_size: int) -> Transformer:
    """The model: pre-norm, which needs less care of the learning rate than the published one."""
    drawn = config.data is None
    usual = 0.1 if drawn else 0.0
    return Transformer(
        vocab_size=vocab_size,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        hidden_dim=config.hidden_dim or (64 if drawn else 160),
        dropout_rate=usual if config.dropout_rate is None else config.dropout_rate,
        pre_norm=True,
    )


def encoded(pairs: Pairs, tokenizer: Tokenizer, length: int) -> data.Source:
    """Pairs of texts as rows of numbers, each ending in the end token."""
    fields = {}
    for index, name in enumerate(("source", "target")):
        rows = tokenizer.encode([pair[index] for pair in pairs], length=length, end=END)
        fields |= {name: rows.tokens, f"{name}_mask": rows.mask}
    return data.arrays(fields)


def translations(
    model: Transformer,
    params: Any,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    config: Config,
    length: int,
) -> list[str]:
    """The best of the beam search for each text."""
    search = jax.jit(
        functools.partial(
            translate,
            model,
            start_token=tokenizer.number(START),
            end_token=tokenizer.number(END),
            max_length=length,
            beams=config.beams,
        )
    )
    written: list[str] = []
    rows = 100
    for first in range(0, len(texts), rows):
        part = list(texts[first : first + rows])
        # Filled up, so that one program serves for all.
        read = tokenizer.encode(part + [""] * (rows - len(part)), length=length, end=END)
        found = search(params, read.tokens, source_mask=read.mask)
        best = np.asarray(found.tokens)[: len(part), 0]
        lengths = np.asarray(found.lengths)[: len(part), 0]
        written += tokenizer.decode([row[:size] for row, size in zip(best, lengths, strict=True)])
    return written


def report(
    moment: Moment,
    *,
    model: Transformer,
    tokenizer: Tokenizer,
    config: Config,
    pairs: Pairs,
    length: int,
) -> None:
    """Translates the test, logs BLEU beside that of a copy, and prints the first pairs."""
    texts, right = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    with moment.waiting():
        written = translations(model, moment.state.params, tokenizer, texts, config, length)
    values = {
        "bleu": bleu(written, right),
        "copy_bleu": bleu(texts, right),
        "exact": float(np.mean([a == b for a, b in zip(written, right, strict=True)])),
    }
    moment.log(Record(moment.step, "translation", values))
    for text, own, reference in list(zip(texts, written, right, strict=True))[:3]:
        print(f"{text}\n  written: {own}\n  right:   {reference}")
    print("  ".join(f"{name} {value:.2f}" for name, value in values.items()))


def multi30k(folder: Path) -> dict[str, Pairs]:
    """The pairs of each split."""
    files = {"train": "train", "validation": "val", "test": "test_2016_flickr"}
    splits: dict[str, Pairs] = {}
    for name, file in files.items():
        english, german = (lines(folder / f"{file}.{language}.gz") for language in ("en", "de"))
        splits[name] = list(zip(english, german, strict=True))
    return {**splits, "train_eval": splits["train"][:1000]}


def lines(path: Path) -> list[str]:
    """The lines of a compressed file."""
    if not path.is_file():
        raise DataError(
            f"there is no file {path}",
            expected="Multi30k, task 1, raw, as *.en.gz and *.de.gz",
            do="get it from github.com/multi30k/dataset, or leave --data out",
        )
    return gzip.decompress(path.read_bytes()).decode("utf-8").rstrip("\n").split("\n")


def number_words() -> dict[str, Pairs]:
    """Numbers below 100,000 in words: 8,000 to train on, and two sets of 500 others."""
    drawn = np.random.default_rng(0).choice(100_000, 9000, replace=False).tolist()
    pairs = [(english(number), german(number)) for number in drawn]
    return {
        "train": pairs[:8000],
        "train_eval": pairs[:500],
        "validation": pairs[8000:8500],
        "test": pairs[8500:],
    }


def english(number: int) -> str:
    """A number below a million in English words."""
    if number < 20:
        return ENGLISH.split()[number]
    if number < 100:
        ones = f"-{english(number % 10)}" if number % 10 else ""
        return TENS.split()[number // 10 - 2] + ones
    size, name = (100, "hundred") if number < 1000 else (1000, "thousand")
    rest = f" {english(number % size)}" if number % size else ""
    return f"{english(number // size)} {name}{rest}"


def german(number: int) -> str:
    """A number below a million in German words, with spaces between its parts."""
    if number < 20:
        return GERMAN.split()[number]
    if number < 100:
        ones = f"{joined(number % 10)} und " if number % 10 else ""
        return ones + TENS.split()[number // 10 + 6]
    size, name = (100, "hundert") if number < 1000 else (1000, "tausend")
    rest = f" {german(number % size)}" if number % size else ""
    return f"{joined(number // size)} {name}{rest}"


def joined(number: int) -> str:
    """A number before another part: ``eins`` loses its last letter."""
    words = german(number)
    return words[:-1] if words.endswith("eins") else words

"""Text as token numbers: byte-level BPE and WordPiece, trained on any text or read from files.

The work is done by the library ``tokenizers`` (the extra ``text``).

Reads from: errors. Used by: recipes, by choice.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from jaxdl.errors import ConfigError, DataError, MissingExtraError, closest

__all__ = ["Encoded", "Tokenizer", "load_tokenizer", "train_bpe", "train_wordpiece"]

_PAD, _UNKNOWN = "[PAD]", "[UNK]"


class Encoded(NamedTuple):
    """Texts as numbers in rows of one length.

    Attributes:
        tokens: int32 ``[rows, T]``, the padding token after the text.
        mask: int32 ``[rows, T]``, 0 on padding.
        lengths: int32 ``[rows]``, how many tokens of each row are real.
    """

    tokens: npt.NDArray[np.int32]
    mask: npt.NDArray[np.int32]
    lengths: npt.NDArray[np.int32]


class Tokenizer:
    """Text to token numbers and back.

    Special tokens are added by ``start`` and ``end`` only: the same letters in a text are text.

    Args:
        inner: a ``tokenizers.Tokenizer``.
        pad: the name of the padding token; token 0 pads when ``None``.
    """

    def __init__(self, inner: Any, *, pad: str | None = None):
        self._inner = inner
        inner.no_padding()
        inner.no_truncation()
        inner.encode_special_tokens = True
        self.pad_token = 0 if pad is None else self.number(pad)

    @property
    def vocab_size(self) -> int:
        """How many tokens there are, the special ones among them."""
        return self._inner.get_vocab_size(with_added_tokens=True)

    def number(self, token: str) -> int:
        """The number of a token.

        Args:
            token: its text, as it stands in the vocabulary.

        Raises:
            DataError: there is no such token.
        """
        found = self._inner.token_to_id(token)
        if found is None:
            raise DataError(
                f"the tokenizer has no token {token!r}",
                expected="a token of its vocabulary",
                do=closest(token, self.special_tokens),
            )
        return found

    @property
    def special_tokens(self) -> list[str]:
        """The tokens that no text is cut into."""
        added = self._inner.get_added_tokens_decoder()
        return [added[index].content for index in sorted(added) if added[index].special]

    def encode(
        self,
        texts: Sequence[str],
        *,
        length: int | None = None,
        start: str | None = None,
        end: str | None = None,
    ) -> Encoded:
        """Texts as rows of token numbers.

        Args:
            texts: one text a row.
            length: of every row: longer texts lose their last tokens (never ``end``), shorter
                ones are padded. The longest row's when ``None``.
            start: a token to begin each row with, such as ``"[CLS]"``.
            end: a token to end each row with.

        Raises:
            DataError: no such token as ``start`` or ``end``, or a text that is no valid Unicode.
            ConfigError: ``texts`` is one string, or the length has no room for start and end.
        """
        if isinstance(texts, str):
            raise ConfigError("texts is one string", expected="a list of them", do="give [text]")
        before = [] if start is None else [self.number(start)]
        after = [] if end is None else [self.number(end)]
        around = len(before) + len(after)
        if length is not None and length < max(around, 1):
            raise ConfigError(
                f"rows of {length} tokens have no room for start and end",
                expected=f"at least {max(around, 1)}",
                do="give longer rows",
            )
        room = None if length is None else length - around
        rows = [before + numbers[:room] + after for numbers in self._numbers(texts)]
        lengths = np.array([len(row) for row in rows], np.int32)
        size = length or max([1, *lengths.tolist()])
        tokens = np.full((len(rows), size), self.pad_token, np.int32)
        for index, row in enumerate(rows):
            tokens[index, : len(row)] = row
        mask = (np.arange(size)[None] < lengths[:, None]).astype(np.int32)
        return Encoded(tokens, mask, lengths)

    def _numbers(self, texts: Sequence[str]) -> list[list[int]]:
        try:
            encoded = self._inner.encode_batch(list(texts), add_special_tokens=False)
        except (TypeError, UnicodeEncodeError) as error:
            wrong = next((i for i, text in enumerate(texts) if not _is_text(text)), None)
            raise DataError(
                f"text {wrong} cannot be encoded: {error}",
                expected="strings of valid Unicode",
                do="decode files as UTF-8, with errors='replace' if need be",
            ) from error
        return [row.ids for row in encoded]

    def decode(self, tokens: Any, mask: Any = None) -> list[str]:
        """Rows of token numbers as texts. Special tokens are left out.

        Args:
            tokens: integers ``[rows, T]``, or a list of rows of any lengths.
            mask: ``[rows, T]``, 0 on tokens to leave out.

        Raises:
            DataError: a number is outside the vocabulary.
        """
        rows = [np.asarray(row, np.int64).reshape(-1) for row in tokens]
        if mask is not None:
            rows = [row[np.asarray(m) != 0] for row, m in zip(rows, mask, strict=True)]
        size = self.vocab_size
        for index, row in enumerate(rows):
            outside = row[(row < 0) | (row >= size)]
            if outside.size:
                raise DataError(
                    f"row {index} holds the token {int(outside[0])}",
                    expected=f"numbers from 0 to {size - 1}",
                    do="decode with the tokenizer that encoded, or mask what is no token",
                )
        return self._inner.decode_batch([row.tolist() for row in rows], skip_special_tokens=True)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes all of it as one JSON file, which ``load_tokenizer`` reads.

        Args:
            path: the file, by custom ``tokenizer.json``.
        """
        Path(path).write_text(self._inner.to_str(pretty=True), encoding="utf-8")


def train_bpe(
    texts: Iterable[str],
    vocab_size: int,
    *,
    special: Sequence[str] = ("[PAD]", "[START]", "[END]"),
    min_frequency: int = 2,
) -> Tokenizer:
    """A byte-level BPE, trained on one's own text. It decodes to exactly what it encoded.

    Source: Sennrich et al. 2016, arXiv:1508.07909; on bytes: Radford et al. 2019, "Language models
    are unsupervised multitask learners", section 2.2.

    Args:
        texts: what to learn from.
        vocab_size: the most tokens: the special ones, the 256 bytes, and merges of them. Little
            text gives fewer.
        special: tokens that no text is cut into; numbered from 0. The first one pads.
        min_frequency: how often a pair must occur to be merged.

    Raises:
        ConfigError: the vocabulary has no room for bytes and special tokens, or a special token is
            empty or given twice.
        MissingExtraError: ``tokenizers`` is not installed.

    Examples:
        >>> tokenizer = train_bpe(["the cat and the hat"] * 3, 270)
        >>> tokenizer.decode(tokenizer.encode(["the bat!"]).tokens)
        ['the bat!']
    """
    _check_vocabulary(vocab_size, special, 256)
    library = _tokenizers()
    inner = library.Tokenizer(library.models.BPE())
    inner.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=list(special),
        initial_alphabet=sorted(library.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    inner.train_from_iterator(texts, trainer)
    return Tokenizer(inner, pad=special[0] if special else None)


def train_wordpiece(
    texts: Iterable[str],
    vocab_size: int,
    *,
    special: Sequence[str] = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    lowercase: bool = True,
    min_frequency: int = 2,
) -> Tokenizer:
    """A WordPiece tokenizer as BERT's, trained on one's own text.

    Text is cleaned and cut at spaces and punctuation, so decoding gives its words, not its spaces.

    Source: Schuster and Nakajima 2012, "Japanese and Korean voice search"; Devlin et al. 2018,
    arXiv:1810.04805. As the library does, pieces are found by merging the commonest pairs.

    Args:
        texts: what to learn from.
        vocab_size: the most tokens.
        special: tokens that no text is cut into, ``"[UNK]"`` among them; numbered from 0. The
            first one pads.
        lowercase: fold case, and drop accents.
        min_frequency: how often a pair must occur to be merged.

    Raises:
        ConfigError: no ``"[UNK]"``, a vocabulary with no room for more than special tokens, or a
            special token that is empty or given twice.
        MissingExtraError: ``tokenizers`` is not installed.
    """
    if _UNKNOWN not in special:
        raise ConfigError(
            f"the special tokens {', '.join(special) or 'none'} have no {_UNKNOWN!r}",
            expected="a token for letters that the training text has not",
            do="add '[UNK]' to special",
        )
    _check_vocabulary(vocab_size, special, 1)
    library = _tokenizers()
    inner = _wordpiece(library, None, lowercase)
    kept = list(texts)
    # The library numbers letters within a word as its hash table has them, another way each time.
    # Named beforehand they have fixed numbers, and equal counts are merged in one order.
    within = [f"##{letter}" for letter in _within_words(inner, kept)]
    trainer = library.trainers.WordPieceTrainer(
        vocab_size=max(vocab_size, len(special) + len(within)),
        min_frequency=min_frequency,
        special_tokens=[*special, *within],
        show_progress=False,
    )
    inner.train_from_iterator(kept, trainer)
    vocabulary = inner.get_vocab(with_added_tokens=True)
    if len(vocabulary) > vocab_size:
        raise ConfigError(
            f"vocab_size is {vocab_size}",
            expected=f"at least {len(vocabulary)}: special tokens and every letter of the text",
            do="allow a larger vocabulary, or clean the text of rare letters",
        )
    inner = _wordpiece(library, vocabulary, lowercase)
    inner.add_special_tokens(list(special))
    return Tokenizer(inner, pad=special[0])


def load_tokenizer(path: str | os.PathLike[str], *, lowercase: bool = True) -> Tokenizer:
    """A tokenizer from a file: a ``tokenizer.json``, or BERT's ``vocab.txt``.

    Args:
        path: the file; one that ends in ``.txt`` is a WordPiece vocabulary, a token a line.
        lowercase: of a ``vocab.txt``: fold case and drop accents, as the uncased models do.

    Raises:
        DataError: the file is missing or is no tokenizer.
        MissingExtraError: ``tokenizers`` is not installed.
    """
    path = Path(path)
    do = "give a tokenizer.json, as Tokenizer.save writes it, or a vocab.txt"
    if not path.is_file():
        raise DataError(f"there is no file {path}", expected="a tokenizer", do=do)
    library = _tokenizers()
    try:
        if path.suffix == ".txt":
            return _from_vocabulary(library, path, lowercase)
        inner = library.Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except DataError:
        raise
    except Exception as error:  # The library raises plain Exception.
        raise DataError(
            f"{path} cannot be read: {error}", expected="a tokenizer of the library", do=do
        ) from error
    pads = [name for name in (_PAD, "<pad>") if inner.token_to_id(name) is not None]
    return Tokenizer(inner, pad=pads[0] if pads else None)


def _from_vocabulary(library: Any, path: Path, lowercase: bool) -> Tokenizer:
    words = path.read_text(encoding="utf-8").splitlines()
    vocabulary = {word: index for index, word in enumerate(words)}
    if _UNKNOWN not in vocabulary or len(vocabulary) != len(words):
        raise DataError(
            f"{path} is no WordPiece vocabulary",
            expected="a token a line, each once, '[UNK]' among them",
            do="check the file",
        )
    inner = _wordpiece(library, vocabulary, lowercase)
    names = re.compile(r"\[[A-Z]+\]")
    inner.add_special_tokens([word for word in words if names.fullmatch(word)])
    return Tokenizer(inner, pad=_PAD if _PAD in vocabulary else None)


def _wordpiece(library: Any, vocabulary: dict[str, int] | None, lowercase: bool) -> Any:
    model = library.models.WordPiece(vocab=vocabulary, unk_token=_UNKNOWN) if vocabulary else None
    inner = library.Tokenizer(model or library.models.WordPiece(unk_token=_UNKNOWN))
    inner.normalizer = library.normalizers.BertNormalizer(lowercase=lowercase)
    inner.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
    inner.decoder = library.decoders.WordPiece()
    return inner


def _within_words(inner: Any, texts: Sequence[str]) -> list[str]:
    """The letters that follow another in a word, sorted."""
    found: set[str] = set()
    for text in texts:
        normal = inner.normalizer.normalize_str(text)
        for word, _ in inner.pre_tokenizer.pre_tokenize_str(normal):
            found |= set(word[1:])
    return sorted(found)


def _check_vocabulary(vocab_size: int, special: Sequence[str], least: int) -> None:
    needed = least + len(special)
    if vocab_size < needed:
        raise ConfigError(
            f"vocab_size is {vocab_size}",
            expected=f"at least {needed}: {len(special)} special tokens and {least} more",
            do="allow a larger vocabulary, or fewer special tokens",
        )
    if isinstance(special, str) or len(set(special)) != len(special) or "" in special:
        raise ConfigError(
            f"the special tokens are {special!r}",
            expected="a list of names, each once and none empty",
            do="name each token once",
        )


def _is_text(text: Any) -> bool:
    if not isinstance(text, str):
        return False
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _tokenizers() -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise MissingExtraError(
            "tokenizers need the library 'tokenizers'",
            expected="the extra 'text'",
            do="pip install 'jaxdl[text]'",
        ) from error
    return tokenizers

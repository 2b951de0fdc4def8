"""Packing: nothing is lost, first-fit by its definition, and a packed document is as if alone."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from jaxdl.data.packing import pack
from jaxdl.errors import ConfigError, DataError
from jaxdl.models import GPT, segment_mask

RNG = np.random.default_rng(0)
DOCUMENTS = [RNG.integers(1, 20, size) for size in RNG.integers(1, 9, 200)]


def first_fit(sizes, length):
    """By the definition: the first row with room."""
    free, rows = [], []
    for size in sizes:
        row = next((i for i, room in enumerate(free) if room >= size), len(free))
        if row == len(free):
            free.append(length)
        free[row] -= size
        rows.append(row)
    return rows


def unpacked(packed):
    found = {}
    for row in range(len(packed["tokens"])):
        for number in range(1, packed["segments"][row].max() + 1):
            own = packed["segments"][row] == number
            tokens = packed["tokens"][row, own]
            assert packed["positions"][row, own].tolist() == list(range(len(tokens)))
            found[row, number] = tokens.tolist()
    return found


@pytest.mark.parametrize("length", [8, 9, 40])
def test_every_document_is_in_the_first_row_with_room(length):
    packed = pack(DOCUMENTS, length, pad_token=99)
    rows, numbers, expected = first_fit([len(d) for d in DOCUMENTS], length), {}, {}
    for row, document in zip(rows, DOCUMENTS, strict=True):
        numbers[row] = numbers.get(row, 0) + 1
        expected[row, numbers[row]] = document.tolist()
    assert unpacked(packed) == expected
    assert np.all((packed["tokens"] == 99) == (packed["segments"] == 0))
    assert all(field.shape == (max(rows) + 1, length) for field in packed.values())
    again = pack(DOCUMENTS, length, pad_token=99)
    jax.tree.map(np.testing.assert_array_equal, packed, again)


def test_long_documents_are_split_when_asked():
    packed = pack([np.arange(1, 8), [9]], 3, split=True)
    assert packed["tokens"].tolist() == [[1, 2, 3], [4, 5, 6], [7, 9, 0]]
    assert packed["segments"].tolist() == [[1, 1, 1], [1, 1, 1], [1, 2, 0]]
    assert pack([[5]], 1)["tokens"].tolist() == [[5]]


@pytest.mark.slow
def test_a_packed_document_has_the_logits_it_has_alone():
    """With equal position embeddings: GPT counts places from the row's beginning."""
    documents = [[3, 4, 5], [6, 7], [8, 9, 1, 2]]
    packed = pack(documents, 6)
    model = GPT(vocab_size=11, num_layers=1, num_heads=2, hidden_dim=8, max_length=6)
    params = model.init(jax.random.key(0), packed["tokens"])["params"]
    params = jax.tree.map(lambda x: x + 0.3 * RNG.normal(size=x.shape).astype(x.dtype), params)
    places = params["position_embedding"]["embedding"]
    params["position_embedding"]["embedding"] = 0 * places + places[:1]
    together = model.apply(
        {"params": params}, packed["tokens"], mask=segment_mask(packed["segments"])
    )
    for document, (row, start) in zip(documents, [(0, 0), (0, 3), (1, 0)], strict=True):
        alone = model.apply({"params": params}, np.array([document]))[0]
        found = together[row, start : start + len(document)]
        np.testing.assert_allclose(found, alone, atol=1e-5)


def test_wrong_documents_are_named():
    with pytest.raises(ConfigError, match="length is 0"):
        pack([[1]], 0)
    with pytest.raises(DataError, match="no documents"):
        pack([], 4)
    with pytest.raises(DataError, match=r"document 1 has 5 tokens(.|\n)*at most 4"):
        pack([[1], [1, 2, 3, 4, 5]], 4)
    for wrong in ([], [1.5], [[1, 2]], "text"):
        with pytest.raises(DataError, match="document 0 has shape"):
            pack([wrong], 4)

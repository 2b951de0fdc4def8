"""Error rates of texts equal jiwer's: unicode, spaces, empty texts."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import metrics

pytestmark = pytest.mark.slow
jiwer = pytest.importorskip("jiwer")

CASES = {
    "equal": (["the cat sat"], ["the cat sat"]),
    "several": (["a b c", "x y"], ["a c", "x y z w"]),
    "empty hypothesis": (["", "one"], ["two words", "one"]),
    "empty reference": (["two words", "one"], ["", "one"]),
    "all references empty": (["two words", "x"], ["", ""]),
    "nothing at all": ([""], [""]),
    "spaces": (["  a   b\t\tc \n"], ["a b c"]),
    "one tab is no space": (["a\tb c"], ["a b c"]),
    "unicode": (["naïve café 東京 🙂"], ["naive café 東 京 🙃🙂"]),
    "combining": (["cafe\u0301"], ["caf\u00e9"]),
    "capitals and points": (["The cat."], ["the cat"]),
    "longer than meant": (["a b c d e f g"], ["c"]),
}


@pytest.mark.parametrize("name", CASES)
def test_cases(name):
    said, meant = CASES[name]
    assert metrics.wer(said, meant) == pytest.approx(jiwer.wer(meant, said), abs=1e-12)
    assert metrics.cer(said, meant) == pytest.approx(jiwer.cer(meant, said), abs=1e-12)


@pytest.mark.parametrize("seed", range(10))
def test_random_texts(seed):
    rng = np.random.default_rng(seed)
    letters = list("ab ü 東")
    texts = ["".join(rng.choice(letters, rng.integers(0, 30))) for _ in range(12)]
    said, meant = texts[:6], texts[6:]
    assert metrics.wer(said, meant) == pytest.approx(jiwer.wer(meant, said), abs=1e-12)
    assert metrics.cer(said, meant) == pytest.approx(jiwer.cer(meant, said), abs=1e-12)


@pytest.mark.parametrize("empty", [False, True], ids=["", "no references"])
def test_rates_of_tokens_on_the_device(empty):
    rng = np.random.default_rng(0)
    said, meant = rng.integers(0, 4, (9, 7)), rng.integers(0, 4, (9, 5))
    meant = np.zeros_like(meant) if empty else meant
    # Token 1 is a space, and 0 none.
    texts = [["".join(" ab"[t - 1] for t in row if t) for row in x] for x in (said, meant)]
    batch = {"label": jnp.asarray(meant)}
    metric = metrics.word_error_rate(lambda x: x, separator=1)
    got = metric.report(metric.measure(jnp.asarray(said), batch))["word_error_rate"]
    assert got == pytest.approx(jiwer.wer(texts[1], texts[0]), abs=1e-12)
    metric = metrics.token_error_rate(lambda x: x)
    got = metric.report(metric.measure(jnp.asarray(said), batch))["token_error_rate"]
    # jiwer strips spaces at the ends, which are tokens here.

    class Characters(jiwer.AbstractTransform):
        def process_list(self, inp):
            return [list(s) for s in inp]

    whole = jiwer.process_characters(
        texts[1], texts[0], reference_transform=Characters(), hypothesis_transform=Characters()
    )
    assert got == pytest.approx(whole.cer, abs=1e-12)

"""The CTC loss against ``torch.nn.CTCLoss``, and error rates against ``jiwer``."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import losses, metrics

pytestmark = pytest.mark.slow

B, T, N, K = 12, 14, 5, 6


def case(seed: int, blank: int):
    """Logits, labels padded with the blank, and lengths: repeats, empty rows, too short ones."""
    rng = np.random.default_rng(seed)
    logits = (3 * rng.normal(size=(B, T, K))).astype(np.float32)
    lengths = rng.integers(1, T + 1, B)
    lengths[0], lengths[1] = T, 3
    letters = np.array([k for k in range(K) if k != blank])
    labels = rng.choice(letters[:2] if seed % 2 else letters, (B, N))
    counts = rng.integers(0, N + 1, B)
    counts[:3] = N, N, 0
    labels = np.where(np.arange(N)[None] < counts[:, None], labels, blank).astype(np.int32)
    return logits, labels, lengths, counts


@pytest.mark.parametrize("blank", [0, K - 1])
@pytest.mark.parametrize("seed", range(4))
def test_values_and_gradients(seed, blank):
    torch = pytest.importorskip("torch", reason="`make slow` installs PyTorch")
    logits, labels, lengths, counts = case(seed, blank)
    mask = np.arange(T)[None] < lengths[:, None]

    def total(logits, zero):
        values = losses.ctc(logits, labels, logit_mask=mask, blank=blank, zero_infinity=zero)
        return jnp.sum(values), values

    (_, values), grads = jax.value_and_grad(total, has_aux=True)(jnp.asarray(logits), True)
    infinite = total(jnp.asarray(logits), False)[1]
    theirs = torch.tensor(logits, requires_grad=True)
    log_probs = torch.nn.functional.log_softmax(theirs, -1).transpose(0, 1)
    targets = torch.tensor(np.where(labels == blank, (blank + 1) % K, labels).astype(np.int64))
    given = log_probs, targets, torch.tensor(lengths), torch.tensor(counts)
    loss = torch.nn.CTCLoss(blank=blank, reduction="none", zero_infinity=True)(*given)
    loss.sum().backward()
    plain = torch.nn.CTCLoss(blank=blank, reduction="none")(*given).detach().numpy()
    assert np.isinf(plain).any()
    np.testing.assert_array_equal(np.isinf(infinite), np.isinf(plain))
    np.testing.assert_allclose(values, loss.detach().numpy(), rtol=1e-4, atol=1e-5)
    scale = np.abs(theirs.grad.numpy()).max()
    assert np.abs(np.asarray(grads) - theirs.grad.numpy()).max() < 1e-3 * scale


def test_error_rates_are_those_of_jiwer():
    jiwer = pytest.importorskip("jiwer", reason="`make slow` installs jiwer")
    rng = np.random.default_rng(0)
    alphabet = " abc"
    texts = ["".join(rng.choice(list(alphabet), rng.integers(1, 20))) for _ in range(80)]
    # jiwer takes text without spaces at the ends or side by side.
    texts = [" ".join(text.split()) or "a" for text in texts]
    meant, found = texts[:40], texts[40:]

    def encoded(rows):
        return np.array(
            [
                [alphabet.index(c) + 1 for c in row.ljust(24, "#")[: len(row)]]
                + [0] * (24 - len(row))
                for row in rows
            ],
            np.int32,
        )

    batch = {"label": encoded(meant)}
    rates = {
        "cer": metrics.token_error_rate(lambda x: x),
        "wer": metrics.word_error_rate(lambda x: x, separator=1),
    }
    sums = metrics.measure_all(rates, jnp.asarray(encoded(found)), batch)
    got = metrics.report(sums)
    assert got["cer"] == pytest.approx(jiwer.cer(meant, found), abs=1e-12)
    assert got["wer"] == pytest.approx(jiwer.wer(meant, found), abs=1e-12)

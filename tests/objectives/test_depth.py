"""A scanned model's program does not grow with its depth."""

from __future__ import annotations

import jax
import optax
import pytest

import jaxdl
from jaxdl.models import GPT
from jaxdl.objectives import language_model


def lines(num_layers: int, **options) -> int:
    model = GPT(
        vocab_size=11, num_layers=num_layers, num_heads=2, hidden_dim=8, max_length=4, **options
    )
    step = jaxdl.make_train_step(language_model(model, chunk_size="auto"), optax.sgd(0.1))
    batch = {"tokens": jax.ShapeDtypeStruct((2, 5), "int32")}
    state = jax.eval_shape(step.init, jax.eval_shape(jax.random.key, 0), batch)
    return len(jax.jit(step.update).lower(state, batch).as_text().splitlines())


@pytest.mark.parametrize("remat", [None, "full"])
def test_lines_are_the_same_at_any_depth(remat):
    assert len({lines(depth, scan_layers=True, remat=remat) for depth in (2, 8, 32, 96)}) == 1


def test_without_the_scan_they_are_not():
    assert lines(3) > lines(2) > lines(1)

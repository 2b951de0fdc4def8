"""Zero overhead: the placed step's program against the one a careful person writes by hand.

Both start from the same state and give back the same state. What the optimised programs may
differ by is named here, operation by operation.
"""

from __future__ import annotations

import collections
import os
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdl
from jaxdl import gradients, losses, models
from jaxdl.layouts import single

# What holds a program together without computing: XLA cuts fusions as it likes.
PLUMBING = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "fusion", "copy"}

NOTHING = collections.Counter()
# The weight of the loss, which the sums report, is added up over the microbatches.
WEIGHT = collections.Counter({"add": 1})


def batch() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "image": rng.random((32, 8, 8, 1), dtype=np.float32),
        "label": rng.integers(0, 10, 32).astype(np.int32),
    }


def opcodes(program: jax.stages.Compiled) -> collections.Counter[str]:
    """How often each operation stands in the optimised program, fusions opened."""
    text = re.sub(r"metadata=\{[^}]*\}", "", program.as_text())
    lines = re.findall(r"^\s+(?:ROOT )?%?[\w.\-]+ = .*$", text, flags=re.MULTILINE)
    found = [re.search(r"= (?:\([^=]*\)|\S+) ([a-z][\w\-]*)\(", line) for line in lines]
    counts = collections.Counter(match.group(1) for match in found if match)
    return collections.Counter({k: v for k, v in counts.items() if k not in PLUMBING})


def by_hand(model, optimizer, *, microbatches: int, ema_decay: float | None):
    def mean_loss(params, batch):
        logits = model.apply({"params": params}, batch["image"])
        each = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        return jnp.mean(each)

    def accumulated(params, batch):
        def body(carry, piece):
            return jax.tree.map(jnp.add, carry, jax.value_and_grad(mean_loss)(params, piece)), None

        rows = jax.tree.map(lambda x: x.reshape(-1, microbatches, *x.shape[1:]), batch)
        pieces = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), rows)
        zeros = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, params))
        sums, _ = jax.lax.scan(body, zeros, pieces)
        return jax.tree.map(lambda x: x / microbatches, sums)

    def update(state, batch):
        differentiate = accumulated if microbatches > 1 else jax.value_and_grad(mean_loss)
        loss, grads = differentiate(state.params, batch)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        new = state.replace(step=state.step + 1, params=params, opt_state=opt_state)
        if ema_decay is not None:
            new = new.replace(ema=optax.incremental_update(params, state.ema, 1.0 - ema_decay))
        return new, loss

    return update


@pytest.mark.skipif(
    "optimization_level=1" in os.environ["XLA_FLAGS"],
    reason="compares optimised programs: JAXDL_TEST_OPTIMIZED=1, as CI does",
)
@pytest.mark.parametrize(
    ("model", "microbatches", "ema_decay", "allowed"),
    [
        (models.MLP((128, 64, 10)), 1, None, NOTHING),
        (models.CNN(num_classes=10), 1, None, NOTHING),
        (models.MLP((128, 64, 10)), 4, 0.99, WEIGHT),
    ],
    ids=["mlp", "cnn", "mlp-accumulate-ema"],
)
def test_same_operations_as_by_hand(model, microbatches, ema_decay, allowed):
    optimizer = optax.adam(1e-3)
    gradient = gradients.mean() if microbatches == 1 else gradients.accumulate(microbatches)
    objective = jaxdl.supervised(model, optax.softmax_cross_entropy_with_integer_labels)
    pure = jaxdl.make_train_step(objective, optimizer, gradient=gradient, ema_decay=ema_decay)
    placed = jaxdl.jit(pure, layout=single())
    state = placed.abstract_state(batch())
    ours = opcodes(placed.compile(state, batch()))
    hand = jax.jit(
        by_hand(model, optimizer, microbatches=microbatches, ema_decay=ema_decay),
        donate_argnums=0,
    )
    theirs = opcodes(hand.lower(state, placed.put(batch())).compile())
    more, fewer = ours - theirs, theirs - ours
    assert not more - allowed, f"operations that nothing asked for: {more - allowed}"
    # The mean of the loss is left to whoever reads the sums; over microbatches one more falls away.
    assert not fewer - collections.Counter({"multiply": 2}), fewer


def test_state_is_donated_to_the_byte():
    objective = jaxdl.supervised(models.CNN(num_classes=10), losses.softmax_cross_entropy)
    pure = jaxdl.make_train_step(objective, optax.adam(1e-3), ema_decay=0.9)
    placed = jaxdl.jit(pure, layout=single())
    state = placed.abstract_state(batch())
    program = placed.compile(state, batch())
    size = sum(jaxdl.placement.guard.leaf_bytes(leaf) for leaf in jax.tree.leaves(state))
    assert program.memory_analysis().alias_size_in_bytes / size == 1.0


def test_an_update_that_drops_the_state_is_refused():
    """A step by hand whose update replaces a leaf by one of another type cannot donate it."""
    pure = jaxdl.TrainStep(
        init=lambda key, batch: {"w": jnp.ones((4,)), "old": jnp.ones((3,))},
        update=lambda state, batch, *, axis_name=None: (
            {"w": state["w"] + 1, "old": jnp.zeros((3,), jnp.int8)},
            {"n": jnp.sum(batch["x"])},
        ),
    )
    placed = jaxdl.jit(pure, layout=single())
    data = {"x": np.ones((2,), np.float32)}
    state = placed.init(0, data)
    with pytest.raises(jaxdl.errors.DonationError, match="of the state's 28 bytes"):
        placed(state, data)

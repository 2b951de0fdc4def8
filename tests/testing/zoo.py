"""The zoo's frame: broken steps, each with the mend that its finding names, and what they share."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

ROWS, FEATURES, CLASSES = 16, 4, 3


class Animal(NamedTuple):
    """A broken step and its mended twin.

    Attributes:
        name: of the mistake.
        finding: under which ``prove`` must catch it.
        make: ``(mended) -> arguments of prove``, ``step`` and ``batches`` among them.
    """

    name: str
    finding: str
    make: Callable[[bool], dict[str, Any]]


CAGES: dict[str, Animal] = {}


def animal(finding: str) -> Callable[[Any], Any]:
    """Puts a maker into the zoo, under the finding that must catch it."""

    def put(make: Any) -> Any:
        CAGES[make.__name__] = Animal(make.__name__, finding, make)
        return make

    return put


PARK: dict[str, Callable[[], dict[str, Any]]] = {}
"""Correct steps: makers of arguments for ``prove``, which must find nothing."""


def correct(make: Any) -> Any:
    """Puts a maker of a correct step into the park."""
    PARK[make.__name__] = make
    return make


@contextlib.contextmanager
def small_programs_cached() -> Generator[None]:
    """The eager run of a proof compiles each operation by itself; most proofs share them."""
    name = "jax_persistent_cache_min_compile_time_secs"
    before = getattr(jax.config, name)
    jax.config.update(name, 0.0)
    try:
        yield
    finally:
        jax.config.update(name, before)


def batch(seed: int = 0, rows: int = ROWS, **more: Any) -> dict[str, np.ndarray]:
    """Rows of four features and one of three classes, all real."""
    rng = np.random.default_rng(seed)
    return {
        "x": rng.normal(size=(rows, FEATURES)).astype(np.float32),
        "label": rng.integers(0, CLASSES, rows).astype(np.int32),
        "mask": np.ones(rows, np.int32),
        **more,
    }


def batches(count: int = 3) -> list[dict[str, np.ndarray]]:
    """A few of them."""
    return [batch(seed) for seed in range(count)]


def unmasked(count: int = 3) -> list[dict[str, np.ndarray]]:
    """The same without masks, as most have them."""
    return [{"x": rows["x"], "label": rows["label"]} for rows in batches(count)]


def weights(seed: int = 0) -> dict[str, jax.Array]:
    """Parameters of a linear classifier."""
    kernel = 0.3 * jax.random.normal(jax.random.key(seed), (FEATURES, CLASSES))
    return {"w": kernel, "b": jnp.zeros(CLASSES)}


def logits(params: Any, x: Any) -> Any:
    """The linear classifier."""
    return x @ params["w"] + params["b"][None]


def losses(scores: Any, label: Any) -> Any:
    """Cross-entropy, one a row."""
    return -jnp.take_along_axis(jax.nn.log_softmax(scores), label[:, None], axis=1)[:, 0]


def mean(values: Any, mask: Any) -> Any:
    """The mean of the real rows."""
    real = jnp.asarray(mask, jnp.float32)
    return jnp.sum(values * real) / jnp.maximum(jnp.sum(real), 1.0)


def plain_loss(params: Any, rows: Any, key: Any = None) -> Any:
    """The classifier's mean loss."""
    del key
    return mean(losses(logits(params, rows["x"]), rows["label"]), rows["mask"])


def dropped(key: Any, x: Any, rate: float = 0.5) -> Any:
    """Dropout."""
    return jnp.where(jax.random.bernoulli(key, 1 - rate, x.shape), x / (1 - rate), 0.0)


def descend(params: Any, grads: Any, rate: float = 0.1) -> Any:
    """Gradient descent."""
    return jax.tree.map(lambda p, g: p - rate * g, params, grads)


def state(**more: Any) -> dict[str, Any]:
    """Parameters, a counter and what else is given."""
    return {"params": weights(), "step": jnp.zeros((), jnp.int32), **more}


def sgd(loss: Callable[..., Any], *, key_of: Callable[[Any], Any] | None = None) -> Any:
    """A step of gradient descent on ``loss(params, batch, key)``."""

    def step(old: Any, rows: Any) -> Any:
        key = None if key_of is None else key_of(old)
        value, grads = jax.value_and_grad(loss)(old["params"], rows, key)
        new = {**old, "params": descend(old["params"], grads), "step": old["step"] + 1}
        return new, {"loss": value}

    return step


def folded(old: Any) -> Any:
    """The key of a step."""
    return jax.random.fold_in(old["key"], old["step"])

"""The pure mathematics of a step, written once: objective, gradient and optimizer composed.

Nothing here knows a device, a clock, a file or a global. Models, losses and optimizers arrive as
arguments. Where a step runs is ``placement``'s decision; what happens around it, ``fit``'s.

Reads from: errors, protocols, tree_paths, gradients, step.shards. Used by: placement, recipe.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding

from jaxdl import gradients
from jaxdl.errors import ObjectiveError
from jaxdl.gradients.remembering import bind, joined, parted, warn_unscaled
from jaxdl.protocols import (
    Aux,
    Batch,
    GradientEstimator,
    Mean,
    Objective,
    Params,
    PyTree,
    Sums,
    TrainState,
    TrainStep,
)
from jaxdl.step.shards import crosses_shards, differentiate, with_example_keys
from jaxdl.tree_paths import combine, leaf_paths, match_mask, partition

__all__ = ["make_train_step"]


def make_train_step(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    *,
    gradient: GradientEstimator | None = None,
    ema_decay: float | None = None,
    nonfinite: Literal["propagate", "skip"] = "propagate",
    freeze: str | Iterable[str] | None = None,
) -> TrainStep:
    r"""Composes an objective, a gradient estimator and an optimizer into one pure step.

    With key :math:`k_t` = ``fold_in(state.key, state.step)``, parameters :math:`\theta`, loss sum
    :math:`L` and weight :math:`W` over the global batch::

        g       = grad L(theta, batch, k_t) / W
        theta'  = apply_updates(theta, optimizer(g, theta))
        ema'    = d ema + (1 - d) theta'

    Args:
        objective: what to minimise.
        optimizer: any Optax transformation. One that takes extra arguments is given ``value``, the
            batch's mean loss (``optax.contrib.reduce_on_plateau`` reads it).
        gradient: how to differentiate; ``gradients.mean()`` when ``None``.
        ema_decay: ``d`` in (0, 1) keeps a moving average of the parameters in ``state.ema``.
        nonfinite: ``"skip"`` keeps parameters, optimizer and model state as they were when the
            loss or any gradient is not finite, leaves the batch out of the sums, and counts it in
            ``sums["skipped"]``. ``"propagate"`` does nothing. With ``gradients.scaled()``, whose
            dynamic scale finds its size by overflowing, such a step is skipped in either case.
        freeze: regular expression(s) of parameter paths that are not trained: they get no
            gradient, no optimizer state and no decay.

    Returns:
        ``TrainStep(init, update)``. ``update``'s sums hold ``"loss"``, the objective's metrics
        and, with ``"skip"``, ``"skipped"``. Under a mapped axis pass its name as ``axis_name``:
        everything is then summed over it, and model state averaged by weight. ``jaxdl.jit`` passes
        ``batch_sharding``, which only estimators such as ``gradients.reproducible`` read.

    Raises:
        ObjectiveError: an option is out of range.
        PathError: while tracing, when ``freeze`` matches no parameter.

    Examples:
        >>> from jaxdl.objectives import from_mean
        >>> objective = from_mean(lambda p, batch: jnp.mean((p * batch["x"] - batch["y"]) ** 2),
        ...                       init=lambda key, batch: jnp.zeros(()))
        >>> step = make_train_step(objective, optax.sgd(0.1))
        >>> batch = {"x": jnp.ones(4), "y": jnp.full(4, 2.0)}
        >>> state = step.init(jax.random.key(0), batch)
        >>> state, sums = step.update(state, batch)
        >>> float(state.params), float(sums["loss"].total / sums["loss"].weight)
        (0.4000000059604645, 4.0)
    """
    _check_options(objective, optimizer, ema_decay, nonfinite)
    estimator = gradients.mean() if gradient is None else gradient
    warn_unscaled(objective, estimator)
    update_from = optax.with_extra_args_support(optimizer).update

    def init(key: Any, batch: Batch) -> TrainState:
        init_key, state_key = jax.random.split(key)
        params, model_state = jax.tree.map(_strong, objective.init(init_key, batch))
        trained, _ = _split(params, freeze)
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            opt_state=joined(estimator, jax.tree.map(_strong, optimizer.init(trained))),
            model_state=model_state,
            key=state_key,
            ema=None if ema_decay is None else jax.tree.map(jnp.copy, params),
        )

    def update(
        state: TrainState,
        batch: Batch,
        *,
        axis_name: str | None = None,
        batch_sharding: NamedSharding | None = None,
    ) -> tuple[TrainState, Sums]:
        key = jax.random.fold_in(state.key, state.step)
        batch = with_example_keys(key, batch, axis_name)
        trained, frozen = _split(state.params, freeze)
        opt_state, memory = parted(estimator, state.opt_state)
        gradient_fn = bind(estimator(_logged(objective, frozen)), memory, axis_name)
        grads, aux = differentiate(gradient_fn, axis_name, batch_sharding)(
            trained, state.model_state, batch, key
        )

        def advance(
            grads: Params, sums: Sums, trained: Params, opt_state: PyTree, ema: Params
        ) -> PyTree:
            value = _mean_loss(sums)
            updates, opt_state = update_from(grads, opt_state, trained, value=value)
            params = combine(optax.apply_updates(trained, updates), frozen)
            if ema_decay is not None:
                ema = optax.incremental_update(params, ema, 1.0 - ema_decay)
            return params, opt_state, ema

        apply = partial(gradients.alone, advance) if crosses_shards(gradient_fn) else advance
        params, opt_state, ema = apply(grads, aux.metrics, trained, opt_state, state.ema)
        new = replace(
            state,
            step=state.step + 1,
            params=params,
            opt_state=joined(estimator, opt_state, memory),
            model_state=aux.model_state,
            ema=ema,
        )
        sums = dict(aux.metrics)
        if nonfinite == "skip" or memory is not None:
            finite = _all_finite((grads, sums.get("loss")))
            new, sums = _skip(finite, new, state, sums)
            new, sums = _remembered(estimator, memory, finite, new, sums)
        _check_fixed_point(state, new)
        return new, sums

    return TrainStep(init, update)


def _check_options(objective: Any, optimizer: Any, ema_decay: float | None, nonfinite: str) -> None:
    wrong = expected = None
    if not isinstance(objective, Objective):
        wrong = f"make_train_step got a {type(objective).__name__} as objective"
        expected = "an Objective(init, loss)"
    elif not isinstance(optimizer, optax.GradientTransformation):
        wrong = f"make_train_step got a {type(optimizer).__name__} as optimizer"
        expected = "an optax.GradientTransformation, such as optax.adam(1e-3)"
    elif ema_decay is not None and not 0.0 < ema_decay < 1.0:
        wrong, expected = f"ema_decay is {ema_decay}", "a number between 0 and 1, or None"
    elif nonfinite not in ("propagate", "skip"):
        wrong, expected = f"nonfinite is {nonfinite!r}", "'propagate' or 'skip'"
    if wrong and expected:
        raise ObjectiveError(wrong, expected=expected, do="mend the call of make_train_step")


def _split(params: Params, freeze: str | Iterable[str] | None) -> tuple[Params, Params]:
    """Trained and frozen parameters, each in the whole tree's structure with ``None`` gaps."""
    if freeze is None:
        return params, jax.tree.map(lambda _: None, params)
    is_frozen = match_mask(freeze, params)
    frozen, trained = partition(params, is_frozen)
    return trained, frozen


def _logged(objective: Objective, frozen: Params) -> Objective:
    """The objective of the trained parameters alone, with its loss among its metrics."""

    def loss(
        trained: Params, model_state: PyTree, batch: Batch, key: Any, *, train: bool
    ) -> tuple[Any, Aux]:
        params = combine(trained, frozen)
        total, aux = objective.loss(params, model_state, batch, key, train=train)
        sums = {"loss": Mean(total, jnp.asarray(aux.weight, jnp.float32)), **aux.metrics}
        return total, Aux(aux.weight, aux.model_state, sums)

    return objective._replace(loss=loss)


def _mean_loss(sums: Sums) -> Any:
    """What an optimizer may watch; an estimator that hands no loss on gives NaN."""
    loss = sums.get("loss")
    if not isinstance(loss, Mean):
        return jnp.asarray(jnp.nan)
    return loss.total / jnp.where(loss.weight > 0, loss.weight, 1.0)


def _strong(x: Any) -> Any:
    """The same value without JAX's weak type, which an update would not give back."""
    x = jnp.asarray(x)
    return x if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else jnp.asarray(x, x.dtype)


def _all_finite(tree: PyTree) -> jax.Array:
    leaves = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact)]
    return jnp.all(jnp.array([jnp.all(jnp.isfinite(x)) for x in leaves]))


def _skip(
    finite: jax.Array, new: TrainState, old: TrainState, sums: Sums
) -> tuple[TrainState, Sums]:
    def choose(n: Any, o: Any) -> Any:
        return jnp.where(finite, n, o)

    kept = replace(
        new,
        params=jax.tree.map(choose, new.params, old.params),
        opt_state=jax.tree.map(choose, new.opt_state, old.opt_state),
        model_state=jax.tree.map(choose, new.model_state, old.model_state),
        ema=jax.tree.map(choose, new.ema, old.ema),
    )
    counted: Sums = jax.tree.map(lambda x: jnp.where(finite, x, jnp.zeros_like(x)), sums)
    return kept, {**counted, "skipped": jnp.where(finite, 0, 1).astype(jnp.int32)}


def _remembered(
    estimator: GradientEstimator, memory: PyTree, finite: jax.Array, new: TrainState, sums: Sums
) -> tuple[TrainState, Sums]:
    """The estimator's memory moves on, from a skipped step too: that is how it learns of it."""
    if not isinstance(estimator, gradients.Remembering):
        return new, sums
    opt_state, _ = parted(estimator, new.opt_state)
    opt_state = joined(estimator, opt_state, estimator.after(memory, finite))
    return replace(new, opt_state=opt_state), {**sums, **estimator.sums(memory)}


def _check_fixed_point(old: TrainState, new: TrainState) -> None:
    """An update that changes the state's structure or types could not be applied twice."""
    if jax.tree.structure(old) != jax.tree.structure(new):
        raise ObjectiveError(
            "the update changed the structure of the train state",
            expected=f"the structure it was given: {jax.tree.structure(old)}",
            do="return model_state and optimizer state with the keys they had; got "
            f"{jax.tree.structure(new)}",
        )
    changed = [
        f"{path}: {o.dtype}{list(o.shape)} became {n.dtype}{list(n.shape)}"
        for path, o, n in zip(
            leaf_paths(old), jax.tree.leaves(old), jax.tree.leaves(new), strict=True
        )
        if (jnp.shape(o), o.dtype) != (jnp.shape(n), n.dtype)
    ]
    if changed:
        raise ObjectiveError(
            "the update changed the train state's shapes or dtypes: " + "; ".join(changed),
            expected="each leaf as it was",
            do="cast in the model or the optimizer (for example its accumulator dtype)",
        )

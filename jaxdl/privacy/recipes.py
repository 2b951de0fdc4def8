"""A recipe made private: bound, noise and account from one set of numbers.

Reads from: errors, units, data, gradients, recipe, privacy.accounting, privacy.ledger,
privacy.noising, privacy.sampling. Used by: examples.
"""

from __future__ import annotations

import dataclasses

import jax
import optax

from jaxdl import data
from jaxdl.errors import ConfigError
from jaxdl.gradients import private
from jaxdl.privacy.accounting import Accountant, noise_for
from jaxdl.privacy.ledger import Ledger
from jaxdl.privacy.noising import blind, noise
from jaxdl.privacy.sampling import sampling_of
from jaxdl.recipe import Recipe
from jaxdl.units import Number

__all__ = ["make_private"]


def make_private(
    recipe: Recipe,
    *,
    clip_norm: Number,
    delta: float,
    key: jax.Array,
    epsilon: Number | None = None,
    noise_multiplier: Number | None = None,
    microbatches: int = 1,
    per_layer: bool = False,
    loss_scale: Number = 1.0,
    accountant: Accountant = "pld",
) -> Recipe:
    """The recipe with DP-SGD: clipped gradients, noise before its optimizer, a ledger.

    How examples are sampled is read from ``recipe.train``: ``data.PoissonBatches``, or
    ``data.Batches``, which are accounted without amplification. What the guarantee covers is the
    parameters and the optimizer's state, and nothing else that a run writes: not the logged loss
    and metrics, not what is measured on the training split, not validation, and not what was learnt
    from other runs on the same data, such as a learning rate.

    Args:
        recipe: with neither a gradient estimator nor rolling back.
        clip_norm: as in ``gradients.private``.
        delta: of the guarantee.
        key: of the noise, as in ``privacy.noise``.
        epsilon: what all ``recipe.steps`` may cost; the noise is found for it.
        noise_multiplier: the noise, in place of ``epsilon``.
        microbatches: as in ``gradients.private``.
        per_layer: as in ``gradients.private``.
        loss_scale: as in ``gradients.private``.
        accountant: as in ``privacy.epsilon``.

    Raises:
        ConfigError: the recipe cannot be private, or a number is out of range.
        ObjectiveError: as ``gradients.private``.
        MissingExtraError: ``dp-accounting`` is not installed.
    """
    _check(recipe, epsilon, noise_multiplier)
    sampling = sampling_of(recipe.train)
    if epsilon is not None:
        noise_multiplier = noise_for(
            epsilon=epsilon,
            sampling=sampling,
            steps=recipe.steps,
            delta=delta,
            accountant=accountant,
        )
    multiplier = 0.0 if noise_multiplier is None else noise_multiplier
    train = recipe.train
    expected: Number = train.batch_size
    if isinstance(train, data.PoissonBatches):
        expected = train.expected_batch_size
    ledger = Ledger(
        noise_multiplier=multiplier,
        sampling=sampling,
        delta=delta,
        clip_norm=clip_norm,
        expected_batch_size=expected,
        every=recipe.log_every,
        accountant=accountant,
    )
    added = noise(multiplier, clip_norm, expected_batch_size=expected, key=key)
    return dataclasses.replace(
        recipe,
        gradient=private(
            clip_norm,
            expected_batch_size=expected,
            microbatches=microbatches,
            per_layer=per_layer,
            loss_scale=loss_scale,
        ),
        optimizer=optax.chain(added, blind(recipe.optimizer)),
        hooks=(*recipe.hooks, ledger),
    )


def _check(recipe: Recipe, epsilon: Number | None, noise_multiplier: Number | None) -> None:
    for wrong, what, expected in (
        (
            (epsilon is None) == (noise_multiplier is None),
            f"epsilon is {epsilon} and noise_multiplier is {noise_multiplier}",
            "one of the two",
        ),
        (
            recipe.gradient is not None,
            "the recipe has a gradient estimator",
            "none: private clipping is one",
        ),
        (
            recipe.nonfinite == "rollback",
            "nonfinite is 'rollback', which chooses batches by their loss",
            "'propagate' or 'skip'",
        ),
    ):
        if wrong:
            raise ConfigError(
                f"make_private of {recipe.name!r}: {what}",
                expected=expected,
                do="change the recipe or the call",
            )

"""The same objective on images that an attack, noise or a corruption has changed.

In training it is adversarial training, in evaluation the loss and the metrics under attack.

Reads from: errors, protocols, models, robustness, objectives.drawing, objectives.fields.
Used by: cli, and recipes, by choice.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxdl.errors import BatchError, ObjectiveError
from jaxdl.models.layers import to_float
from jaxdl.objectives import fields
from jaxdl.objectives.drawing import example_streams
from jaxdl.protocols import Aux, Batch, ModelState, Objective, Params
from jaxdl.robustness import Perturbation

__all__ = ["with_adversary", "without_adversary"]

_STREAM = 0x61647673


def with_adversary(
    objective: Objective,
    attack: Perturbation,
    field: str = "image",
    *,
    when: Literal["always", "train", "evaluation"] = "always",
    toward: Mapping[str, str] | None = None,
    against: Objective | None = None,
    integers: Literal["refuse", "scale"] = "refuse",
) -> Objective:
    r"""The objective of the images that ``attack`` makes of a batch's.

    With :math:`L` the loss, :math:`\theta` the parameters and :math:`A` the attack it is
    :math:`L(\theta, A_\theta(x))`, and its gradient that of :math:`L` at the attacked images, which
    are constants: nothing flows back through the attack (Madry et al. 2017, arXiv:1706.06083,
    appendix A, by Danskin's theorem).

    The attack looks at the model as evaluation does: dropout off, running statistics of BatchNorm,
    neither of them changed by it. The loss of the attacked images is then taken as ever, in
    training with dropout and batch statistics. Random starts follow from the example's key in
    training, and in evaluation from the image itself, so they are the same on any device, in any
    microbatch and at any batch size. Rows whose ``mask`` is 0 change nothing.

    Metrics and ``Aux.outputs`` are of the attacked images. An objective whose target is the image
    itself (an autoencoder) sees the attacked one in both places.

    Args:
        objective: what to minimise, or to measure.
        attack: such as ``robustness.pgd(0.3)``.
        field: the batch field that is attacked, floats ``[B, ...]``.
        when: in training, in evaluation, or ``"always"``. Elsewhere the objective is as it was.
        toward: batch fields that the attack sees in place of others, ``{"label": "target"}`` for a
            targeted attack.
        against: an objective of the same parameters whose loss the attack raises; ``objective``
            itself when ``None``. Cross-entropy is flat where a model is sure of itself: measure
            with a margin too.
        integers: ``"scale"`` divides integer images by their dtype's largest value first, for a
            model that does the same with integers, as those of ``jaxdl.models`` do.

    Returns:
        An ``Objective``. Under another ``with_adversary`` it is attacked as a whole; give ``when``
        to each, or take ``without_adversary`` first.

    Raises:
        ObjectiveError: ``when`` or ``integers`` is no choice, or restarts are asked of an objective
            whose rows meet, so that none has a loss of its own.
        BatchError: while tracing, when the field is missing or holds integers.

    Examples:
        >>> import flax.linen as nn
        >>> from jaxdl import robustness
        >>> from jaxdl.objectives import supervised
        >>> plain = supervised(nn.Dense(1), lambda y, t: (y[:, 0] - t) ** 2, inputs="x",
        ...                    targets="y")
        >>> attacked = with_adversary(plain, robustness.fgsm(0.1), "x", when="evaluation")
        >>> batch = {"x": jnp.full((4, 3), 0.5), "y": jnp.ones((4,))}
        >>> params, state = attacked.init(jax.random.key(0), batch)
        >>> key = jax.random.key(1)
        >>> before, _ = attacked.loss(params, state, batch, key, train=True)
        >>> after, _ = attacked.loss(params, state, batch, key, train=False)
        >>> bool(after > before)
        True
    """
    for name, given, choices in (
        ("when", when, ("always", "train", "evaluation")),
        ("integers", integers, ("refuse", "scale")),
    ):
        if given not in choices:
            raise ObjectiveError(
                f"with_adversary got {name}={given!r}",
                expected=", ".join(map(repr, choices)),
                do="choose one of them",
            )
    seen = objective if against is None else against
    if seen.mixes_rows and getattr(attack, "restarts", 1) > 1:
        raise ObjectiveError(
            "an attack with restarts on an objective whose rows meet (mixes_rows)",
            expected="an objective that has a loss of each row, by which restarts are compared",
            do="use restarts=1",
        )
    scale = integers == "scale"
    loss = _Loss(objective, seen, attack, field, when, dict(toward or {}), scale)
    return objective._replace(loss=loss)


def without_adversary(objective: Objective) -> Objective:
    """The objective before ``with_adversary``, also where another transform came after it.

    Args:
        objective: any.

    Examples:
        >>> from jaxdl.objectives import from_mean
        >>> from jaxdl.robustness import fgsm
        >>> plain = from_mean(lambda p, batch: jnp.mean(p * batch["image"]))
        >>> without_adversary(with_adversary(plain, fgsm(0.1))) == plain
        True
    """
    loss: Any = objective.loss
    if isinstance(loss, _Loss):
        return without_adversary(objective._replace(loss=loss.objective.loss))
    inner = getattr(loss, "objective", None)
    if not isinstance(inner, Objective) or not dataclasses.is_dataclass(loss):
        return objective
    plain = without_adversary(inner)
    if plain is inner:
        return objective
    return objective._replace(loss=dataclasses.replace(loss, objective=plain))  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True)
class _Loss:
    """The loss under attack."""

    objective: Objective
    against: Objective
    attack: Perturbation
    field: str
    when: str
    toward: Mapping[str, str]
    scale: bool

    @property
    def narrow_range(self) -> bool:
        """Whether small gradients are lost, which ``make_train_step`` asks."""
        return bool(getattr(self.objective.loss, "narrow_range", False))

    def __call__(
        self, params: Params, model_state: ModelState, batch: Batch, key: Any, *, train: bool
    ) -> tuple[Any, Aux]:
        if self.when != ("evaluation" if train else "train"):
            batch = self._attacked((params, model_state), batch, key, train=train)
        return self.objective.loss(params, model_state, batch, key, train=train)

    def _attacked(
        self, variables: tuple[Params, ModelState], batch: Batch, key: Any, *, train: bool
    ) -> Batch:
        given = jnp.asarray(fields.field(batch, self.field))
        images = to_float(given) if self.scale else given
        keys = example_streams(batch, key, images, _STREAM, train=train)
        seen = {**batch, **{name: fields.field(batch, new) for name, new in self.toward.items()}}
        params, model_state = jax.lax.stop_gradient(variables)

        def loss(x: jax.Array, rows: Batch = seen) -> Any:
            rows = {**rows, self.field: x}
            return self.against.loss(params, model_state, rows, key, train=False)[0]

        def row_losses(x: jax.Array) -> Any:
            alone = {**seen, self.field: x}
            alone = {name: jnp.expand_dims(value, 1) for name, value in alone.items()}
            return jax.vmap(lambda row: loss(row[self.field], row))(alone)

        found = jax.lax.stop_gradient(self.attack(loss, images, keys, row_losses))
        if found.shape != images.shape:
            raise BatchError(
                f"the attack made {list(found.shape)} of {list(images.shape)}",
                expected="images of the shape they had",
                do="correct the attack",
            )
        # The gradient with respect to the images, where somebody asks, is that at the attacked.
        return {**batch, self.field: found + (images - jax.lax.stop_gradient(images))}

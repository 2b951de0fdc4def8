"""Autoregressive sound: each sample predicted from those before it.

Reads from: protocols, losses, metrics, objectives.language_model. Used by: recipes, by choice.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax

from jaxdl import metrics as measurements
from jaxdl.losses import softmax_cross_entropy
from jaxdl.objectives.language_model import language_model
from jaxdl.protocols import Metric, Objective

__all__ = ["autoregressive"]


def autoregressive(
    model: nn.Module, *, metrics: Mapping[str, Metric] | None = None, inputs: str = "tokens"
) -> Objective:
    """The objective of next-sample prediction: ``language_model`` that also counts bits a sample.

    The field ``inputs`` holds ``T + 1`` codes a row (``data.mu_law_encode`` makes them of sound),
    and ``mask``, ``[B]`` or ``[B, T + 1]``, is 0 on padding. Batch fields that the model's call
    names, such as ``condition`` and ``local_condition`` of ``WaveNet``, are handed to it. The loss
    is in nats a real sample.

    Args:
        model: a causal Linen module, ``codes [B, T] -> logits [B, T, V]``.
        metrics: measured beside ``bits_per_sample``, as by ``language_model``.
        inputs: the batch field of codes, integers of shape ``[B, T + 1]``.

    Returns:
        An ``Objective``; its ``Aux.outputs`` are the logits.

    Raises:
        ObjectiveError: as ``language_model``.
        BatchError: as ``language_model``.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxdl.models import WaveNet
        >>> model = WaveNet(num_cycles=1, cycle=(1,), residual_dim=2, gate_dim=2, skip_dim=2)
        >>> objective = autoregressive(model)
        >>> batch = {"tokens": jnp.full((1, 5), 128)}
        >>> params, state = objective.init(jax.random.key(0), batch)
        >>> total, aux = objective.loss(params, state, batch, jax.random.key(1), train=True)
        >>> float(aux.weight), sorted(aux.metrics)
        (4.0, ['bits_per_sample'])
    """
    bits = measurements.loss(_bits, name="bits_per_sample")
    return language_model(
        model, metrics={"bits_per_sample": bits, **(metrics or {})}, inputs=inputs
    )


def _bits(logits: Any, targets: Any) -> jax.Array:
    return softmax_cross_entropy(logits, targets) / math.log(2)

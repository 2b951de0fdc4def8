"""Translation by a trained encoder-decoder: its cache, and a beam search over it.

Reads from: models, generation.beam. Used by: recipes, by choice.
"""

from __future__ import annotations

from typing import Any

import jax

from jaxdl.generation.beam import Beams, beam_search
from jaxdl.models.transformer import Transformer
from jaxdl.protocols import Params

__all__ = ["translate"]


def translate(
    model: Transformer,
    params: Params,
    source: Any,
    *,
    start_token: int,
    end_token: int,
    max_length: int,
    source_mask: Any = None,
    **options: Any,
) -> Beams:
    """Beam search over a ``Transformer``; the source is read once. Call it under ``jax.jit``.

    Args:
        model: the model.
        params: its parameters.
        source: integers, shape ``[B, S]``.
        start_token: as in training.
        end_token: as in training.
        max_length: the most target tokens of a row, the end token among them.
        source_mask: shape ``[B, S]``, 0 on padding.
        **options: of ``beam_search``: ``beams``, ``length_penalty`` and others.

    Returns:
        As ``beam_search``.

    Raises:
        BatchError: the source is no integers ``[B, S]``, or the mask does not fit it.
        ConfigError: as ``beam_search``.
    """
    variables = {"params": params}
    _, made = model.apply(
        variables, source, max_length, source_mask=source_mask, method="begin", mutable=["cache"]
    )

    def step(tokens: jax.Array, cache: Any) -> tuple[jax.Array, Any]:
        given = {**variables, "cache": cache}
        logits, kept = model.apply(given, tokens[:, None], method="extend", mutable=["cache"])
        return logits[:, 0], kept["cache"]

    return beam_search(
        step,
        made["cache"],
        rows=source.shape[0],
        start_token=start_token,
        end_token=end_token,
        max_length=max_length,
        **options,
    )

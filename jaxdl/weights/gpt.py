"""GPT-2's names: those of the Hub's files and of ``transformers``.

Reads from: models, weights.moves, weights.names. Used by: weights.families.
"""

from __future__ import annotations

import jax.numpy as jnp

from jaxdl.models import GPT
from jaxdl.weights.moves import AS_IS
from jaxdl.weights.names import Names, dense, embedding, joined, norm

__all__ = ["gpt2"]


def gpt2(model: GPT) -> Names:
    """The table of ``GPT`` for files of ``GPT2LMHeadModel`` and ``GPT2Model``.

    Query, key and value are one ``c_attn`` there, kernels are ``[in, out]`` as ours, and the head
    is the word embedding, which some files hold a second time.

    Args:
        model: whose names are asked for.
    """
    del model
    at, block = "transformer.h.{i}", "block_{i}"
    attention = [f"{block}/attention/{name}" for name in ("query", "key", "value")]
    return Names(
        rules=(
            *embedding("token_embedding", "transformer.wte"),
            *embedding("position_embedding", "transformer.wpe"),
            *norm(f"{block}/attention_norm", f"{at}.ln_1"),
            *joined(attention, f"{at}.attn.c_attn", kernel=AS_IS),
            *dense(f"{block}/attention/out", f"{at}.attn.c_proj", kernel=AS_IS),
            *norm(f"{block}/mlp_norm", f"{at}.ln_2"),
            *dense(f"{block}/mlp_in", f"{at}.mlp.c_fc", kernel=AS_IS),
            *dense(f"{block}/mlp_out", f"{at}.mlp.c_proj", kernel=AS_IS),
            *norm("norm", "transformer.ln_f"),
        ),
        inputs=lambda _: (jnp.zeros((1, 1), jnp.int32),),
        prefix="transformer.",
        # Buffers of old files: the causal triangle and the value it masks with.
        skipped=(r"\.attn\.(masked_)?bias$",),
        tied={"lm_head.weight": "transformer.wte.weight"},
    )

"""Llama's names: those of the Hub's files and of ``transformers``.

Reads from: models, weights.names. Used by: weights.families.
"""

from __future__ import annotations

import jax.numpy as jnp

from jaxdl.models import Llama
from jaxdl.weights.names import Names, dense, embedding, norm

__all__ = ["llama"]

_DENSE = (
    ("attention/query", "self_attn.q_proj"),
    ("attention/key", "self_attn.k_proj"),
    ("attention/value", "self_attn.v_proj"),
    ("attention/out", "self_attn.o_proj"),
    ("mlp_gate", "mlp.gate_proj"),
    ("mlp_in", "mlp.up_proj"),
    ("mlp_out", "mlp.down_proj"),
)


def llama(model: Llama) -> Names:
    """The table of ``Llama`` for files of ``LlamaForCausalLM`` and ``LlamaModel``.

    Those are the Hub's files. Meta's own have other names, and the rows of query and key in another
    order (see ``models.rotary.Rotary``). With ``tied_head`` the head is the word embedding, which
    some files hold a second time.

    Args:
        model: whose names are asked for.
    """
    at, block = "model.layers.{i}", "block_{i}"
    layers = [rule for ours, name in _DENSE for rule in dense(f"{block}/{ours}", f"{at}.{name}")]
    return Names(
        rules=(
            *embedding("token_embedding", "model.embed_tokens"),
            *norm(f"{block}/attention_norm", f"{at}.input_layernorm"),
            *norm(f"{block}/mlp_norm", f"{at}.post_attention_layernorm"),
            *layers,
            *norm("norm", "model.norm"),
            *embedding("head", "lm_head"),
        ),
        inputs=lambda _: (jnp.zeros((1, 1), jnp.int32),),
        prefix="model.",
        # A buffer of old files: what theta says.
        skipped=(r"\.rotary_emb\.inv_freq$",),
        tied={"lm_head.weight": "model.embed_tokens.weight"} if model.tied_head else {},
    )

"""Llama's files: every name of a published checkpoint, the tied head, old buffers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from jaxdl import weights
from jaxdl.errors import CheckpointError
from jaxdl.models import Llama

SIZES = {
    "vocab_size": 11,
    "num_layers": 2,
    "num_heads": 4,
    "num_kv_heads": 2,
    "hidden_dim": 8,
    "mlp_dim": 12,
    "max_length": 5,
}
LAYER = {
    "input_layernorm": (8,),
    "mlp.down_proj": (8, 12),
    "mlp.gate_proj": (12, 8),
    "mlp.up_proj": (12, 8),
    "post_attention_layernorm": (8,),
    "self_attn.k_proj": (4, 8),
    "self_attn.o_proj": (8, 8),
    "self_attn.q_proj": (8, 8),
    "self_attn.v_proj": (4, 8),
}
WHOLE = {
    "model.embed_tokens.weight": (11, 8),
    "model.norm.weight": (8,),
    **{f"model.layers.{i}.{name}.weight": LAYER[name] for name in LAYER for i in range(2)},
}


def variables_of(model):
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1), int))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)


def same(got, expected):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, got, expected)


@pytest.mark.parametrize("tied_head", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("scan_layers", [False, True], ids=["unrolled", "scanned"])
def test_names_shapes_and_the_way_back(tied_head, scan_layers, tmp_path):
    model = Llama(**SIZES, tied_head=tied_head, scan_layers=scan_layers)
    variables = variables_of(model)
    tensors = weights.named(variables, model)
    head = {} if tied_head else {"lm_head.weight": (11, 8)}
    assert {name: x.shape for name, x in tensors.items()} == {**WHOLE, **head}
    weights.export(variables, tmp_path, model)
    same(weights.load(tmp_path, into=model), variables)
    gate = variables["params"]["blocks" if scan_layers else "block_1"]["mlp_gate"]["kernel"]
    got = tensors["model.layers.1.mlp.gate_proj.weight"]
    np.testing.assert_array_equal(got, gate[1].T if scan_layers else gate.T)


def test_a_tied_head_may_be_stored_twice_and_is_checked(tmp_path):
    model = Llama(**SIZES, tied_head=True)
    variables = variables_of(model)
    tensors = dict(weights.named(variables, model))
    words = tensors["model.embed_tokens.weight"]
    old = {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": np.ones(1) for i in range(2)}
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file({**tensors, **old, "lm_head.weight": words.copy()}, path)
    same(weights.load(path, into=model), variables)
    safetensors.numpy.save_file({**tensors, "lm_head.weight": words + 1}, path)
    with pytest.raises(CheckpointError, match=r"lm_head\.weight"):
        weights.load(path, into=model)


def test_a_file_without_a_head_names_what_an_untied_model_lacks():
    tensors = weights.named(
        variables_of(Llama(**SIZES, tied_head=True)), Llama(**SIZES, tied_head=True)
    )
    with pytest.raises(CheckpointError, match=r"lm_head\.weight is missing"):
        weights.convert(tensors, into=Llama(**SIZES))

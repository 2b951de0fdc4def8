"""Llama against that of ``transformers``: logits, gradients, greedy text, files both ways.

Random weights are moved across, scales included, in float32.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import generation, objectives, weights
from jaxdl.models import Llama
from jaxdl.models.rotary import RotaryScaling

pytestmark = pytest.mark.slow

torch = pytest.importorskip("torch", reason="`make slow` installs PyTorch")
transformers = pytest.importorskip("transformers", reason="`make slow` installs transformers")

V, D, N, LAYERS, LENGTH, MLP, NEW = 97, 48, 6, 3, 128, 80, 9
# With 8 features in a head the wavelengths are 6, 30, 141 and 664 tokens: one in each part.
SCALING = {"factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
CASES = {
    "grouped": {"kv": 2, "theta": 5000.0, "tied": False, "scaling": None},
    "scaled": {"kv": 3, "theta": 500.0, "tied": True, "scaling": SCALING},
}
TOKENS = np.random.default_rng(0).integers(1, V, (3, 40))
MASK = np.ones((3, 40), np.int32)
MASK[1, 13:] = MASK[2, :6] = 0

every_case = pytest.mark.parametrize("name", CASES)


@functools.cache
def theirs(name: str) -> transformers.LlamaForCausalLM:
    """The other implementation, every tensor of it random."""
    torch.manual_seed(0)
    case = CASES[name]
    rope = {"rope_type": "default", "rope_theta": case["theta"]}
    if case["scaling"]:
        rope |= {"rope_type": "llama3", "original_max_position_embeddings": 64, **case["scaling"]}
    config = transformers.LlamaConfig(
        vocab_size=V,
        hidden_size=D,
        intermediate_size=MLP,
        num_hidden_layers=LAYERS,
        num_attention_heads=N,
        num_key_value_heads=case["kv"],
        max_position_embeddings=LENGTH,
        rms_norm_eps=1e-5,
        rope_parameters=rope,
        tie_word_embeddings=case["tied"],
        attn_implementation="eager",
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    model = transformers.LlamaForCausalLM(config).float().eval()
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.add_(0.1 * torch.randn_like(tensor))
    return model


def ours(name: str, **options) -> Llama:
    case = CASES[name]
    scaling = RotaryScaling(factor=4.0, low=1.0, high=4.0, original_length=64)
    return Llama(
        vocab_size=V,
        num_layers=LAYERS,
        num_heads=N,
        num_kv_heads=case["kv"],
        hidden_dim=D,
        mlp_dim=MLP,
        max_length=LENGTH,
        rope_theta=case["theta"],
        scaling=scaling if case["scaling"] else None,
        tied_head=case["tied"],
        **options,
    )


def tensors(name: str) -> dict:
    return dict(theirs(name).named_parameters())


def moved(name: str, model: Llama):
    return jax.tree.map(jnp.asarray, weights.convert(tensors(name), into=model)["params"])


def their_logits(model, **given):
    with torch.no_grad():
        return model(torch.from_numpy(TOKENS), **given).logits.numpy()


def near(got, expected, limit: float) -> None:
    """Equal up to a share of the largest value."""
    got, expected = np.asarray(got, np.float64), np.asarray(expected, np.float64)
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() < limit * np.abs(expected).max()


@every_case
def test_logits(name):
    model = ours(name)
    params = moved(name, model)
    assert sum(x.size for x in jax.tree.leaves(params)) == sum(
        tensor.numel() for tensor in tensors(name).values()
    )
    got = jax.jit(model.apply)({"params": params}, TOKENS)
    near(got, their_logits(theirs(name)), 1e-5)


def test_logits_with_an_attention_mask():
    name, model = "grouped", ours("grouped", scan_layers=True)
    got = jax.jit(model.apply)({"params": moved(name, model)}, TOKENS, mask=MASK)
    expected = their_logits(theirs(name), attention_mask=torch.from_numpy(MASK))
    real = MASK.astype(bool)
    near(np.asarray(got)[real], expected[real], 1e-5)


@every_case
def test_loss_and_gradients(name):
    model = ours(name, scan_layers=True, remat="dots")
    objective = objectives.language_model(model, chunk_size=13)

    @jax.jit
    def mean_loss(params):
        batch = {"tokens": TOKENS}
        total, aux = objective.loss(params, {}, batch, jax.random.key(0), train=True)
        return total / aux.weight

    loss, grads = jax.value_and_grad(mean_loss)(moved(name, model))
    tokens = torch.from_numpy(TOKENS)
    expected_loss = theirs(name)(tokens, labels=tokens).loss
    theirs(name).zero_grad()
    expected_loss.backward()
    near(loss, expected_loss.detach(), 1e-6)
    expected = {key: tensor.grad for key, tensor in tensors(name).items()}
    expected = weights.convert(expected, into=model)["params"]
    jax.tree.map(functools.partial(near, limit=1e-5), grads, expected)


@every_case
def test_greedy_text_from_the_cache(name):
    """Rows of three lengths at once, against each row on its own there."""
    model, lengths = ours(name), (7, 3, 5)
    prompt = TOKENS[:, :7]
    real = np.arange(7)[None] < np.array(lengths)[:, None]
    made = jax.jit(
        functools.partial(
            generation.generate,
            model,
            key=jax.random.key(0),
            max_tokens=NEW,
            temperature=0.0,
        )
    )(moved(name, model), np.where(real, prompt, 0), prompt_mask=real)
    for row, length in enumerate(lengths):
        given = torch.from_numpy(prompt[row : row + 1, :length])
        expected = theirs(name).generate(
            given,
            attention_mask=torch.ones_like(given),
            do_sample=False,
            max_new_tokens=NEW,
        )
        assert np.asarray(made.tokens)[row, : length + NEW].tolist() == expected[0].tolist()


@pytest.mark.parametrize(("name", "shard"), [("grouped", 20_000), ("scaled", None)])
def test_files_go_both_ways(name, shard, tmp_path):
    model = ours(name, scan_layers=True)
    variables = {"params": moved(name, model)}
    files = weights.export(variables, tmp_path, model, max_shard_size=shard)
    assert (len(files) > 2) == (shard is not None)
    theirs(name).config.save_pretrained(tmp_path)
    kind = transformers.LlamaForCausalLM
    other, info = kind.from_pretrained(tmp_path, output_loading_info=True)
    assert set(info["missing_keys"]) <= ({"lm_head.weight"} if CASES[name]["tied"] else set())
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    near(their_logits(other), their_logits(theirs(name)), 1e-5)
    # Written there and read here, the bits are those that were sent.
    other.save_pretrained(tmp_path / "b", max_shard_size=shard or "1GB")
    again = weights.load(tmp_path / "b", into=model)
    assert jax.tree.structure(again) == jax.tree.structure(variables)
    jax.tree.map(np.testing.assert_array_equal, again, variables)

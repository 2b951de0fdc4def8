"""The Transformer against torch.nn.Transformer: logits, and the gradient of one step."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.models.stack import stack_layers
from jaxdl.models.transformer import Transformer
from jaxdl.models.transformer_stacks import sinusoids

pytestmark = pytest.mark.slow
torch = pytest.importorskip("torch", reason="`make slow` installs PyTorch")

V, D, N, LAYERS, MLP = 31, 24, 4, 2, 40
RNG = np.random.default_rng(0)
SOURCE, TARGET = RNG.integers(0, V, (3, 7)), RNG.integers(0, V, (3, 6))
ASKED = RNG.integers(0, V, (3, 6))
SOURCE_MASK = np.arange(7)[None] < np.array([[7], [4], [1]])
TARGET_MASK = np.arange(6)[None] < np.array([[3], [6], [5]])


class Theirs(torch.nn.Module):
    """Both stacks of the library, words and positions around them."""

    def __init__(self, pre_norm: bool):
        super().__init__()
        # As jaxdl.models.Transformer: dropout 0, the authors' epsilon, no norm after post-norm.
        options = {
            "dropout": 0.0,
            "layer_norm_eps": 1e-6,
            "batch_first": True,
            "norm_first": pre_norm,
        }
        nn = torch.nn
        layer = nn.TransformerEncoderLayer(D, N, MLP, **options)
        other = nn.TransformerDecoderLayer(D, N, MLP, **options)
        norms = [nn.LayerNorm(D, eps=1e-6) if pre_norm else None for _ in range(2)]
        stacks = {
            "custom_encoder": nn.TransformerEncoder(
                layer, LAYERS, norms[0], enable_nested_tensor=False
            ),
            "custom_decoder": nn.TransformerDecoder(other, LAYERS, norms[1]),
        }
        self.stacks = nn.Transformer(D, N, batch_first=True, **stacks)
        self.words = nn.Parameter(torch.zeros(V, D))
        torch.manual_seed(0)
        with torch.no_grad():
            for tensor in self.parameters():
                tensor.copy_(0.3 * torch.randn_like(tensor))

    def forward(self):
        source, target = (
            self.words[torch.from_numpy(x)] * D**0.5
            + torch.from_numpy(np.array(sinusoids(x.shape[1], D)))
            for x in (SOURCE, TARGET)
        )
        out = self.stacks(
            source,
            target,
            tgt_mask=torch.triu(torch.ones(6, 6, dtype=torch.bool), 1),
            src_key_padding_mask=torch.from_numpy(~SOURCE_MASK),
            memory_key_padding_mask=torch.from_numpy(~SOURCE_MASK),
            tgt_key_padding_mask=torch.from_numpy(~TARGET_MASK),
        )
        return out @ self.words.T


def ours(named, pre_norm) -> dict:
    """Our parameters (or gradients of them) from the other's, by name."""
    found = {name: value.detach().numpy() for name, value in named.items()}

    def dense(at):
        return {"kernel": found[f"{at}.weight"].T, "bias": found[f"{at}.bias"]}

    def norm(at):
        return {"scale": found[f"{at}.weight"], "bias": found[f"{at}.bias"]}

    def attention(at):
        kernels = np.split(found[f"{at}.in_proj_weight"], 3)
        biases = np.split(found[f"{at}.in_proj_bias"], 3)
        parts = zip(("query", "key", "value"), kernels, biases, strict=True)
        made = {name: {"kernel": kernel.T, "bias": bias} for name, kernel, bias in parts}
        return {**made, "out": dense(f"{at}.out_proj")}

    stacks = {}
    for stack in ("encoder", "decoder"):
        cross, layers = stack == "decoder", {}
        for index in range(LAYERS):
            at = f"stacks.{stack}.layers.{index}"
            layers[f"block_{index}"] = {
                "attention": attention(f"{at}.self_attn"),
                "attention_norm": norm(f"{at}.norm1"),
                "mlp_in": dense(f"{at}.linear1"),
                "mlp_out": dense(f"{at}.linear2"),
                "mlp_norm": norm(f"{at}.norm{2 + cross}"),
            }
            if cross:
                layers[f"block_{index}"] |= {
                    "cross_attention": attention(f"{at}.multihead_attn"),
                    "cross_attention_norm": norm(f"{at}.norm2"),
                }
        stacks[stack] = layers | ({"norm": norm(f"stacks.{stack}.norm")} if pre_norm else {})
    return {"token_embedding": {"embedding": found["words"]}, **stacks}


def stacked(params):
    return {k: v if k == "token_embedding" else stack_layers(v) for k, v in params.items()}


@functools.cache
def reference(pre_norm):
    model = Theirs(pre_norm)
    model.train()
    logits = model()
    real = torch.from_numpy(TARGET_MASK)
    loss = torch.nn.functional.cross_entropy(
        logits[real], torch.from_numpy(ASKED)[real], label_smoothing=0.1
    )
    loss.backward()
    named = dict(model.named_parameters())
    grads = ours({name: tensor.grad for name, tensor in named.items()}, pre_norm)
    count = sum(tensor.numel() for tensor in named.values())
    model.eval()
    # The fused encoder of evaluation needs no gradient to be asked for.
    with torch.no_grad():
        evaluated = model().numpy()
    return ours(named, pre_norm), logits.detach().numpy(), evaluated, grads, count


@pytest.mark.parametrize("pre_norm", [False, True])
@pytest.mark.parametrize("scan_layers", [False, True])
def test_logits_and_gradients(pre_norm, scan_layers):
    params, logits, evaluated, grads, count = reference(pre_norm)
    model = Transformer(
        V,
        LAYERS,
        N,
        D,
        mlp_dim=MLP,
        dropout_rate=0.0,
        pre_norm=pre_norm,
        attention_bias=True,
        scan_layers=scan_layers,
    )
    if scan_layers:
        params, grads = stacked(params), stacked(grads)
    assert sum(x.size for x in jax.tree.leaves(params)) == count

    def loss(params, train):
        found = model.apply(
            {"params": params},
            SOURCE,
            target=TARGET,
            source_mask=SOURCE_MASK,
            target_mask=TARGET_MASK,
            train=train,
        )
        each = -jax.nn.log_softmax(found)
        asked = jnp.take_along_axis(each, ASKED[:, :, None], axis=-1)[..., 0]
        smoothed = 0.9 * asked + 0.1 * jnp.mean(each, -1)
        return jnp.sum(smoothed * TARGET_MASK) / TARGET_MASK.sum(), found

    (_, found), got = jax.jit(
        jax.value_and_grad(functools.partial(loss, train=True), has_aux=True)
    )(params)
    _, still = jax.jit(functools.partial(loss, train=False))(params)
    for a, b in ((found, logits), (still, evaluated)):
        largest = np.abs(b[TARGET_MASK]).max()
        assert np.abs(np.asarray(a) - b)[TARGET_MASK].max() < 1e-5 * largest
    assert jax.tree.structure(got) == jax.tree.structure(grads)
    scale = max(np.abs(x).max() for x in jax.tree.leaves(grads))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(grads), strict=True):
        assert np.abs(a - b).max() < 1e-4 * max(np.abs(b).max(), 0.01 * scale)

"""Exported folders in ``transformers``, and its folders here: the same logits both ways."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import models, weights

pytestmark = pytest.mark.slow

torch = pytest.importorskip("torch", reason="`make slow` installs PyTorch")
transformers = pytest.importorskip("transformers", reason="`make slow` installs transformers")

TOKENS = np.random.default_rng(0).integers(0, 23, (2, 7))
IMAGES = np.random.default_rng(1).normal(size=(2, 32, 32, 3)).astype(np.float32)

# Second names of what is there under another.
TIED = {"lm_head.weight", "cls.predictions.decoder.weight", "cls.predictions.decoder.bias"}


def gpt2(**options):
    sizes = {"num_layers": 2, "num_heads": 2, "hidden_dim": 16, "max_length": 9}
    config = transformers.GPT2Config(
        vocab_size=23, n_positions=9, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )
    model = models.GPT(vocab_size=23, **sizes, **options)
    return model, transformers.GPT2LMHeadModel, config, TOKENS


def resnet(**options):
    config = transformers.ResNetConfig(
        hidden_sizes=[8, 16, 32, 64],
        embedding_size=8,
        layer_type="basic",
        depths=[2, 2, 2, 2],
        num_labels=3,
    )
    model = models.resnet18(num_classes=3, width=8, **options)
    return model, transformers.ResNetForImageClassification, config, IMAGES


def bert(**options):
    config = transformers.BertConfig(
        vocab_size=23,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=9,
    )
    sizes = {"num_layers": 2, "num_heads": 2, "hidden_dim": 16, "max_length": 9}
    encoder = models.BERT(vocab_size=23, pooler=False, **sizes, **options)
    return models.BERTMaskedLM(encoder), transformers.BertForMaskedLM, config, TOKENS


def vit(**options):
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=32,
        patch_size=8,
        num_labels=3,
    )
    sizes = {"num_layers": 2, "num_heads": 2, "hidden_dim": 16, "patch_size": 8, "image_size": 32}
    model = models.ViT(num_classes=3, epsilon=1e-12, **sizes, **options)
    return model, transformers.ViTForImageClassification, config, IMAGES


CASES = {
    "bert": bert,
    "vit": vit,
    "gpt2": gpt2,
    "gpt2_scanned": lambda: gpt2(scan_layers=True),
    "resnet": resnet,
}


def random_variables(model, inputs):
    shapes = jax.eval_shape(lambda key: model.init(key, jnp.asarray(inputs)), jax.random.key(0))
    rng = np.random.default_rng(2)

    def drawn(path, leaf):
        values = 0.1 * rng.normal(size=leaf.shape).astype(np.float32)
        # Variances and scales about 1.
        return 1 + np.abs(values) if path[-1].key in ("scale", "var") else values

    return jax.tree_util.tree_map_with_path(drawn, shapes)


def their_logits(other, inputs):
    other.eval()
    with torch.no_grad():
        if inputs.ndim == 4:
            given = torch.from_numpy(np.moveaxis(inputs, -1, 1).copy())
            return other(pixel_values=given).logits.numpy()
        return other(torch.from_numpy(inputs)).logits.numpy()


def near(got, expected):
    got, expected = np.asarray(got, np.float64), np.asarray(expected, np.float64)
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("shard", [None, 20_000], ids=["whole", "sharded"])
@pytest.mark.parametrize("name", CASES)
def test_exported_to_transformers(name, shard, tmp_path):
    model, kind, config, inputs = CASES[name]()
    variables = random_variables(model, inputs)
    files = weights.export(variables, tmp_path, model, max_shard_size=shard)
    assert (len(files) > 2) == (shard is not None)
    config.save_pretrained(tmp_path)
    other, info = kind.from_pretrained(tmp_path, output_loading_info=True)
    counters = {key for key in info["missing_keys"] if "num_batches_tracked" not in key}
    assert counters <= TIED
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    near(their_logits(other, inputs), jax.jit(model.apply)(variables, inputs))


@pytest.mark.parametrize("shard", ["1GB", "20KB"], ids=["whole", "sharded"])
@pytest.mark.parametrize("name", CASES)
def test_loaded_from_transformers(name, shard, tmp_path):
    model, kind, config, inputs = CASES[name]()
    torch.manual_seed(0)
    other = kind(config)
    other.save_pretrained(tmp_path, max_shard_size=shard)
    variables = weights.load(tmp_path, into=model)
    near(jax.jit(model.apply)(variables, inputs), their_logits(other, inputs))
    # And what is loaded is written again as it was read.
    again = weights.load(weights.export(variables, tmp_path / "b", model)[-1], into=model)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), variables, again))

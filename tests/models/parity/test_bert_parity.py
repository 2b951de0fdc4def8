"""BERT against ``transformers``: each head's outputs, losses, gradients, counts, files both ways.

Random weights are moved across, scales and biases included, in float32.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import losses, objectives, weights
from jaxdl.errors import CheckpointError
from jaxdl.models import (
    BERT,
    BERTClassifier,
    BERTMaskedLM,
    BERTPretraining,
    BERTTagger,
    bert_base,
    bert_large,
    bert_tiny,
)

pytestmark = pytest.mark.slow

torch = pytest.importorskip("torch", reason="`make slow` installs PyTorch")
transformers = pytest.importorskip("transformers", reason="`make slow` installs transformers")

V, D, N, LAYERS, LENGTH, K = 97, 48, 4, 2, 24, 5
RNG = np.random.default_rng(0)
TOKENS = RNG.integers(1, V, (3, 20))
TYPES = np.sort(RNG.integers(0, 2, (3, 20)), axis=1)
MASK = (np.arange(20)[None] < np.array([[20], [13], [6]])).astype(np.int32)
CHOSEN = (RNG.random((3, 20)) < 0.4) & (MASK == 1)
LABELS = RNG.integers(0, K, (3, 20))
GIVEN = {"token_types": TYPES, "mask": MASK}


def encoder(**options):
    sizes = {"vocab_size": V, "num_layers": LAYERS, "num_heads": N, "hidden_dim": D}
    return BERT(**{**sizes, "max_length": LENGTH, "dropout_rate": 0.0, **options})


MODELS = {
    "BertModel": lambda **o: encoder(**o),
    "BertForPreTraining": lambda **o: BERTPretraining(encoder(**o)),
    "BertForMaskedLM": lambda **o: BERTMaskedLM(encoder(pooler=False, **o)),
    "BertForSequenceClassification": lambda **o: BERTClassifier(encoder(**o), K),
    "BertForTokenClassification": lambda **o: BERTTagger(encoder(pooler=False, **o), K),
}


@functools.cache
def theirs(name: str):
    """The other implementation in train mode, every tensor of it random, without dropout."""
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=V,
        hidden_size=D,
        num_hidden_layers=LAYERS,
        num_attention_heads=N,
        intermediate_size=4 * D,
        max_position_embeddings=LENGTH,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        num_labels=K,
        attn_implementation="eager",
    )
    model = getattr(transformers, name)(config).float().train()
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.add_(0.1 * torch.randn_like(tensor))
    return model


def run_theirs(name: str):
    out = theirs(name)(
        input_ids=torch.from_numpy(TOKENS),
        token_type_ids=torch.from_numpy(TYPES),
        attention_mask=torch.from_numpy(MASK),
    )
    if name == "BertModel":
        return out.last_hidden_state, out.pooler_output
    if name == "BertForPreTraining":
        return out.prediction_logits, out.seq_relationship_logits
    return (out.logits,)


def run_ours(model, params):
    out = model.apply({"params": params}, TOKENS, **GIVEN, train=True)
    return out if isinstance(out, tuple) else (out,)


def near(got, expected, limit: float) -> None:
    """Equal up to a share of the largest value."""
    got, expected = np.asarray(got, np.float64), np.asarray(expected, np.float64)
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() < limit * np.abs(expected).max()


def near_gradients(got, expected, limit: float = 1e-4) -> None:
    # A bias of all keys moves no weight of attention: its gradient is 0 up to rounding.
    scale = max(np.abs(x).max() for x in jax.tree.leaves(expected))
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert a.shape == b.shape
        assert np.abs(a - b).max() < limit * max(np.abs(b).max(), 0.01 * scale)


def real(out):
    """Outputs of real tokens, and of rows."""
    return out[MASK == 1] if out.ndim == 3 else out


@pytest.mark.parametrize(
    ("name", "scan_layers"), [*((name, False) for name in MODELS), ("BertForPreTraining", True)]
)
def test_outputs_and_gradients(name, scan_layers):
    """Those of a loss over all outputs that mean something."""
    model = MODELS[name](scan_layers=scan_layers)
    params = weights.convert(dict(theirs(name).state_dict()), into=model)["params"]

    @functools.partial(jax.value_and_grad, has_aux=True)
    def run(params):
        outputs = [real(out) for out in run_ours(model, params)]
        return sum(jnp.mean(jnp.sin(3.0 * out)) for out in outputs), outputs

    (loss, outputs), grads = jax.jit(run)(jax.tree.map(jnp.asarray, params))
    theirs(name).zero_grad()
    others = [real(out) for out in run_theirs(name)]
    expected = sum(torch.sin(3.0 * out).mean() for out in others)
    expected.backward()
    for got, other in zip(outputs, others, strict=True):
        near(got, other.detach(), 1e-5)
    assert abs(float(loss) - expected.item()) < 1e-5
    given = {n: p.grad for n, p in theirs(name).named_parameters()}
    near_gradients(grads, weights.convert(given, into=model, collections=("params",))["params"])


@pytest.mark.parametrize("name", MODELS)
def test_counts(name):
    model = MODELS[name]()
    shapes = jax.eval_shape(lambda key: model.init(key, TOKENS), jax.random.key(0))
    assert sum(x.size for x in jax.tree.leaves(shapes)) == theirs(name).num_parameters()


@pytest.mark.parametrize(
    ("make", "layers", "width"),
    [(bert_tiny, 2, 128), (bert_base, 12, 768), (bert_large, 24, 1024)],
)
def test_published_counts(make, layers, width):
    config = transformers.BertConfig(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        intermediate_size=4 * width,
    )
    with torch.device("meta"):
        expected = transformers.BertModel(config).num_parameters()
    shapes = jax.eval_shape(make().init, jax.random.key(0), jnp.zeros((1, 1), int))
    assert sum(x.size for x in jax.tree.leaves(shapes)) == expected
    assert make().num_heads == width // 64


def test_losses_are_their_own():
    """That of a class a row, and that of pretraining at given places."""
    name = "BertForSequenceClassification"
    call = {
        "input_ids": torch.from_numpy(TOKENS),
        "token_type_ids": torch.from_numpy(TYPES),
        "attention_mask": torch.from_numpy(MASK),
    }
    expected = theirs(name)(**call, labels=torch.from_numpy(LABELS[:, 0])).loss
    model = MODELS[name]()
    params = weights.convert(dict(theirs(name).state_dict()), into=model)["params"]
    objective = objectives.supervised(model, losses.softmax_cross_entropy, inputs="tokens")
    batch = {"tokens": TOKENS, "label": LABELS[:, 0], **GIVEN}
    total, aux = objective.loss(params, {}, batch, jax.random.key(0), train=True)
    near(total / aux.weight, expected.detach(), 1e-5)

    name = "BertForPreTraining"
    asked = np.where(CHOSEN, TOKENS, -100)
    expected = theirs(name)(
        **call,
        labels=torch.from_numpy(asked),
        next_sentence_label=torch.from_numpy(LABELS[:, 1] % 2),
    ).loss
    model = MODELS[name]()
    params = weights.convert(dict(theirs(name).state_dict()), into=model)["params"]
    words, follows = model.apply({"params": params}, TOKENS, **GIVEN)
    theirs(name).eval()
    with torch.no_grad():
        others = run_theirs(name)
    theirs(name).train()
    for got, other in zip((words, follows), others, strict=True):
        near(real(got), real(other), 1e-5)
    masked = losses.softmax_cross_entropy(words, TOKENS)[CHOSEN].mean()
    sentences = losses.softmax_cross_entropy(follows, LABELS[:, 1] % 2).mean()
    near(masked + sentences, expected.detach(), 1e-5)


@pytest.mark.parametrize("name", ["BertModel", "BertForPreTraining"])
def test_files_both_ways(name, tmp_path):
    theirs(name).save_pretrained(tmp_path / "theirs")
    model = MODELS[name](scan_layers=True)
    variables = weights.load(tmp_path / "theirs", into=model)
    expected = weights.convert(dict(theirs(name).state_dict()), into=model)
    jax.tree.map(np.testing.assert_array_equal, variables, expected)
    weights.export(variables, tmp_path / "ours", model)
    theirs(name).config.save_pretrained(tmp_path / "ours")
    again, report = getattr(transformers, name).from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    for key, tensor in theirs(name).state_dict().items():
        assert torch.equal(again.state_dict()[key], tensor), key


def test_pretrained_weights_under_a_new_head(tmp_path):
    theirs("BertForPreTraining").save_pretrained(tmp_path)
    model = MODELS["BertForSequenceClassification"]()
    start = model.init(jax.random.key(0), TOKENS)
    with pytest.raises(CheckpointError, match=r"classifier\.weight is missing"):
        weights.load(tmp_path, into=model)
    params = weights.load(tmp_path, into=model, start=start, fresh="^classifier/")["params"]
    jax.tree.map(np.testing.assert_array_equal, params["classifier"], start["params"]["classifier"])
    whole = weights.load(tmp_path, into=MODELS["BertForPreTraining"]())["params"]
    jax.tree.map(np.testing.assert_array_equal, params["bert"], whole["bert"])
    bare = weights.load(tmp_path, into=encoder())["params"]
    jax.tree.map(np.testing.assert_array_equal, bare, whole["bert"])

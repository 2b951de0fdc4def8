"""Weights in and out of safetensors: values, layouts of files, and everything that may be wrong."""

from __future__ import annotations

import json
import pickle
import sys
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from jax.sharding import NamedSharding, PartitionSpec

from jaxdl import objectives, weights
from jaxdl.errors import CheckpointError, ConfigError, DamagedError, DataError
from jaxdl.models import GPT, ResNet

SIZES = {"vocab_size": 11, "num_layers": 3, "num_heads": 2, "hidden_dim": 8, "max_length": 5}
MODEL, SCANNED = GPT(**SIZES), GPT(**SIZES, scan_layers=True)


def small(classes):
    return ResNet(stage_sizes=(1, 1), bottleneck=False, width=4, num_classes=classes)


def random_like(shapes):
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)


def variables_of(model, inputs):
    return random_like(jax.eval_shape(lambda key: model.init(key, inputs), jax.random.key(0)))


@pytest.fixture(scope="module")
def variables():
    return variables_of(MODEL, jnp.zeros((1, 1), int))


@pytest.fixture(scope="module")
def tensors(variables):
    return weights.named(variables, MODEL)


def same(got, expected):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def saved(tensors, path):
    safetensors.numpy.save_file(dict(tensors), path)
    return path


def test_names_and_places(variables, tensors):
    assert len(tensors) == 2 + 3 * 12 + 2
    joined = tensors["transformer.h.1.attn.c_attn.weight"]
    attention = variables["params"]["block_1"]["attention"]
    np.testing.assert_array_equal(joined[:, 8:16], attention["key"]["kernel"])
    bias = tensors["transformer.h.1.attn.c_attn.bias"]
    np.testing.assert_array_equal(bias[16:], attention["value"]["bias"])


@pytest.mark.parametrize("model", [MODEL, SCANNED], ids=["unrolled", "scanned"])
def test_there_and_back(model, tensors):
    got = weights.convert(tensors, into=model)
    again = weights.named(got, model)
    same({name: again[name] for name in tensors}, dict(tensors))
    if model is SCANNED:
        assert got["params"]["blocks"]["mlp_in"]["kernel"].shape == (3, 8, 32)


def test_conversion_is_traced_and_linear(tensors):
    traced = jax.jit(lambda t: weights.convert(t, into=SCANNED))(dict(tensors))
    same(jax.tree.map(np.asarray, traced), weights.convert(tensors, into=SCANNED))


@pytest.mark.parametrize("model", [MODEL, SCANNED], ids=["unrolled", "scanned"])
@pytest.mark.parametrize("limit", [None, 2000])
def test_files(model, limit, tensors, tmp_path):
    expected = weights.convert(tensors, into=model)
    files = weights.export(expected, tmp_path / "out", model, max_shard_size=limit)
    assert (len(files) == 1) == (limit is None)
    same(weights.load(tmp_path / "out", into=model), expected)
    same(weights.load(files[-1], into=model), expected)
    assert not [p for p in (tmp_path / "out").iterdir() if p.name.startswith(".")]
    with pytest.raises(ConfigError, match="there already"):
        weights.export(expected, tmp_path / "out", model, max_shard_size=limit)
    if limit is None:
        assert weights.export(expected, tmp_path / "out", model, overwrite=True) == files
    else:
        index = json.loads(files[-1].read_text())
        assert index["metadata"]["total_size"] == sum(x.nbytes for x in tensors.values())
        assert all(file.stat().st_size < 2000 + 2000 for file in files[:-1])


@pytest.mark.parametrize("table", [weights.resnet, weights.torchvision_resnet])
def test_resnet_of_both_kinds_of_names(table, tmp_path):
    model = small(3)
    expected = variables_of(model, jnp.zeros((1, 32, 32, 3)))
    given = weights.named(expected, model, names=table)
    counters = {
        name.replace("running_mean", "num_batches_tracked"): np.array(7)
        for name in given
        if name.endswith("running_mean")
    }
    same(
        weights.load(saved({**given, **counters}, tmp_path / "r.safetensors"), into=model), expected
    )
    params = {name: x for name, x in given.items() if "running" not in name}
    got = weights.convert(params, into=model, collections=("params",))
    same(got, {"params": expected["params"]})
    kernel = expected["params"]["stem"]["conv"]["kernel"]
    name = (
        "conv1.weight"
        if table is weights.torchvision_resnet
        else ("resnet.embedder.embedder.convolution.weight")
    )
    np.testing.assert_array_equal(given[name][1, 2, 3, 4], kernel[3, 4, 2, 1])


def test_names_as_files_have_them(variables, tensors, tmp_path):
    """Without the prefix, behind a wrapper's, with buffers and the head a second time."""
    plain = {name.removeprefix("transformer."): x for name, x in tensors.items()}
    old = {
        **{f"h.{i}.attn.bias": np.tri(5, dtype=np.float32)[None, None] for i in range(3)},
        **{f"h.{i}.attn.masked_bias": np.array(-1e4, np.float32) for i in range(3)},
        "lm_head.weight": tensors["transformer.wte.weight"],
    }
    same(weights.convert({**plain, **old}, into=MODEL), variables)
    same(weights.convert({f"module.{n}": x for n, x in tensors.items()}, into=MODEL), variables)
    path = saved(
        {**plain, **old, "lm_head.weight": 2 * old["lm_head.weight"]}, tmp_path / "a.safetensors"
    )
    with pytest.raises(CheckpointError, match="is not wte.weight"):
        weights.load(path, into=MODEL)


def test_dtypes(tensors, tmp_path):
    half = {name: x.astype(ml_dtypes.bfloat16) for name, x in tensors.items()}
    path = saved(half, tmp_path / "half.safetensors")
    kept = weights.load(path, into=MODEL)
    assert {x.dtype for x in jax.tree.leaves(kept)} == {np.dtype(ml_dtypes.bfloat16)}
    cast = weights.load(path, into=SCANNED, dtype=jnp.float32)
    same(cast, weights.convert({n: x.astype(np.float32) for n, x in half.items()}, into=SCANNED))


def test_shardings(tensors, tmp_path):
    path = saved(tensors, tmp_path / "a.safetensors")
    mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(jax.sharding.AxisType.Auto,))
    whole = NamedSharding(mesh, PartitionSpec())
    expected = weights.convert(tensors, into=SCANNED)
    tree = jax.tree.map(lambda _: whole, expected)
    cut = NamedSharding(mesh, PartitionSpec(None, "fsdp"))
    tree["params"]["blocks"]["mlp_in"]["kernel"] = cut
    got = weights.load(path, into=SCANNED, shardings=tree)
    assert got["params"]["blocks"]["mlp_in"]["kernel"].sharding == cut
    same(jax.tree.map(np.asarray, got), expected)
    same(jax.tree.map(np.asarray, weights.load(path, into=SCANNED, shardings=whole)), expected)


def test_a_fresh_head(tmp_path):
    old, new = small(3), small(5)
    before = variables_of(old, jnp.zeros((1, 32, 32, 3)))
    path = saved(weights.named(before, old), tmp_path / "a.safetensors")
    start = jax.tree.map(jnp.ones_like, variables_of(new, jnp.zeros((1, 32, 32, 3))))
    with pytest.raises(CheckpointError, match=r"classifier.1.bias is \[3\], the model has \[5\]"):
        weights.load(path, into=new)
    got = weights.load(path, into=new, start=start, fresh="^head/")
    same(got["params"]["head"], start["params"]["head"])
    same(got["params"]["stem"], before["params"]["stem"])
    with pytest.raises(CheckpointError, match="finds no leaf"):
        weights.load(path, into=new, start=start, fresh=("^head/", "^haed/"))
    with pytest.raises(ConfigError, match="come together"):
        weights.load(path, into=new, fresh="^head/")


def test_all_that_does_not_fit_is_listed(tensors):
    wrong = dict(tensors)
    wrong["transformer.h.0.mlp.c_fc.wieght"] = wrong.pop("transformer.h.0.mlp.c_fc.weight")
    wrong["transformer.wpe.weight"] = np.zeros((6, 8), np.float32)
    wrong["extra"] = np.zeros(3)
    with pytest.raises(CheckpointError) as info:
        weights.convert(wrong, into=MODEL)
    for text in (
        "c_fc.weight is missing; did you mean 'transformer.h.0.mlp.c_fc.wieght'?",
        "transformer.wpe.weight is [6, 8], the model has [5, 8]",
        "extra is left over",
    ):
        assert text in str(info.value)
    with pytest.raises(CheckpointError, match="h.3.ln_1.weight is left over"):
        weights.convert(
            weights.named(
                variables_of(GPT(**{**SIZES, "num_layers": 4}), jnp.zeros((1, 1), int)),
                GPT(**{**SIZES, "num_layers": 4}),
            ),
            into=MODEL,
        )


def test_leftovers_may_be_ignored(variables, tensors, tmp_path):
    path = saved({**tensors, "score.weight": np.zeros(3)}, tmp_path / "a.safetensors")
    same(weights.load(path, into=MODEL, ignore="^score"), variables)


def test_variables_of_another_model(variables, tmp_path):
    with pytest.raises(CheckpointError, match=r"mlp_in/kernel is \[8, 32\]"):
        weights.export(variables, tmp_path / "a.safetensors", GPT(**{**SIZES, "mlp_dim": 16}))
    with pytest.raises(CheckpointError, match="'params'"):
        weights.export(variables["params"], tmp_path / "a.safetensors", MODEL)
    assert not list(tmp_path.iterdir())


def test_broken_files(tensors, tmp_path):
    path = saved(tensors, tmp_path / "a.safetensors")
    whole = path.read_bytes()
    for content in (b"", whole[:4], whole[:100], whole[:-1], b"\xff" * 100, whole + b"x"):
        path.write_bytes(content)
        with pytest.raises(DamagedError, match="a.safetensors"):
            weights.load(path, into=MODEL)
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(DamagedError, match="LFS"):
        weights.load(path, into=MODEL)
    with pytest.raises(CheckpointError, match="there is no"):
        weights.load(tmp_path / "none", into=MODEL)
    with pytest.raises(CheckpointError, match="holds no model.safetensors"):
        weights.load(tmp_path, into=MODEL)


class Trap:
    def __reduce__(self):
        return (sys.exit, (3,))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "a.pt", "a.safetensors"])
def test_pickles_are_refused_unread(name, tmp_path):
    path = tmp_path / name
    path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ConfigError, match=r"safetensors\.torch\.save_file"):
        weights.load(path, into=MODEL)
    if name.endswith(".bin"):
        with pytest.raises(ConfigError, match="pytorch_model.bin"):
            weights.load(tmp_path, into=MODEL)


@pytest.mark.parametrize(
    "file",
    [
        "../a.safetensors",
        "/etc/a.safetensors",
        "x/a.safetensors",
        "..",
        "a.bin",
        3,
        "x\\a.safetensors",
    ],
)
def test_an_index_points_nowhere_else(file, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    saved({"x": np.zeros(2)}, tmp_path / "a.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": file}}))
    with pytest.raises(DamagedError, match="names the file"):
        weights.load(folder, into=MODEL)


def test_incomplete_sets(variables, tmp_path):
    files = weights.export(variables, tmp_path, MODEL, max_shard_size=2000)
    index = files[-1]
    whole = index.read_text()
    for text in ("", "[]", "{}", '{"weight_map": 3}', whole[:-5]):
        index.write_text(text)
        with pytest.raises(DamagedError, match="index"):
            weights.load(tmp_path, into=MODEL)
    held = json.loads(whole)
    held["weight_map"]["ghost"] = files[0].name
    index.write_text(json.dumps(held))
    with pytest.raises(DamagedError, match="ghost"):
        weights.load(tmp_path, into=MODEL)
    index.write_text(whole)
    files[1].unlink()
    with pytest.raises(CheckpointError, match=files[1].name):
        weights.load(tmp_path, into=MODEL)
    with pytest.raises(ConfigError, match="one file"):
        weights.export(variables, tmp_path / "b.safetensors", MODEL, max_shard_size=2000)


class Own(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(2, name="out")(nn.Dense(3, name="first")(x.reshape(len(x), -1)))


def own(model):
    del model
    return weights.Names(
        rules=(
            weights.Rule("first/kernel", "fc.weight", weights.flattened(2, 2)),
            weights.Rule("first/bias", "fc.bias", weights.shaped(lambda shape: (1, *shape))),
            *weights.dense("out", "last"),
        ),
        inputs=lambda _: (jnp.zeros((1, 2, 2, 5)),),
        renames=((r"\.gamma$", ".weight"),),
    )


def test_a_table_of_ones_own():
    model = Own()
    variables = variables_of(model, jnp.zeros((1, 2, 2, 5)))
    with pytest.raises(ConfigError, match="no name table for Own"):
        weights.named(variables, model)
    given = weights.named(variables, model, names=own)
    assert given["fc.bias"].shape == (1, 3)
    same(weights.convert(given, into=model, names=own), variables)
    given["fc.gamma"] = given.pop("fc.weight")
    same(weights.convert(given, into=model, names=own(model)), variables)
    # The kernel of a layer on a flattened image, by what it computes.
    image = np.random.default_rng(1).normal(size=(1, 2, 2, 5)).astype(np.float32)
    want = np.moveaxis(image, -1, 1).reshape(1, -1) @ given["fc.gamma"].T
    got = image.reshape(1, -1) @ variables["params"]["first"]["kernel"]
    np.testing.assert_allclose(got, want, rtol=1e-5)
    short = weights.Names(rules=weights.dense("out", "last"), inputs=own(model).inputs)
    with pytest.raises(ConfigError, match="first/bias: 0 rules"):
        weights.convert(given, into=model, names=short)


def test_download(monkeypatch, tmp_path):
    asked = {}

    def snapshot_download(repository, **options):
        asked.update(options, repository=repository)
        return str(tmp_path)

    stand_in = types.SimpleNamespace(snapshot_download=snapshot_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", stand_in)
    for revision in ("main", "v1.0", "abc123", "A" * 40):
        with pytest.raises(ConfigError, match="commit"):
            weights.download("openai-community/gpt2", revision=revision)
    with pytest.raises(ConfigError, match="OWNER/NAME"):
        weights.download("../gpt2", revision="a" * 40)
    assert not asked
    with pytest.raises(DataError, match="holds no safetensors"):
        weights.download("openai-community/gpt2", revision="a" * 40)
    (tmp_path / "model.safetensors").touch()
    assert weights.download("openai-community/gpt2", revision="a" * 40) == tmp_path
    assert asked["revision"] == "a" * 40
    assert not [
        pattern for pattern in asked["allow_patterns"] if "bin" in pattern or "pt" in pattern
    ]


def test_a_run_starts_from_weights(variables, tensors, tmp_path):
    import optax

    import jaxdl

    path = saved(tensors, tmp_path / "a.safetensors")
    objective = objectives.language_model(MODEL)
    loaded = weights.load(path, into=MODEL)
    started = objective._replace(init=lambda key, batch: (loaded["params"], {}))
    step = jaxdl.jit(jaxdl.make_train_step(started, optax.sgd(0.0)))
    batch = {"tokens": np.zeros((8, 5), np.int32)}
    state = step.init(jax.random.key(0), batch)
    state, _ = step.update(state, batch)
    same(jax.tree.map(np.asarray, state.params), variables["params"])

"""FLOPs of whole train steps against formulas worked out by hand; nothing is compiled or run.

A train step is forward and backward, loss, optimizer and metrics. Each product of the forward pass
has two in the backward pass, but for the first layer, whose input needs no gradient.
"""

from __future__ import annotations

import functools
import itertools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

import jaxdl
from jaxdl import gradients, losses, models, objectives
from jaxdl.models.gpt import SCANNED_TENSOR_RULES, TENSOR_RULES
from jaxdl.tpu import count_flops, count_jaxpr
from jaxdl.tpu.programs.contractions import CONTRACTIONS

ROWS = 64
NEAR = 0.01


def like(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def step_flops(objective, batch, *, microbatches=None, layout=None, devices=None, **options):
    """Of the whole step: pure, or placed and traced on abstract state."""
    gradient = None if microbatches is None else gradients.accumulate(microbatches)
    step = jaxdl.make_train_step(objective, optax.adamw(1e-3), gradient=gradient, **options)
    if layout is None:
        state = jax.eval_shape(step.init, jax.random.key(0), batch)
        return count_flops(step.update, state, batch)
    placed = jaxdl.jit(step, layout=layout, devices=devices)
    return count_jaxpr(placed.trace(placed.abstract_state(batch), batch).jaxpr)


def image_objective(model):
    return jaxdl.supervised(model, losses.softmax_cross_entropy)


def image_batch(*shape):
    return {"image": like(ROWS, *shape), "label": like(ROWS, dtype=jnp.int32)}


# --- MLP ---------------------------------------------------------------------------------------

SIZES = (784, 512, 256, 10)
MLP_FORWARD = 2 * ROWS * sum(a * b for a, b in itertools.pairwise(SIZES))
MLP_STEP = 3 * MLP_FORWARD - 2 * ROWS * SIZES[0] * SIZES[1]


@pytest.mark.parametrize("microbatches", [None, 4])
@pytest.mark.parametrize("layout", [None, jaxdl.data_parallel(), jaxdl.fsdp()])
def test_mlp(devices, microbatches, layout):
    objective, batch = image_objective(models.MLP(SIZES[1:])), image_batch(28, 28, 1)
    flops = step_flops(
        objective, batch, microbatches=microbatches, layout=layout, devices=devices, ema_decay=0.9
    )
    assert flops.model == flops.total == pytest.approx(MLP_STEP, rel=NEAR)
    assert flops.notes == ()


# --- ResNet ------------------------------------------------------------------------------------


def convolutions(depths, side, *, bottleneck):
    """Of each convolution: taps on a side, channels in and out, outputs on a side."""
    side = -(-side // 2)
    found = [(7, 3, 64, side)]
    side, channels = -(-side // 2), 64
    for stage, depth in enumerate(depths):
        width = 64 * 2**stage
        for block in range(depth):
            before = side
            if stage and not block:
                side = -(-side // 2)
            out = 4 * width if bottleneck else width
            if bottleneck:
                found += [(1, channels, width, before), (3, width, width, side)]
                found.append((1, width, out, side))
            else:
                found += [(3, channels, width, side), (3, width, width, side)]
            if before != side or channels != out:
                found.append((1, channels, out, side))
            channels = out
    return found, channels


def resnet_forward(depths, side, classes, *, bottleneck):
    """Of the stem, and of everything, for one image."""
    found, channels = convolutions(depths, side, bottleneck=bottleneck)
    each = [2 * taps**2 * read * made * out**2 for taps, read, made, out in found]
    return each[0], sum(each) + 2 * channels * classes


RESNETS = {
    "resnet18": ((2, 2, 2, 2), False, 1.82e9),
    "resnet34": ((3, 4, 6, 3), False, 3.67e9),
    "resnet50": ((3, 4, 6, 3), True, 4.09e9),
    "resnet101": ((3, 4, 23, 3), True, 7.80e9),
    "resnet152": ((3, 8, 36, 3), True, 11.51e9),
}


@pytest.mark.parametrize("name", RESNETS)
def test_formula_gives_the_published_multiply_adds(name):
    """Those of torchvision's table of models, at 224 x 224; version 1.5."""
    depths, bottleneck, published = RESNETS[name]
    _, forward = resnet_forward(depths, 224, 1000, bottleneck=bottleneck)
    assert forward / 2 == pytest.approx(published, rel=NEAR)


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("resnet18", 224),
        *(
            pytest.param(name, side, marks=pytest.mark.slow)
            for name in ("resnet34", "resnet50", "resnet152")
            for side in (64, 224, 225)
        ),
    ],
)
def test_resnet_forward(name, side):
    depths, bottleneck, _ = RESNETS[name]
    model = getattr(models, name)()
    variables = jax.eval_shape(model.init, jax.random.key(0), like(1, side, side, 3))
    _, forward = resnet_forward(depths, side, 1000, bottleneck=bottleneck)
    flops = count_flops(model.apply, variables, like(ROWS, side, side, 3))
    assert flops.total == pytest.approx(ROWS * forward, rel=NEAR)


@functools.cache
def resnet50_step(side=224):
    stem, forward = resnet_forward((3, 4, 6, 3), side, 1000, bottleneck=True)
    return ROWS * stem, ROWS * forward, ROWS * (3 * forward - stem)


@pytest.mark.parametrize(
    ("remat", "microbatches", "layout"),
    [
        (None, None, None),
        *(
            pytest.param(*each, marks=pytest.mark.slow)
            for each in (
                ("full", None, None),
                ("dots", None, None),
                (None, 4, None),
                ("full", 2, jaxdl.fsdp()),
                (None, None, jaxdl.data_parallel()),
            )
        ),
    ],
)
def test_resnet50_step(devices, remat, microbatches, layout):
    stem, forward, whole = resnet50_step()
    flops = step_flops(
        image_objective(models.resnet50(remat=remat)),
        image_batch(224, 224, 3),
        microbatches=microbatches,
        layout=layout,
        devices=devices,
    )
    assert flops.model == pytest.approx(whole, rel=NEAR)
    assert flops.total == flops.model + flops.recomputed
    if remat == "full":
        # Every block again; not the stem, nor the head.
        head = 2 * ROWS * 2048 * 1000
        assert flops.recomputed == pytest.approx(forward - stem - head, rel=NEAR)
    else:
        assert flops.recomputed == 0


@pytest.mark.slow
def test_padding_and_half_precision_change_no_count():
    batch = {**image_batch(224, 224, 3), "mask": like(ROWS)}
    flops = step_flops(image_objective(models.resnet50(dtype=jnp.bfloat16)), batch)
    assert flops.total == pytest.approx(resnet50_step()[2], rel=NEAR)


# --- GPT ---------------------------------------------------------------------------------------

V, L, D, T = 50_304, 3, 768, 1024
GPT_ROWS = 8


def gpt_step(layers=L, hidden=D, vocabulary=V, length=T):
    """6 N + 12 L D T a token: N the weights of dense layers and the tied head, attention whole."""
    weights = 12 * layers * hidden**2 + vocabulary * hidden
    return GPT_ROWS * length * (6 * weights + 12 * layers * hidden * length)


def gpt_flops(*, chunk_size=None, length=T, model=models.gpt2_124m, **options):
    names = ("scan_layers", "remat", "dtype", "num_layers")
    chosen = {name: options.pop(name) for name in names if name in options}
    built = model(**{"vocab_size": V, "max_length": length, "num_layers": L, **chosen})
    objective = objectives.language_model(built, chunk_size=chunk_size)
    tokens = {"tokens": like(GPT_ROWS, length + 1, dtype=jnp.int32)}
    return step_flops(objective, tokens, **options)


@pytest.mark.parametrize(
    ("scan_layers", "remat", "microbatches"),
    [
        (False, None, None),
        (True, "full", None),
        *(
            pytest.param(*each, marks=pytest.mark.slow)
            for each in itertools.product(
                (False, True), (None, "full", "dots_no_batch", "dots"), (None, 4)
            )
        ),
    ],
)
def test_gpt(scan_layers, remat, microbatches):
    flops = gpt_flops(scan_layers=scan_layers, remat=remat, microbatches=microbatches)
    assert flops.model == pytest.approx(gpt_step(), rel=NEAR)
    assert flops.total == flops.model + flops.recomputed
    # What is made again a layer and token: three products of the attention, its output's, the
    # first of the dense layers, and the scores and their use; not the last, which nobody asks for.
    products, scores = GPT_ROWS * T * 2 * 8 * D**2, GPT_ROWS * T * 4 * D * T
    expected = {None: 0, "full": products + scores, "dots_no_batch": scores, "dots": 0}[remat]
    assert flops.recomputed == pytest.approx(L * expected, rel=0.02)


LAYOUTS = {
    "data": jaxdl.data_parallel(),
    "zero1": jaxdl.zero1(),
    "fsdp": jaxdl.fsdp(),
    "tensor": jaxdl.tensor_parallel(TENSOR_RULES, tensor=4),
    "fsdp_tensor": jaxdl.layout(
        mesh={"fsdp": -1, "tensor": 2}, rules=TENSOR_RULES, shard_axis="fsdp"
    ),
}


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("fsdp_tensor", 8),
        *(
            pytest.param(name, count, marks=pytest.mark.slow)
            for name, count in (("data", 1), ("fsdp", 1), *((name, 8) for name in LAYOUTS))
        ),
    ],
)
def test_gpt_placed(devices, name, count):
    flops = gpt_flops(layout=LAYOUTS[name], devices=devices[:count], dtype=jnp.bfloat16)
    assert flops.model == flops.total == pytest.approx(gpt_step(), rel=NEAR)


@pytest.mark.slow
def test_gpt_scanned_placed_with_microbatches(devices):
    layout = jaxdl.tensor_parallel(SCANNED_TENSOR_RULES, tensor=2)
    flops = gpt_flops(
        layout=layout, devices=devices, scan_layers=True, remat="full", microbatches=2
    )
    assert flops.model == pytest.approx(gpt_step(), rel=NEAR)


def test_logits_that_are_never_held_are_made_again():
    flops = gpt_flops(chunk_size=128, scan_layers=True)
    assert flops.model == pytest.approx(gpt_step(), rel=NEAR)
    assert flops.recomputed == pytest.approx(2 * GPT_ROWS * T * D * V, rel=NEAR)


def test_gpt_of_another_size_and_length():
    flops = gpt_flops(model=models.gpt2_1_5b, num_layers=48, length=512, scan_layers=True)
    assert flops.total == pytest.approx(gpt_step(48, 1600, length=512), rel=NEAR)


@pytest.mark.parametrize("layout", [0, 1])
def test_fused_attention_counts_what_two_products_do(layout):
    """cuDNN's equations cannot be traced without a GPU, so this one is made by hand."""
    B, T, S, N, H = 2, 6, 10, 3, 8

    def at(length):
        shape = (B, N, length, H) if layout else (B, length, N, H)
        return SimpleNamespace(aval=like(*shape))

    eqn = SimpleNamespace(invars=[at(T), at(S), at(S)], params={"layout": layout})

    def plain(q, k, v):
        return jnp.sum(jnp.einsum("btns,bsnh->btnh", jnp.einsum("btnh,bsnh->btns", q, k), v))

    args = [like(B, length, N, H) for length in (T, S, S)]
    forward = count_flops(plain, *args).total
    whole = count_flops(jax.grad(plain, (0, 1, 2)), *args).total
    assert CONTRACTIONS["dot_product_attention_fwd_wrapper"](eqn) == forward
    assert CONTRACTIONS["dot_product_attention_bwd_wrapper"](eqn) == whole - forward


# --- each device by hand -----------------------------------------------------------------------


def test_a_split_by_hand_counts_the_same(devices):
    mesh = Mesh(np.asarray(devices), ("data",))
    model, batch = models.MLP(SIZES[1:]), like(ROWS, 784)
    params = jax.eval_shape(model.init, jax.random.key(0), batch)

    def loss(params, x):
        return jnp.sum(jnp.square(model.apply(params, x)))

    split = jax.shard_map(
        lambda p, x: jax.lax.psum(jax.grad(loss)(p, x), "data"),
        mesh=mesh,
        in_specs=(P(), P("data")),
        out_specs=P(),
        check_vma=False,
    )
    assert count_flops(split, params, batch).total == pytest.approx(MLP_STEP, rel=NEAR)

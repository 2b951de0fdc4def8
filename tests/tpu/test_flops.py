"""FLOPs counted in the jaxpr against formulas worked out by hand."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from jaxdl.tpu import count_flops, count_jaxpr


def like(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def near(found: int, formula: float) -> None:
    assert found == pytest.approx(formula, rel=0.01)


def test_one_product_is_two_flops_for_each_multiply_add():
    flops = count_flops(jnp.dot, like(8, 16), like(16, 4))
    assert flops.total == flops.model == 2 * 8 * 16 * 4
    assert flops.by_primitive == {"dot_general": 1024}
    assert flops.recomputed == 0
    assert flops.notes == ()


def test_batched_product():
    flops = count_flops(lambda a, b: jnp.einsum("bntd,bnsd->bnts", a, b), *[like(2, 3, 5, 7)] * 2)
    assert flops.total == 2 * 2 * 3 * 5 * 5 * 7


def test_elementwise_is_free():
    assert count_flops(lambda x: jnp.tanh(x) + x.sum(), like(8, 8)).total == 0


# --- MLP ---------------------------------------------------------------------------------------

SIZES = (784, 512, 128, 10)
ROWS = 64


def mlp_loss(params, x):
    for w in params[:-1]:
        x = jax.nn.relu(x @ w)
    return jnp.square(x @ params[-1]).sum()


MLP = [like(a, b) for a, b in itertools.pairwise(SIZES)]
MLP_FORWARD = 2 * ROWS * sum(a * b for a, b in itertools.pairwise(SIZES))


def test_mlp_forward_and_backward():
    near(count_flops(mlp_loss, MLP, like(ROWS, 784)).total, MLP_FORWARD)
    # The backward pass makes two products of each, but none for the gradient of the input.
    formula = 3 * MLP_FORWARD - 2 * ROWS * SIZES[0] * SIZES[1]
    near(count_flops(jax.grad(mlp_loss), MLP, like(ROWS, 784)).total, formula)


def test_jit_vmap_and_traced_programs_count_the_same():
    plain = count_flops(jax.grad(mlp_loss), MLP, like(ROWS, 784))
    jitted = jax.jit(jax.grad(mlp_loss))
    assert count_flops(jitted, MLP, like(ROWS, 784)).total == plain.total
    assert count_jaxpr(jitted.trace(MLP, like(ROWS, 784)).jaxpr).total == plain.total
    by_row = jax.vmap(mlp_loss, in_axes=(None, 0))
    assert count_flops(by_row, MLP, like(ROWS, 784)).total == MLP_FORWARD


def test_microbatches_cost_what_the_batch_costs():
    from jaxdl.gradients import accumulate, mean
    from jaxdl.protocols import Aux, Objective

    def loss(params, model_state, batch, key, *, train):
        del key, train
        return mlp_loss(params, batch["x"]), Aux(float(len(batch["x"])), model_state, {})

    objective = Objective(lambda key, batch: (MLP, {}), loss)
    batch, key = {"x": like(ROWS, 784)}, jax.random.key(0)
    whole = count_flops(mean()(objective), MLP, {}, batch, key)
    parts = count_flops(accumulate(8)(objective), MLP, {}, batch, key)
    assert whole.total == parts.total > 0


def test_train_step_by_layer():
    import optax

    import jaxdl
    from jaxdl import losses, models

    step = jaxdl.make_train_step(
        jaxdl.supervised(models.MLP((512, 10)), losses.softmax_cross_entropy), optax.adam(1e-3)
    )
    batch = {"image": like(ROWS, 784), "label": like(ROWS, dtype=jnp.int32)}
    state = jax.eval_shape(step.init, jax.random.key(0), batch)
    flops = count_flops(step.update, state, batch)
    first, last = 2 * ROWS * 784 * 512, 2 * ROWS * 512 * 10
    assert flops.by_scope == {"MLP/dense_0": 2 * first, "MLP/dense_1": 3 * last}
    assert flops.total == 2 * first + 3 * last


# --- convolutions ------------------------------------------------------------------------------


def conv(x, w, stride=1, padding="SAME", **options):
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, w, (stride, stride), padding, dimension_numbers=numbers, **options
    )


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize(("taps", "stride"), [(1, 1), (3, 1), (3, 2), (7, 2), (4, 4)])
@pytest.mark.parametrize("groups", [1, 4])
def test_convolution_and_its_gradients(padding, taps, stride, groups):
    x, w = like(2, 28, 28, 8), like(taps, taps, 8 // groups, 12)
    out = -(-28 // stride) if padding == "SAME" else (28 - taps) // stride + 1
    forward = 2 * 2 * out * out * 12 * taps * taps * 8 // groups

    def fn(x, w):
        return conv(x, w, stride, padding, feature_group_count=groups)

    def loss(x, w):
        return jnp.square(fn(x, w)).sum()

    assert count_flops(fn, x, w).total == forward
    near(count_flops(jax.grad(loss, argnums=0), x, w).total, 2 * forward)
    near(count_flops(jax.grad(loss, argnums=1), x, w).total, 2 * forward)


def test_transposed_convolution():
    def fn(x, w):
        return jax.lax.conv_transpose(
            x, w, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    flops = count_flops(fn, like(2, 14, 14, 8), like(4, 4, 8, 12))
    assert flops.total == 2 * 2 * 14 * 14 * 8 * 12 * 4 * 4


def test_depthwise_and_atrous_convolutions():
    flops = count_flops(
        lambda x, w: conv(x, w, feature_group_count=8), like(2, 9, 9, 8), like(3, 3, 1, 8)
    )
    assert flops.total == 2 * 2 * 81 * 8 * 9
    flops = count_flops(
        lambda x, w: conv(x, w, rhs_dilation=(2, 2)), like(2, 9, 9, 8), like(3, 3, 8, 8)
    )
    assert flops.total == 2 * 2 * 81 * 64 * 9


def test_conv_net_forward_and_backward():
    shapes = [(3, 3, 3, 32), (3, 3, 32, 64), (3, 3, 64, 128)]

    def loss(params, x):
        kernels, head = params
        for kernel in kernels:
            x = jax.nn.relu(conv(x, kernel, 2))
        return jnp.square(x.mean((1, 2)) @ head).sum()

    params = ([like(*s) for s in shapes], like(128, 10))
    layers = [
        2 * 16 * side**2 * i * o * 9 for side, (_, _, i, o) in zip((16, 8, 4), shapes, strict=True)
    ]
    layers.append(2 * 16 * 128 * 10)
    near(count_flops(loss, params, like(16, 32, 32, 3)).total, sum(layers))
    formula = 3 * sum(layers) - layers[0]
    near(count_flops(jax.grad(loss), params, like(16, 32, 32, 3)).total, formula)


# --- transformer -------------------------------------------------------------------------------

B, T, D, N, L, V = 2, 64, 32, 4, 6, 100


def block(params, x):
    with jax.named_scope("attention"):
        q, k, v = (y.reshape(B, T, N, D // N) for y in jnp.split(x @ params["qkv"], 3, axis=-1))
        scores = jax.nn.softmax(jnp.einsum("btnd,bsnd->bnts", q, k))
        x = x + jnp.einsum("bnts,bsnd->btnd", scores, v).reshape(B, T, D) @ params["out"]
    with jax.named_scope("mlp"):
        return x + jax.nn.gelu(x @ params["up"]) @ params["down"]


def stack(count):
    sizes = {"qkv": (D, 3 * D), "out": (D, D), "up": (D, 4 * D), "down": (4 * D, D)}
    return {name: like(count, *size) for name, size in sizes.items()}


def decoder(kind, remat):
    one = jax.checkpoint(block) if remat else block

    def loss(params, tokens):
        layers, embedding = params
        x = embedding[tokens]
        if kind == "scan":
            x, _ = jax.lax.scan(lambda x, p: (one(p, x), None), x, layers)
        else:
            for i in range(L):
                x = one(jax.tree.map(lambda p, i=i: p[i], layers), x)
        return jax.nn.logsumexp(x @ embedding.T, axis=-1).sum()

    return loss, ((stack(L), like(V, D)), like(B, T, dtype=jnp.int32))


LAYER = B * (2 * T * 12 * D * D + 4 * T * T * D)
FORWARD = L * LAYER + 2 * B * T * D * V
LAST = 2 * B * T * 4 * D * D


@pytest.mark.parametrize("kind", ["scan", "unrolled"])
@pytest.mark.parametrize("remat", [False, True], ids=["plain", "remat"])
def test_transformer(kind, remat):
    loss, args = decoder(kind, remat)
    near(count_flops(loss, *args).total, FORWARD)
    flops = count_flops(jax.grad(loss), *args)
    # The usual 6 FLOPs a parameter and token, and attention over the full square.
    near(flops.model, 3 * FORWARD)
    # The last product of a block is not needed to differentiate it, so it is not made again.
    near(flops.recomputed, L * (LAYER - LAST) if remat else 0)
    assert flops.total == flops.model + flops.recomputed == sum(flops.by_scope.values())


def test_scopes_are_named_by_layer_in_both_passes():
    loss, args = decoder("scan", remat=True)
    flops = count_flops(jax.grad(loss), *args)
    attention = B * (2 * T * 4 * D * D + 4 * T * T * D)
    mlp = B * 2 * T * 8 * D * D
    assert set(flops.by_scope) == {"attention", "mlp", ""}
    near(flops.by_scope["attention"], L * 4 * attention)
    near(flops.by_scope["mlp"], L * (4 * mlp - LAST))
    near(flops.by_scope[""], 3 * 2 * B * T * D * V)


# --- control flow ------------------------------------------------------------------------------

X = like(16, 16)
ONE = 2 * 16**3


def test_nested_scans_multiply():
    def inner(x, _):
        return x @ x, None

    def outer(x, _):
        return jax.lax.scan(inner, x, None, length=3)[0] @ x, None

    assert count_flops(lambda x: jax.lax.scan(outer, x, None, length=5)[0], X).total == 5 * 4 * ONE


def test_fori_loop_with_known_bounds_is_exact():
    flops = count_flops(lambda x: jax.lax.fori_loop(2, 9, lambda i, x: x @ x, x), X)
    assert flops.total == 7 * ONE
    assert flops.notes == ()


def test_while_of_unknown_length_counts_once_and_says_so():
    def fn(x):
        with jax.named_scope("solver"):
            return jax.lax.while_loop(lambda x: (x @ x).sum() < 1, lambda x: x @ x, x)

    flops = count_flops(fn, X)
    assert flops.total == 2 * ONE
    assert flops.notes == ("a while loop of unknown length counts as one iteration (solver)",)


def test_while_without_products_needs_no_note():
    assert count_flops(lambda key: jax.random.poisson(key, 3.0), jax.random.key(0)).notes == ()


def test_cond_counts_its_dearest_branch():
    branches = [lambda x: x, lambda x: x @ x, lambda x: x @ x @ x]
    flops = count_flops(lambda i, x: jax.lax.switch(i, branches, x), like(dtype=jnp.int32), X)
    assert flops.total == 2 * ONE


def test_custom_derivatives_count_once():
    @jax.custom_vjp
    def square(x):
        return x @ x

    square.defvjp(lambda x: (x @ x, x), lambda x, g: (g @ x.T + x.T @ g,))
    assert count_flops(square, X).total == ONE
    assert count_flops(jax.grad(lambda x: square(x).sum()), X).total == 3 * ONE

    @jax.custom_jvp
    def cube(x):
        return x @ x @ x

    cube.defjvp(lambda xs, ts: (cube(*xs), ts[0] @ xs[0]))
    assert count_flops(cube, X).total == 2 * ONE


def test_shard_map_counts_all_devices(devices):
    mesh = Mesh(np.asarray(devices).reshape(4, 2), ("data", "tensor"))
    rows, both = PartitionSpec("data"), PartitionSpec(("data", "tensor"))
    x, w = like(32, 16), like(16, 16)

    def split(spec):
        specs = {"in_specs": (spec, PartitionSpec()), "out_specs": spec}
        return jax.shard_map(jnp.dot, mesh=mesh, check_vma=False, **specs)

    assert count_flops(split(both), x, w).total == 2 * 32 * 16 * 16
    # Both members of the tensor axis do the same work; it is executed twice.
    assert count_flops(split(rows), x, w).total == 2 * 2 * 32 * 16 * 16


def test_pmap_counts_all_devices():
    assert count_flops(jax.pmap(jnp.dot), like(8, 16, 16), like(8, 16, 16)).total == 8 * ONE


def test_ragged_products():
    groups = like(4, dtype=jnp.int32)
    x, w = like(32, 16), like(4, 16, 8)
    assert count_flops(jax.lax.ragged_dot, x, w, groups).total == 2 * 32 * 16 * 8

    def loss(x, w, groups):
        return jnp.square(jax.lax.ragged_dot(x, w, groups)).sum()

    assert count_flops(jax.grad(loss, (0, 1)), x, w, groups).total == 3 * 2 * 32 * 16 * 8


def test_what_is_not_counted_is_named():
    assert count_flops(jnp.linalg.cholesky, X).notes == ("cholesky is not counted",)


def test_nothing_runs():
    huge = like(1 << 20, 1 << 20)
    assert count_flops(jnp.dot, huge, huge).total == 2 * 2**60

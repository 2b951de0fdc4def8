"""Collectives of real programs, compiled for the 8 CPU devices, against theory."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxdl.tpu import Traffic, read_collectives, summarize


@pytest.fixture(scope="module")
def line(devices):
    return Mesh(np.asarray(devices), ("data",))


@pytest.fixture(scope="module")
def grid(devices):
    return Mesh(np.asarray(devices).reshape(2, 4), ("data", "tensor"))


def like(mesh, shape, *spec):
    return jax.ShapeDtypeStruct(
        shape, jnp.float32, sharding=NamedSharding(mesh, PartitionSpec(*spec))
    )


def collectives(fn, *args, **options):
    return read_collectives(jax.jit(fn, **options).lower(*args).compile().as_text())


def mlp_loss(params, x):
    for w in params:
        x = jnp.tanh(x @ w)
    return jnp.square(x).sum()


SHAPES = [(256, 512), (512, 128), (128, 10)]
GRADIENT_BYTES = 4 * sum(a * b for a, b in SHAPES)


def test_data_parallel_all_reduces_exactly_the_gradient(line):
    params = [like(line, shape) for shape in SHAPES]
    found = collectives(
        jax.grad(mlp_loss), params, like(line, (64, 256), "data"),
        out_shardings=NamedSharding(line, PartitionSpec()),
    )  # fmt: skip
    sums = summarize(found)
    assert set(sums) == {"all-reduce"}
    assert sums["all-reduce"].bytes == GRADIENT_BYTES
    assert sums["all-reduce"].wire_bytes == 2 * GRADIENT_BYTES * 7 // 8
    assert {each.group_size for each in found} == {8}
    assert found[0].group == tuple(range(8))
    assert "transpose" in found[0].op_name
    shapes = {shape for each in found for shape in each.shapes}
    assert len(shapes) == 3


def sharded_scan(line):
    def fn(w, x):
        def body(x, w):
            w = jax.lax.with_sharding_constraint(w, NamedSharding(line, PartitionSpec()))
            return jnp.tanh(x @ w), None

        return jax.lax.scan(body, x, w)[0]

    return fn


def test_scan_of_five_gathers_counts_five(line):
    args = like(line, (5, 256, 256), None, "data"), like(line, (64, 256), "data")
    (found,) = collectives(sharded_scan(line), *args)
    assert (found.kind, found.times, found.group_size) == ("all-gather", 5, 8)
    assert found.bytes == 4 * 256 * 256
    assert found.wire_bytes == 5 * 4 * 256 * 256 * 7 // 8
    assert found.shapes == ("f32[1,32,256]",)
    assert found.exact


def test_nested_scans_multiply(line):
    def fn(w, x):
        return jax.lax.scan(lambda x, w: (sharded_scan(line)(w, x), None), x, w)[0]

    args = like(line, (3, 5, 64, 64), None, None, "data"), like(line, (64, 64), "data")
    sums = summarize(collectives(fn, *args))
    assert sums["all-gather"].bytes == 15 * 4 * 64 * 64


def test_loop_of_unknown_length_is_not_exact(line):
    def fn(w, x):
        full = NamedSharding(line, PartitionSpec())

        def body(carry):
            w, x = carry
            return w, jnp.tanh(x @ jax.lax.with_sharding_constraint(w, full) + x)

        return jax.lax.while_loop(lambda c: c[1].max() < 0.5, body, (w, x))[1]

    found = collectives(fn, like(line, (64, 64), "data"), like(line, (64, 64), "data"))
    assert all(each.times == 1 for each in found)
    assert not all(each.exact for each in found)


def test_every_kind_of_shard_map(grid):
    def body(x):
        a = jax.lax.all_to_all(x, "data", 0, 0, tiled=True)
        b = jax.lax.psum_scatter(a, "tensor", scatter_dimension=0, tiled=True)
        c = jax.lax.all_gather(b, "data", tiled=True)
        d = jax.lax.ppermute(c, "tensor", [(i, (i + 1) % 4) for i in range(4)])
        return d + jax.lax.psum(d, ("data", "tensor"))

    both = PartitionSpec(("data", "tensor"))
    fn = jax.shard_map(body, mesh=grid, in_specs=both, out_specs=both, check_vma=False)
    found = {e.kind: e for e in collectives(fn, like(grid, (2048, 128), ("data", "tensor")))}
    row = 4 * 128
    # kind: rows of the whole array, devices, rows that a device sends
    expected = {
        "all-to-all": (256, 2, 128),
        "reduce-scatter": (256, 4, 192),
        "all-gather": (128, 2, 64),
        "collective-permute": (128, 4, 128),
        "all-reduce": (128, 8, 224),
    }
    seen = {k: (e.bytes // row, e.group_size, e.wire_bytes // row) for k, e in found.items()}
    assert seen == expected
    assert found["all-to-all"].group == (0, 4)
    assert found["reduce-scatter"].group == (0, 1, 2, 3)
    assert "shard_map/psum" in found["all-reduce"].op_name


def test_tensor_parallel_reduces_activations_over_its_axis(grid):
    def fn(x, up, down):
        hidden = jax.lax.with_sharding_constraint(
            jnp.tanh(x @ up), NamedSharding(grid, PartitionSpec("data", "tensor"))
        )
        return hidden @ down

    args = (
        like(grid, (64, 128), "data"),
        like(grid, (128, 512), None, "tensor"),
        like(grid, (512, 128), "tensor"),
    )
    out = NamedSharding(grid, PartitionSpec("data"))
    sums = summarize(collectives(fn, *args, out_shardings=out))
    activation = 4 * 32 * 128
    assert sums == {"all-reduce": Traffic(1, activation, 2 * activation * 3 // 4)}


def test_one_device_sends_nothing():
    args = [jax.ShapeDtypeStruct((8, 8), jnp.float32)] * 2
    assert collectives(jnp.dot, *args) == ()
    assert summarize(()) == {}

"""The real TPU compiler, where libtpu is installed: no TPU is needed, and none is touched."""

from __future__ import annotations

import json

from real_compiler import needs_libtpu, printed

pytestmark = needs_libtpu

START = """
import json
import jax, jax.numpy as jnp, numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from jaxdl.tpu import parse_topology, read_collectives, slice_names, summarize

def devices(name):
    return topologies.get_topology_desc(**parse_topology(name).options).devices

def like(mesh, shape, *spec):
    return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, P(*spec)))

def collectives(fn, *args, **options):
    return read_collectives(jax.jit(fn, **options).lower(*args).compile().as_text())
"""


def compiled(program: str):
    """What a program prints, run where libtpu compiles and the CPU is the only backend."""
    settings = {
        "TPU_ACCELERATOR_TYPE": "v5litepod-16",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TPU_LOG_DIR": "disabled",
    }
    return json.loads(printed(START + program, **settings).splitlines()[-1])


def test_compiler_builds_slices_of_every_chip():
    names = ["v4-8", "v4-512", "v5e-1", "v5e-256", "v5p-128", "v5p-2048", "v6e-128", "tpu7x-128"]
    names += ["2x v5e-16", "4x v5p-16"]
    found = compiled(
        f"names = {names}\n"
        "print(json.dumps([[len(devices(n)), parse_topology(n).devices] for n in names]))"
    )
    assert [got for got, _ in found] == [told for _, told in found]


def test_data_parallel_and_scanned_gathers_on_v5e():
    found = compiled(
        """
mesh = Mesh(np.asarray(devices("v5e-16")), ("data",))
whole = NamedSharding(mesh, P())

def loss(params, x):
    for w in params:
        x = jnp.tanh(x @ w)
    return jnp.square(x).sum()

params = [like(mesh, (256, 512)), like(mesh, (512, 128))]
reduced = collectives(jax.grad(loss), params, like(mesh, (512, 256), "data"), out_shardings=whole)

def scanned(w, x):
    def body(x, w):
        return jnp.tanh(x @ jax.lax.with_sharding_constraint(w, whole)), None
    return jax.lax.scan(body, x, w)[0]

args = like(mesh, (5, 1024, 1024), None, "data"), like(mesh, (256, 1024), "data")
gathered = collectives(scanned, *args)
print(json.dumps([summarize(reduced), [[e.kind, e.bytes, e.times, e.exact] for e in gathered]]))
"""
    )
    sums, gathered = found
    assert list(sums) == ["all-reduce"]
    # libtpu reduces in bf16 or f32, as it sees fit.
    assert sums["all-reduce"][1] in {size * (256 * 512 + 512 * 128) for size in (2, 4)}
    assert gathered == [["all-gather", 2 * 1024 * 1024, 5, True]]


def test_gradients_of_four_slices():
    """Scattered inside each slice, reduced between them, gathered inside."""
    found = compiled(
        """
mesh = Mesh(np.asarray(devices("4x v5e-4")).reshape(4, 4), ("slice", "data"))
fn = jax.grad(lambda w, x: jnp.square(jnp.tanh(x @ w)).sum())
args = like(mesh, (1024, 1024)), like(mesh, (1024, 1024), ("slice", "data"))
found = collectives(fn, *args, out_shardings=NamedSharding(mesh, P()))
print(json.dumps({f"{e.kind} {e.network}": [e.bytes, e.group] for e in found}))
"""
    )
    whole = 4 * 1024 * 1024
    assert found == {
        "reduce-scatter ici": [whole, [0, 1, 2, 3]],
        "all-reduce dcn": [whole // 4, [0, 4, 8, 12]],
        "all-gather ici": [whole, [0, 1, 2, 3]],
    }


def test_two_dimensional_sharding_of_a_stack_on_v5e():
    """Fully sharded in 4 groups of 4: gathers, scatters and reductions of the layers' weights."""
    found = compiled(
        """
mesh = Mesh(np.asarray(devices("v5e-16")).reshape(4, 4), ("data", "fsdp"))
rows = NamedSharding(mesh, P(("data", "fsdp")))
D, L = 1024, 8

def loss(params, x):
    def body(x, p):
        y = jax.nn.gelu(x @ p["up"].astype(jnp.bfloat16)) @ p["down"].astype(jnp.bfloat16)
        return jax.lax.with_sharding_constraint(x + y, rows), None
    x, _ = jax.lax.scan(jax.checkpoint(body), x.astype(jnp.bfloat16), params)
    return jnp.square(x.astype(jnp.float32)).sum()

params = {"up": like(mesh, (L, D, 4 * D), None, "fsdp"),
          "down": like(mesh, (L, 4 * D, D), None, "fsdp")}
places = jax.tree.map(lambda p: p.sharding, params)
args = params, like(mesh, (16384, D), ("data", "fsdp"))
found = collectives(jax.grad(loss), *args, out_shardings=places)
print(json.dumps([summarize(found), all(e.exact for e in found)]))
"""
    )
    sums, exact = found
    assert exact
    # Gathered forwards and backwards, scattered once within a group, then reduced across groups.
    weights = 2 * 8 * 2 * 4 * 1024 * 1024
    wire = sum(each[2] for each in sums.values()) / (weights * 3 / 4)
    assert 2.8 < wire < 4.6, sums

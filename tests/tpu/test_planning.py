"""``plan``: what it refuses and reads without libtpu, and real plans where libtpu is installed."""

from __future__ import annotations

import importlib.util
import os
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P
from real_compiler import needs_libtpu
from steps_to_plan import gpt, like, mlp, rows, tokens

import jaxdl
from jaxdl import tpu
from jaxdl.errors import ConfigError, LayoutError, PlanError
from jaxdl.protocols import Aux, Objective
from jaxdl.tpu.plans import compiling, planning, remembering
from jaxdl.tpu.plans.steps import placed_on

# ------------------------------------------------------------------------------------------------
# What needs no libtpu.


@pytest.fixture
def no_libtpu(monkeypatch):
    monkeypatch.delenv("TPU_LIBRARY_PATH", raising=False)
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "libtpu" else real(name)
    )


def test_without_libtpu_it_says_what_to_install_before_anything_is_traced(no_libtpu):
    def step(state, batch):
        raise AssertionError("traced")

    with pytest.raises(PlanError, match=r"pip install 'jaxdl\[tpu\]'") as told:
        tpu.plan(step, rows(16), "v5e-16", state=like(3))
    assert "libtpu is missing" in told.value.what


def test_a_path_that_names_no_library_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("TPU_LIBRARY_PATH", str(tmp_path / "libtpu.so"))
    with pytest.raises(PlanError, match=r"TPU_LIBRARY_PATH names .*libtpu\.so, which is no file"):
        compiling.find_compiler()


def libtpu_of(tmp_path, version):
    """A folder as pip makes one, with an empty library."""
    package, metadata = tmp_path / "libtpu", tmp_path / f"libtpu-{version}.dist-info"
    package.mkdir()
    metadata.mkdir()
    (package / "libtpu.so").touch()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: libtpu\nVersion: {version}\n")
    return package / "libtpu.so"


@pytest.mark.parametrize(
    ("version", "wanted", "matches"),
    [
        ("0.0.42.1", "0.0.42.", True),
        ("0.0.42", "0.0.42.", True),
        ("0.0.421", "0.0.42.", False),
        ("0.0.52", "0.0.42.", False),
        ("0.0.52", "", True),
    ],
)
def test_the_version_is_held_against_the_one_that_jax_names(
    monkeypatch, tmp_path, version, wanted, matches
):
    monkeypatch.setenv("TPU_LIBRARY_PATH", str(libtpu_of(tmp_path, version)))
    monkeypatch.setattr(compiling, "_wanted", lambda: wanted)
    found = compiling.find_compiler()
    assert (found.version, found.matches) == (version, matches)


def test_jax_names_a_version():
    assert compiling._wanted().count(".") >= 2


def test_a_library_of_unknown_version_is_taken(monkeypatch, tmp_path):
    (tmp_path / "libtpu.so").touch()
    monkeypatch.setenv("TPU_LIBRARY_PATH", str(tmp_path / "libtpu.so"))
    found = compiling.find_compiler()
    assert (found.version, found.matches) == ("unknown", True)


def test_another_version_is_a_warning_that_says_what_to_install(monkeypatch, tmp_path):
    from jax.experimental import topologies

    monkeypatch.setenv("TPU_LIBRARY_PATH", str(libtpu_of(tmp_path, "0.0.1")))

    def locked(**options):
        assert os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] == "1"
        raise RuntimeError("ABORTED: Internal error when accessing libtpu multi-process lockfile.")

    monkeypatch.setattr(topologies, "get_topology_desc", locked)
    monkeypatch.delenv("ALLOW_MULTIPLE_LIBTPU_LOAD", raising=False)
    with (
        pytest.warns(UserWarning, match=r"libtpu is 0\.0\.1, jax .* pip install 'jaxdl\[tpu\]'"),
        pytest.raises(PlanError, match="the other process that has libtpu loaded"),
    ):
        compiling.topology_devices(tpu.parse_topology("v5e-16"))
    assert "ALLOW_MULTIPLE_LIBTPU_LOAD" not in os.environ


class Lowered:
    """A program whose compile fails."""

    def __init__(self, text):
        self.text = text

    def compile(self):
        assert not jax.config.jax_enable_compilation_cache
        raise jax.errors.JaxRuntimeError(self.text)


def test_out_of_memory_is_an_answer_and_other_failures_are_errors(untyped):
    text = (
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
        "temporaries (18.90G) exceeds available HBM (15.75G)."
    )
    assert compiling.compile_for_tpu(Lowered(text)) == text
    assert jax.config.jax_enable_compilation_cache
    # libtpu 0.0.42.1, of a Pallas kernel.
    vmem = (
        "RESOURCE_EXHAUSTED: Allocation (size=268435456) would exceed memory (size=134217728) :: "
        "#allocation2 [shape = 'u8[268435456]{0}', space=vmem, size = 0x10000000, scoped, tag = "
        "'input window allocation for operator input 0.']"
    )
    with pytest.raises(PlanError, match="smaller blocks"):
        compiling.compile_for_tpu(Lowered(vmem))
    with pytest.raises(PlanError, match="does not take the program: INTERNAL: no"):
        compiling.compile_for_tpu(Lowered("INTERNAL: no\nmore"))
    assert jax.config.jax_enable_compilation_cache


def test_a_program_that_cannot_be_printed_is_an_error(untyped, monkeypatch, tmp_path):
    monkeypatch.setenv("TPU_LIBRARY_PATH", str(libtpu_of(tmp_path, "0.0.52")))

    class Compiled:
        def as_text(self):
            raise jax.errors.JaxRuntimeError("INTERNAL: RET_CHECK failure")

    with pytest.raises(PlanError, match=r"libtpu 0\.0\.52 compiled the program and cannot print"):
        compiling.program_text(Compiled())


def test_a_topology_that_does_not_exist_is_told_first(no_libtpu):
    with pytest.raises(ConfigError, match="there is no such slice"):
        tpu.plan(mlp(), rows(16), "v5e-17")


@pytest.mark.parametrize(
    ("step", "told"),
    [
        (jaxdl.jit(jaxdl.make_eval_step(lambda *_: None, {})), "an eval step takes less"),
        (3, "plan was given a int"),
        (jaxdl.pmap(mlp()), "the TrainStep that it was made of"),
        (lambda state: state, "cannot be called with"),
    ],
)
def test_what_is_no_train_step(step, told, devices):
    with pytest.raises(ConfigError, match=told):
        placed_on(step, devices, None)


@pytest.mark.parametrize(
    ("returned", "told"),
    [
        (lambda state: state, "returned a dict"),
        (lambda state: (state, {}, {}), "returned 3 values"),
        (lambda state: ({}, state), "structure"),
    ],
)
def test_what_a_function_must_return(returned, told, devices):
    placed = placed_on(lambda state, batch: returned(state), devices, None)
    with pytest.raises(ConfigError, match=told):
        planning._traced(placed, rows(16), {"w": like(4)})


def test_a_function_needs_its_state(devices):
    placed = placed_on(lambda state, batch: (state, {}), devices, None)
    with pytest.raises(ConfigError, match="function without its state"):
        planning._traced(placed, rows(16), None)


def test_rows_that_do_not_divide_are_told(devices):
    with pytest.raises(LayoutError, match="12 rows does not divide over 8 devices"):
        planning._traced(placed_on(mlp(), devices, None), rows(12), None)


def test_arrays_within_the_step_that_do_not_divide_are_told(devices):
    placed = placed_on(_divides_five, devices, None)
    with pytest.raises(LayoutError, match=r"does not divide over the mesh.*\n.*\n.*heads"):
        planning._traced(placed, rows(16), like(5, 8))


def _divides_five(state, batch):
    mesh = jax.sharding.Mesh(np.asarray(jax.devices()), ("data",))
    specs = {"mesh": mesh, "in_specs": P("data"), "out_specs": P("data")}
    return jax.shard_map(lambda x: 2 * x, **specs)(state), {}


def test_layouts_in_words(devices):
    words = [
        planning.layout_in_words(placed_on(mlp(), devices, layout))
        for layout in (None, jaxdl.fsdp(data=2), jaxdl.zero1(), jaxdl.single())
    ]
    assert words == ["data 8", "data 2 x fsdp 4", "zero1, data 8", "data 1"]


# ------------------------------------------------------------------------------------------------
# Plans that are remembered.


@pytest.fixture
def remembered(monkeypatch, tmp_path):
    monkeypatch.setenv("JAXDL_DATA_DIR", str(tmp_path))
    return tmp_path / "plans"


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"key": {}, "plan": {}}', b"\xff\x00"])
def test_a_damaged_entry_is_ignored(remembered, damage):
    key = {"program": "a"}
    remembering._path(key).parent.mkdir(parents=True)
    remembering._path(key).write_bytes(damage)
    assert remembering.recall(key) is None


def test_nothing_is_remembered_where_nothing_was_kept(remembered):
    assert remembering.recall({"program": "a"}) is None


# ------------------------------------------------------------------------------------------------
# With libtpu.


class TestWithLibtpu:
    """No TPU is needed, and none is touched."""

    pytestmark = needs_libtpu

    @pytest.fixture(autouse=True)
    def folder(self, remembered):
        return remembered

    def test_an_mlp_on_sixteen_chips(self, folder):
        before = dict(os.environ)
        step = jaxdl.jit(mlp())
        plan = tpu.plan(step, rows(64), "v5e-16")
        assert dict(os.environ) == before
        assert plan.fits
        assert plan.times is not None
        facts = plan.facts
        params = 32 * 64 + 64 + 64 * 8 + 8
        assert (facts.mesh, facts.layout, facts.rows) == ({"data": 16}, "data 16", 64)
        assert facts.parameters == params
        assert facts.memory.by_use["parameters"] == 4 * params
        assert facts.flops.total == 3 * 2 * 64 * (32 * 64 + 64 * 8) - 2 * 64 * 32 * 64
        assert facts.attention_flops == 0
        assert {tpu.axes_of(each, facts.mesh) for each in facts.collectives} == {("data",)}
        reduced = sum(each.bytes for each in facts.collectives if each.kind == "all-reduce")
        assert reduced == pytest.approx(4 * params, rel=0.02)
        # The step's own devices, of the CPU, are as they were.
        assert step.mesh.devices.size == 8

        again = tpu.plan(mlp(), rows(64), "v5e-16")
        assert again == plan
        assert len(list(folder.iterdir())) == 1
        assert tpu.plan(mlp(), rows(64), "v5e-16", fresh=True).facts.compile_seconds != (
            plan.facts.compile_seconds
        )

    def test_a_gpt_in_two_axes_sends_along_both(self):
        layout = jaxdl.fsdp(data=4, min_size=1)
        plan = tpu.plan(
            gpt(scan_layers=True, remat="full"), tokens(32), "v5e-16", layout=layout, fresh=True
        )
        facts = plan.facts
        assert facts.layout == "data 4 x fsdp 4"
        axes = {tpu.axes_of(each, facts.mesh) for each in facts.collectives}
        assert {("data",), ("fsdp",)} <= axes
        whole = 4 * facts.parameters
        assert facts.memory.by_use["parameters"] == pytest.approx(whole / 4, rel=0.01)
        assert facts.flops.recomputed > 0
        assert facts.attention_flops == 3 * 12 * 32 * 32 * 32 * 64

    def test_what_does_not_fit(self):
        plan = tpu.plan(mlp((2**18, 2**16)), rows(16), "v5e-16")
        assert not plan.fits
        assert plan.times is None
        memory = plan.facts.memory
        assert memory.available == int(15.75 * 2**30)
        assert memory.peak > 3 * 4 * 2**34
        assert "exceeds available HBM" in memory.refusal
        assert plan.facts.buffers[0].path.endswith("dense_1/kernel")
        assert plan.facts.collectives == ()
        assert tpu.plan(mlp((2**18, 2**16)), rows(16), "v5e-16") == plan

    def test_an_objective_by_hand(self):
        def init(key, batch):
            return {"kernel": jnp.zeros((8, 2))}, {}

        def loss(params, state, batch, key, *, train):
            scores = batch["x"] @ params["kernel"]
            each = optax.softmax_cross_entropy_with_integer_labels(scores, batch["label"])
            return jnp.sum(each), Aux(jnp.float32(len(each)), state, {})

        step = jaxdl.make_train_step(Objective(init, loss), optax.sgd(0.1))
        plan = tpu.plan(step, rows(16, 8), "v6e-4", layout=jaxdl.single())
        assert plan.fits
        assert plan.facts.collectives == ()
        assert any("1 of 4 devices" in note for note in plan.facts.notes)

    def test_a_users_function_and_real_arrays(self):
        @jax.jit
        def step(params, batch):
            def loss(params):
                return jnp.mean((batch["x"] @ params["w"]) ** 2)

            value, grads = jax.value_and_grad(loss)(params)
            return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), {"loss": value}

        state = {"w": np.zeros((32, 16), np.float32)}
        batch = {"x": np.zeros((32, 32), np.float32)}
        plan = tpu.plan(step, batch, "v5p-8", state=state, layout=jaxdl.fsdp(min_size=1))
        assert plan.fits
        assert plan.facts.parameters == 32 * 16
        assert plan.facts.memory.by_use["parameters"] == 32 * 16
        assert plan.facts.mesh == {"fsdp": 4}

    def test_a_state_that_is_not_given_back_as_it_came_is_noted(self):
        def step(state, batch):
            return state.astype(jnp.bfloat16), {}

        plan = tpu.plan(step, rows(16), "v5e-16", state=like(64, 64))
        assert any("16,384 of the state's 16,384 bytes" in note for note in plan.facts.notes)

    def test_two_slices_reduce_between_them(self):
        layout = jaxdl.fsdp(data=2, min_size=1)
        facts = tpu.plan(mlp((256, 8)), rows(64), "2x v5e-16", layout=layout).facts
        networks = {each.network: tpu.axes_of(each, facts.mesh) for each in facts.collectives}
        assert networks["dcn"] == ("data",)
        assert networks["ici"] == ("fsdp",)

    def test_nothing_is_said(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            tpu.plan(mlp(), rows(64), "v5e-16")

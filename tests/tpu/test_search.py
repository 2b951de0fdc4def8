"""Which changes are tried, in which order, and what is said of them; then the real compiler."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from planned import AVAILABLE, GIB, planned
from real_compiler import needs_libtpu, printed

from jaxdl import layouts
from jaxdl.errors import BatchError, ConfigError, PlanError
from jaxdl.placement.guard import leaf_bytes
from jaxdl.protocols import TrainStep
from jaxdl.tpu.changing.changes import Change, Options, in_order, layout_words, usual_layouts
from jaxdl.tpu.changing.reckoning import Reckoning, argument_bytes
from jaxdl.tpu.changing.search import find_change
from jaxdl.tpu.changing.sweeping import sweep

SIXTEEN = usual_layouts(16)
REMATS = ("dots", "full")


class World:
    """A program whose memory follows a formula: arguments, and temporaries that changes cut."""

    def __init__(self, parameters: int, temporaries: int, *, rows: int = 64, least: int = 0):
        self.parameters, self.temporaries = parameters, temporaries
        self.rows, self.least = rows, least
        self.compiled: list[str] = []
        self.shrink = {None: 1.0, "dots": 0.6, "full": 0.2}

    def build(self, change):
        shape = (self.parameters // 4 // 1024, 1024)
        state = {"w": jax.ShapeDtypeStruct(shape, jnp.float32)}
        step = TrainStep(lambda key, batch: jax.tree.map(lambda s: jnp.zeros(s.shape), state), None)
        self.change = change
        return step, {"x": jax.ShapeDtypeStruct((self.rows, 4), np.int32)}

    def plan(self, step, batch, topology, *, layout):
        change = self.change
        assert layout == change.layout
        self.compiled.append(change.words())
        held = self.parameters // (16 if layout in SIXTEEN[1:] else 1)
        part = self.temporaries * self.shrink[change.remat] / change.microbatches
        return planned(held + self.least + int(part))

    def find(self, **options):
        now = options.pop("now", Change())
        lines: list[str] = []
        limits = Options(**{"remats": REMATS, "layouts": SIXTEEN, **options})
        found = find_change(
            self.build, "v5e-16", now=now, options=limits, planner=self.plan, progress=lines.append
        )
        assert len(lines) == len(found.tried) + sum(each.plan is not None for each in found)
        return found


def test_changes_come_from_the_smallest_up():
    words = [
        each.words(Change())
        for each in in_order(Change(), Options(remats=REMATS, microbatches=4, layouts=SIXTEEN))
    ]
    assert words[:6] == [
        "remat='dots'",
        "remat='full'",
        "microbatches 2",
        "microbatches 4",
        "layout zero1, data",
        "layout fsdp",
    ]
    assert words[6] == "remat='dots', microbatches 2"
    assert words[-1] == "remat='full', microbatches 4, layout fsdp"
    assert len(words) == len(set(words)) == 3 * 3 * 3 - 1


def test_changes_only_climb():
    now = Change(layouts.fsdp(), microbatches=4, remat="dots")
    found = in_order(now, Options(remats=REMATS, microbatches=16, layouts=SIXTEEN))
    assert {each.remat for each in found} == {"dots", "full"}
    assert {each.microbatches for each in found} == {4, 8, 16}
    assert now not in found
    own = in_order(Change(remat="mine"), Options(remats=REMATS, microbatches=1))
    assert [each.words(Change(remat="mine")) for each in own] == ["remat='dots'", "remat='full'"]


def test_words_say_what_must_change():
    now = Change(layouts.data_parallel())
    assert now.words(Change()) == "no change"
    assert Change(layouts.fsdp(4, data=-1), rows=8).words(now) == "layout data x fsdp 4, rows 8"
    assert layout_words(layouts.layout(mesh={"fsdp": -1, "tensor": 4})) == "fsdp x tensor 4"
    with pytest.raises(ConfigError, match="microbatches 0"):
        Change(microbatches=0)


def test_usual_layouts_offer_groups_and_tensors_where_they_divide():
    rules = [("kernel", jax.sharding.PartitionSpec(None, "tensor"))]
    named = [layout_words(each) for each in usual_layouts(256, rules=rules, tensors=(1, 3, 4))]
    assert named == ["data", "zero1, data", "data x fsdp 16", "fsdp", "fsdp x tensor 4"]
    assert [layout_words(each) for each in usual_layouts(24)] == ["data", "zero1, data", "fsdp"]
    assert usual_layouts(8, tensors=(2,)) == usual_layouts(8)
    two = [layout_words(each) for each in usual_layouts(128, slices=2)]
    assert two == ["data", "zero1, data", "data x fsdp 16", "data 2 x fsdp", "fsdp"]


def test_a_program_that_fits_needs_no_change():
    world = World(GIB, GIB)
    found = world.find()
    assert list(found) == []
    assert found.ended == "the program fits as it is"
    assert len(world.compiled) == 1


def test_remat_comes_first_and_the_other_way_is_of_another_kind():
    world = World(4 * GIB, 18 * GIB)
    found = world.find()
    assert [each.words for each in found] == ["remat='dots'", "microbatches 2"]
    assert [each.plan.fits for each in found] == [True, True]
    assert str(found[0]) == "remat='dots' (compiled: 14.80 GiB of 16.00 GiB)"
    assert found.ended == "enough was found"
    assert len(world.compiled) == 3


def test_no_alternative_when_none_is_asked_for():
    assert len(World(4 * GIB, 18 * GIB).find(alternatives=0)) == 1


def test_a_known_refusal_is_not_compiled_again():
    world = World(4 * GIB, 18 * GIB)
    refused = planned(22 * GIB)
    world.build(Change())
    find_change(
        world.build, "v5e-16", options=Options(remats=REMATS), refused=refused, planner=world.plan
    )
    assert "remat=None, microbatches 1, layout data" not in world.compiled


def test_microbatches_that_would_have_to_work_wonders_are_not_compiled():
    world = World(4 * GIB, 60 * GIB)
    found = world.find(remats=(), layouts=())
    assert [each.words for each in found] == []
    assert "microbatches 4" not in world.compiled
    ruled = [(each.words, each.compiled) for each in found.tried]
    assert ruled[:2] == [("microbatches 2", False), ("microbatches 4", False)]
    assert "at best it needs 34.00 GiB of 16.00 GiB" in found.tried[0].why
    # 4 rows on each device cannot be cut into 8.
    assert "4 rows on each of 16 parts do not divide into 8" in found.tried[2].why
    assert found.ended == "every change was considered"
    assert len(world.compiled) == 1
    # With more rows 8 do: 4 + 60 / 8.
    assert [f.words for f in World(4 * GIB, 60 * GIB, rows=256).find(remats=(), layouts=())] == [
        "microbatches 8"
    ]


def test_a_state_that_is_too_large_alone_is_said_once_and_never_compiled():
    world = World(20 * GIB, 8 * GIB)
    found = world.find(alternatives=0)
    assert [each.words for each in found] == ["layout fsdp"]
    told = [each for each in found.tried if "state and batch alone" in each.why]
    assert len(told) == 1
    assert told[0].words == "layout data, whatever else is changed"
    assert told[0].needed > AVAILABLE
    assert len(world.compiled) == 2


def test_two_kinds_when_one_does_not_do():
    found = World(20 * GIB, 50 * GIB).find()
    assert [each.words for each in found] == [
        "remat='full', layout fsdp",
        "microbatches 4, layout fsdp",
    ]


def test_temporaries_that_nothing_cuts():
    found = World(GIB, GIB, least=30 * GIB).find()
    assert not found
    assert found.ended == "every change was considered"
    assert found.tried
    compiled = [each for each in found.tried if each.compiled]
    assert all("the compiler needs" in each.why for each in compiled)


def test_the_limit_of_compiles_leaves_a_suggestion_that_says_it_was_not_compiled():
    found = World(4 * GIB, 18 * GIB).find(compiles=0)
    assert [each.words for each in found] == ["microbatches 2"]
    assert found[0].plan is None
    assert str(found[0]) == "microbatches 2 (not compiled: should need 13.00 GiB at best)"
    assert found.ended == "the limit of 0 compiles was reached"
    assert not World(4 * GIB, 18 * GIB).find(compiles=0, microbatches=1)
    assert World(4 * GIB, 18 * GIB).find(seconds=0.0).ended.startswith("the limit of 0 seconds")


def test_a_change_that_cannot_be_built_is_left_with_its_reason():
    world = World(4 * GIB, 30 * GIB)

    def build(change):
        if change.remat:
            raise BatchError("no such thing", expected="x", do="y")
        return world.build(change)

    found = find_change(build, "v5e-16", options=Options(remats=REMATS), planner=world.plan)
    assert [each.words for each in found] == ["microbatches 4"]
    assert found.tried[0].why == "BatchError: no such thing"


def test_what_there_is_must_be_possible():
    def refuses(*given, **options):
        raise PlanError("no compiler", expected="x", do="y")

    with pytest.raises(PlanError, match="no compiler"):
        find_change(World(GIB, GIB).build, "v5e-16", planner=refuses)
    with pytest.raises(ConfigError, match="names no TPU slice"):
        find_change(World(GIB, GIB).build, "five", planner=refuses)
    with pytest.raises(ConfigError, match="no init, and no state"):
        find_change(
            lambda change: (lambda state, batch: (state, {}), {"x": np.zeros((16, 1))}),
            "v5e-16",
            planner=lambda *given, **options: planned(20 * GIB),
        )


def test_argument_bytes_are_those_of_placed_arrays(devices):
    del devices
    import optax
    from flax import linen as nn

    import jaxdl
    from jaxdl import losses

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x, *, train=False):
            return nn.Dense(8)(nn.Dense(1024)(x))

    objective = jaxdl.supervised(Model(), losses.softmax_cross_entropy, inputs="x", targets="y")
    step = jaxdl.make_train_step(objective, optax.adam(1e-3), ema_decay=0.9)
    batch = {"x": np.zeros((32, 64), np.float32), "y": np.zeros(32, np.int32)}
    state = jax.eval_shape(step.init, jax.random.key(0), batch)
    for chosen in usual_layouts(8):
        placed = jaxdl.jit(step, layout=chosen)
        real = placed.init(0, batch)
        rows = sum(leaf_bytes(leaf) for leaf in jax.tree.leaves(placed.put(batch)))
        held = sum(leaf_bytes(leaf) for leaf in jax.tree.leaves(real))
        assert argument_bytes(chosen, 8, state, batch) == held + rows


def test_layouts_that_keep_no_less_are_left_out():
    state = {"w": jax.ShapeDtypeStruct((48, 100), jnp.float32)}
    batch = {"x": jax.ShapeDtypeStruct((512, 1), jnp.float32)}
    reckoning = Reckoning(state, batch, 256, AVAILABLE)
    # 48 divides by 16, neither side by 256.
    kept = reckoning.lighter(usual_layouts(256), layouts.data_parallel())
    assert [layout_words(each) for each in kept] == ["data x fsdp 16"]
    odd = layouts.layout(mesh={"fsdp": 7, "tensor": -1}, shard_axis="fsdp")
    assert reckoning.lighter((odd,), layouts.data_parallel()) == (odd,)
    assert "do not fit 256 device" in reckoning.refuse(Change(odd)).why


def test_a_sweep_keeps_what_does_not_fit():
    plans = {
        (64, None): planned(20 * GIB),
        (64, "full"): planned(8 * GIB, rows=64, seconds=(1.0, 2.0)),
        (128, None): planned(14 * GIB, rows=128, seconds=(1.0, 5.0)),
        (128, "full"): planned(12 * GIB, rows=128, seconds=(1.0, 3.0)),
    }

    def build(change):
        if change.rows == 7:
            raise BatchError("7 rows", expected="x", do="y")
        key = (change.rows, change.remat)
        return key, {"x": jax.ShapeDtypeStruct((change.rows,), np.int32)}

    seen = []
    rows = sweep(
        build,
        "v5e-16",
        batches=(64, 128, 7),
        remats=(None, "full"),
        planner=lambda step, batch, topology, layout: plans[step],
        progress=lambda done, all_, row: seen.append((done, all_, row)),
    )
    assert [each.fits for each in rows] == [False, True, True, True, False, False]
    assert rows[0].peak == 20 * GIB
    assert "needs" in rows[0].why
    assert rows[0].rows_per_second is None
    assert rows[3].rows_per_second == (128 / 3, 128)
    assert rows[3].words == "remat='full', microbatches 1, layout data, rows 128"
    assert rows[4].plan is None
    assert rows[4].why == "BatchError: 7 rows"
    assert rows[4].rows == 7
    assert seen == [(n, 6, row) for n, row in enumerate(rows, 1)]


def test_a_sweep_over_nothing():
    with pytest.raises(ConfigError, match="a sweep over nothing"):
        sweep(lambda change: (None, {}), "v5e-16", batches=(), planner=lambda *a, **k: None)


REAL = """
import jax, jax.numpy as jnp, numpy as np, optax
import jaxdl
from jaxdl import gradients, models
from jaxdl.objectives import language_model
from jaxdl.tpu.changing.changes import Change, Options, usual_layouts
from jaxdl.tpu.changing.search import find_change

def build(change):
    model = models.GPT(vocab_size=256, num_layers=4, num_heads=4, hidden_dim=512, max_length=1024,
                       scan_layers=True, remat=change.remat, dtype=jnp.bfloat16)
    step = jaxdl.make_train_step(language_model(model), optax.adamw(1e-3),
                                 gradient=gradients.accumulate(change.microbatches))
    return step, {"tokens": jax.ShapeDtypeStruct((256, 1025), np.int32)}

found = find_change(build, "v5e-4", progress=print, options=Options(
    remats=("dots", "full"), microbatches=8, layouts=usual_layouts(4)))
for each in found:
    print("FOUND", each.words, each.plan.fits, each.plan.facts.memory.peak < 15.75 * 2**30)
"""


@needs_libtpu[0]
@needs_libtpu[1]
def test_the_compiler_confirms_what_is_suggested(tmp_path):
    shown = printed(REAL, timeout=500, JAXDL_DATA_DIR=str(tmp_path))
    found = [line for line in shown.splitlines() if line.startswith("FOUND")]
    assert found, shown
    assert all(line.endswith("True True") for line in found)

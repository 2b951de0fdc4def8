"""Parameters of another run taken over: every leaf accounted for, or an error that shows them."""

from __future__ import annotations

import re
import warnings

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from states import BATCH, alter, assert_same, like, make_step
from test_identity import TREES, is_spec, make_leaf

import jaxdl
from jaxdl import losses, models
from jaxdl.checkpoints import Checkpoints, InitFrom, Keep, load_partial
from jaxdl.checkpoints.matching import match
from jaxdl.checkpoints.tensors import Spec
from jaxdl.errors import CheckpointError, DamagedError, PathError
from jaxdl.tree_paths import match_mask, partition


def saved(folder, *states):
    store = Checkpoints(folder, keep=Keep(latest=9))
    for step, state in enumerate(states, 1):
        store.save(step, state, record={"step": step})
    store.close()
    return folder


@pytest.fixture(scope="module")
def placed():
    return jaxdl.jit(make_step(), layout=jaxdl.single())


@pytest.fixture(scope="module")
def state(placed):
    return placed(placed.init(5, BATCH), BATCH)[0]


@pytest.fixture(scope="module")
def folder(state, tmp_path_factory):
    return saved(tmp_path_factory.mktemp("run") / "checkpoints", state)


@given(tree=TREES)
@settings(max_examples=15)
def test_the_same_tree_is_the_identity(tree, tmp_path_factory, devices):
    """Any dtype, key and sharding. As "ema": parameters that are not finite are not saved."""
    assume(jax.tree.leaves(tree, is_leaf=is_spec))
    mesh = Mesh(np.asarray(devices[:4], dtype=object), ("x",))
    made = jax.tree.map(lambda spec: make_leaf(spec, mesh), tree, is_leaf=is_spec)
    folder = saved(tmp_path_factory.mktemp("identity"), {"ema": made})
    for wanted in (made, like(made)):
        partial = load_partial(folder, wanted, source="ema")
        assert_same(partial.params, made)
        for a, b in zip(jax.tree.leaves(partial.params), jax.tree.leaves(made), strict=True):
            assert a.sharding == b.sharding
        assert {row.outcome for row in partial.table} == {"loaded"}


NAMES = st.lists(st.text("ab/", min_size=1, max_size=4), unique=True, min_size=1, max_size=5)


@given(names=NAMES, data=st.data())
def test_renaming_is_a_permutation_of_places(names, data):
    shuffled = data.draw(st.permutations(names))
    stored = {name: Spec((i,), "float32") for i, name in enumerate(names)}
    wanted = {new: stored[old] for old, new in zip(names, shuffled, strict=True)}
    rename = [(f"^{re.escape(a)}$", b) for a, b in zip(names, shuffled, strict=True)]
    table = match(stored, wanted, rename=rename)
    assert table.filled() == dict(zip(shuffled, names, strict=True))
    assert not table.faults()


PARTS = st.dictionaries(
    st.text("abc", min_size=1, max_size=2),
    st.builds(
        Spec,
        st.sampled_from([(1,), (2,)]),
        st.sampled_from(["float32", "int8"]),
        st.sampled_from([None, "threefry2x32"]),
    ),
    max_size=6,
)


@given(stored=PARTS, wanted=PARTS, cast=st.booleans())
def test_every_leaf_is_in_the_table_once(stored, wanted, cast):
    table = match(stored, wanted, cast=cast)
    assert [row.path for row in table if row.wanted is not None] == list(wanted)
    assert sorted(row.stored for row in table if row.stored is not None) == sorted(stored)
    for row in table:
        if row.outcome == "loaded":
            assert row.wanted == row.found
    assert str(table).count("\n") == len(table)


def test_a_new_head_on_a_trunk(folder, state):
    wanted = jaxdl.jit(make_step(), layout=jaxdl.single()).init(9, BATCH).params
    wanted["dense_1"] = {"kernel": jnp.full((3, 7), 0.5), "bias": jnp.zeros(7)}
    with pytest.raises(CheckpointError) as caught:
        load_partial(folder, wanted)
    assert "does not fit (2 shape differs)" in caught.value.what
    told = [" ".join(line.split()) for line in caught.value.what.splitlines()]
    assert (
        "! dense_1/kernel dense_1/kernel float32[3, 7], stored float32[3, 2] shape differs" in told
    )
    assert "dense_0/bias dense_0/bias float32[3] loaded" in told
    assert caught.value.do == "declare 'dense_1/bias' and the like new"
    partial = load_partial(folder, wanted, new="^dense_1/")
    assert_same(partial.params["dense_0"], state.params["dense_0"])
    assert partial.params["dense_1"]["kernel"] is wanted["dense_1"]["kernel"]
    assert [row.outcome for row in partial.table] == ["loaded", "loaded", "new", "new"]
    assert (partial.step, partial.record["step"], partial.passed_over) == (1, 1, ())
    only = load_partial(folder, wanted, only="dense_0")
    assert_same(only.params, partial.params)


def test_new_stays_new_even_where_the_shape_fits(folder, state):
    wanted = jax.tree.map(jnp.zeros_like, state.params)
    partial = load_partial(folder, wanted, new="dense_1")
    assert not np.any(partial.params["dense_1"]["kernel"])
    assert_same(partial.params["dense_0"], state.params["dense_0"])


def test_leaves_that_nothing_fills_stay_abstract(folder, state):
    wanted = like({**state.params, "head": {"kernel": jnp.zeros((3, 3))}})
    partial = load_partial(folder, wanted, new="head")
    assert partial.params["head"]["kernel"] is wanted["head"]["kernel"]
    assert isinstance(partial.params["dense_0"]["kernel"], jax.Array)


def test_other_names_missing_and_unused_leaves(folder, state):
    wanted = {"encoder": like(state.params)["dense_0"], "head": like(state.params)["dense_1"]}
    with pytest.raises(CheckpointError) as caught:
        load_partial(folder, wanted, rename=[("dense_0", "encoder")])
    assert "(2 missing, 2 unused)" in caught.value.what
    assert "declare them new; ignore 'dense_1/bias' and the like, or" in caught.value.do
    partial = load_partial(folder, wanted, rename=[("dense_0", "encoder"), ("^dense_1", "head")])
    assert_same(partial.params["head"], state.params["dense_1"])
    row = partial.table[0]
    assert (row.path, row.stored, row.outcome) == ("encoder/bias", "dense_0/bias", "loaded")
    encoder = {"encoder": wanted["encoder"]}
    partial = load_partial(folder, encoder, rename=[("dense_0", "encoder")], ignore="dense_1")
    assert [row.outcome for row in partial.table[2:]] == ["ignored"] * 2
    loose = load_partial(folder, wanted, rename=[("dense_0", "encoder")], strict=False)
    assert {row.outcome for row in loose.table.faults()} == {"missing", "unused"}
    assert loose.params["head"] == wanted["head"]
    with pytest.raises(CheckpointError, match="nothing would be loaded"):
        load_partial(folder, wanted, new=".", ignore=".")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rename": [("densee_0/kernel", "x")]}, "did you mean 'dense_0/kernel'"),
        ({"rename": [("dense", "d"), ("dense_0", "x")]}, "patterns before it take every path"),
        ({"rename": [("dense_.", "dense")]}, "'dense_0/bias' and 'dense_1/bias' would both go to"),
        ({"rename": [("dense_0", r"\2")]}, "is no replacement for 'dense_0'"),
        ({"rename": [("(", "x")]}, "is no regular expression"),
        ({"new": "head"}, "the pattern 'head' matches no parameter"),
        ({"ignore": ["dense_0", "head"]}, "the pattern 'head' matches no parameter"),
        ({"only": "^kernel"}, "matches no parameter"),
    ],
)
def test_patterns_that_do_nothing_are_refused(folder, state, options, message):
    with pytest.raises(PathError, match=message):
        load_partial(folder, state.params, **options)


def test_dtypes_change_only_when_asked(folder, state):
    half = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16), state.params)
    with pytest.raises(CheckpointError, match=r"bfloat16\[3\], stored float32\[3\] +dtype differs"):
        load_partial(folder, half)
    partial = load_partial(folder, half, cast=True)
    assert_same(partial.params, jax.tree.map(lambda x: x.astype(jnp.bfloat16), state.params))
    assert {row.outcome for row in partial.table} == {"cast"}
    whole = jax.tree.map(lambda x: np.zeros(x.shape, np.int32), state.params)
    with pytest.raises(CheckpointError, match="dtype differs"):
        load_partial(folder, whole, cast=True)


def test_a_cast_that_overflows_is_refused(tmp_path):
    saved(tmp_path, {"params": {"w": jnp.asarray([1e5])}})
    for wanted in (np.zeros(1, np.float16), jnp.zeros(1, jnp.float16)):
        with pytest.raises(CheckpointError, match="w overflows in float16"):
            load_partial(tmp_path, {"w": wanted}, cast=True)


def test_arrays_lie_where_the_wanted_ones_do(tmp_path, devices):
    values = np.arange(8.0, dtype=np.float32)
    saved(tmp_path, {"params": values})
    mesh = Mesh(np.asarray(devices[:2], dtype=object), ("x",))
    sharding = NamedSharding(mesh, PartitionSpec("x"))
    for wanted in (
        jax.ShapeDtypeStruct((8,), jnp.float32, sharding=sharding),
        jax.device_put(jnp.zeros(8), sharding),
    ):
        params = load_partial(tmp_path, wanted).params
        assert params.sharding == sharding
        np.testing.assert_array_equal(params, values)
    plain = load_partial(tmp_path, np.zeros(8, np.float32)).params
    assert type(plain) is np.ndarray
    np.testing.assert_array_equal(plain, values)


def test_the_moving_average(folder, state, tmp_path):
    assert_same(load_partial(folder, state.params, source="ema").params, state.ema)
    saved(tmp_path, state.replace(ema=None))
    with pytest.raises(CheckpointError, match="holds no ema"):
        load_partial(tmp_path, state.params, source="ema")


def test_a_damaged_one_is_passed_over_loudly(placed, state, tmp_path):
    saved(tmp_path, placed.init(1, BATCH), state, state)
    alter(tmp_path / "3", "state/params/dense_0/kernel")
    (tmp_path / "2" / "record" / "metadata").write_text("{}")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        partial = load_partial(tmp_path, state.params)
    assert [str(each.message)[:12] for each in told] == ["passed over:"] * 2
    assert (partial.step, len(partial.passed_over)) == (1, 2)
    assert "state/params/dense_0/kernel: its values were altered" in partial.passed_over[0]
    with pytest.raises(DamagedError, match="dense_0/kernel: its values were altered"):
        load_partial(tmp_path, state.params, step=3)
    # What is not loaded is not read.
    assert load_partial(tmp_path, state.params, step=3, new="dense_0/kernel").step == 3


def test_which_folder(folder, state, tmp_path):
    assert load_partial(folder.parent, state.params).step == 1
    with pytest.raises(CheckpointError, match=r"give .*checkpoints and the step 1"):
        load_partial(folder / "1", state.params)
    with pytest.raises(CheckpointError, match="did you mean 'checkpoints'"):
        load_partial(folder.parent / "checkpoint", state.params)
    with pytest.raises(CheckpointError, match=r"no checkpoint of step 4 .*\n.*\[1\]"):
        load_partial(folder, state.params, step=4)
    with pytest.raises(CheckpointError, match="holds no checkpoints"):
        load_partial(tmp_path, state.params)


class Net(nn.Module):
    classes: int

    @nn.compact
    def __call__(self, x, *, train=False):
        x = models.BatchNorm(name="norm")(nn.Dense(3, name="stem")(x), train=train)
        return nn.Dense(self.classes, name="head")(x)


def make_net(classes, optimizer):
    objective = jaxdl.supervised(Net(classes), losses.softmax_cross_entropy, inputs="x")
    step = jaxdl.make_train_step(objective, optimizer, ema_decay=0.9)
    return jaxdl.jit(step, layout=jaxdl.single())


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    placed = make_net(2, optax.adam(0.1))
    state = placed.init(0, BATCH)
    for _ in range(3):
        state, _ = placed(state, BATCH)
    return saved(tmp_path_factory.mktemp("net"), state), jax.device_get(state)


def test_a_new_run_begins_with_it(trained):
    folder, old = trained
    placed = make_net(5, optax.adam(0.1))
    fresh = placed.init(7, BATCH)
    state, taken = InitFrom(folder, new="^head/").fill(fresh)
    assert int(state.step) == 0
    assert_same(jax.device_get(state.model_state), old.model_state)
    assert_same(jax.device_get(state.params["norm"]), old.params["norm"])
    assert state.params["head"]["kernel"].shape == (3, 5)
    assert_same(state.ema, state.params)
    assert_same(state.opt_state, fresh.opt_state)
    assert "model_state/batch_stats/norm/mean" in taken.table.filled()
    # The first step donates every leaf, and takes the state as one that init made.
    placed.compile(placed.abstract_state(BATCH), BATCH)
    state, _ = placed(state, BATCH)
    assert int(state.step) == 1


def test_the_other_state_of_a_model_counts(trained):
    folder, old = trained
    params = {"stem": old.params["stem"], "head": old.params["head"]}
    with pytest.raises(CheckpointError, match="model_state/batch_stats/norm/mean"):
        load_partial(folder, params, ignore="^norm", model_state={})
    ignored = ["^norm", "^model_state/"]
    load_partial(folder, params, ignore=ignored, model_state={})
    with pytest.raises(CheckpointError, match="are both named 'model_state/a'"):
        one = {"model_state": {"a": np.zeros(1)}}
        load_partial(folder, one, model_state={"a": np.zeros(1)})


def test_an_optimizer_that_remembers_where_it_began(trained):
    folder, old = trained
    optimizer = optax.contrib.schedule_free_adamw(0.1)
    placed = make_net(2, optimizer)
    state, _ = InitFrom(folder).fill(placed.init(7, BATCH), optimizer.init)
    assert_same(jax.device_get(state.opt_state.z), old.params)
    placed.compile(placed.abstract_state(BATCH), BATCH)
    state, _ = placed(state, BATCH)
    assert int(state.step) == 1


def test_a_frozen_trunk(trained):
    """As a recipe does it: the optimizer's state is that of the parameters that are trained."""
    folder, old = trained
    optimizer = optax.adam(0.1)
    objective = jaxdl.supervised(Net(5), losses.softmax_cross_entropy, inputs="x")
    step = jaxdl.make_train_step(objective, optimizer, freeze="^stem")
    placed = jaxdl.jit(step, layout=jaxdl.single())

    def opt_init(params):
        return optimizer.init(partition(params, match_mask("^stem", params))[1])

    state, _ = InitFrom(folder, source="ema", new="^head/").fill(placed.init(7, BATCH), opt_init)
    placed.compile(placed.abstract_state(BATCH), BATCH)
    state, _ = placed(state, BATCH)
    assert_same(jax.device_get(state.params["stem"]), old.ema["stem"])
    assert not np.array_equal(state.params["norm"]["bias"], old.ema["norm"]["bias"])

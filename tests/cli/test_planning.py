"""``jaxdl plan``: what it asks of the planner, prints and refuses."""

from __future__ import annotations

import json
import os
from pathlib import Path

import jax
import pytest
from jax.sharding import PartitionSpec as P
from real_compiler import needs_libtpu

import jaxdl
from jaxdl import tpu
from jaxdl.cli import plan_answers, planning
from jaxdl.cli.files import load
from jaxdl.cli.plan_builder import Builder
from jaxdl.cli.plan_options import parse_layout, read_options
from jaxdl.cli.plan_worker import main as worker
from jaxdl.errors import ConfigError, NonFiniteError, PlanError
from jaxdl.layouts import layout
from jaxdl.tpu.changing.changes import Change
from jaxdl.tpu.showing import rendering

GPT = '''
"""A tiny GPT."""

import dataclasses

import numpy as np
import optax

import jaxdl
from jaxdl import data, models
from jaxdl.objectives import language_model


@dataclasses.dataclass(frozen=True)
class Config:
    layout: str = "data"
    remat: str | None = None
    hidden_dim: int = 16
    num_layers: int = 2
    batch_size: int = 16


def recipe(config):
    rows = data.arrays({"tokens": np.zeros((64, 17), np.int32)})
    model = models.GPT(
        vocab_size=64, num_layers=config.num_layers, num_heads=2, hidden_dim=config.hidden_dim,
        max_length=16, remat=config.remat, scan_layers=True,
    )
    return jaxdl.Recipe(
        name="gpt", objective=language_model(model), optimizer=optax.adam(1e-3), steps=2,
        train=data.Batches(rows, config.batch_size),
        layout={"data": jaxdl.data_parallel, "fsdp": jaxdl.fsdp}[config.layout](),
    )
'''


@pytest.fixture
def gpt(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "gpt.py"
    path.write_text(GPT)
    return path


def asked(path, *words):
    example = load(path)
    config, options = read_options(example, [*words], "jaxdl plan")
    return Builder(example, config, options), config, options


# ------------------------------------------------------------------------------------------------
# Layouts by name.


@pytest.mark.parametrize(
    ("text", "axes"),
    [
        ("data", (("data", -1),)),
        ("single", (("data", 1),)),
        ("fsdp", (("fsdp", -1),)),
        ("data=16,fsdp=16", (("data", 16), ("fsdp", 16))),
        (" data = 2 , fsdp = -1 ", (("data", 2), ("fsdp", -1))),
        ("fsdp=8", (("fsdp", 8),)),
    ],
)
def test_layouts_by_name(text, axes):
    found = parse_layout(text, None)
    assert found.axes == axes
    assert found.shard_axis == ("fsdp" if "fsdp" in text else None)
    assert set(found.batch_axes) == {name for name, _ in axes}


def test_zero1_divides_the_optimizer():
    assert parse_layout("zero1", None) == jaxdl.zero1()


def test_the_rules_of_the_file_hold_for_a_mesh_that_has_their_axis():
    own = layout(mesh={"data": -1, "tensor": 2}, rules=[("kernel$", P(None, "tensor"))])
    found = parse_layout("data=4,tensor=4", own)
    assert (found.rules, found.batch_axes) == (own.rules, ("data",))
    assert parse_layout("data=16", own).rules == ()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("fspd", "did you mean 'fsdp'"),
        ("", "there is no layout ''"),
        ("data=4;fsdp=4", "there is no layout"),
        ("data=4,", "there is no layout"),
        ("data=0", "mend data=0"),
        ("data=-2", "mend data=-2"),
        ("data=2,data=4", "cannot be made"),
        ("model=4", "mend model=4"),
        ("data=4,tensor=4", "no rule divides anything over it"),
    ],
)
def test_layouts_that_do_not_exist(text, told):
    with pytest.raises(ConfigError, match=told):
        parse_layout(text, None)


# ------------------------------------------------------------------------------------------------
# Options and the programs they make.


def test_the_files_own_layout_and_batch_are_the_default(tiny):
    builder, _, _ = asked(tiny, "--on", "v5e-16")
    assert builder.now == Change(layout=jaxdl.single())
    step, batch = builder(builder.now)
    assert isinstance(step, jaxdl.TrainStep)
    assert {name: leaf.shape for name, leaf in batch.items()} == {
        "x": (8, 3),
        "label": (8,),
        "mask": (8,),
    }


def test_options_change_what_is_built(tiny):
    words = ["--on", "v5e-16", "--layout", "fsdp", "--batch", "64", "--microbatches", "4"]
    builder, config, _ = asked(tiny, *words, "--width", "5")
    assert builder.now == Change(layout=jaxdl.fsdp(), microbatches=4, rows=64)
    assert config.width == 5
    step, batch = builder(builder.now)
    assert batch["x"].shape == (64, 3)
    state = jax.eval_shape(step.init, jax.eval_shape(jax.random.key, 0), batch)
    assert state.params["dense_0"]["kernel"].shape == (3, 5)
    program = str(jax.make_jaxpr(step.update)(state, batch))
    assert "length=4" in program


def test_fields_of_the_config_take_the_place_of_options(gpt):
    builder, config, options = asked(gpt, "--on", "v5e-16", "--layout", "fsdp", "--remat", "full")
    assert (config.layout, config.remat) == ("fsdp", "full")
    assert (options.layout, options.remat) == (None, None)
    assert builder.now == Change(layout=jaxdl.fsdp(), remat="full")
    assert builder.options(tpu.parse_topology("v5e-16")).remats == (
        "dots",
        "dots_no_batch",
        "full",
    )

    def recomputes(remat):
        step, batch = builder(Change(remat=remat))
        state = jax.eval_shape(step.init, jax.eval_shape(jax.random.key, 0), batch)
        return tpu.count_flops(step.update, state, batch).recomputed > 0

    assert (recomputes(None), recomputes("full")) == (False, True)


def test_none_in_words_is_what_keeps_everything(gpt):
    text = gpt.read_text().replace("remat: str | None = None", 'remat: str = "none"')
    gpt.write_text(
        text.replace("remat=config.remat", 'remat={"none": None}.get(config.remat, config.remat)')
    )
    builder, _, _ = asked(gpt, "--on", "v5e-16")
    assert builder.now.remat is None
    builder(builder.now)
    builder, _, _ = asked(gpt, "--on", "v5e-16", "--remat", "dots")
    assert builder.now.remat == "dots"
    builder(Change())
    assert builder.tokens == 16


def test_a_mesh_goes_before_the_files_layout(gpt):
    builder, config, _ = asked(gpt, "--on", "v5e-16", "--mesh", "data=4,fsdp=4")
    assert config.layout == "data"
    assert builder.now.layout == parse_layout("data=4,fsdp=4", None)


def test_remat_without_a_field_for_it_is_told(tiny):
    with pytest.raises(ConfigError, match="has no field remat"):
        asked(tiny, "--on", "v5e-16", "--remat", "full")


def test_microbatches_do_not_replace_an_estimator_of_the_file(tiny):
    text = tiny.read_text().replace("layout=jaxdl.single(),", "gradient=jaxdl.gradients.mean(),")
    tiny.write_text(text)
    builder, _, _ = asked(tiny, "--on", "v5e-16", "--microbatches", "2")
    with pytest.raises(ConfigError, match="gradient estimator of its own"):
        builder(builder.now)
    assert builder.options(tpu.parse_topology("v5e-16")).microbatches == 2


@pytest.mark.parametrize("name", ["on", "json", "search"])
def test_a_config_with_a_field_that_only_a_plan_has_is_told(tiny, name):
    tiny.write_text(
        tiny.read_text().replace("    width: int", f"    {name}: int = 1\n    width: int")
    )
    with pytest.raises(ConfigError, match=f"has the field {name}"):
        asked(tiny, "--on", "v5e-16")


@pytest.mark.parametrize("words", [[], ["--on", "v5e-16", "--batch", "many"], ["--onn", "x"]])
def test_wrong_options_end_with_2(tiny, words, capsys):
    with pytest.raises(SystemExit) as end:
        asked(tiny, *words)
    assert end.value.code == 2


def test_help_lists_the_options_of_both(gpt, capsys):
    with pytest.raises(SystemExit) as end:
        asked(gpt, "--help")
    assert end.value.code == 0
    out = capsys.readouterr().out
    assert all(word in out for word in ("--on", "--hidden-dim", "--json", "--no-search"))
    assert out.count("--layout") == out.count("--remat") == 1


# ------------------------------------------------------------------------------------------------
# The process that compiles.


def answered(tmp_path, *words):
    answer = tmp_path / "answer.json"
    assert worker([str(answer), *words]) == 0
    return plan_answers.read_answer(answer)


def test_help_that_nobody_reads_is_no_error(gpt, tmp_path, monkeypatch):
    """The process that compiles shows it, as of ``jaxdl plan FILE --help | head``."""
    reads, writes = os.pipe()
    os.close(reads)
    with os.fdopen(writes, "w") as output:
        monkeypatch.setattr("sys.stdout", output)
        assert worker([str(tmp_path / "answer.json"), str(gpt), "--help"]) == 0


def test_errors_come_back_with_their_three_parts(tiny, tmp_path):
    with pytest.raises(ConfigError, match="there is no such slice") as told:
        answered(tmp_path, "tiny.py", "--on", "v5e-17")
    assert "v5e-16" in told.value.expected


def test_without_libtpu_it_says_what_to_install(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("TPU_LIBRARY_PATH", str(tmp_path / "none.so"))
    with pytest.raises(PlanError, match=r"pip install 'jaxdl\[tpu\]'"):
        answered(tmp_path, "tiny.py", "--on", "v5e-16")


@pytest.mark.parametrize("name", ["json", "picture"])
@pytest.mark.parametrize(("path", "told"), [("no/plan", "no folder no"), (".", "is a folder")])
def test_what_cannot_be_written_is_told_first(tiny, tmp_path, monkeypatch, name, path, told):
    (tmp_path / "libtpu.so").touch()
    monkeypatch.setenv("TPU_LIBRARY_PATH", str(tmp_path / "libtpu.so"))
    with pytest.raises(ConfigError, match=told):
        answered(tmp_path, "tiny.py", "--on", "v5e-16", f"--{name}", path)


def test_an_error_of_a_run_is_one_of_the_plan_here(tmp_path):
    answer = tmp_path / "answer.json"
    plan_answers.write_error(answer, NonFiniteError("it", expected="this", do="that"))
    with pytest.raises(PlanError, match="it") as told:
        plan_answers.read_answer(answer)
    assert (told.value.expected, told.value.do) == ("this", "that")


def test_an_answer_comes_back(tmp_path):
    plan_answers.write_answer(tmp_path / "a", "text", fits=False)
    assert plan_answers.read_answer(tmp_path / "a") == ("text", False)


@pytest.mark.parametrize("words", [["--on", "v5e-16"], []])
def test_plan_needs_a_file(jaxdl_command, words):
    code, _, err = jaxdl_command("plan", *words)
    assert code == 2
    assert "was given no file" in err


def test_plan_has_help(jaxdl_command):
    code, out, _ = jaxdl_command("plan", "--help")
    assert code == 0
    assert "usage: jaxdl plan FILE --on SLICE" in out


def test_the_command_tells_errors_of_the_other_process(tiny, jaxdl_command, monkeypatch):
    monkeypatch.setenv("TPU_LIBRARY_PATH", "/nowhere/libtpu.so")
    code, out, err = jaxdl_command("plan", "tiny.py", "--on", "v5e-16")
    assert (code, out) == (2, "")
    assert "error: there is no TPU compiler: TPU_LIBRARY_PATH names /nowhere" in err


@pytest.mark.parametrize(
    ("child", "told"),
    [
        ("import os; os.kill(os.getpid(), 6)", "ended by SIGABRT"),
        ("import os; os.kill(os.getpid(), 9)", "SIGKILL, as the system does when memory runs out"),
        ("import sys; print('F0101 lockfile', file=sys.stderr); sys.exit(3)", "code 3: F0101 lock"),
        ("raise ValueError('mine')", "code 1: ValueError: mine"),
    ],
)
def test_a_crash_of_the_compiler_is_an_error_in_words(
    tiny, jaxdl_command, monkeypatch, child, told
):
    monkeypatch.setattr(planning, "_CHILD", child)
    code, out, err = jaxdl_command("plan", "tiny.py", "--on", "v5e-16")
    assert (code, out) == (2, "")
    assert "error: the process that compiles ended" in err
    assert told in err


def test_exit_codes_of_help_and_of_ctrl_c_pass_through(tiny, jaxdl_command, monkeypatch):
    for code in (0, 2, 130):
        monkeypatch.setattr(planning, "_CHILD", f"import sys; sys.exit({code})")
        assert jaxdl_command("plan", "tiny.py")[0] == code


def test_the_environment_of_the_other_process(tiny, jaxdl_command, monkeypatch, tmp_path):
    child = "import os, sys; open('seen', 'w').write(repr(dict(os.environ))); sys.exit(2)"
    monkeypatch.setattr(planning, "_CHILD", child)
    monkeypatch.setenv("JAX_PLATFORMS", "tpu")
    monkeypatch.setenv("TPU_LOG_DIR", "/mine")
    before = dict(os.environ)
    jaxdl_command("plan", "tiny.py")
    assert dict(os.environ) == before
    seen = (tmp_path / "seen").read_text()
    assert "'JAX_PLATFORMS': 'cpu'" in seen
    assert "'ALLOW_MULTIPLE_LIBTPU_LOAD': '1'" in seen
    assert "'TPU_LOG_DIR': '/mine'" in seen


@pytest.mark.slow
@needs_libtpu[1]
class TestWithLibtpu:
    """The whole command, with the real compiler."""

    @pytest.fixture(autouse=True)
    def folder(self, monkeypatch, tmp_path):
        monkeypatch.setenv("JAXDL_DATA_DIR", str(tmp_path / "data"))

    def test_a_plan_is_printed_and_written(self, tiny, jaxdl_command):
        words = ["--on", "v5e-4", "--layout", "data", "--json", "plan.json", "--sweep"]
        code, out, err = jaxdl_command("plan", "tiny.py", *words)
        assert code == 0, err
        assert "fits" in out
        assert "compiling tiny for v5e-4: 4 chips" in err
        assert "3 of 3: " in err
        assert "on the frontier" in out
        written = json.loads(Path("plan.json").read_text())
        plan = rendering.from_json(written)
        assert plan.facts.mesh == {"data": 4}
        assert plan.facts.parameters == 26

    def test_what_does_not_fit_ends_with_1_and_a_way_that_does(self, gpt, jaxdl_command):
        words = ["--on", "v5e-4", "--hidden-dim", 8192, "--num-layers", 3]
        code, out, err = jaxdl_command("plan", "gpt.py", *words)
        assert code == 1, err
        assert "does not fit" in out
        assert "exceeds available HBM" in out
        assert "opt_state/0/mu/blocks/mlp_in/kernel" in out
        assert "layout fsdp" in out

    def test_rows_that_do_not_divide(self, tiny, jaxdl_command):
        code, _, err = jaxdl_command("plan", "tiny.py", "--on", "v5e-16", "--layout", "data")
        assert code == 2
        assert "a batch of 8 rows does not divide over 16 devices" in err
        assert "--batch" in err

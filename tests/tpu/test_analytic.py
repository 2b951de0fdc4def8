"""Formulas of a decoder, and the roofline against runs that others published."""

from __future__ import annotations

import importlib.util
import statistics
from pathlib import Path

import pytest

from jaxdl.errors import ConfigError
from jaxdl.tpu.plans.analytic import KEPT, Decoder, transformer
from jaxdl.tpu.plans.roofline import NOMINAL, predict

LLAMA_8B = Decoder(32, 4096, 32, 8, 128, 14336, 128256)
LLAMA_70B = Decoder(80, 8192, 64, 8, 128, 28672, 128256)
SMALL = Decoder(2, 8, 2, 1, 4, 16, 10, gated=False, tied=True)


def published():
    path = Path(__file__).parents[2] / "benchmarks" / "published_runs.py"
    spec = importlib.util.spec_from_file_location("published_runs", path)
    module = importlib.util.module_from_spec(spec)
    # A dataclass looks its own module up.
    import sys

    sys.modules["published_runs"] = module
    spec.loader.exec_module(module)
    return module


RUNS = published()


def test_parameters_by_hand():
    # q 8x8, k and v 8x4 each, out 8x8, two kernels of 8x16; one table of 10x8.
    assert SMALL.parameters == 2 * (64 + 32 + 32 + 64 + 128 + 128) + 80
    assert LLAMA_8B.parameters == pytest.approx(8.03e9, rel=1e-3)


def test_flops_of_a_token_agree_with_what_is_published():
    # MaxText prints 417.397 TFLOP/s at 7207.336 tokens/s, and 481 GFLOP a token for 70B.
    assert LLAMA_8B.model_flops(8192) == pytest.approx(417.397e12 / 7207.336, rel=2e-3)
    assert LLAMA_70B.model_flops(8192) == pytest.approx(481e9, rel=2e-3)


def test_work_by_hand():
    work = transformer(SMALL, "v5e-4", {"fsdp": 2, "tensor": 2}, rows=4, length=6)
    layers, head, attention = 2 * 448, 80, 4 * 6 * 2 * 4 * 2
    tokens = 24
    assert work.model == tokens * (6 * (layers + head) + 3 * attention)
    assert work.attention == tokens * 3 * attention
    # Nothing is recomputed; 7 products of half the square.
    assert work.executed == tokens * (6 * (layers + head) + 3.5 * attention / 2)
    kinds = {each.kind: each for each in work.collectives}
    assert kinds["all-gather"].bytes == 2 * SMALL.parameters // 2
    assert kinds["all-gather"].times == 2
    assert kinds["reduce-scatter"].times == 1
    assert kinds["all-reduce"].bytes == 2 * tokens * 8 // 2
    assert kinds["all-reduce"].times == 4 * 2
    assert kinds["all-gather"].group == (0, 2)
    assert kinds["all-reduce"].group == (0, 1)


def test_full_remat_computes_all_but_the_last_product_again():
    given = {"topology": "v5e-4", "mesh": {"fsdp": 4}, "rows": 4, "length": 6}
    kept = transformer(SMALL, **given).executed
    full = transformer(SMALL, **given, kept=()).executed
    attention = 4 * 6 * 2 * 4 * 2
    assert full - kept == 24 * (2 * 2 * (64 + 64 + 64 + 128) + attention / 2)
    some = [transformer(SMALL, **given, kept=KEPT[:count]).executed for count in range(6)]
    assert some == sorted(some, reverse=True)


def test_gradients_cross_slices_in_parts():
    work = transformer(SMALL, "2x v5e-4", {"data": 4, "fsdp": 2}, rows=8, length=6)
    within, between = (each for each in work.collectives if each.kind == "all-reduce")
    assert (within.network, within.group) == ("ici", (0, 2))
    assert (between.network, between.group) == ("dcn", (0, 4))
    assert within.bytes == 2 * SMALL.parameters // 2
    assert between.bytes == within.bytes // 2


def test_one_chip_sends_nothing():
    work = transformer(SMALL, "v5e-1", {}, rows=1, length=6)
    assert work.collectives == ()
    assert predict(work).ici == {}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"mesh": {"fsdp": 2}}, "takes 2 devices"),
        ({"mesh": {"model": 4}}, "axis 'model'"),
        ({"kept": ("qvk",)}, "did you mean 'qkv'"),
    ],
)
def test_mistakes_are_told(change, told):
    given = {"topology": "v5e-4", "mesh": {"fsdp": 4}, "rows": 4, "length": 6}
    with pytest.raises(ConfigError, match=told):
        transformer(SMALL, **{**given, **change})


@pytest.mark.parametrize("run", RUNS.RUNS, ids=lambda run: f"{run.name} on {run.slices}")
def test_no_bound_is_slower_than_what_was_measured(run):
    assert RUNS.bound_seconds(run) <= RUNS.measured_seconds(run)


def test_the_median_run_is_within_1_7_of_its_bound():
    ratios = [RUNS.measured_seconds(run) / RUNS.bound_seconds(run) for run in RUNS.RUNS]
    assert len(ratios) >= 6
    assert 1.0 <= statistics.median(ratios) <= 1.7
    assert RUNS.median_ratio() == statistics.median(ratios)


@pytest.mark.parametrize("run", RUNS.RUNS, ids=lambda run: f"{run.name} on {run.slices}")
def test_rows_are_the_models_they_name(run):
    named = float(run.name.rpartition("-")[2].removesuffix("B"))
    assert run.shape.parameters / 1e9 == pytest.approx(named, rel=0.02)
    assert "@" in run.source


def test_a_run_of_known_seconds_agrees_with_its_count_of_tokens():
    run = next(each for each in RUNS.RUNS if each.unit == "seconds")
    assert run.rows * run.length / RUNS.measured_seconds(run) == pytest.approx(7207.3, rel=1e-3)
    assert predict(transformer(run.shape, run.slices, run.mesh, rows=256, length=8192), NOMINAL)

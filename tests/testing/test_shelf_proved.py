"""Every model of the shelf is proved: the cases of tests/shelf.

Fast, since tests/shelf runs each of them on 8 devices, in microbatches, with padding and pmapped.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import optax
import pytest

import jaxdl
from jaxdl import data
from jaxdl.testing import prove

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).parents[1] / "shelf"
ROWS = 8


def load_cases():
    found = {}
    for path in sorted(FOLDER.glob("cases_*.py")):
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        found.update({case.name: case for case in module.CASES})
    return found


CASES = load_cases()


@pytest.mark.parametrize("name", CASES)
def test_a_model_of_the_shelf_has_no_findings(name):
    case = CASES[name]
    step = jaxdl.make_train_step(case.objective(None, None), optax.adam(1e-3), ema_decay=0.9)
    batch = case.batch(ROWS)
    batches = [batch if "mask" in batch else data.pad_batch(batch, ROWS)] * 2
    report = prove(step, batches, fast=True)
    assert report.ok, str(report)

"""``jaxdl checkpoint``: what it lists, verifies, compares, exports and refuses."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import safetensors.numpy
from states import alter

from jaxdl import checkpoints


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run that is trained once, for the tests that only read it."""
    import contextlib

    from conftest_of_cli import TINY

    from jaxdl.cli import main

    folder = tmp_path_factory.mktemp("trained")
    (folder / "tiny.py").write_text(TINY)
    with contextlib.chdir(folder):
        assert main(["train", "tiny.py", "--run-dir", "run", "--quiet"]) == 0
    return folder / "run"

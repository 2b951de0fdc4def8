"""The VAE's example: its settings fit together, and its picture is one."""

from __future__ import annotations

import io
import runpy
from pathlib import Path

import numpy as np
from PIL import Image

from jaxdl.cli.files import load
from jaxdl.recipe import place

PATH = Path(__file__).parents[2] / "examples" / "vae.py"


def test_it_fits_together(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXDL_DATA_DIR", str(tmp_path))
    example = load(PATH)
    wanted = 65 * 256 + 2 * 257 * 8 + 9 * 256 + 257 * 64
    assert place(example.build(example.config())).parameters == wanted


def test_its_picture_is_read_back(tmp_path):
    drawn = np.random.default_rng(0).integers(0, 256, (5, 7)).astype(np.uint8)
    runpy.run_path(str(PATH))["write_png"](tmp_path / "a.png", drawn)
    read = Image.open(io.BytesIO((tmp_path / "a.png").read_bytes()))
    np.testing.assert_array_equal(np.asarray(read), drawn)

"""A recipe that trains in a moment, for hosts that are processes."""

from __future__ import annotations

import textwrap

import pytest

from jaxdl.cli import main

RECIPE = textwrap.dedent(
    '''
    """A tiny problem: the sign of the first of eight numbers."""

    import dataclasses

    import numpy as np

    import jaxdl
    from jaxdl import data, losses, metrics, models, optimizers


    @dataclasses.dataclass(frozen=True)
    class Config:
        """Settings."""

        steps: int = 30
        """Updates in all."""
        layout: str = "data_parallel"
        """Where arrays lie."""
        rows: int = 24
        """Examples in a batch."""


    def recipe(config):
        def batches(seed, rows, **options):
            x = np.random.default_rng(seed).normal(size=(rows, 8)).astype(np.float32)
            source = data.arrays({"x": x, "label": (x[:, 0] > 0).astype(np.int32)})
            return data.Batches(source, config.rows, **options)

        return jaxdl.Recipe(
            name="tiny",
            objective=jaxdl.supervised(
                models.MLP((16, 2), dropout_rate=0.2), losses.softmax_cross_entropy, inputs="x"
            ),
            optimizer=optimizers.OptimizerConfig(learning_rate=0.01).build(config.steps),
            train=batches(0, 100),
            metrics={"accuracy": metrics.accuracy()},
            layout=jaxdl.fsdp(min_size=1) if config.layout == "fsdp" else jaxdl.data_parallel(),
            steps=config.steps,
            log_every=5,
            eval_every=config.steps,
        )
    '''
)


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """The file, in a working directory of its own."""
    path = tmp_path / "tiny.py"
    path.write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    return path


@pytest.fixture
def rehearse(tiny, capfd):
    """``rehearse(*words)``: the exit code, the output and the errors."""

    def run(*words: object) -> tuple[int, str, str]:
        code = main(["rehearse", "tiny.py", *map(str, words)])
        out, err = capfd.readouterr()
        return code, out, err

    return run

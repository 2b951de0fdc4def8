"""A file that trains in a moment, and a command line that runs in this process."""

from __future__ import annotations

import contextlib
import shutil
import textwrap

import pytest

from jaxdl.cli import main

TINY = textwrap.dedent(
    '''
    """A tiny problem: the sign of the first of three numbers."""

    import dataclasses

    import numpy as np

    import jaxdl
    from jaxdl import data, losses, metrics, models, optimizers


    @dataclasses.dataclass(frozen=True)
    class Config:
        """Settings."""

        steps: int = 12
        """Updates in all."""
        width: int = 4
        """Hidden units."""
        optimizer: optimizers.OptimizerConfig = optimizers.OptimizerConfig(
            learning_rate=0.05, schedule="cosine"
        )


    def recipe(config):
        def batches(seed, rows, **options):
            x = np.random.default_rng(seed).normal(size=(rows, 3)).astype(np.float32)
            source = data.arrays({"x": x, "label": (x[:, 0] > 0).astype(np.int32)})
            return data.Batches(source, 8, **options)

        return jaxdl.Recipe(
            name="tiny",
            objective=jaxdl.supervised(
                models.MLP((config.width, 2)), losses.softmax_cross_entropy, inputs="x"
            ),
            optimizer=config.optimizer.build(config.steps),
            train=batches(0, 30),
            validation=batches(1, 16),
            test=batches(2, 11),
            metrics={
                "accuracy": metrics.accuracy(),
                "confusion": metrics.confusion_matrix(2),
            },
            steps=config.steps,
            log_every=4,
            eval_every=6,
            checkpoint_every=6,
            layout=jaxdl.single(),
        )
    '''
).lstrip()


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """The file, in a working directory of its own."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "tiny.py"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="session")
def trained_once(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    (folder / "tiny.py").write_text(TINY)
    with contextlib.chdir(folder):
        assert main(["train", "tiny.py", "--run-dir", "run", "--quiet"]) == 0
    return folder / "run"


@pytest.fixture
def trained(trained_once, tmp_path):
    """A run of the file with checkpoints of steps 6 and 12, to do with what one likes."""
    return shutil.copytree(trained_once, tmp_path / "trained")


@pytest.fixture
def jaxdl_command(capsys):
    """Runs a command; returns its exit code, output and error output."""

    def run(*words):
        capsys.readouterr()
        code = main([str(word) for word in words])
        out, err = capsys.readouterr()
        return code, out, err

    return run

"""``jaxdl attack``, ``robustness`` and ``certify`` on a run that takes a moment."""

from __future__ import annotations

import contextlib
import json
import textwrap

import pytest

from jaxdl.cli import main

pytestmark = pytest.mark.slow

BARS = textwrap.dedent(
    '''
    """Bars that lie or stand, as bytes; the model scales them itself."""

    import dataclasses

    import numpy as np
    import optax

    import jaxdl
    from jaxdl import data, losses, metrics, models, objectives, robustness


    @dataclasses.dataclass(frozen=True)
    class Config:
        """Settings."""

        floats: bool = False
        """Give floats in place of bytes."""


    def recipe(config):
        def batches(seed, rows, **options):
            rng = np.random.default_rng(seed)
            image = rng.integers(0, 60, (rows, 8, 8, 1)).astype(np.uint8)
            label = rng.integers(0, 2, rows).astype(np.int32)
            for row, stands in enumerate(label):
                at = rng.integers(0, 8)
                image[(row, slice(None), at) if stands else (row, at)] = 255
            if config.floats:
                image = image / np.float32(100)
            source = data.arrays({"image": image, "label": label})
            return data.Batches(source, 16, **options)

        plain = jaxdl.supervised(
            models.MLP((16, 2)), losses.softmax_cross_entropy,
            metrics={"accuracy": metrics.accuracy()},
        )
        attack = robustness.fgsm(0.02)
        return jaxdl.Recipe(
            name="bars",
            objective=objectives.with_adversary(plain, attack, when="train", integers="scale"),
            optimizer=optax.adam(0.01),
            train=batches(0, 64),
            test=batches(1, 40, shuffle=False),
            steps=60,
            layout=jaxdl.single(),
        )
    '''
).lstrip()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bars")
    (folder / "bars.py").write_text(BARS)
    with contextlib.chdir(folder):
        assert main(["train", "bars.py", "--run-dir", "run", "--quiet"]) == 0
    return folder / "run"


def test_attack(run, jaxdl_command):
    words = ("attack", run, "--radius", "0.3", "--steps", "5", "--json")
    code, out, err = jaxdl_command(*words)
    assert code == 0
    assert "linf 0.3, 5 steps of 0.15, 1 from a random point" in err
    scores = json.loads(out)
    _, evaluated, _ = jaxdl_command("evaluate", run, "--split", "test", "--json")
    assert scores["clean"] == pytest.approx(json.loads(evaluated)["test"])
    assert scores["clean"]["accuracy"] > 0.8
    assert scores["attacked"]["accuracy"] < scores["clean"]["accuracy"]
    assert scores["attacked"]["loss"] > scores["clean"]["loss"]
    _, again, _ = jaxdl_command(*words)
    assert json.loads(again) == scores
    code, out, err = jaxdl_command(
        "attack", run, "--radius", "0", "--norm", "l2", "--steps", "1", "--start", "image"
    )
    assert (code, "from the image" in err) == (0, True)
    accuracy = next(line.split() for line in out.splitlines() if "accuracy" in line)
    assert accuracy[1] == accuracy[2]


def test_robustness(run, jaxdl_command):
    code, out, _ = jaxdl_command("robustness", run, "--kinds", "contrast", "cut", "--json")
    assert code == 0
    scores = json.loads(out)
    assert list(scores) == ["clean", "contrast", "cut"]
    assert [len(scores[name]) for name in ("contrast", "cut")] == [5, 5]
    assert scores["contrast"][4]["loss"] > scores["contrast"][0]["loss"]
    code, out, _ = jaxdl_command("robustness", run, "--kinds", "shift", "--rows", "20")
    assert code == 0
    row = next(line.split() for line in out.splitlines() if "shift" in line)
    assert len(row) == 7
    # Of 20 rows an accuracy is a multiple of a twentieth.
    assert all(float(x) * 20 == pytest.approx(round(float(x) * 20)) for x in row[2:])


def test_certify(run, jaxdl_command):
    words = ("--rows", "10", "--samples", "200", "--sigma", "0.2", "--radii", "0", "0.1", "9")
    code, out, _ = jaxdl_command("certify", run, *words, "--json")
    assert code == 0
    found = json.loads(out)
    assert found["rows"] == 10
    shares = list(found["certified_accuracy"].values())
    assert 1 >= shares[0] >= shares[1] >= shares[2] == 0
    assert shares[0] > 0.5
    code, out, _ = jaxdl_command("certify", run, *words)
    assert code == 0
    assert "abstained" in out


def test_what_cannot_be_done(run, jaxdl_command, tmp_path):
    for words, message in (
        (("attack", run, "--field", "imag"), "did you mean 'image'?"),
        (("attack", run, "--split", "validation"), "has no split 'validation'"),
        (("attack", run, "--radius", "-1"), "radius is -1.0"),
        (("attack", run, "--rows", "0"), "rows is 0"),
        (("robustness", run, "--kinds", "rain"), "there is no corruption 'rain'"),
        (("robustness", run, "--kinds", "cut", "--metric", "acuracy"), "did you mean 'accuracy'?"),
        (("certify", run, "--sigma", "0"), "sigma is 0.0"),
        (("attack", tmp_path / "gone"), "is no run folder"),
    ):
        code, _, err = jaxdl_command(*words)
        assert code in (1, 2), words
        assert message in err


def test_images_outside_of_the_range_are_told(run, jaxdl_command):
    with contextlib.chdir(run.parent):
        words = ("train", "bars.py", "--floats", "--run-dir", "floats", "--quiet")
        assert jaxdl_command(*words)[0] == 0
        code, _, err = jaxdl_command("attack", "floats", "--steps", "1")
        assert code == 2
        assert "'image' holds 0 to 2.55" in err
        assert "--low and --high" in err
        assert jaxdl_command("attack", "floats", "--steps", "1", "--high", "2.55")[0] == 0
        assert "normalise within the model" in jaxdl_command("robustness", "floats")[2]

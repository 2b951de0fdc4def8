"""``jaxdl checkpoint``: what it lists, verifies, compares, exports and refuses."""

from __future__ import annotations

import hashlib
import re
import shutil
import warnings

import numpy as np
import pytest
import safetensors.numpy
from states import alter

from jaxdl import checkpoints


def words(text):
    return [" ".join(line.split()) for line in text.splitlines()]


def test_ls(trained, jaxdl_command):
    code, out, err = jaxdl_command("checkpoint", "ls", trained)
    assert (code, err) == (0, "")
    lines = [line for line in words(out) if line.startswith(("6 ", "12 "))]
    assert len(lines) == 2
    assert all(line.endswith("whole") and "8 x cpu validation/accuracy " in line for line in lines)
    assert "validation/loss" in out
    assert "train/" not in out


def test_ls_shows_what_is_not_whole(trained, jaxdl_command):
    folder = trained / "checkpoints"
    (folder / "7.orbax-checkpoint-tmp").mkdir()
    shutil.copytree(folder / "6", folder / "damaged" / "3-20260102-030405")
    (folder / "6" / "record" / "metadata").write_text("{}")
    shutil.rmtree(folder / "12" / "manifest")
    code, out, _ = jaxdl_command("checkpoint", "ls", folder)
    assert code == 0
    lines = words(out)
    for step, state in (
        ("6", "damaged: its record is not the one that was written"),
        ("12", "damaged: it has no manifest: it was never finished"),
        ("7", "torn: a save that is going on, or did not finish"),
        ("3", "set aside in damaged/3-20260102-030405"),
    ):
        assert any(line.startswith(f"{step} ") and line.endswith(state) for line in lines), out


def test_ls_of_nothing(jaxdl_command, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    code, out, _ = jaxdl_command("checkpoint", "ls", tmp_path)
    assert (code, out) == (0, f"there is no checkpoint in {tmp_path / 'checkpoints'}\n")
    code, _, err = jaxdl_command("checkpoint", "ls", tmp_path / "chekpoints")
    assert code == 1
    assert "did you mean 'checkpoints'?" in err


def test_verify(trained, jaxdl_command):
    code, out, err = jaxdl_command("checkpoint", "verify", trained)
    assert (code, err) == (0, "")
    assert out.startswith("read 2 checkpoint(s), 0.000 GB in ")
    assert out.endswith(" s: all whole\n")
    code, out, _ = jaxdl_command("checkpoint", "verify", trained, "--step", 6)
    assert code == 0
    assert out.startswith("read 1 checkpoint(s)")
    code, _, err = jaxdl_command("checkpoint", "verify", trained, "--step", 7)
    assert code == 1
    assert "expected: one of the steps [6, 12]" in err


def test_verify_names_the_tensor_that_was_altered(trained, jaxdl_command):
    alter(trained / "checkpoints" / "12", "state/params/dense_0/kernel")
    code, out, err = jaxdl_command("checkpoint", "verify", trained)
    assert (code, err) == (1, "")
    first, last = out.splitlines()
    assert first == "step 12: state/params/dense_0/kernel: its values were altered"
    assert last.endswith(": 1 damaged")
    assert jaxdl_command("checkpoint", "verify", trained, "--step", 6)[0] == 0


def test_verify_names_what_one_flipped_byte_spoils(trained, jaxdl_command):
    """A copy of every file that holds array data is damaged in its middle, one after another."""
    files = sorted((trained / "checkpoints" / "12" / "state" / "d").iterdir())
    manifest, _ = checkpoints.open_step(trained / "checkpoints", 12)
    for path in files:
        content = path.read_bytes()
        middle = len(content) // 2
        flipped = bytes([content[middle] ^ 1])
        path.write_bytes(content[:middle] + flipped + content[middle + 1 :])
        code, out, _ = jaxdl_command("checkpoint", "verify", trained)
        assert code == 1
        named = [line.split(": ")[1] for line in out.splitlines()[:-1]]
        assert named
        assert set(named) <= set(manifest.tensors)
        path.write_bytes(content)


def test_verify_tells_of_every_checkpoint(trained, jaxdl_command):
    for step in ("6", "12"):
        (trained / "checkpoints" / step / "manifest" / "process_0-of-1.json").unlink()
    code, out, _ = jaxdl_command("checkpoint", "verify", trained)
    assert code == 1
    assert out.splitlines()[:2] == [
        "step 6: damaged: it has no manifest: it was never finished",
        "step 12: damaged: it has no manifest: it was never finished",
    ]


def test_diff(trained, jaxdl_command):
    code, out, _ = jaxdl_command("checkpoint", "diff", trained, trained)
    assert code == 0
    assert out.splitlines()[:2] == [f"a: step 12 of {trained}", f"b: step 12 of {trained}"]
    assert out.endswith("tensors are equal, 0 are not\n")
    code, out, _ = jaxdl_command("checkpoint", "diff", trained, trained, "--step-a", 6)
    assert code == 1
    assert out.startswith(f"a: step 6 of {trained}\n")
    assert "step values differ int32[] int32[] 6 1" in words(out)
    assert any(line.startswith("params/dense_0/kernel values differ") for line in words(out))
    assert " key " not in out


def test_diff_with_a_damaged_one(trained, jaxdl_command):
    alter(trained / "checkpoints" / "12", "state/params/dense_0/kernel")
    code, _, err = jaxdl_command("checkpoint", "diff", trained, trained, "--step-a", 6)
    assert code == 1
    assert "dense_0/kernel: its values were altered" in err
    assert "do: choose another one with --step-a or --step-b" in err


def test_export(trained, jaxdl_command, tmp_path):
    out = tmp_path / "tiny.safetensors"
    code, told, err = jaxdl_command("checkpoint", "export", trained, "--to", out)
    assert (code, err) == (0, "")
    digest = hashlib.sha256(out.read_bytes()).hexdigest()
    first, second = told.splitlines()
    assert first.startswith(f"{out}: 4 tensors of step 12, ")
    assert second == f"sha256 {digest}"
    found = safetensors.numpy.load_file(out)
    manifest, _ = checkpoints.open_step(trained / "checkpoints", 12)
    name = "state/params/dense_0/kernel"
    stored = checkpoints.read_tensor(
        trained / "checkpoints" / "12", name, manifest.tensors[name].spec
    )
    np.testing.assert_array_equal(found["dense_0/kernel"], stored)
    code, _, err = jaxdl_command("checkpoint", "export", trained, "--to", out, "--step", 6)
    assert code == 2
    assert "is there already" in err
    again = ["--to", out, "--step", 6, "--overwrite"]
    code, told, _ = jaxdl_command("checkpoint", "export", trained, *again)
    assert code == 0
    assert "of step 6" in told
    code, _, err = jaxdl_command("checkpoint", "export", trained, "--to", "e.safetensors", "--ema")
    assert code == 1
    assert "holds no ema" in err


def test_export_passes_over_a_damaged_one(trained, jaxdl_command, tmp_path):
    alter(trained / "checkpoints" / "12", "state/params/dense_0/kernel")
    out = tmp_path / "tiny.safetensors"
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        code, told, err = jaxdl_command("checkpoint", "export", trained, "--to", out)
    assert code == 0
    assert re.match("warning: passed over: the checkpoint .*12 is damaged", err)
    assert "of step 6" in told


def test_a_wrong_verb(jaxdl_command):
    code, _, err = jaxdl_command("checkpoint", "verfy", "run")
    assert code == 2
    verbs = "ls, verify, diff, export, keygen, seal, open, grant, revoke, rotate"
    assert err.splitlines() == [
        "error: there is no verb 'checkpoint verfy'",
        f"  expected: checkpoint {verbs}",
        "  do: did you mean 'verify'?",
    ]


@pytest.mark.parametrize("verb", ["ls", "verify", "diff", "export"])
def test_every_verb_has_a_help(jaxdl_command, verb):
    assert f"jaxdl checkpoint {verb}" in jaxdl_command("checkpoint", "--help")[1]
    assert jaxdl_command("checkpoint") == jaxdl_command("checkpoint", "--help")
    code, out, _ = jaxdl_command("checkpoint", verb, "--help")
    assert code == 0
    assert f"jaxdl checkpoint {verb}" in out
    assert "RUN" in out

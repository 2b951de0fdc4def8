"""``jaxdl checkpoint seal`` and its kin, from a run to a file again, and where the keys went."""

from __future__ import annotations

import base64
import json
import logging

import pytest
import safetensors.numpy

from jaxdl import checkpoints, security

VERBS = ["keygen", "seal", "open", "grant", "revoke", "rotate"]


@pytest.fixture
def vault(tmp_path, jaxdl_command):
    """Keys of three people, and one that signs."""
    folder = tmp_path / "vault"
    folder.mkdir()
    for name in ("train", "evaluate", "other"):
        assert jaxdl_command("checkpoint", "keygen", folder / f"{name}.key")[0] == 0
    assert jaxdl_command("checkpoint", "keygen", folder / "sign.key", "--signing")[0] == 0
    return folder


@pytest.fixture
def command(vault, jaxdl_command):
    """``checkpoint`` with the words ``@name`` in place of the source of a key."""

    def run(*words):
        words = [str(w).replace("@", f"file:{vault}/") for w in words]
        return jaxdl_command("checkpoint", *words)

    return run


def holds(content, key):
    """Whether any 8 bytes of a key are there: raw, in hexadecimal, or in base64."""
    forms = [key[i : i + 8] for i in range(0, 32, 8)]
    forms += [form.hex().encode() for form in forms]
    forms += [form.hex().upper().encode() for form in forms[:4]]
    text = base64.b64encode(key)
    forms += [text[i : i + 11] for i in range(0, 33, 11)]
    return any(form in content for form in forms)


def test_from_a_run_to_a_file_and_no_key_left_behind(
    trained, vault, command, tmp_path, monkeypatch, caplog
):
    caplog.set_level(logging.DEBUG)
    out = trained / "12.sealed"
    values = {path.name: bytes.fromhex(path.read_text()) for path in vault.glob("*.key")}
    monkeypatch.setenv("JAXDL_TEST_KEY", values["evaluate.key"].hex())
    said = []

    def done(*words):
        code, told, err = command(*words)
        said.append(told + err)
        assert (code, err) == (0, ""), err
        return told

    told = done(
        *("seal", trained, "--to", out, "--for", "train=@train.key"),
        *("--for", "evaluate=env:JAXDL_TEST_KEY", "--sign", "@sign.key"),
    )
    assert told.startswith(f"{out}: ")
    assert " of step 12, " in told
    trust = ("--trust", vault / "sign.key.pub")
    assert "all whole" in done("verify", out, *trust)
    told = done(
        "open", out, "--key", "env:JAXDL_TEST_KEY", *trust, "--to", tmp_path / "x.safetensors"
    )
    assert "not opened, as the key has no such role: training" in told
    checkpoints.export(trained / "checkpoints" / "12", tmp_path / "y.safetensors")
    a, b = (safetensors.numpy.load_file(tmp_path / f"{name}.safetensors") for name in "xy")
    assert {n: v.tobytes() for n, v in a.items()} == {n: v.tobytes() for n, v in b.items()}
    by = ("--key", "@train.key", "--sign", "@sign.key")
    done("grant", out, "--to", f"export=command:cat {vault / 'other.key'}", *by)
    assert "still opens" in done("revoke", out, "--role", "evaluate", *by)
    code, _, err = command(
        "open", out, "--key", "env:JAXDL_TEST_KEY", *trust, "--to", tmp_path / "z"
    )
    assert code == 1
    assert "was revoked in generation 3" in err
    done("rotate", out, "--for", "train=@other.key", *by)
    code, _, err = command("open", out, "--key", "@train.key", *trust, "--to", tmp_path / "z")
    assert code == 1
    assert "was revoked in generation 4" in err
    done("open", out, "--key", "@other.key", *trust, "--to", tmp_path / "z", "--at-least", "4")
    assert not checkpoints.diff(trained / "checkpoints" / "12", tmp_path / "z" / "12").differing()

    files = [path for path in tmp_path.rglob("*") if path.is_file() and vault not in path.parents]
    assert trained / "metrics.jsonl" in files
    places = {str(path): path.read_bytes() for path in files}
    places |= {"output": "".join(said).encode(), "log": caplog.text.encode()}
    for name, value in values.items():
        for where, content in places.items():
            assert not holds(content, value), f"{name} in {where}"
        assert holds((vault / name).read_bytes(), value)


def test_what_cannot_be_done_as_asked(trained, vault, command, tmp_path):
    key = bytes.fromhex((vault / "train.key").read_text()).hex()
    out = tmp_path / "s"
    for words, message in (
        (["seal", trained, "--to", out, "--for", "train=@train.key"], "no key to sign with"),
        (
            ["seal", trained, "--to", out, "--for", f"train={key}", "--unsigned"],
            "the source of a key is none that there is",
        ),
        (["seal", trained, "--to", out, "--for", key, "--unsigned"], "not given as ROLE=SOURCE"),
        (
            ["seal", trained, "--to", out, "--for", "evaluate=@train.key", "--unsigned"],
            "no key has the role train",
        ),
        (["seals"], "there is no verb 'checkpoint seals'"),
    ):
        code, _, err = command(*words)
        assert code == 2
        assert message in err
        assert key not in err
    assert not out.exists()
    words = ("seal", trained, "--to", out, "--for", "train=@train.key", "--unsigned", "--step", 6)
    assert command(*words)[0] == 0
    assert security.is_sealed(out)
    code, _, err = command("verify", out, "--trust", vault / "sign.key.pub")
    assert code == 1
    assert "is not signed" in err
    code, _, err = command("verify", out)
    assert code == 2
    assert "no key to trust is given" in err
    code, told, _ = command("verify", out, "--allow-unsigned")
    assert (code, told.splitlines()[-1][:22]) == (0, "signature not verified")
    (path,) = out.glob("params-*.bin")
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    code, told, _ = command("verify", out, "--allow-unsigned")
    assert code == 1
    assert "of params-1.bin was altered" in told


@pytest.mark.parametrize("verb", VERBS)
def test_help(verb, jaxdl_command):
    code, told, _ = jaxdl_command("checkpoint", verb, "--help")
    assert code == 0
    assert f"jaxdl checkpoint {verb}" in told


@pytest.mark.slow
def test_a_run_that_seals_is_resumed_to_the_same_bits(tiny, vault, jaxdl_command, trained_once):
    keys = [f"file:{vault}/{name}.key" for name in ("train", "evaluate", "sign")]
    sealing = [
        *("--seal-for", f"train={keys[0]}", "--seal-for", f"evaluate={keys[1]}"),
        *("--seal-sign", keys[2]),
    ]
    code, _, err = jaxdl_command("train", tiny, "--run-dir", "run", "--quiet", *sealing)
    assert code == 0, err
    for last in sorted((tiny.parent / "run" / "checkpoints").iterdir())[:1]:
        assert last.name == "12"
        last.rename(tiny.parent / "gone")  # back to step 6
    code, _, err = jaxdl_command("resume", "run", "--quiet")
    assert code == 0, err
    folder = tiny.parent / "run"
    clear, again = (run / "metrics.jsonl" for run in (trained_once, folder))
    assert [line for line in clear.read_text().splitlines() if "loss" in line]
    scores = [
        json.loads((run / "summary.json").read_text())["scores"] for run in (trained_once, folder)
    ]
    assert scores[0] == scores[1]
    assert len(clear.read_text().splitlines()) == len(again.read_text().splitlines())
    values = [bytes.fromhex(path.read_text()) for path in vault.glob("*.key")]
    for path in folder.rglob("*"):
        assert path.is_dir() or not [key for key in values if holds(path.read_bytes(), key)], path
    assert not list((folder / "checkpoints").rglob("manifest"))
    code, told, _ = jaxdl_command("checkpoint", "ls", "run")
    assert (code, told.count("sealed")) == (0, 2)
    trust = ("--trust", vault / "sign.key.pub")
    code, told, err = jaxdl_command("evaluate", "run", "--json", "--key", keys[1], *trust)
    assert (code, json.loads(told)) == (0, scores[0]), err
    for words in (["--key", f"file:{vault}/other.key", *trust], ["--key", keys[1]]):
        code, _, err = jaxdl_command("evaluate", "run", *words)
        assert (code, "error: " in err) in ((1, True), (2, True))


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--seal-sign", "file:sign.key"], "only one of"),
        (["--seal-for", "train=" + "ab" * 32, "--seal-sign", "file:sign.key"], "source"),
        (["--seal-for", "export=file:train.key", "--seal-sign", "file:sign.key"], "role train"),
    ],
    ids=["nobody", "a key in place of its source", "nobody to go on"],
)
def test_a_run_that_cannot_seal_leaves_no_folder(tiny, vault, jaxdl_command, words, why):
    words = [word.replace("file:", f"file:{vault}/") for word in words]
    code, _, err = jaxdl_command("train", tiny, "--run-dir", "run", "--quiet", *words)
    assert code == 2
    assert why in err
    assert "abab" not in err
    assert not (tiny.parent / "run").exists()

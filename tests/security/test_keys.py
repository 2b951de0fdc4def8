"""Where keys come from, and that they go nowhere else."""

from __future__ import annotations

import base64
import copy
import os
import pickle
import stat
import sys
import traceback

import pytest

from jaxdl import security
from jaxdl.errors import ConfigError

VALUE = bytes(range(100, 132))


@pytest.fixture
def key_file(tmp_path):
    path = tmp_path / "train.key"
    path.write_text(VALUE.hex() + "\n")
    path.chmod(0o600)
    return path


def shown(error):
    """Everything that a person or a log sees of an error."""
    return "".join(traceback.format_exception(error))


def assert_hidden(text, value=VALUE):
    for form in (value.hex(), base64.b64encode(value).decode(), repr(value)[2:-1]):
        for start in range(0, len(form) - 10, 5):
            assert form[start : start + 10] not in text


@pytest.mark.parametrize("form", [bytes.hex, lambda v: base64.b64encode(v).decode()])
def test_sources(key_file, monkeypatch, form):
    key_file.write_text(form(VALUE) + "\n")
    monkeypatch.setenv("JAXDL_TEST_KEY", form(VALUE))
    for source in (f"file:{key_file}", "env:JAXDL_TEST_KEY", f"command:cat '{key_file}'"):
        assert security.read_key(source).reveal() == VALUE


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o610])
def test_a_file_that_others_may_read_is_refused(key_file, mode):
    key_file.chmod(mode)
    with pytest.raises(ConfigError, match=f"has mode {mode:o}\n(.|\n)*do: chmod 600 ") as caught:
        security.read_key(f"file:{key_file}")
    assert_hidden(shown(caught.value))
    key_file.chmod(0o400)
    assert security.read_key(f"file:{key_file}").reveal() == VALUE


def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name, message in (
        ("pipe", "no regular file"),
        ("none", "No such file"),
        ("", "no regular file"),
    ):
        with pytest.raises(ConfigError, match=message):
            security.read_key(f"file:{tmp_path / name}")


@pytest.mark.parametrize(
    "source",
    [VALUE.hex(), f"hex:{VALUE.hex()}", f"key={VALUE.hex()}", "file:", "env: ", "env:NO-SUCH", ""],
)
def test_a_wrong_source_is_not_repeated(source):
    with pytest.raises(ConfigError) as caught:
        security.read_key(source)
    assert_hidden(shown(caught.value))


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("import sys; print('{}', file=sys.stderr); sys.exit(3)", "ended with code 3"),
        ("print('{}'[:-1])", "is no key"),
        ("print('{}' * 100)", "is no key"),
        ("print('zz' + '{}'[2:])", "is no key"),
    ],
)
def test_a_command_that_fails_shows_nothing_of_what_it_printed(program, message):
    program = program.format(VALUE.hex())
    with pytest.raises(ConfigError, match=message) as caught:
        security.read_key(f'command:{sys.executable} -c "{program}"')
    assert_hidden(str(caught.value))
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_a_command_that_cannot_be_run():
    for command, message in (
        ("/no/such/program x", "could not be started"),
        ("'a", "split into words"),
    ):
        with pytest.raises(ConfigError, match=message):
            security.read_key(f"command:{command}")


@pytest.mark.parametrize("value", [b"", VALUE[:-1], VALUE + b"x", bytes(32), b"01" * 16])
def test_what_is_no_random_key_is_refused(value):
    with pytest.raises(ConfigError) as caught:
        security.Secret(value)
    assert "keygen" in str(caught.value)


def test_a_secret_does_not_show_itself():
    secret = security.Secret(VALUE)
    assert repr(secret) == str(secret) == f"Secret('{secret.id}')"
    assert_hidden(f"{secret!r} {secret} {secret.id} {[secret]} {dir(secret)}")
    for leak in (pickle.dumps, copy.deepcopy, copy.copy):
        with pytest.raises(ConfigError, match="about to be pickled"):
            leak(secret)


def test_keygen(tmp_path):
    made = security.new_key(tmp_path / "sign.key", signing=True)
    assert stat.S_IMODE((tmp_path / "sign.key").stat().st_mode) == 0o600
    assert security.read_key(f"file:{tmp_path / 'sign.key'}").id == made.id
    text = security.public_text(made)
    assert (tmp_path / "sign.key.pub").read_text() == text + "\n"
    assert security.read_public(tmp_path / "sign.key.pub").hex() == text.partition(":")[2]
    with pytest.raises(ConfigError, match="File exists"):
        security.new_key(tmp_path / "sign.key")
    other = security.new_key(tmp_path / "b.key")
    assert other.id != made.id
    assert not (tmp_path / "b.key.pub").exists()


def test_the_secret_half_given_as_the_public_one_is_not_repeated(key_file, tmp_path):
    with pytest.raises(ConfigError, match="is no public key") as caught:
        security.read_public(key_file)
    assert_hidden(shown(caught.value))
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        security.read_public(tmp_path / "x")
    (tmp_path / "x").write_text("ed25519:zz")
    with pytest.raises(ConfigError, match="is no public key"):
        security.read_public(tmp_path / "x")

"""Who may open what, before and after roles were given, taken away and rotated."""

from __future__ import annotations

import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest

from jaxdl import security
from jaxdl.errors import CheckpointError, ConfigError, DamagedError, SealError
from jaxdl.security import changing

PARAMS = {"state/params/dense_0/kernel", "state/params/dense_0/bias", "state/params/a%2Fb %25/%"}
EXPORT = PARAMS | {"state/ema/dense_0/kernel"}
EVALUATE = EXPORT | {"state/model_state/batch_stats/mean"}


@pytest.fixture
def by(keys):
    """Who changes something."""
    return {"holder": keys.train, "signer": keys.signer}


def test_each_role_opens_its_groups(sealed, keys, open_all):
    everything = open_all(sealed)
    assert set(open_all(sealed, keys.export)) == EXPORT
    assert set(open_all(sealed, keys.evaluate)) == EVALUATE
    assert set(everything) > EVALUATE | {"state/opt_state/0/mu", "state/key", "window/0", "record"}
    for key in (keys.export, keys.evaluate):
        assert everything.items() >= open_all(sealed, key).items()


def test_a_role_holds_no_data_key_of_another(sealed, keys):
    opened = {
        role: security.open_sealed(sealed, key, trust=keys.trust).keys for role, key in keys.holders
    }
    assert {role: set(each) for role, each in opened.items()} == {
        "export": {"params"},
        "evaluate": {"params", "model"},
        "train": {"params", "model", "training"},
    }
    assert len(set(opened["train"].values())) == 3


def test_a_wrong_role_is_refused(sealed, keys, open_all):
    with pytest.raises(SealError, match="has the role evaluate in .*, not train"):
        open_all(sealed, keys.evaluate, role="train")
    assert set(open_all(sealed, keys.train, role="train")) > EVALUATE
    found = security.open_sealed(sealed, keys.evaluate, trust=keys.trust)
    with pytest.raises(SealError, match="opens no 'state/opt_state/0/mu'"):
        found.read("state/opt_state/0/mu")
    with pytest.raises(SealError, match=f"the key {keys.other.id} has no role"):
        open_all(sealed, keys.other)
    with pytest.raises(ConfigError, match="did you mean 'export'"):
        open_all(sealed, keys.train, role="exports")
    assert "Secret" not in repr(found)
    assert found.keys["params"].hex() not in repr(found)
    with pytest.raises(ConfigError, match="about to be pickled, with its data keys"):
        pickle.dumps(found)


def test_grant_touches_no_tensor(sealed, keys, by, open_all):
    before = {path.name: path.read_bytes() for path in sealed.glob("*.bin")}
    envelope = security.grant(sealed, "evaluate", keys.other, **by)
    assert envelope.generation == 2
    assert set(open_all(sealed, keys.other)) == EVALUATE
    assert {path.name: path.read_bytes() for path in sealed.glob("*.bin")} == before
    with pytest.raises(ConfigError, match="has the role evaluate in .* already"):
        security.grant(sealed, "evaluate", keys.other, **by)


def test_nobody_gives_more_than_they_have(sealed, keys):
    with pytest.raises(SealError, match="of which the key given opens only params, model"):
        security.grant(
            sealed, "train", keys.other, holder=keys.evaluate, signer=keys.signer, trust=keys.trust
        )


def test_a_revoked_role_is_refused(sealed, keys, by, open_all):
    security.grant(sealed, "evaluate", keys.other, **by)
    before = {path.name: path.read_bytes() for path in sealed.glob("*.bin")}
    security.revoke(sealed, "evaluate", key=keys.evaluate.id, **by)
    with pytest.raises(SealError, match="the role evaluate of the key .* was revoked in generat"):
        open_all(sealed, keys.evaluate)
    assert set(open_all(sealed, keys.other)) == EVALUATE
    envelope = security.revoke(sealed, "evaluate", **by)
    assert [each.role for each in envelope.grants] == ["train", "export"]
    with pytest.raises(SealError, match="was revoked in generation 4"):
        open_all(sealed, keys.other)
    assert {path.name: path.read_bytes() for path in sealed.glob("*.bin")} == before
    with pytest.raises(ConfigError, match="no such key has the role evaluate"):
        security.revoke(sealed, "evaluate", **by)
    with pytest.raises(ConfigError, match="nobody would have the role train"):
        security.revoke(sealed, "train", **by)


def test_what_revoking_does_not_do_is_what_the_page_says(sealed, keys, by, open_all, tmp_path):
    """An old copy still opens; whoever knows the generation refuses it; rotating ends it."""
    old = shutil.copytree(sealed, tmp_path / "old")
    security.revoke(sealed, "evaluate", **by)
    assert open_all(old, keys.evaluate)
    with pytest.raises(SealError, match="is of generation 1"):
        open_all(old, keys.evaluate, at_least=2)
    shutil.copy(old / "seal", sealed / "seal")
    assert open_all(sealed, keys.evaluate)
    with pytest.raises(SealError, match="is of generation 1"):
        security.grant(sealed, "export", keys.other, **by, at_least=2)
    security.rotate(sealed, [("train", keys.train)], **by)
    shutil.copy(old / "seal", sealed / "seal")
    with pytest.raises(DamagedError, match="is absent"):
        open_all(sealed, keys.evaluate)


def test_rotate_shuts_old_keys_out(sealed, keys, by, open_all):
    before, old = open_all(sealed), security.open_sealed(sealed, keys.train, trust=keys.trust)
    envelope = security.rotate(sealed, [("train", keys.other), ("export", keys.export)], **by)
    assert (envelope.generation, envelope.epoch) == (2, 2)
    assert sorted(path.name for path in sealed.iterdir()) == [
        *("model-2.bin", "params-2.bin", "seal", "training-2.bin")
    ]
    assert open_all(sealed, keys.other) == before
    assert set(open_all(sealed, keys.export)) == EXPORT
    for key in (keys.train, keys.evaluate):
        with pytest.raises(SealError, match="was revoked in generation 2"):
            open_all(sealed, key)
    new = security.open_sealed(sealed, keys.other, trust=keys.trust)
    assert not set(new.keys.values()) & set(old.keys.values())
    with pytest.raises(SealError, match="not train"):
        security.rotate(sealed, [("train", keys.train)], **{**by, "holder": keys.export})


def test_an_old_wrapping_in_a_new_envelope_opens_nothing(sealed, keys, by):
    """Even for whoever may sign: what was wrapped is bound to the data keys it was wrapped for."""
    old = security.open_sealed(sealed, keys.train, trust=keys.trust).envelope.grants[1]
    new = security.rotate(sealed, [("train", keys.train)], **by)
    found = security.open_sealed(sealed, keys.train, trust=keys.trust)
    made = changing.replace(new, grants=(*new.grants, old))
    changing.write_envelope(sealed, made, changing.mac_key(found.keys, made), keys.signer)
    with pytest.raises(DamagedError, match="the wrapped keys of evaluate"):
        security.open_sealed(sealed, keys.evaluate, trust=keys.trust)


def test_a_rotation_that_fails_leaves_all_as_it_was(sealed, keys, by, open_all, monkeypatch):
    before, files = open_all(sealed), sorted(path.name for path in sealed.iterdir())
    write = changing.write_envelope

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(changing, "write_envelope", full)
    with pytest.raises(CheckpointError, match="No space left"):
        security.rotate(sealed, [("train", keys.train)], **by)
    assert open_all(sealed) == before
    monkeypatch.setattr(changing, "write_envelope", write)
    (path,) = sealed.glob("params-1.bin")
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(DamagedError):
        security.rotate(sealed, [("train", keys.train)], **by)
    path.write_bytes(content)
    assert sorted(path.name for path in sealed.iterdir()) == files
    assert open_all(sealed) == before


def test_what_was_rotated_meanwhile_says_so(sealed, keys, by):
    found = security.open_sealed(sealed, keys.train, trust=keys.trust)
    security.rotate(sealed, [("train", keys.train)], **by)
    with pytest.raises(CheckpointError, match="it may have been rotated meanwhile"):
        found.read("state/key")


def test_what_is_signed_stays_signed(sealed, keys):
    change = {"holder": keys.train, "signer": None}
    with pytest.raises(SealError, match="no key is given to sign"):
        security.revoke(sealed, "export", trust=keys.trust, **change)
    with pytest.raises(SealError, match="no key is given to sign"):
        security.revoke(sealed, "export", trust=security.Trust(unsigned=True), **change)
    with pytest.raises(ConfigError, match="no key to trust"):
        security.revoke(sealed, "export", **change)
    with pytest.raises(SealError, match="who is not trusted"):
        security.grant(sealed, "export", keys.other, holder=keys.train, signer=keys.stranger)


def test_changes_at_one_time_are_all_kept(sealed, keys, by):
    new = [type(keys.train)(bytes(range(i, i + 32))) for i in range(6)]
    with ThreadPoolExecutor(6) as pool:
        done = list(pool.map(lambda key: security.grant(sealed, "export", key, **by), new))
    generations = sorted(each.generation for each in done)
    assert all(b == a + 1 for a, b in pairwise(generations))
    envelope, _ = security.verify_sealed(sealed, trust=keys.trust)
    assert {key.id for key in new} <= {each.key for each in envelope.grants}


def test_trust_is_said_one_way(keys):
    with pytest.raises(ConfigError, match="no key to trust is given"):
        security.Trust()
    with pytest.raises(ConfigError, match="and unsigned files are allowed"):
        security.Trust(keys.trust.keys, unsigned=True)

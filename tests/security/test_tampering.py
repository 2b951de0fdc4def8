"""Whoever can write to the disk, or holds a lesser role, changes nothing unnoticed."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from jaxdl import security
from jaxdl.errors import DamagedError, JaxdlError, SealError
from jaxdl.security import ciphers, roles, sources, streams

# How many flips: over 200 of ciphertext, 200 of the header, 200 of its proof.
REGIONS = {"params": 70, "model": 70, "training": 70, "header": 200, "signature": 200}
ANY = security.Trust(unsigned=True)


def region(folder, name):
    """A file, and where the region begins and ends in it."""
    if name in ("header", "signature"):
        path = folder / "seal"
        content = path.read_bytes()
        line = content.index(b"\n")
        return path, *((0, line) if name == "header" else (line, len(content)))
    (path,) = folder.glob(f"{name}-*.bin")
    return path, 0, path.stat().st_size


def flips(folder, name, count):
    """Flips one bit after another, and puts it back."""
    path, start, stop = region(folder, name)
    content, rng = path.read_bytes(), np.random.default_rng(len(name))
    for place in rng.integers(start, stop, count):
        bit = int(rng.integers(8))
        changed = bytearray(content)
        changed[place] ^= 1 << bit
        path.write_bytes(changed)
        yield int(place), bit
    path.write_bytes(content)


@pytest.mark.parametrize("name", REGIONS)
def test_every_flipped_bit_is_refused(sealed, keys, open_all, name):
    before = open_all(sealed)
    tried = 0
    for place, bit in flips(sealed, name, REGIONS[name]):
        with pytest.raises((DamagedError, SealError)):
            open_all(sealed)
            pytest.fail(f"bit {bit} of byte {place} of {name} was flipped")
        if tried % 5 == 0:
            with pytest.raises((DamagedError, SealError)):
                _, lines = security.verify_sealed(sealed, trust=keys.trust)
                if lines:
                    raise DamagedError(lines[0], expected="", do="")
        tried += 1
    assert tried == REGIONS[name]
    assert open_all(sealed) == before


@pytest.mark.parametrize("name", REGIONS)
def test_flipped_bits_of_what_nobody_signed(checkpoint, keys, open_all, tmp_path, name):
    """The HMAC and the tags stand alone, against whoever has no role."""
    out = security.seal(checkpoint, tmp_path / "s", keys.holders, signer=None, chunk=256).path
    assert open_all(out, trust=ANY)
    for place, bit in flips(out, name, 40):
        with pytest.raises(JaxdlError):
            open_all(out, trust=ANY)
            pytest.fail(f"bit {bit} of byte {place} of {name} was flipped")


@pytest.mark.parametrize("change", ["cut", "longer", "empty", "swapped", "absent", "first again"])
def test_a_file_of_other_chunks_is_refused(sealed, keys, open_all, change):
    (path,) = sealed.glob("params-*.bin")
    content, size = path.read_bytes(), 256 + 16
    envelope, _ = security.verify_sealed(sealed, trust=keys.trust)
    start = streams.sealed_size(envelope.groups["params"].parts[0].size, 256)
    sizes = [part.size for part in envelope.groups["params"].parts]
    start = sum(streams.sealed_size(each, 256) for each in sizes[: sizes.index(2800)])
    a, b = content[start : start + size], content[start + size : start + 2 * size]
    path.write_bytes(
        {
            "cut": content[:-size],
            "longer": content + content[-size:],
            "empty": b"",
            "swapped": content[:start] + b + a + content[start + 2 * size :],
            "first again": content[:start] + a + a + content[start + 2 * size :],
            "absent": content,
        }[change]
    )
    if change == "absent":
        path.unlink()
    with pytest.raises(DamagedError):
        open_all(sealed)
    assert security.verify_sealed(sealed, trust=keys.trust)[1]


def test_ciphertext_of_another_sealing_of_the_same_is_refused(sealed, checkpoint, keys, tmp_path):
    """Same tensors, same names, same keys: nothing can be exchanged, even without signatures."""
    again = security.seal(checkpoint, tmp_path / "b", keys.holders, signer=None, chunk=256).path
    third = security.seal(checkpoint, tmp_path / "c", keys.holders, signer=None, chunk=256).path
    shutil.copy(third / "params-1.bin", again / "params-1.bin")
    with pytest.raises(DamagedError, match="part 0 of params-1.bin"):
        security.open_sealed(again, keys.train, trust=ANY)
    shutil.copy(sealed / "params-1.bin", third / "params-1.bin")
    with pytest.raises(DamagedError):
        security.open_sealed(third, keys.train, trust=ANY)


def rewritten(folder, change):
    """The header changed by ``change``, under its old proof."""
    header, proof, _ = (folder / "seal").read_bytes().split(b"\n")
    words = json.loads(header)
    change(words)
    text = json.dumps(words, sort_keys=True, separators=(",", ":")).encode()
    (folder / "seal").write_bytes(text + b"\n" + proof + b"\n")


@pytest.mark.parametrize(
    "change",
    [
        lambda w: w["about"].update(step=13),
        lambda w: w["grants"].pop(),
        lambda w: w.update(generation=99),
        lambda w: w["grants"][1].update(role="train"),
        lambda w: w["groups"]["params"].update(file="../../x-1.bin"),
        lambda w: w["groups"].pop("training"),
    ],
    ids=["step", "grant", "generation", "role", "path", "group"],
)
def test_a_header_that_was_edited_is_refused(checkpoint, sealed, keys, tmp_path, change):
    rewritten(sealed, change)
    with pytest.raises(DamagedError, match="its signature is of another header"):
        security.open_sealed(sealed, keys.train, trust=keys.trust)
    out = security.seal(checkpoint, tmp_path / "s", keys.holders, signer=None).path
    rewritten(out, change)
    with pytest.raises(DamagedError):
        security.open_sealed(out, keys.train, trust=ANY)


def test_another_spelling_of_the_same_json_is_refused(sealed, keys):
    content = (sealed / "seal").read_bytes()
    for changed in (
        content + b"\n",
        content[:-1],
        content.replace(b'"signature":"', b'"signature": "'),
        content.replace(b"\n", b"\r\n"),
        b"",
        b"\n\n",
        b"[" * 100_000 + b"\n" + b"[" * 100_000 + b"\n",
    ):
        (sealed / "seal").write_bytes(changed)
        with pytest.raises(DamagedError):
            security.verify_sealed(sealed, trust=keys.trust)


def test_a_signature_cannot_be_stripped_or_replaced(sealed, keys):
    header, proof, _ = (sealed / "seal").read_bytes().split(b"\n")
    words = json.loads(proof)
    words.update(signature="", signer="")
    bare = json.dumps(words, sort_keys=True, separators=(",", ":")).encode()
    (sealed / "seal").write_bytes(header + b"\n" + bare + b"\n")
    with pytest.raises(SealError, match="is not signed"):
        security.open_sealed(sealed, keys.train, trust=keys.trust)
    assert security.open_sealed(sealed, keys.train, trust=ANY).items
    theirs = security.revoke(sealed, "export", holder=keys.train, signer=keys.stranger, trust=ANY)
    assert theirs.generation == 2
    with pytest.raises(SealError, match="who is not trusted"):
        security.open_sealed(sealed, keys.train, trust=keys.trust)


def test_a_lesser_role_cannot_write(sealed, keys, open_all):
    """Who may export holds a data key, and can make a chunk that its tag is right for."""
    mine = security.open_sealed(sealed, keys.export, trust=keys.trust)
    _, number, _ = mine.items["state/params/dense_0/bias"]
    group = mine.envelope.groups["params"]
    stream = streams.Stream.derived(
        mine.keys["params"], bytes.fromhex(group.salt), number, mine.envelope.context("params")
    )
    (forged,) = streams.sealed([b"\x00\x40" * 3], 6, stream, 256)
    at = sum(streams.sealed_size(part.size, 256) for part in group.parts[:number])
    content = bytearray((sealed / group.file).read_bytes())
    content[at : at + len(forged)] = forged
    (sealed / group.file).write_bytes(content)
    with pytest.raises(DamagedError, match=f"part {number} of params-1.bin"):
        open_all(sealed)


def test_a_key_meets_a_nonce_once(checkpoint, keys, tmp_path, monkeypatch):
    """Over two sealings of one checkpoint, two grants and two rotations."""
    used = []
    made, sealing = security.streams.Gcm.__init__, security.streams.Gcm.seal

    def init(self, key):
        made(self, key)
        self.key = key

    def seal(self, nonce, data, context):
        used.append((self.key, nonce))
        return sealing(self, nonce, data, context)

    monkeypatch.setattr(security.streams.Gcm, "__init__", init)
    monkeypatch.setattr(security.streams.Gcm, "seal", seal)
    out = security.seal(checkpoint, tmp_path / "a", keys.holders, signer=keys.signer, chunk=64).path
    security.seal(checkpoint, tmp_path / "b", keys.holders, signer=keys.signer, chunk=64)
    envelopes = [security.verify_sealed(tmp_path / n, trust=keys.trust)[0] for n in "ab"]
    once = len(used)
    change = {"holder": keys.train, "signer": keys.signer}
    for role in ("export", "evaluate"):
        security.grant(out, role, keys.other, **change)
    for _ in range(2):
        security.rotate(out, keys.holders, **change)
    assert once > 300
    assert len(used) > once + 300
    assert len(set(used)) == len(used)
    envelopes.append(security.verify_sealed(out, trust=keys.trust)[0])
    assert len({group.salt for each in envelopes for group in each.groups.values()}) == 9


def test_names_shapes_and_values_are_nowhere_in_the_clear(sealed, state, keys):
    kernel = np.asarray(state["params"]["dense_0"]["kernel"]).tobytes()
    for path in sealed.iterdir():
        content = path.read_bytes()
        for secret in (kernel[:16], kernel[-16:], b"dense_0", b"bfloat16", b"position"):
            assert secret not in content
        for key in keys:
            assert key.reveal() not in content
            assert key.reveal().hex().encode() not in content
    assert sources.RECORD.encode() not in (sealed / "seal").read_bytes()


ODD = [None, True, -1, 0, 1 << 70, 1.5, "", "x", "../x", "0" * 64, [], [[]], {}, {"file": 1}]


def places(value, path=()):
    """The path of every node of JSON."""
    yield path
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*path, key))


def test_a_role_that_writes_nonsense_is_told_so(checkpoint, keys, tmp_path):
    """Unsigned, by somebody whose HMAC is right: an error of ours, never another, never a hang."""
    holders = keys.holders[:1]
    out = security.seal(checkpoint, tmp_path / "s", holders, signer=None).path
    mine = security.open_sealed(out, keys.train, trust=ANY)
    key = roles.mac_key(mine.keys, mine.envelope)
    header = (out / "seal").read_bytes().split(b"\n")[0]
    nodes = [path for path in places(json.loads(header)) if path]
    refused = 0
    for number, path in enumerate(nodes * 3):
        words = json.loads(header)
        inner = words
        for step in path[:-1]:
            inner = inner[step]
        inner[path[-1]] = ODD[number % len(ODD)]
        text = json.dumps(words, sort_keys=True, separators=(",", ":")).encode()
        proof = {"mac": ciphers.mac(key, text), "signature": "", "signer": ""}
        line = json.dumps(proof, sort_keys=True, separators=(",", ":")).encode()
        (out / "seal").write_bytes(text + b"\n" + line + b"\n")
        try:
            found = security.open_sealed(out, keys.train, trust=ANY)
            for name in found.items:
                found.read(name)
        except JaxdlError:
            refused += 1
    assert len(nodes) > 60
    assert refused > 2 * len(nodes)

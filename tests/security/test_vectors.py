"""Published test vectors through our own functions, and a second reader written from the format."""

from __future__ import annotations

import hashlib
import hmac
import json

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from jaxdl.errors import CheckpointError, MissingExtraError
from jaxdl.security import ciphers, streams

KEY = "feffe9928665731c6d6a8f9467308308" * 2
PLAIN = (
    "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
    "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b391aafd255"
)
CIPHER = (
    "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa"
    "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662898015ad"
)
# NIST CAVP, gcmEncryptExtIV256, plaintext of 128 bits without and with AAD.
CAVP = [
    (
        "31bdadd96698c204aa9ce1448ea94ae1fb4a9a0b3c9d773b51bb1822666b8f22",
        "0d18e06c7c725ac9e362e1ce",
        "2db5168e932556f8089a0622981d017d",
        "",
        "fa4362189661d163fcd6a56d8bf0405a",
        "d636ac1bbedd5cc3ee727dc2ab4a9489",
    ),
    (
        "92e11dcdaa866f5ce790fd24501f92509aacf4cb8b1339d50c9c1240935dd08b",
        "ac93a1a6145299bde902f21a",
        "2d71bcfa914e4ac045b2aa60955fad24",
        "1e0889016f67601c8ebea4943bc23ad6",
        "8995ae2e6df3dbf96fac7b7137bae67f",
        "eca5aa77d51d4a0a14d9c51e1da474ab",
    ),
]
# The proposal of GCM to NIST (McGrew and Viega 2005), appendix B, test cases 13 to 16.
GCM = [
    ("00" * 32, "00" * 12, "", "", "", "530f8afbc74536b9a963b4f1c4cb738b"),
    (
        *("00" * 32, "00" * 12, "00" * 16, ""),
        *("cea7403d4d606b6e074ec5d3baf39d18", "d0d1c8a799996bf0265b98b5d48ab919"),
    ),
    (KEY, "cafebabefacedbaddecaf888", PLAIN, "", CIPHER, "b094dac5d93471bdec1a502270e3cc6c"),
    (
        *(KEY, "cafebabefacedbaddecaf888", PLAIN[:120], "feedfacedeadbeef" * 2 + "abaddad2"),
        *(CIPHER[:120], "76fc6ece0f4e1768cddf8853bb2d551b"),
    ),
]
# RFC 5869, appendices A.1 to A.3.
HKDF = [
    (
        *("0b" * 22, bytes(range(13)).hex(), "f0f1f2f3f4f5f6f7f8f9"),
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
    ),
    (
        *(bytes(range(0x50)).hex(), bytes(range(0x60, 0xB0)).hex(), bytes(range(0xB0, 256)).hex()),
        (
            "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c"
            "59045a99cac7827271cb41c65e590e09da3275600c2f09b8367793a9aca3db71"
            "cc30c58179ec3e87c14c01d5c1f3434f1d87"
        ),
    ),
    (
        *("0b" * 22, "", ""),
        "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
    ),
]
# RFC 8032, section 7.1, tests 1 to 3.
ED25519 = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        (
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
            "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
        ),
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        (
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
            "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
        ),
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        (
            "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
            "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a"
        ),
    ),
]


def raw(*words):
    return [bytes.fromhex(word) for word in words]


@pytest.mark.parametrize("case", [*GCM, *CAVP], ids=["13", "14", "15", "16", "cavp", "cavp-aad"])
def test_aes_gcm(case):
    key, nonce, plain, context, cipher, tag = raw(*case)
    made = ciphers.Gcm(key)
    assert made.seal(nonce, plain, context) == cipher + tag
    assert made.open(nonce, cipher + tag, context) == plain
    assert made.open(nonce, cipher + tag[:-1] + bytes([tag[-1] ^ 1]), context) is None
    assert made.open(nonce, tag[:-1], context) is None


@pytest.mark.parametrize("case", HKDF, ids=["A.1", "A.2", "A.3"])
def test_hkdf(case):
    key, salt, info, made = raw(*case)
    assert ciphers.hkdf(key, salt=salt, info=info, length=len(made)) == made


@pytest.mark.parametrize("case", ED25519, ids=["1", "2", "3"])
def test_ed25519(case):
    seed, public, message, signature = raw(*case)
    assert ciphers.public_key(seed) == public
    assert ciphers.sign(seed, message) == signature
    assert ciphers.verified(public, message, signature)
    assert not ciphers.verified(public, message + b"\0", signature)
    assert not ciphers.verified(public, message, signature[:-1])


def test_an_ed25519_signature_has_one_spelling():
    """S plus the order of the group verifies for whoever does not ask that S be small."""
    _, public, message, signature = raw(*ED25519[2])
    order = 2**252 + 27742317777372353535851937790883648493
    large = int.from_bytes(signature[32:], "little") + order
    assert not ciphers.verified(public, message, signature[:32] + large.to_bytes(32, "little"))


def test_hmac():
    """RFC 4231, test case 1."""
    made = "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"
    assert ciphers.mac(bytes.fromhex("0b" * 20), b"Hi There") == made


def by_hand(key, salt, info, length):
    """HKDF-SHA256 as RFC 5869 writes it."""
    middle = hmac.digest(salt or bytes(32), key, "sha256")
    made, block = b"", b""
    for number in range(1, -(-length // 32) + 1):
        block = hmac.digest(middle, block + info + bytes([number]), "sha256")
        made += block
    return made[:length]


def test_a_reader_from_the_format_alone(sealed_once, keys, checkpoint):
    """What docs/sealing.md says of the format is enough to read it."""
    header, proof, end = (sealed_once / "seal").read_bytes().split(b"\n")
    words, proof = json.loads(header), json.loads(proof)
    assert end == b""
    # A role's keys.
    grant = next(each for each in words["grants"] if each["role"] == "train")
    once = by_hand(keys.train.reveal(), bytes.fromhex(grant["salt"]), b"jaxdl seal 1 wrap", 32)
    groups = ["params", "model", "training"]
    bound = ["wrap", words["id"], words["epoch"], sorted(groups), "train", grant["key"]]
    bound = json.dumps(bound, separators=(",", ":")).encode()
    content = AESGCM(once).decrypt(bytes(12), bytes.fromhex(grant["wrapped"]), bound)
    data = {name: content[i * 32 : i * 32 + 32] for i, name in enumerate(groups)}
    # The proof.
    key = by_hand(data["params"], bytes.fromhex(words["id"]), b"jaxdl seal 1 header", 32)
    assert proof["mac"] == hmac.new(key, header, "sha256").hexdigest()
    # Every tensor.
    found = {}
    for name, group in words["groups"].items():
        sizes = [size for size, _ in group["parts"]]
        bound = [1, words["id"], words["epoch"], words["about"], words["chunk"], name]
        bound = json.dumps([*bound, group["salt"], sizes], separators=(",", ":"), sort_keys=True)
        context = hashlib.sha256(bound.encode()).digest()
        file, parts = (sealed_once / group["file"]).open("rb"), []
        for number, (size, sha256) in enumerate(group["parts"]):
            info = b"jaxdl seal 1 tensor" + number.to_bytes(4, "big")
            made = by_hand(data[name], bytes.fromhex(group["salt"]), info, 39)
            count, plain, digest = max(1, -(-size // words["chunk"])), b"", hashlib.sha256()
            for chunk in range(count):
                length = min(words["chunk"], size - chunk * words["chunk"])
                content = file.read(length + 16)
                nonce = made[32:] + chunk.to_bytes(4, "big") + bytes([chunk == count - 1])
                plain += AESGCM(made[:32]).decrypt(nonce, content, context)
                digest.update(content)
            assert digest.hexdigest() == sha256
            parts.append(plain)
        assert file.read() == b""
        file.close()
        names = [each[0] for each in json.loads(parts[0])]
        found |= dict(zip(names, parts[1:], strict=True))
    assert json.loads(found["record"])["position"] == 34
    kernel = np.frombuffer(found["state/params/dense_0/kernel"], np.float32).reshape(7, 100)
    assert found["state/ema/dense_0/kernel"] == (kernel * 2).tobytes()
    assert checkpoint.name == str(words["about"]["step"])


@given(size=st.integers(0, 100), chunk=st.integers(1, 40), number=st.integers(0, 3))
def test_streams_come_back(size, chunk, number, tmp_path_factory):
    plain = np.random.default_rng(size).bytes(size)
    stream = streams.Stream.derived(bytes(range(32)), bytes(32), number, b"context")
    made = list(streams.sealed(streams.cut(plain, chunk), size, stream, chunk))
    assert len(made) == streams.chunks_of(size, chunk)
    assert len(b"".join(made)) == streams.sealed_size(size, chunk)
    path = tmp_path_factory.mktemp("stream") / "x"
    path.write_bytes(b"".join(made))
    digest = hashlib.sha256(b"".join(made)).hexdigest()
    with path.open("rb") as file:
        back = b"".join(streams.opened(file, size, stream, chunk, sha256=digest, name="x"))
    assert back == plain


@pytest.mark.parametrize("pieces", [[b"ab"], [b"abcd", b"e"], [b"abcdef"], [b"abcd", b"ef", b"g"]])
def test_a_source_that_changes_its_size_is_refused(pieces):
    stream = streams.Stream.derived(bytes(range(32)), bytes(32), 0, b"")
    with pytest.raises(CheckpointError, match="changed its size"):
        list(streams.sealed(pieces, 6, stream, 4))


def test_more_chunks_than_a_nonce_can_count():
    stream = streams.Stream.derived(bytes(range(32)), bytes(32), 0, b"")
    with pytest.raises(CheckpointError, match="more than 4,294,967,296 chunks"):
        next(streams.sealed([], (1 << 32) + 1, stream, 1))


def test_without_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "cryptography", None)
    with pytest.raises(MissingExtraError, match="jaxdl\\[security\\]"):
        ciphers.Gcm(bytes(32))

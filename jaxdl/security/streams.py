"""A tensor as a stream of sealed chunks: each is checked alone, and none can be moved or left out.

The construction is STREAM (Hoang, Reyhanitabar, Rogaway and Vizár 2015, "Online
Authenticated-Encryption and its Nonce-Reuse Misuse-Resistance", eprint 2015/189, section 7), with a
key derived for every stream, as in Tink's AES-GCM-HKDF (Hoang and Shen 2020, "Security of Streaming
Encryption in Google's Tink Library", eprint 2020/1019). A chunk's nonce is

    prefix, 7 bytes | number of the chunk, 4 bytes | 1 for the last chunk else 0, 1 byte

Key and prefix come from HKDF over the group's data key, a salt that is drawn anew whenever
something is encrypted, and the number of the tensor. So a key meets a nonce once: within a stream
the number counts, and two streams have two keys.

Reads from: errors, security.ciphers. Used by: security.envelope, .sources,
.sealing, .opening.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import IO, Any, NamedTuple

from jaxdl.errors import CheckpointError, DamagedError
from jaxdl.security.ciphers import KEY, TAG, Buffer, Gcm, hkdf

__all__ = [
    "CHUNK",
    "Stream",
    "altered",
    "chunks_of",
    "cut",
    "nonce",
    "opened",
    "sealed",
    "sealed_size",
]

CHUNK = 1 << 20
"""Bytes of plaintext in a chunk."""

_PREFIX = 7
_MOST_CHUNKS = 1 << 32


class Stream(NamedTuple):
    """What seals one tensor.

    Attributes:
        cipher: under the stream's own key.
        prefix: of its nonces.
        context: authenticated with every chunk.
    """

    cipher: Gcm
    prefix: bytes
    context: bytes

    @classmethod
    def derived(cls, key: bytes, salt: bytes, number: int, context: bytes) -> Stream:
        """The stream of one tensor.

        Args:
            key: the group's data key.
            salt: of the group, drawn for this encryption alone.
            number: of the tensor in the group.
            context: what the tensor belongs to.
        """
        info = b"jaxdl seal 1 tensor" + number.to_bytes(4, "big")
        made = hkdf(key, salt=salt, info=info, length=KEY + _PREFIX)
        return cls(Gcm(made[:KEY]), made[KEY:], context)


def nonce(prefix: bytes, number: int, *, last: bool) -> bytes:
    """The nonce of a chunk.

    Args:
        prefix: of the stream, 7 bytes.
        number: of the chunk, from 0.
        last: whether no chunk follows.

    Examples:
        >>> nonce(bytes(7), 258, last=True).hex()
        '000000000000000000010201'
    """
    return prefix + number.to_bytes(4, "big") + bytes([last])


def chunks_of(size: int, chunk: int) -> int:
    """How many chunks a tensor takes; an empty one takes one.

    Args:
        size: its bytes.
        chunk: bytes in a chunk.
    """
    return max(1, -(-size // chunk))


def sealed_size(size: int, chunk: int) -> int:
    """Bytes of a tensor once sealed.

    Args:
        size: its bytes.
        chunk: bytes in a chunk.
    """
    return size + TAG * chunks_of(size, chunk)


def cut(content: Buffer, chunk: int) -> Iterator[memoryview]:
    """The pieces of a buffer that become chunks.

    Args:
        content: contiguous bytes.
        chunk: bytes in a chunk.
    """
    view = memoryview(content)
    for number in range(chunks_of(len(view), chunk)):
        yield view[number * chunk : (number + 1) * chunk]


def sealed(pieces: Iterable[Buffer], size: int, stream: Stream, chunk: int) -> Iterator[bytes]:
    """Seals a tensor, chunk by chunk.

    Args:
        pieces: its bytes, cut as ``cut`` does.
        size: how many there are in all.
        stream: from ``Stream.derived``; of this tensor and no other.
        chunk: bytes in a chunk.

    Yields:
        Each chunk with its tag.

    Raises:
        CheckpointError: there are more or fewer bytes than ``size``, or too many chunks.
    """
    count, done = chunks_of(size, chunk), 0
    if count > _MOST_CHUNKS:
        raise CheckpointError(
            f"a tensor of {size:,} bytes has more than {_MOST_CHUNKS:,} chunks",
            expected="as many as the counter of a nonce can tell apart",
            do="seal it in larger chunks",
        )
    for number, piece in enumerate(pieces):
        if number >= count or len(piece) != min(chunk, size - number * chunk):
            break
        done += 1
        yield stream.cipher.seal(
            nonce(stream.prefix, number, last=number == count - 1), piece, stream.context
        )
    else:
        if done == count:
            return
    raise CheckpointError(
        f"a tensor of {size:,} bytes changed its size after {done} of {count} chunks",
        expected="a source that does not change while it is sealed",
        do="seal it again when nothing writes there",
    )


def opened(
    file: IO[bytes], size: int, stream: Stream, chunk: int, *, sha256: str, name: str
) -> Iterator[bytes]:
    """Opens a tensor, chunk by chunk. What was yielded counts only once the iteration has ended.

    Args:
        file: at the tensor's first byte.
        size: bytes of plaintext.
        stream: from ``Stream.derived``.
        chunk: bytes in a chunk.
        sha256: of the sealed bytes.
        name: of the tensor, for messages.

    Yields:
        Each chunk's plaintext, its tag verified.

    Raises:
        DamagedError: a chunk, or the whole, is not what was sealed.
    """
    count, digest = chunks_of(size, chunk), hashlib.sha256()
    for number in range(count):
        content = file.read(min(chunk, size - number * chunk) + TAG)
        digest.update(content)
        at = nonce(stream.prefix, number, last=number == count - 1)
        piece = stream.cipher.open(at, content, stream.context)
        if piece is None:
            raise altered(f"{name}, chunk {number} of {count}")
        yield piece
    # Whoever holds a data key can make chunks, but not sign what they hash to.
    if digest.hexdigest() != sha256:
        raise altered(name)


def altered(what: Any) -> DamagedError:
    """The error of sealed bytes that are not those that were sealed.

    Args:
        what: they are.
    """
    return DamagedError(
        f"{what}: its sealed bytes were altered",
        expected="the bytes as they were sealed, and the key that they were sealed with",
        do="take another copy",
    )

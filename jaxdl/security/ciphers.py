"""The primitives of sealing, all of them from ``cryptography``, which is loaded when first used.

AES-256-GCM (NIST SP 800-38D), HKDF-SHA256 (RFC 5869), HMAC-SHA256 (RFC 2104), Ed25519 (RFC 8032).
Nothing here chooses a key or a nonce.

Reads from: errors. Used by: the rest of security.
"""

from __future__ import annotations

import hashlib
import hmac
import importlib.util
from typing import Any, TypeAlias

from jaxdl.errors import MissingExtraError

__all__ = [
    "KEY",
    "TAG",
    "Buffer",
    "Gcm",
    "check_installed",
    "hkdf",
    "mac",
    "public_key",
    "sign",
    "verified",
]

KEY = 32
TAG = 16

Buffer: TypeAlias = bytes | bytearray | memoryview


class Gcm:
    """AES-256-GCM under one key.

    Args:
        key: 32 bytes.

    Raises:
        MissingExtraError: ``cryptography`` is not installed.
    """

    def __init__(self, key: bytes) -> None:
        check_installed()
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self._cipher = AESGCM(key)

    def seal(self, nonce: bytes, data: Buffer, context: bytes) -> bytes:
        """The ciphertext, with its tag of 16 bytes at the end.

        Args:
            nonce: 12 bytes, used with this key never before and never again.
            data: what is encrypted.
            context: what is authenticated beside it.
        """
        return self._cipher.encrypt(nonce, data, context)

    def open(self, nonce: bytes, data: Buffer, context: bytes) -> bytes | None:
        """The plaintext; ``None`` when key, nonce, data or context is not the one it was made with.

        Args:
            nonce: as given to ``seal``.
            data: from ``seal``.
            context: as given to ``seal``.
        """
        from cryptography.exceptions import InvalidTag

        if len(data) < TAG:
            return None
        try:
            return self._cipher.decrypt(nonce, data, context)
        except InvalidTag:
            return None


def hkdf(key: bytes, *, salt: bytes, info: bytes, length: int = KEY) -> bytes:
    """HKDF-SHA256: a key for one use, from a key for many.

    Args:
        key: the input key material.
        salt: random, and public.
        info: what the derived key is for.
        length: bytes of the result.

    Raises:
        MissingExtraError: ``cryptography`` is not installed.
    """
    check_installed()
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return HKDF(SHA256(), length, salt, info).derive(key)


def mac(key: bytes, message: bytes) -> str:
    """HMAC-SHA256, in hexadecimal digits.

    Args:
        key: 32 bytes.
        message: what is authenticated.
    """
    return hmac.new(key, message, hashlib.sha256).hexdigest()


def public_key(seed: bytes) -> bytes:
    """The Ed25519 public key of a secret one.

    Args:
        seed: the secret key, 32 bytes.

    Raises:
        MissingExtraError: ``cryptography`` is not installed.
    """
    return _private(seed).public_key().public_bytes_raw()


def sign(seed: bytes, message: bytes) -> bytes:
    """The Ed25519 signature of a message, 64 bytes.

    Args:
        seed: the secret key, 32 bytes.
        message: any bytes.

    Raises:
        MissingExtraError: ``cryptography`` is not installed.
    """
    return _private(seed).sign(message)


def verified(public: bytes, message: bytes, signature: bytes) -> bool:
    """Whether a signature is that of the message by the holder of the key.

    Args:
        public: from ``public_key``.
        message: what was signed.
        signature: 64 bytes.

    Raises:
        MissingExtraError: ``cryptography`` is not installed.
    """
    check_installed()
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def _private(seed: bytes) -> Any:
    check_installed()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.from_private_bytes(seed)


def check_installed() -> None:
    """Checks that ``cryptography`` is there, before any work.

    Raises:
        MissingExtraError: it is not.
    """
    if importlib.util.find_spec("cryptography") is None:
        raise MissingExtraError(
            "cryptography is not installed",
            expected="the extra jaxdl[security]",
            do="pip install 'jaxdl[security]'",
        )

"""Parameters that are encrypted, signed, and opened by role. See ``docs/sealing.md``."""

from jaxdl.security.changing import grant, revoke, rotate
from jaxdl.security.envelope import Envelope
from jaxdl.security.keys import Secret, new_key, public_half, public_text, read_key, read_public
from jaxdl.security.opening import Opened, open_sealed, verify_sealed
from jaxdl.security.proving import Trust, is_sealed
from jaxdl.security.restoring import restore, write_checkpoint, write_file
from jaxdl.security.roles import ROLES
from jaxdl.security.sealing import Sealed, seal
from jaxdl.security.sources import state_source
from jaxdl.security.store import SealedCheckpoints

__all__ = [
    "ROLES",
    "Envelope",
    "Opened",
    "Sealed",
    "SealedCheckpoints",
    "Secret",
    "Trust",
    "grant",
    "is_sealed",
    "new_key",
    "open_sealed",
    "public_half",
    "public_text",
    "read_key",
    "read_public",
    "restore",
    "revoke",
    "rotate",
    "seal",
    "state_source",
    "verify_sealed",
    "write_checkpoint",
    "write_file",
]

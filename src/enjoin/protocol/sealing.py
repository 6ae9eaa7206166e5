"""Protected values between control plane and machine: HPKE (RFC 9180), one seal a value.

`info` binds a seal to the machine, its key, the incarnation of the run command, the field and the seal's own id: a
ciphertext moved to any other place does not open. It is not bound to an execution, so that a later generation of the
same command can use a value that its author did not send again.
"""

from typing import Final
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from enjoin.errors import RunCommandError

_SUITE: Final = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


class SealBroken(RunCommandError):
    """The sealed value is not for this machine, key, command or field, or was altered."""

    code = "SealBroken"
    status = 400


def seal_info(*, machine_id: UUID, key_id: str, incarnation_id: UUID, field: str, seal_id: UUID) -> bytes:
    """Return the context of one seal, length-prefixed."""
    parts = (
        b"enjoin/sealed/v1",
        machine_id.bytes,
        key_id.encode(),
        incarnation_id.bytes,
        field.encode(),
        seal_id.bytes,
    )
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def seal(plaintext: bytes, *, sealing_key: bytes, info: bytes) -> bytes:
    """Return the ciphertext, which is 48 bytes longer; `sealing_key` is a raw X25519 public key."""
    return _SUITE.encrypt(plaintext, X25519PublicKey.from_public_bytes(sealing_key), info=info)


def unseal(ciphertext: bytes, *, private_key: X25519PrivateKey, info: bytes) -> bytes:
    """Return the plaintext; raise SealBroken when this is not its key and context."""
    try:
        return _SUITE.decrypt(ciphertext, private_key, info=info)
    except (InvalidTag, ValueError):
        text = "a protected value cannot be opened on this machine; send the secrets again"
        raise SealBroken(text) from None

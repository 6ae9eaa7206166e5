"""A seal opens where it was made for, and nowhere else."""

from uuid import UUID, uuid4

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from enjoin.protocol.sealing import SealBroken, seal, seal_info, unseal

KEY = X25519PrivateKey.generate()
PUBLIC = KEY.public_key().public_bytes_raw()
MACHINE, INCARNATION, SEAL = uuid4(), uuid4(), uuid4()


def info(
    *,
    machine_id: UUID = MACHINE,
    key_id: str = "k1",
    incarnation_id: UUID = INCARNATION,
    field: str = "protectedParameters[0]",
    seal_id: UUID = SEAL,
) -> bytes:
    """The context of the one seal of this test, or of another."""
    return seal_info(machine_id=machine_id, key_id=key_id, incarnation_id=incarnation_id, field=field, seal_id=seal_id)


@pytest.mark.parametrize("text", [b"", b"x", b"hunter2", bytes(256), b"\xff" * 70_000])
def test_round_trip(text: bytes) -> None:
    """
    What was sealed opens as it was, and is 48 bytes longer sealed; the same text twice gives two ciphertexts.
    """
    sealed = seal(text, sealing_key=PUBLIC, info=info())
    assert unseal(sealed, private_key=KEY, info=info()) == text
    assert len(sealed) == len(text) + 48
    assert sealed != seal(text, sealing_key=PUBLIC, info=info())


@pytest.mark.parametrize(
    "elsewhere",
    [
        info(machine_id=uuid4()),
        info(key_id="k2"),
        info(incarnation_id=uuid4()),
        info(field="protectedParameters[1]"),
        info(field="runAsPassword"),
        info(seal_id=uuid4()),
        info(key_id="k1p", field="rotectedParameters[0]"),  # the same bytes, divided elsewhere
        b"",
    ],
)
def test_moved(elsewhere: bytes) -> None:
    """
    A ciphertext that was moved to another machine, key, command, field or seal does not open.
    """
    sealed = seal(b"hunter2", sealing_key=PUBLIC, info=info())
    with pytest.raises(SealBroken, match="send the secrets again") as refusal:
        unseal(sealed, private_key=KEY, info=elsewhere)
    assert "hunter2" not in str(refusal.value)


def test_altered() -> None:
    """
    A ciphertext of which any byte was changed, or that was cut or lengthened, does not open; nor with another key.
    """
    sealed = seal(b"hunter2", sealing_key=PUBLIC, info=info())
    changed = [sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :] for at in range(len(sealed))]
    cut = [sealed[:size] for size in range(len(sealed))]
    for broken in (*changed, *cut, sealed + b"\0"):
        with pytest.raises(SealBroken):
            unseal(broken, private_key=KEY, info=info())
    with pytest.raises(SealBroken):
        unseal(sealed, private_key=X25519PrivateKey.generate(), info=info())

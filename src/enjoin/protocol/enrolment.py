"""What `enjoin join` asks and what it is answered: JSON over HTTPS, once in a machine's life."""

from typing import Final

from msgspec import Struct, field

ENROL_PATH: Final = "/enjoin/v1/enrol"
CHANNEL_PATH: Final = "/enjoin/v1/channel"


class EnrolmentRequest(Struct, frozen=True, kw_only=True, rename="camel"):
    """Machine to server. The private keys never leave the machine; `proof` shows that it has the signing one."""

    token: str
    name: str  # SET/ID for "vmss"
    kind: str  # "arc", "vm" or "vmss"
    resource_group: str = ""  # "" for the token's
    tags: dict[str, str] = field(default_factory=dict)
    identity_key: str  # Ed25519 public key, raw, base64
    sealing_key: str  # X25519 public key, raw, base64
    epoch: str  # names the state directory: new at every join
    replace: bool = False
    proof: str  # base64 of the Ed25519 signature over proof_content()


class EnrolmentAnswer(Struct, frozen=True, kw_only=True, rename="camel"):
    """Server to machine."""

    machine_id: str
    resource_id: str
    server_name: str
    sealing_key_id: str


def proof_content(request: EnrolmentRequest) -> bytes:
    """Return what the proof signs, length-prefixed: the keys bound to the token and the name they are for."""
    parts = (
        "enjoin/enrol/v1",
        request.token,
        request.name,
        request.kind,
        request.identity_key,
        request.sealing_key,
        request.epoch,
    )
    encoded = [part.encode() for part in parts]
    return b"".join(len(part).to_bytes(4, "big") + part for part in encoded)

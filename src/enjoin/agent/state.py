"""What `join` leaves on the machine and `agent` works from: who it is, whom it trusts, its keys, its lock."""

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import UUID

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from enjoin.agent.bundle import write_durably
from enjoin.errors import RunCommandError

IDENTITY_FILE: Final = "agent.json"
CA_FILE: Final = "ca.pem"
SIGNING_KEY_FILE: Final = "identity.key"
SEALING_KEY_FILE: Final = "sealing.key"
LOCK_FILE: Final = "lock"


class StateUnusable(RunCommandError):
    """The state directory is not what this command needs."""


class Identity(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Who this machine is, and where its control plane answers."""

    server: str  # https://host:port
    machine_id: UUID
    resource_id: str
    name: str
    server_name: str  # signed with every Hello
    sealing_key_id: str
    epoch: str  # names this state directory


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """An agent's state directory, read."""

    directory: Path
    identity: Identity
    signing_key: Ed25519PrivateKey
    sealing_key: X25519PrivateKey

    @property
    def ca_file(self) -> Path | None:
        """The certificate authority to trust; None for the system's."""
        path = self.directory / CA_FILE
        return path if path.exists() else None


def is_used(directory: Path) -> bool:
    """Whether a machine has joined from this directory."""
    return (directory / IDENTITY_FILE).exists()


def save(  # the identity last: it is what makes the directory used
    directory: Path,
    identity: Identity,
    *,
    signing_key: Ed25519PrivateKey,
    sealing_key: X25519PrivateKey,
    ca_pem: bytes | None,
) -> None:
    """Write a new state directory durably; everything in it is for its owner alone."""
    if ca_pem is not None:
        _write_private(directory / CA_FILE, ca_pem, point="state.ca")
    raw = (Encoding.Raw, PrivateFormat.Raw, NoEncryption())
    _write_private(directory / SIGNING_KEY_FILE, signing_key.private_bytes(*raw), point="state.signing_key")
    _write_private(directory / SEALING_KEY_FILE, sealing_key.private_bytes(*raw), point="state.sealing_key")
    text = msgspec.json.format(msgspec.json.encode(identity)) + b"\n"
    _write_private(directory / IDENTITY_FILE, text, point="state.identity")


def load(directory: Path) -> State:
    """Read a state directory; raise StateUnusable, saying what is missing and what to do."""
    try:
        identity = msgspec.json.decode((directory / IDENTITY_FILE).read_bytes(), type=Identity)
        signing = Ed25519PrivateKey.from_private_bytes((directory / SIGNING_KEY_FILE).read_bytes())
        sealing = X25519PrivateKey.from_private_bytes((directory / SEALING_KEY_FILE).read_bytes())
    except FileNotFoundError as error:
        missing = Path(error.filename).name
        text = f"{directory} has no {missing}; make this machine known with `enjoin join --state-dir {directory}`"
        raise StateUnusable(text) from error
    except (OSError, msgspec.MsgspecError, ValueError) as error:
        text = f"{directory} cannot be read as an agent's state ({error}); restore it, or join again with --replace"
        raise StateUnusable(text) from error
    return State(directory=directory, identity=identity, signing_key=signing, sealing_key=sealing)


def lock(directory: Path) -> int:
    """Take the directory for this process until it ends; raise StateUnusable when another agent has it."""
    descriptor = os.open(directory / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        text = f"another agent is running on {directory}; one state directory serves one agent"
        raise StateUnusable(text) from None
    return descriptor


def _write_private(path: Path, data: bytes, *, point: str) -> None:
    os.close(os.open(path.with_name(f"{path.name}.draft"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))
    write_durably(path, data, point=point)

"""Where a machine or a run command is found. Equal without regard to case; the first spelling is kept for people."""

from dataclasses import dataclass, field
from uuid import UUID

from enjoin.model.machine import MachineKind


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineAddress:
    """The path of a machine, as a client spelled it."""

    subscription_id: str
    resource_group: str
    kind: MachineKind
    name: str  # of a scale-set instance SET/ID

    @property
    def key(self) -> tuple[str, str, MachineKind, str]:
        """What two spellings of one address share."""
        return (self.subscription_id.lower(), self.resource_group.lower(), self.kind, self.name.lower())


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleSetAddress:
    """The path of a scale set, as a client spelled it."""

    subscription_id: str
    resource_group: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandAddress:
    """The path of a run command, as a client spelled it."""

    machine: MachineAddress
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who is asking: an authenticated principal."""

    principal_id: UUID  # the object id
    client_id: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """What names one request: in logs, in history, and when a client sends it again."""

    request_id: str  # ours
    correlation_id: str
    client_request_id: str | None = None  # x-ms-client-request-id
    resource_key: str = ""  # verb and lower-cased path
    body_sha256: bytes = field(default=b"", repr=False)

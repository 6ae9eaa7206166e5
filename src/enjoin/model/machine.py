"""Machines: what can run a script, and whether it can be reached."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, Self
from uuid import UUID

HEARTBEAT: Final = timedelta(seconds=60)  # the agent adds up to 10% either way
LOST_AFTER: Final = timedelta(seconds=150)  # of silence on an open connection
LEASE: Final = timedelta(seconds=180)  # after which what ran there is Unknown


class MachineKind(StrEnum):
    """Which ARM resource a machine is."""

    VIRTUAL_MACHINE = "vm"
    SCALE_SET_INSTANCE = "vmss"
    ARC = "arc"


_INSTANCE: Final = re.compile(r"(?P<scale_set>[^/]+)/(?P<number>0|[1-9][0-9]{0,8})", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """A place in a Flexible scale set. Whoever has it has two addresses: the instance SET/ID and the VM SET_ID."""

    scale_set: str
    number: int  # the ID, decimal

    @classmethod
    def parse(cls, name: str) -> Self | None:
        """Read SET/ID; None when it is no such thing."""
        match = _INSTANCE.fullmatch(name)
        return None if match is None else cls(scale_set=match["scale_set"], number=int(match["number"]))

    @property
    def name(self) -> str:
        """What it is called as an instance: the names of its path, SET/ID."""
        return f"{self.scale_set}/{self.number}"

    @property
    def vm_name(self) -> str:
        """What it is called as a VM."""
        return f"{self.scale_set}_{self.number}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the agent says of its machine when it connects."""

    agent_version: str = ""
    os_type: str = "Linux"
    os_name: str = ""
    os_version: str = ""
    host_name: str = ""
    architecture: str = ""
    containment: str = ""  # "cgroup" or "subreaper": how scripts are held


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A VM, a scale-set instance or an Arc machine; the UUID is its identity, kind and name its address.

    An instance has two addresses; kind and name are those under which it was looked up.
    """

    id: UUID
    subscription_id: str
    resource_group: str  # as spelled when the group was made
    kind: MachineKind
    name: str  # of an instance SET/ID
    instance: Instance | None = None  # under both addresses of one
    location: str
    tags: Mapping[str, str] = field(default_factory=dict)
    identity_key: bytes  # Ed25519, raw: it signs Hello
    sealing_key: bytes  # X25519, raw: protected values are sealed to it
    sealing_key_id: str
    epoch: str  # of the agent's state directory: changes when it is reinstalled
    journal_sequence: int = 0  # the highest the agent ever showed; one that went back was restored from a copy
    facts: Facts = field(default_factory=Facts)
    created_at: datetime
    connected: bool = False
    session_epoch: int = 0  # counts connections; a later one ends the earlier
    status_changed_at: datetime
    lease_expires_at: datetime | None = None  # set while it is away; then what runs there turns Unknown

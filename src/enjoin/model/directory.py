"""Who and where: tenant, subscription, resource groups, principals, enrolment tokens."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from enjoin.model.provisioning import ProvisioningState


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """A subscription of the one tenant."""

    id: str
    display_name: str
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceGroup:
    """A resource group; its name keeps the first spelling and is compared without regard to case."""

    subscription_id: str
    name: str
    location: str
    tags: Mapping[str, str] = field(default_factory=dict)
    managed_by: str | None = None
    created_at: datetime
    revision: int = 1  # counts the writes of clients
    provisioning_state: ProvisioningState = ProvisioningState.SUCCEEDED  # or Deleting


class PrincipalRole(StrEnum):
    """What a principal may do until role assignments exist: everything, or nothing."""

    ADMINISTRATOR = "administrator"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """A service principal. `id` is its object id, `client_id` what it signs in with."""

    id: UUID
    client_id: str
    name: str
    role: PrincipalRole
    enabled: bool = True
    version: int = 1  # a token of an earlier version is no longer good
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolmentToken:
    """What lets a machine join. Only its hash is stored."""

    hash: bytes
    subscription_id: str
    resource_group: str
    uses_left: int
    expires_at: datetime
    created_by: UUID
    created_at: datetime

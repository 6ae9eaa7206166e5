"""Scale sets: names under which machines are counted. Their instances are machines."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleSet:
    """A Flexible scale set; made when its first instance joins."""

    id: UUID
    subscription_id: str
    resource_group: str  # as spelled when the group was made
    name: str
    location: str
    tags: Mapping[str, str] = field(default_factory=dict)
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleSetView:
    """A scale set, and how many machines it has."""

    scale_set: ScaleSet
    instances: int
    connected: int  # of them

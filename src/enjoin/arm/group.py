"""The body of a resource group."""

from collections.abc import Mapping
from dataclasses import dataclass

from enjoin.arm.envelope import Body
from enjoin.arm.ids import group_id_path
from enjoin.arm.properties import Properties
from enjoin.arm.tags import read_tags
from enjoin.model.directory import ResourceGroup


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRequest:
    """What a PUT of a resource group asks for."""

    location: str | None
    tags: Mapping[str, str]
    managed_by: str | None


def parse_group(body: object) -> GroupRequest:
    """Return what a PUT asks for; raise InvalidRequest."""
    resource = Properties(body, "")
    return GroupRequest(
        location=resource.text("location"), tags=read_tags(resource), managed_by=resource.text("managedBy")
    )


def render_group(group: ResourceGroup) -> Body:
    """Return the resource."""
    body: Body = {
        "id": group_id_path(group.subscription_id, group.name),
        "name": group.name,
        "type": "Microsoft.Resources/resourceGroups",
        "location": group.location,
        "tags": group.tags,
        "properties": {"provisioningState": "Succeeded"},
    }
    if group.managed_by is not None:
        body["managedBy"] = group.managed_by
    return body

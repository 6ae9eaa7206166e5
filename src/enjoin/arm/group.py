"""The body of a resource group."""

from collections.abc import Mapping
from dataclasses import dataclass

from enjoin.arm.envelope import Body
from enjoin.arm.ids import group_id_path
from enjoin.arm.location import read_location
from enjoin.arm.merge_patch import merged
from enjoin.arm.properties import Properties
from enjoin.arm.tags import read_tags
from enjoin.model.directory import ResourceGroup
from enjoin.model.entity_tag import group_tag


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
        location=read_location(resource), tags=read_tags(resource), managed_by=resource.text("managedBy")
    )


def parse_group_patch(body: object, current: ResourceGroup) -> GroupRequest:
    """Return what a PATCH asks for, merged with what is there; raise InvalidRequest."""
    shown = {"location": current.location, "tags": dict(current.tags), "managedBy": current.managed_by}
    return parse_group(merged(shown, body))


def render_group(group: ResourceGroup) -> Body:
    """Return the resource."""
    body: Body = {
        "id": group_id_path(group.subscription_id, group.name),
        "name": group.name,
        "type": "Microsoft.Resources/resourceGroups",
        "location": group.location,
        "tags": group.tags,
        "etag": str(group_tag(group)),
        "properties": {"provisioningState": group.provisioning_state.value},
    }
    if group.managed_by is not None:
        body["managedBy"] = group.managed_by
    return body

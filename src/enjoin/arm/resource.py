"""Generic resources: what `az resource list` sends as `$filter`, and what each entry of its answer shows."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from enjoin.arm.envelope import Body, time_text
from enjoin.arm.ids import (
    COMMAND_TYPES,
    MACHINE_TYPES,
    SCALE_SET_TYPE,
    command_id_path,
    machine_id_path,
    scale_set_id_path,
)
from enjoin.arm.machine import address_of
from enjoin.arm.scale_set import address_of_set
from enjoin.errors import InvalidField
from enjoin.model.address import CommandAddress
from enjoin.model.command import RunCommand
from enjoin.model.machine import Machine
from enjoin.model.scale_set import ScaleSet

_TERM: Final = re.compile(
    r"\s*(?P<name>resourceGroup|resourceType|name|location|tagName|tagValue)\s+eq\s+'(?P<value>(?:[^']|'')*)'\s*",
    re.IGNORECASE,
)
_AND: Final = re.compile(r"and\b", re.IGNORECASE)
_ALLOWED: Final = "resourceGroup, resourceType, name, location, tagName and tagValue with eq, joined by and"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceFilter:
    """What entries must have, in lower case; None: anything."""

    resource_group: str | None = None
    resource_type: str | None = None
    name: str | None = None
    location: str | None = None
    tag_name: str | None = None
    tag_value: str | None = None  # as spelled: values of tags differ by case

    def admits_type(self, resource_type: str) -> bool:
        """Whether resources of a type can be among the entries."""
        return self.resource_type in (None, resource_type.lower())

    def admits(self, *, name: str, location: str, tags: Mapping[str, str]) -> bool:
        """Whether a resource of the right type and group is an entry. A child is found by either of its names."""
        if self.name is not None and self.name not in (name.lower(), name.lower().rpartition("/")[2]):
            return False
        if self.location not in (None, location.lower()):
            return False
        return self.admits_tags(tags)

    def admits_tags(self, tags: Mapping[str, str]) -> bool:
        """Whether the tags are what the filter says."""
        if self.tag_name is None:
            return self.tag_value is None or self.tag_value in tags.values()
        return any(key.lower() == self.tag_name and self.tag_value in (None, value) for key, value in tags.items())


def parse_filter(text: str) -> ResourceFilter:
    """Read a `$filter`; empty means everything. Raises InvalidField for what is not among the allowed."""
    found: dict[str, str] = {}
    at = 0
    while text[at:].strip():
        if found:
            conjunction = _AND.match(text, at)
            if conjunction is None:
                raise _wrong(text[at:])
            at = conjunction.end()
        term = _TERM.match(text, at)
        if term is None or term["name"].lower() in found:
            raise _wrong(text[at:])
        found[term["name"].lower()] = term["value"].replace("''", "'")
        at = term.end()
    lower = {name: value.lower() for name, value in found.items()}
    return ResourceFilter(
        resource_group=lower.get("resourcegroup"),
        resource_type=lower.get("resourcetype"),
        name=lower.get("name"),
        location=lower.get("location"),
        tag_name=lower.get("tagname"),
        tag_value=found.get("tagvalue"),
    )


def _wrong(rest: str) -> InvalidField:
    text = f"The $filter cannot be read at {rest.strip()[:60]!r}; allowed are {_ALLOWED}."
    return InvalidField(text, target="$filter")


def render_entry(resource: Machine | ScaleSet | RunCommand, machine: Machine | None, *, expand: Sequence[str]) -> Body:
    """Return one entry of a list; `machine` is the parent of a run command, whose name there is `machine/command`."""
    more: Body
    match resource:
        case ScaleSet():
            path, name, kind = scale_set_id_path(address_of_set(resource)), resource.name, SCALE_SET_TYPE
            more = {"createdTime": time_text(resource.created_at), "provisioningState": "Succeeded"}
        case Machine():
            path, name, kind = machine_id_path(address_of(resource)), resource.name, MACHINE_TYPES[resource.kind]
            more = {
                "createdTime": time_text(resource.created_at),
                "changedTime": time_text(resource.status_changed_at),
                "provisioningState": "Succeeded",
            }
        case RunCommand():
            assert machine is not None
            path = command_id_path(CommandAddress(machine=address_of(machine), name=resource.name))
            name, kind = f"{machine.name}/{resource.name}", COMMAND_TYPES[machine.kind]
            more = {
                "createdTime": time_text(resource.created_at),
                "changedTime": time_text(resource.modified_at),
                "provisioningState": resource.provisioning_state.value,
            }
    wanted = {name.strip().lower() for name in expand}
    return {
        "id": path,
        "name": name,
        "type": kind,
        "location": resource.location,
        "tags": resource.tags,
        **{name: value for name, value in more.items() if name.lower() in wanted},
    }

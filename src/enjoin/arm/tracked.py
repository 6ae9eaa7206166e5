"""What a PUT or PATCH may change of a resource that came into being by itself: its tags."""

from collections.abc import Callable, Mapping
from typing import Final

from enjoin.arm.envelope import Body
from enjoin.arm.merge_patch import merged
from enjoin.arm.properties import Properties, is_given
from enjoin.arm.tags import read_tags
from enjoin.errors import Conflict, InvalidField

TagsChange = Callable[[Mapping[str, str]], Mapping[str, str]]

# What clients send to have it changed. All other properties are read-only here, and passed over as ARM does.
_FIXED: Final = (("location",), ("properties", "hardwareProfile", "vmSize"), ("sku", "name"), ("sku", "capacity"))


def parse_tags_change(body: object, current: Body, *, is_patch: bool) -> TagsChange:
    """Return what becomes of the tags of the resource that is now `current`.

    Raises Conflict for another location and InvalidField for another size or capacity: silence would look like success.
    """
    resource = Properties(body, "")
    for path in _FIXED:
        _check_unchanged(resource, current, path)
    if is_patch:
        patch = {"tags": resource.raw("tags")} if resource.has("tags") else {}
        return lambda tags: read_tags(Properties(merged({"tags": tags}, patch), ""))
    tags = read_tags(resource)
    return lambda _: tags


def _check_unchanged(resource: Properties, current: Body, path: tuple[str, ...]) -> None:
    *parents, last = path
    known: object = current
    for name in path:
        known = known.get(name) if isinstance(known, dict) else None
    if known is None:
        return  # not a property of this type
    for name in parents:
        resource = resource.child(name)
    given = resource.raw(last)
    if not is_given(given) or str(given).lower() == str(known).lower():
        return
    target = ".".join(path)
    text = f"The '{target}' of '{current['name']}' is '{known}' and cannot be changed to '{str(given)[:100]}'."
    if last == "location":
        raise Conflict(text, target=target)
    text += " Machines are made by `enjoin join`, not by the control plane."
    raise InvalidField(text, target=target)

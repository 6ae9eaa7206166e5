"""Merging a PATCH into a resource as a GET shows it (RFC 7396), with names matched without regard to case."""

from typing import Final

from enjoin.arm.properties import kind_of
from enjoin.errors import InvalidField

_LEVELS: Final = 4  # the resource, its properties or tags, an object in them, one in that; below, a value replaces


def merged(resource: object, patch: object, *, target: str = "", levels: int = _LEVELS) -> object:
    """Return `resource` after `patch`: null removes, an object is merged, anything else replaces.

    Raises InvalidField when the whole patch is no object, or names one thing twice.
    """
    if not isinstance(patch, dict):
        if not target:
            text = f"The value of 'the request body' is {kind_of(patch)}; it has to be an object."
            raise InvalidField(text)
        return patch
    found: dict[str, object] = dict(resource) if isinstance(resource, dict) else {}
    spelled = {name.lower(): name for name in found}
    seen: set[str] = set()
    for name, value in patch.items():
        key = name.lower()
        path = f"{target}.{name}" if target else name
        if key in seen:
            text = f"The property '{path}' is there more than once."
            raise InvalidField(text, target=path)
        seen.add(key)
        before = found.pop(spelled[key], None) if key in spelled else None
        if value is not None:
            found[name] = merged(before, value, target=path, levels=levels - 1) if levels > 1 else value
    return found

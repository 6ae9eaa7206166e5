"""Locations: names that become part of URLs."""

import re
from typing import Final

from enjoin.arm.properties import Properties
from enjoin.errors import InvalidField

MAX_LOCATION_CHARACTERS: Final = 64
_LOCATION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _-]*", re.ASCII)


def read_location(resource: Properties) -> str | None:
    """Return the location of a resource, None when it has none; raise InvalidField for what cannot be a name."""
    location = resource.text("location")
    if location is None or (len(location) <= MAX_LOCATION_CHARACTERS and _LOCATION.fullmatch(location)):
        return location
    text = (
        f"The location {location[:MAX_LOCATION_CHARACTERS]!r} is not a name; allowed are 1 to "
        f"{MAX_LOCATION_CHARACTERS} letters, digits, spaces, '-' and '_', starting with a letter or digit."
    )
    raise InvalidField(text, target="location")

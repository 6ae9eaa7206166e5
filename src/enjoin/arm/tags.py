"""Tags, with the bounds that ARM puts on them."""

from collections.abc import Mapping
from typing import Final

from enjoin.arm.properties import Properties, kind_of
from enjoin.errors import InvalidField

MAX_TAGS: Final = 50
MAX_NAME_CHARACTERS: Final = 512
MAX_VALUE_CHARACTERS: Final = 256


def read_tags(body: Properties) -> Mapping[str, str]:
    """Return the tags of a resource body; raise InvalidField when one is over a bound."""
    tags: dict[str, str] = {}
    seen: set[str] = set()
    given = body.mapping("tags")
    if len(given) > MAX_TAGS:
        text = f"The resource has {len(given)} tags; at most {MAX_TAGS} are allowed."
        raise InvalidField(text, target="tags")
    for name, value in given.items():
        if not name or len(name) > MAX_NAME_CHARACTERS:
            text = f"A tag name has {len(name)} characters; allowed are 1 to {MAX_NAME_CHARACTERS}."
            raise InvalidField(text, target="tags")
        if not isinstance(value, str):
            text = f"The value of the tag '{name}' is {kind_of(value)}; it has to be a string."
            raise InvalidField(text, target=f"tags.{name}")
        if len(value) > MAX_VALUE_CHARACTERS:
            text = f"The value of the tag '{name}' has {len(value)} characters; at most {MAX_VALUE_CHARACTERS}."
            raise InvalidField(text, target=f"tags.{name}")
        if name.lower() in seen:
            text = f"The tag '{name}' is there more than once; tag names are compared without regard to case."
            raise InvalidField(text, target=f"tags.{name}")
        seen.add(name.lower())
        tags[name] = value
    return tags

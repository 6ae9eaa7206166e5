"""Reading a request body property by property: each answer is typed, each refusal names its path."""

from collections.abc import Mapping, Sequence
from typing import Final, Self

import msgspec

from enjoin.errors import InvalidField, InvalidRequest

_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_NAMES: Final = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}


class Number(float):
    """A JSON number with a fraction or an exponent, which remembers how its author wrote it."""

    __slots__ = ("text",)

    def __new__(cls, text: str) -> Self:
        """Read `text`, a JSON number."""
        number = super().__new__(cls, text)
        number.text = text
        return number

    text: str


_decoder: Final = msgspec.json.Decoder(float_hook=Number)


def read_json(body: bytes) -> object:
    """Return what a JSON text says; raise InvalidRequest with the line and the column of what is wrong."""
    body = body.removeprefix(_BYTE_ORDER_MARK)  # some clients put one there; RFC 8259 lets a reader pass over it
    try:
        return _decoder.decode(body)
    except RecursionError:
        text = "The request content was invalid and could not be deserialized: 'it is nested too deeply'."
        raise InvalidRequest(text) from None
    except ValueError as error:  # malformed, or not UTF-8, or a number of thousands of digits
        text = f"The request content was invalid and could not be deserialized: '{_explain(body, error)}'."
        raise InvalidRequest(text) from None


def _explain(body: bytes, error: ValueError) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8"
    reason, _, place = str(error).rstrip(")").partition(" (byte ")
    at = int(place) if place.isdigit() else len(body)
    before = body[:at]
    line, column = before.count(b"\n") + 1, at - (before.rfind(b"\n") + 1) + 1
    return f"{reason}, line {line}, column {column}"


def kind_of(value: object) -> str:
    """Return what a JSON value is, for a sentence."""
    return _NAMES.get(type(value), "a number")


def is_given(value: object) -> bool:
    """Whether a client meant something by it: null, "", [] and {} are how clients write "unset"."""
    return value is not None and value not in ("", [], {})


class Properties:
    """An object of a request body. Names are matched without regard to case, as ARM does."""

    def __init__(self, value: object, target: str) -> None:
        """Read `value`, found at `target`; raise InvalidField unless it is an object or null."""
        if value is None:
            value = {}
        if not isinstance(value, dict):
            text = f"The value of '{target or 'the request body'}' is {kind_of(value)}; it has to be an object."
            raise InvalidField(text, target=target or None)
        self._target = target
        self._values: dict[str, object] = {}
        for name, item in value.items():
            if name.lower() in self._values:
                text = f"The property '{self.path(name)}' is there more than once."
                raise InvalidField(text, target=self.path(name))
            self._values[name.lower()] = item

    def path(self, name: str) -> str:
        """Return the path of a property, as the error envelope's target names it."""
        return f"{self._target}.{name}" if self._target else name

    def raw(self, name: str) -> object:
        """Return the value as it came; None when absent."""
        return self._values.get(name.lower())

    def has(self, name: str) -> bool:
        """Whether the property is there at all."""
        return name.lower() in self._values

    def child(self, name: str) -> "Properties":
        """Return an object below this one; an empty one when absent or null."""
        return Properties(self.raw(name), self.path(name))

    def text(self, name: str) -> str | None:
        """Return a string; None when absent, null or empty."""
        value = self.raw(name)
        if value is None or isinstance(value, str):
            return value or None
        raise self._not(name, value, "a string")

    def boolean(self, name: str, *, default: bool = False) -> bool:
        """Return true or false, `default` when absent or null; a string or a number is not taken for one."""
        value = self.raw(name)
        if value is None:
            return default
        if isinstance(value, bool):
            return value
        raise self._not(name, value, "true or false")

    def integer(self, name: str, *, minimum: int, maximum: int) -> int | None:
        """Return a whole number within the bounds; None when absent or null."""
        value = self.raw(name)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool):
            shown = value.text if isinstance(value, Number) else kind_of(value)
            text = f"The value of '{self.path(name)}' is {shown[:40]}; it has to be a whole number."
            raise InvalidField(text, target=self.path(name))
        if not minimum <= value <= maximum:
            text = f"The value of '{self.path(name)}' is out of range; allowed are {minimum} to {maximum}."
            raise InvalidField(text, target=self.path(name))
        return value

    def array(self, name: str) -> Sequence[object] | None:
        """Return an array; None when absent or null."""
        value = self.raw(name)
        if value is None or isinstance(value, list):
            return value
        raise self._not(name, value, "an array")

    def mapping(self, name: str) -> Mapping[str, object]:
        """Return an object as it came, with its names as spelled; empty when absent or null."""
        value = self.raw(name)
        if value is None:
            return {}
        if isinstance(value, dict):
            return value
        raise self._not(name, value, "an object")

    def _not(self, name: str, value: object, allowed: str) -> InvalidField:
        text = f"The value of '{self.path(name)}' is {kind_of(value)}; it has to be {allowed}."
        return InvalidField(text, target=self.path(name))

"""The connection file: where the control plane is, and who is asking."""

import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from enjoin.cli.failure import UsageFailure

VARIABLE: Final = "ENJOIN_CONNECTION"
FILE_NAME: Final = "connection.json"
MAX_BYTES: Final = 64 * 1024
_REMEDY: Final = "`enjoin serve` writes it as connection.json into its data directory"


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """What `enjoin serve` wrote for its clients. The secret stays out of every representation."""

    path: Path  # of the file, absolute
    endpoint: str  # no trailing slash
    ca_file: Path | None  # None: the system's authorities vouch for the server
    tenant_id: str
    subscription_id: str
    resource_group: str  # where a bare machine name is looked up
    location: str
    client_id: str
    client_secret: str = field(repr=False)

    @property
    def az_directory(self) -> Path:
        """The configuration directory of `enjoin az`: beside the file, so that another control plane has another."""
        return self.path.parent / "az"


def user_file() -> Path:
    """Where the connection file of this user is, if there is one (XDG base directories)."""
    base = os.environ.get("XDG_CONFIG_HOME", "")
    home = Path(base) if Path(base).is_absolute() else Path.home() / ".config"
    return home / "enjoin" / FILE_NAME


def find(given: str | None) -> Path:
    """Return the file to use: the one given, the one that ENJOIN_CONNECTION names, or the user's."""
    if given:
        return Path(given)
    named = os.environ.get(VARIABLE)
    if named:
        return Path(named)
    own = user_file()
    if own.exists():
        return own
    message = f"no connection file: give --connection FILE, set {VARIABLE}, or put one at {own}; {_REMEDY}"
    raise UsageFailure(message, code="NoConnection")


def load(given: str | None = None) -> Connection:
    """Find the connection file and read it; raise UsageFailure that says which part of it is wrong."""
    path = find(given)
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1)
    except OSError as error:
        message = f"cannot read the connection file {path}: {error.strerror}; {_REMEDY}"
        raise UsageFailure(message, code="NoConnection") from None
    try:
        return _parse(path.absolute(), text)
    except ValueError as error:
        message = f"the connection file {path} is not usable: {error}; {_REMEDY}"
        raise UsageFailure(message, code="InvalidConnection") from None


def _parse(path: Path, text: bytes) -> Connection:
    values = _object(text)
    ca_file = None if values.get("ca_file", "") is None else Path(_text(values, "ca_file"))
    if ca_file is not None and not ca_file.is_absolute():
        complaint = f"ca_file must be an absolute path or null, found {str(ca_file)!r}"
        raise ValueError(complaint)
    return Connection(
        path=path,
        endpoint=_endpoint(_text(values, "endpoint")),
        ca_file=ca_file,
        tenant_id=_text(values, "tenant_id"),
        subscription_id=_text(values, "subscription_id"),
        resource_group=_text(values, "resource_group"),
        location=_text(values, "location"),
        client_id=_text(values, "client_id"),
        client_secret=_text(values, "client_secret"),
    )


def _object(text: bytes) -> dict[str, Any]:
    if len(text) > MAX_BYTES:
        complaint = f"it is larger than {MAX_BYTES} bytes"
        raise ValueError(complaint)
    try:
        values = json.loads(text)
    except ValueError as error:  # of bytes that are no text, too; neither kind of complaint may quote the file
        line = f" (line {error.lineno})" if isinstance(error, json.JSONDecodeError) else ""
        complaint = f"it is not JSON{line}"
        raise ValueError(complaint) from None
    if not isinstance(values, dict):
        complaint = "it is not a JSON object"
        raise ValueError(complaint)  # noqa: TRY004 - the caller turns every complaint into one sentence
    return values


def _text(values: dict[str, Any], name: str) -> str:
    if name not in values:
        complaint = f"{name} is missing"
        raise ValueError(complaint)
    value = values[name]
    if not isinstance(value, str) or not value.strip() or re.search(r"[\x00-\x1f\x7f]", value):
        complaint = f"{name} must be text on one line"  # never quoted: it may be the secret
        raise ValueError(complaint)
    return value


def _endpoint(text: str) -> str:
    parts = urlsplit(text)
    is_plain = not (parts.query or parts.fragment or parts.username is not None)
    if parts.scheme != "https" or not parts.hostname or not is_plain:
        complaint = f"endpoint must be https://HOST[:PORT], found {text!r}"
        raise ValueError(complaint)
    _ = parts.port  # raises ValueError itself when it is no port
    return text.rstrip("/")

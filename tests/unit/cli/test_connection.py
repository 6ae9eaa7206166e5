"""The connection file: where it is looked for, and what is said when it is no good."""

import json
from pathlib import Path
from typing import Any

import pytest

from enjoin.cli.connection import load
from enjoin.cli.failure import UsageFailure

GOOD: dict[str, Any] = {
    "endpoint": "https://127.0.0.1:8443",
    "ca_file": "/somewhere/ca.pem",
    "tenant_id": "T",
    "subscription_id": "S",
    "resource_group": "enjoin",
    "location": "local",
    "client_id": "C",
    "client_secret": "hidden-value",
}


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that is the user's home, with no connection file yet."""
    monkeypatch.delenv("ENJOIN_CONNECTION", raising=False)
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def write(path: Path, **changes: object) -> Path:
    """Write a good file but for `changes`; a change to ... leaves the field out."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({name: value for name, value in {**GOOD, **changes}.items() if value is not ...}))
    return path


def test_places(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    --connection wins over ENJOIN_CONNECTION, which wins over the user's configuration directory.
    """
    write(directory / ".config/enjoin/connection.json", location="user")
    assert load().location == "user"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(directory / "xdg"))
    write(directory / "xdg/enjoin/connection.json", location="xdg")
    assert load().location == "xdg"
    monkeypatch.setenv("ENJOIN_CONNECTION", str(write(directory / "variable.json", location="variable")))
    assert load().location == "variable"
    assert load(str(write(directory / "given.json", location="given"))).location == "given"


@pytest.mark.usefixtures("directory")
def test_nowhere() -> None:
    """
    Without a file the three places are named.
    """
    with pytest.raises(
        UsageFailure, match=r"--connection FILE, set ENJOIN_CONNECTION, or put one at .*connection\.json"
    ):
        load()


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"endpoint": ...}, "endpoint is missing"),
        ({"endpoint": "http://127.0.0.1"}, "endpoint must be https"),
        ({"endpoint": "https://user@host"}, "endpoint must be https"),
        ({"endpoint": "https://host:port"}, "not usable"),
        ({"endpoint": 7}, "endpoint must be text"),
        ({"ca_file": "ca.pem"}, "ca_file must be an absolute path"),
        ({"ca_file": ...}, "ca_file is missing"),
        ({"client_secret": ""}, "client_secret must be text"),
        ({"client_secret": "two\nlines"}, "client_secret must be text on one line"),
        ({"resource_group": None}, "resource_group must be text"),
    ],
)
def test_strict(directory: Path, changes: dict[str, object], complaint: str) -> None:
    """
    A file with a part missing or wrong is refused, naming the part and never showing the secret.
    """
    path = write(directory / "c.json", **changes)
    with pytest.raises(UsageFailure, match=complaint) as failure:
        load(str(path))
    assert "hidden-value" not in str(failure.value)
    assert str(path) in str(failure.value)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff\xfe", b'{"client_secret": "hidden-value"', b" " * 70_000])
def test_not_json(directory: Path, text: bytes) -> None:
    """
    A file that is no JSON object is refused without showing what is in it.
    """
    path = directory / "c.json"
    path.write_bytes(text)
    with pytest.raises(UsageFailure, match="not usable") as failure:
        load(str(path))
    assert "hidden-value" not in str(failure.value)


def test_public_server(directory: Path) -> None:
    """
    A null ca_file means the system's authorities; a trailing slash is dropped; other fields are ignored.
    """
    found = load(str(write(directory / "c.json", ca_file=None, endpoint="https://[::1]:8443/", later="field")))
    assert found.ca_file is None
    assert found.endpoint == "https://[::1]:8443"
    assert "hidden-value" not in repr(found)

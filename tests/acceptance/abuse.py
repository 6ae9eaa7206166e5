"""A stranger with a socket: what is sent, byte by byte, and what comes back."""

import contextlib
import json
import socket
import ssl
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

from tests.acceptance.processes import ControlPlane

WAIT_S: Final = 60.0  # above every limit that a test waits for
HEAD_END: Final = b"\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of HTTP/1.1."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def error(self) -> Mapping[str, Any]:
        """The inside of the envelope; fails when there is none."""
        assert self.headers["content-type"] == "application/json; charset=utf-8", self
        error: Mapping[str, Any] = json.loads(self.body)["error"]
        assert isinstance(error["code"], str), self
        assert isinstance(error["message"], str), self
        assert error["code"], self
        assert error["message"], self
        assert "Traceback" not in error["message"], self
        return error


@dataclass(slots=True)
class Target:
    """A control plane, as someone sees it who has only its port."""

    server: ControlPlane
    token: str = ""
    tls: ssl.SSLContext = field(init=False)

    def __post_init__(self) -> None:
        """Trust its authority, and sign in once."""
        connection = self.server.connection
        self.tls = ssl.create_default_context(cafile=connection["ca_file"])
        form = {
            "grant_type": "client_credentials",
            "client_id": connection["client_id"],
            "client_secret": connection["client_secret"],
            "scope": f"{connection['endpoint']}/.default",
        }
        body = urlencode(form).encode()
        (answer,) = self.ask(b"POST /adfs/oauth2/token HTTP/1.1\r\nHost: x\r\nContent-Length: %d" % len(body), body)
        assert answer.status == 200, answer
        self.token = json.loads(answer.body)["access_token"]

    @property
    def address(self) -> tuple[str, int]:
        """Its host and port."""
        url = urlsplit(self.server.endpoint)
        return url.hostname or "", url.port or 443

    @contextlib.contextmanager
    def plain(self) -> Iterator[socket.socket]:
        """Connect without TLS."""
        with contextlib.closing(socket.create_connection(self.address, timeout=WAIT_S)) as wire:
            yield wire

    @contextlib.contextmanager
    def wire(self) -> Iterator[ssl.SSLSocket]:
        """Connect with TLS."""
        with (
            self.plain() as plain,
            contextlib.closing(self.tls.wrap_socket(plain, server_hostname=self.address[0])) as wire,
        ):
            yield wire

    def ask(self, head: bytes, body: bytes = b"", *, count: int = 1) -> Sequence[Answer]:
        """Send a head without its end, and a body; return at most `count` answers."""
        with self.wire() as wire:
            send(wire, head + HEAD_END + body)
            return list(answers(wire, count))

    def memory_kib(self) -> int:
        """Return the proportional set size of its process."""
        text = Path(f"/proc/{self.server.pid}/smaps_rollup").read_text(encoding="ascii")
        return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))


def send(wire: socket.socket, data: bytes) -> bool:
    """Send what the server takes; return whether it took all."""
    try:
        wire.sendall(data)
    except OSError:  # it closed, as it may
        return False
    return True


def answers(wire: socket.socket, count: int = 1, *, to_head: bool = False) -> Iterator[Answer]:
    """Read answers until there are `count`, or the server closes."""
    buffer = b""
    for _ in range(count):
        while HEAD_END not in buffer:
            piece = receive(wire)
            if not piece:
                assert not buffer, f"an answer without an end: {buffer[:200]!r}"
                return
            buffer += piece
        head, _, buffer = buffer.partition(HEAD_END)
        status_line, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        status = int(status_line.split()[1])
        size = 0 if to_head or status in (100, 101, 204) else int(headers.get("content-length", "0"))
        while len(buffer) < size:
            piece = receive(wire)
            assert piece, f"a body without an end: {status} {headers} {buffer[:200]!r}"
            buffer += piece
        yield Answer(status, headers, buffer[:size])
        buffer = buffer[size:]


def receive(wire: socket.socket) -> bytes:
    """Return what comes; empty when the server has closed, however it did."""
    try:
        return wire.recv(65536)
    except (ConnectionError, ssl.SSLError, BrokenPipeError):
        return b""

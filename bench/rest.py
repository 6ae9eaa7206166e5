"""A small HTTPS client for benchmarks: one kept connection and raw bytes, so that it costs little of the figure."""

import asyncio
import json
import ssl
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

API_VERSION = "2024-11-01"


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP response."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:  # noqa: ANN401 - JSON enters here
        """Return the body, read as JSON."""
        return json.loads(self.body)


class Connection:
    """One kept-alive connection; requests go one after the other."""

    def __init__(self, endpoint: str, ca_file: str) -> None:
        """Name the server and the authority to trust."""
        url = urlsplit(endpoint)
        self._host, self._port = url.hostname or "", url.port or 443
        self._tls = ssl.create_default_context(cafile=ca_file)
        self.token = ""
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def open(self) -> None:
        """Connect."""
        self._reader, self._writer = await asyncio.open_connection(self._host, self._port, ssl=self._tls)

    async def close(self) -> None:
        """Disconnect."""
        if self._writer is not None:
            self._writer.close()
            await self._writer.wait_closed()

    async def request(self, method: str, target: str, body: bytes = b"", **headers: str) -> Answer:
        """Send one request and read its answer."""
        assert self._reader is not None
        assert self._writer is not None
        given = {"Host": f"{self._host}:{self._port}", "Content-Length": str(len(body))}
        if self.token:
            given["Authorization"] = f"Bearer {self.token}"
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in given.items()), "", ""]
        self._writer.write("\r\n".join(lines).encode() + body)
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        answered = {k.lower(): v for k, _, v in (line.partition(": ") for line in head[1:] if line)}
        content = await self._reader.readexactly(int(answered.get("content-length", "0")))
        return Answer(int(head[0].split(" ", 2)[1]), answered, content)

    async def sign_in(self, connection: dict[str, str]) -> None:
        """Get a token for the connection file's principal."""
        form = urlencode(
            {
                "grant_type": "client_credentials",
                "client_id": connection["client_id"],
                "client_secret": connection["client_secret"],
                "scope": f"{connection['endpoint']}/.default",
            }
        )
        answer = await self.request(
            "POST",
            "/adfs/oauth2/v2.0/token",
            form.encode(),
            Content_Type="application/x-www-form-urlencoded",
        )
        self.token = answer.json()["access_token"]

    async def put_command(self, machine: str, name: str, script: str) -> str:
        """Put a run command and return the path and query of its operation."""
        body = json.dumps({"location": "local", "properties": {"source": {"script": script}}}).encode()
        target = f"{machine}/runCommands/{name}?api-version={API_VERSION}"
        answer = await self.request("PUT", target, body, Content_Type="application/json")
        assert answer.status in (200, 201), answer
        url = urlsplit(answer.headers["azure-asyncoperation"])
        return f"{url.path}?{url.query}"

    async def wait(self, operation: str) -> str:
        """Poll an operation until it is over; return its status."""
        while True:
            status = str((await self.request("GET", operation)).json()["status"])
            if status != "InProgress":
                return status

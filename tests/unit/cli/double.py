"""A control plane that misbehaves on purpose: it says what a test tells it to, drops replies and cuts streams."""

import json
import select
import socket
import ssl
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import parse_qs, unquote, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

SUBSCRIPTION: Final = "11111111-1111-1111-1111-111111111111"
TENANT: Final = "22222222-2222-2222-2222-222222222222"
SECRET: Final = "the-secret-of-the-client"
GROUP: Final = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/enjoin/providers"
ARC: Final = f"{GROUP}/Microsoft.HybridCompute/machines/m1"
VM: Final = f"{GROUP}/Microsoft.Compute/virtualMachines/m1"
TOKEN: Final = f"/{TENANT}/oauth2/v2.0/token"


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A request as it arrived."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:  # noqa: ANN401 - JSON
        """The body, decoded."""
        return json.loads(self.body)


@dataclass(frozen=True, kw_only=True)
class Reply:
    """One answer. `drop`: take the request and hang up. `pieces`: a stream, cut off before its end if `cut`."""

    status: int = 200
    body: object = None
    headers: Mapping[str, str] = field(default_factory=dict)
    drop: bool = False
    pieces: Sequence[bytes] | None = None
    cut: bool = False


Answering = Reply | Callable[[Seen], Reply]


class Double:
    """The server. `answer` queues replies for a route; the last of them is repeated."""

    def __init__(self, directory: Path) -> None:
        self.seen: list[Seen] = []
        self.connections = 0
        self._routes: dict[tuple[str, str], list[Answering]] = {}
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self), bind_and_activate=True)
        self._server.daemon_threads = True
        certificate = _certificate(directory)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.endpoint = f"https://127.0.0.1:{self._server.server_address[1]}"
        self.connection_file = directory / "connection.json"
        self.values = {
            "endpoint": self.endpoint,
            "ca_file": str(certificate),
            "tenant_id": TENANT,
            "subscription_id": SUBSCRIPTION,
            "resource_group": "enjoin",
            "location": "local",
            "client_id": "33333333-3333-3333-3333-333333333333",
            "client_secret": SECRET,
        }
        self.connection_file.write_text(json.dumps(self.values))
        self.answer("POST", TOKEN, Reply(body={"access_token": "t1", "expires_in": 3599}))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, method: str, path: str, *replies: Answering) -> None:
        """Answer the next requests for `path` so."""
        self._routes[method, path] = list(replies)

    def add_machine(self, path: str = ARC, *, status: str = "Connected") -> None:
        """Make a machine known."""
        kind = "/".join(path.split("/")[6:8])
        properties = {"enjoin": {"status": status, "containment": "cgroup", "agentVersion": "0.1.0"}}
        body = {"id": path, "name": path.rpartition("/")[2], "type": kind, "location": "local"}
        self.answer("GET", path, Reply(body={**body, "properties": properties}))

    def add_execution(self, command: str, streams: Mapping[str, Sequence[Answering]], **properties: object) -> None:
        """Accept a PUT of `command` and let its first execution be so, with these answers for its output."""
        self.answer("PUT", command, Reply(status=201, body={"id": command, "properties": {}}))
        ended = {"generation": 1, "executionState": "Succeeded", "exitCode": 0, "startTime": "then", "signal": None}
        view = {**ended, "outputBytes": 0, "errorBytes": 0, **properties}

        def executions(_: Seen) -> Reply:
            put = self.requests("PUT", command)[-1]
            ours = {**view, "clientRequestId": put.headers["x-ms-client-request-id"]}
            return Reply(body={"value": [{"properties": ours}]})

        self.answer("GET", f"{command}/executions", executions)
        self.answer("GET", f"{command}/executions/1", Reply(body={"properties": view}))
        for stream in ("stdout", "stderr"):
            self.answer("GET", f"{command}/executions/1/output#{stream}", *streams.get(stream, [Reply(pieces=[])]))

    def requests(self, method: str, path: str) -> list[Seen]:
        """Return what was asked of `path` so far."""
        with self._lock:
            return [seen for seen in self.seen if (seen.method, seen.path) == (method, path)]

    def reply(self, seen: Seen) -> Reply:
        """Record a request and choose its answer."""
        with self._lock:
            self.seen.append(seen)
            stream = f"#{seen.query['stream']}" if "stream" in seen.query else ""
            queued = self._routes.get((seen.method, seen.path + stream))
            if queued is None:
                message = f"The Resource {seen.path} was not found."
                return Reply(status=404, body={"error": {"code": "ResourceNotFound", "message": message}})
            chosen = queued.pop(0) if len(queued) > 1 else queued[0]
        return chosen if isinstance(chosen, Reply) else chosen(seen)


def _handler(double: Double) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            double.connections += 1

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's signature
            """Say nothing."""

        def _answer(self) -> None:
            parts = urlsplit(self.path)
            length = int(self.headers.get("Content-Length", "0"))
            seen = Seen(
                method=self.command,
                path=unquote(parts.path),
                query={name: values[0] for name, values in parse_qs(parts.query).items()},
                headers={name.lower(): value for name, value in self.headers.items()},
                body=self.rfile.read(length),
            )
            reply = double.reply(seen)
            if reply.drop:
                self._hang_up()
                return
            data = b"" if reply.body is None else json.dumps(reply.body).encode()
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            if reply.pieces is None:
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)
                return
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for piece in reply.pieces:
                self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            if reply.cut:
                self._hang_up()
            else:
                self.wfile.write(b"0\r\n\r\n")

        def _hang_up(self) -> None:
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

        do_GET = do_PUT = do_POST = do_DELETE = _answer  # noqa: N815 - the library's names

    return Handler


class Proxy:
    """An HTTP proxy for one client at a time, which leads to the control plane whatever it is asked for."""

    def __init__(self, double: Double) -> None:
        self.asked: list[str] = []
        self._target = urlsplit(double.endpoint)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        with suppress(OSError):  # the listener was shut
            while True:
                client, _ = self._listener.accept()
                with client:
                    self._tunnel(client)

    def _tunnel(self, client: socket.socket) -> None:
        request = b""
        while not request.endswith(b"\r\n\r\n"):
            request += client.recv(1)
        self.asked.append(request.split(b"\r\n")[0].decode())
        client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        assert self._target.hostname is not None
        with socket.create_connection((self._target.hostname, self._target.port)) as server:
            ends = {client: server, server: client}
            while True:
                for end in select.select(list(ends), [], [])[0]:
                    data = end.recv(65536)
                    if not data:
                        return
                    ends[end].sendall(data)


def _certificate(directory: Path) -> Path:
    """Write a certificate that vouches for itself, with its key, and return where."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "double")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = directory / "double.pem"
    path.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return path

"""Random requests, bodies and orders against a real control plane, over TLS, as a stranger would send them."""

import http.client
import json
import socket
import ssl
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.acceptance.processes import ControlPlane, Fleet

VERSION: Final = "api-version=2024-11-01"
MACHINE: Final = "/subscriptions/{S}/resourceGroups/enjoin/providers/Microsoft.HybridCompute/machines/m1"
REFUSED_BYTES: Final = b"Invalid HTTP request received."  # by the HTTP parser, before there is a request
NAMES: Final = st.sampled_from(
    ["c1", "C1", "c2", "m1", "enjoin", "nobody", "runCommands", "%2e%2e", "a b", "ä", "x" * 300, ""]
)
TYPES: Final = st.sampled_from(
    [
        "Microsoft.HybridCompute/machines",
        "microsoft.compute/VirtualMachines",
        "Microsoft.Compute/virtualMachineScaleSets",
    ]
)
TEXT: Final = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
JSON: Final = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
PROPERTIES: Final = st.sampled_from(
    [
        *("source", "parameters", "protectedParameters", "timeoutInSeconds", "asyncExecution", "runAsUser"),
        *("treatFailureAsDeploymentFailure", "outputBlobUri", "provisioningState", "instanceView"),
    ]
)
PARAMETERS: Final = st.lists(st.fixed_dictionaries({}, optional={"name": TEXT, "value": JSON}), max_size=3)
PLAUSIBLE: Final = st.fixed_dictionaries(
    {
        "location": st.sampled_from(["local", "LOCAL", "elsewhere", None, 5]),
        "properties": st.fixed_dictionaries(
            {"source": st.fixed_dictionaries({"script": TEXT | JSON})},
            optional={
                "parameters": PARAMETERS | JSON,
                "protectedParameters": PARAMETERS | JSON,
                "timeoutInSeconds": st.integers() | JSON,
                "asyncExecution": st.booleans() | JSON,
                "treatFailureAsDeploymentFailure": st.booleans() | JSON,
            },
        ),
    },
    optional={"tags": st.dictionaries(TEXT, TEXT | JSON, max_size=3) | JSON},
)
ODD: Final = st.fixed_dictionaries({"properties": st.dictionaries(PROPERTIES, JSON, max_size=4) | JSON}) | JSON
BODIES: Final = st.one_of(
    PLAUSIBLE.map(lambda body: json.dumps(body).encode()),
    ODD.map(lambda body: json.dumps(body).encode()),
    st.binary(max_size=60),
    st.sampled_from(
        [b"", b"{", b"[" * 5000, b'{"a":' * 2000, b"\xff\xfe{\x00}\x00", b'{"location":"local","location":1}', b"nul"]
    ),
)
METHODS: Final = st.sampled_from(
    ["PUT", "PUT", "PUT", "GET", "GET", "DELETE", "POST", "PATCH", "HEAD", "OPTIONS", "TRACE", "BREW"]
)
QUERIES: Final = st.sampled_from(
    [VERSION, VERSION, VERSION, f"{VERSION}&%24expand=instanceView", "", "api-version=", "api-version=x&api-version=y"]
) | st.dictionaries(TEXT, TEXT, max_size=3).map(urlencode)
HEADERS: Final = st.dictionaries(
    st.sampled_from(
        ["x-ms-client-request-id", "If-Match", "Content-Type", "Accept", "Range", "x-ms-correlation-request-id"]
    ),
    st.sampled_from(["", "same", "*", "text/plain", "application/json", "bytes=0-", "\x7f", "é", "9" * 2000]),
    max_size=3,
)


@st.composite
def paths(draw: st.DrawFn) -> str:
    """Return the path of something, or of nothing; `{S}` stands for the subscription."""
    machine = f"/subscriptions/{{S}}/resourceGroups/{draw(NAMES)}/providers/{draw(TYPES)}/{draw(NAMES)}"
    known = f"{MACHINE}/runCommands/{draw(NAMES)}"
    return draw(
        st.sampled_from(
            [
                *(known, known, known, known, f"{known}/cancel", f"{known}/executions", f"{known}/executions/1"),
                f"{known}/executions/1/output?stream=stdout&offset={draw(TEXT)}",
                f"{known}/executions/{draw(TEXT)}",
                *(machine, f"{machine}/runCommands", f"{machine}/runCommands/{draw(NAMES)}", f"{machine}/instanceView"),
                *(
                    f"/subscriptions/{{S}}/resourceGroups/{draw(NAMES)}",
                    "/subscriptions",
                    "/subscriptions/{S}/locations",
                ),
                *("/subscriptions/{S}/providers", "/subscriptions/not-a-uuid/resourceGroups", "/tenants"),
                *(
                    "/metadata/endpoints",
                    "/adfs/oauth2/token",
                    "/common/oauth2/v2.0/token",
                    "/x/.well-known/openid-configuration",
                ),
                *("/enjoin/v1/principals", "/enjoin/v1/enrolmentTokens", "/enjoin/v1/enrol", "/enjoin/v1/channel"),
                f"/enjoin/v1/principals/{draw(TEXT)}",
                "/subscriptions/{S}/providers/Microsoft.Compute/locations/local/operations/" + draw(TEXT),
                *("/", "//", "/..", "/%00", "/" + draw(TEXT)),
            ]
        )
    )


@dataclass(frozen=True, slots=True)
class Sent:
    """One request."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes
    signed_in: bool


REQUESTS: Final = st.builds(
    Sent, METHODS, paths(), QUERIES, HEADERS, BODIES, st.sampled_from([True, True, True, False])
)


@dataclass(slots=True)
class Stranger:
    """Sends anything, and reads what comes back."""

    server: ControlPlane
    token: str = ""
    tls: ssl.SSLContext = field(init=False)
    wire: ssl.SSLSocket | None = None

    def __post_init__(self) -> None:
        """Trust the server's authority, and sign in."""
        self.tls = ssl.create_default_context(cafile=self.server.connection["ca_file"])
        connection = self.server.connection
        form = {
            "grant_type": "client_credentials",
            "client_id": connection["client_id"],
            "client_secret": connection["client_secret"],
            "scope": f"{connection['endpoint']}/.default",
        }
        status, body = self.send(Sent("POST", "/adfs/oauth2/token", "", {}, urlencode(form).encode(), signed_in=False))
        assert status == 200, body
        self.token = json.loads(body)["access_token"]

    def send(self, sent: Sent) -> tuple[int, bytes]:
        """Send one request; return the status and the body."""
        url = urlsplit(self.server.endpoint)
        if self.wire is None:
            plain = socket.create_connection((url.hostname or "", url.port or 443), timeout=30)
            self.wire = self.tls.wrap_socket(plain, server_hostname=url.hostname)
        target = quote(
            sent.path.replace("{S}", self.server.connection["subscription_id"]), safe="/%?=&.", errors="replace"
        )
        target += ("&" if "?" in target else "?") + sent.query if sent.query else ""
        lines = [f"{sent.method} {target} HTTP/1.1", f"Host: {url.netloc}", f"Content-Length: {len(sent.body)}"]
        if sent.signed_in:
            lines.append(f"Authorization: Bearer {self.token}")
        lines += [f"{name}: {value}" for name, value in sent.headers.items()]
        self.wire.sendall("\r\n".join([*lines, "", ""]).encode("latin-1", "replace") + sent.body)
        answer = http.client.HTTPResponse(self.wire, method=sent.method)
        answer.begin()
        body = answer.read()
        if answer.will_close or answer.status < 200:
            self.wire.close()
            self.wire = None
        return answer.status, body


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stranger]:
    """A client of a control plane that knows one machine, which never connects: nothing of this runs."""
    with Fleet(tmp_path_factory.mktemp("http")) as fleet:
        server = fleet.control_plane()
        fleet.new_agent(server, "m1")
        client = Stranger(server)
        yield client
        if client.wire is not None:
            client.wire.close()
        assert "Traceback" not in server.logs()


def check(sent: Sent, status: int, body: bytes) -> None:
    """Assert what every answer has to be."""
    assert 200 <= status < 500, (sent, status, body)
    if status < 400 or sent.method == "HEAD" or (status == 400 and body == REFUSED_BYTES):
        return
    answer: Any = json.loads(body)
    error = answer["error"]
    if isinstance(error, str):  # the token endpoint speaks OAuth
        assert "/oauth2/" in sent.path
        assert answer["error_description"]
        return
    assert isinstance(error["code"], str), sent
    assert isinstance(error["message"], str), sent
    assert error["code"], sent
    assert error["message"], sent
    assert "Traceback" not in error["message"], sent


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(requests=st.lists(REQUESTS, min_size=1, max_size=6))
def test_any_request_gets_an_answer(stranger: Stranger, requests: Sequence[Sent]) -> None:
    """
    Whatever is sent, in whatever order, the answer is never a 500, every error is ARM's envelope, and the log is calm.
    """
    for sent in requests:
        check(sent, *stranger.send(sent))

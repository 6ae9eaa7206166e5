"""What is around every request: names, limits, envelopes, and what a mistake of ours looks like."""

import hashlib
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from enjoin.api.middleware import MAX_BODY_BYTES, normal_path
from enjoin.errors import StoreUnavailable
from tests.unit.api.plane import URL, VERSION, Plane, command_body


async def test_every_answer_names_the_request(plane: Plane) -> None:
    """
    x-ms-request-id is new each time; a correlation id is kept; the client's id comes back when asked for.
    """
    headers = {"x-ms-correlation-request-id": "corr", "x-ms-client-request-id": "mine"}
    plain = await plane.ask("GET", "/subscriptions", headers=headers)
    again = await plane.ask("GET", "/nothing", headers={**headers, "x-ms-return-client-request-id": "True"})
    assert plain.headers["x-ms-request-id"] != again.headers["x-ms-request-id"]
    assert plain.headers["x-ms-correlation-request-id"] == "corr"
    assert "x-ms-client-request-id" not in plain.headers
    assert again.headers["x-ms-client-request-id"] == "mine"
    assert plain.headers["Content-Type"] == "application/json; charset=utf-8"


@pytest.mark.parametrize("value", ["x" * 129, "a\x7fb"])
async def test_ids_that_are_not_taken(plane: Plane, value: str) -> None:
    """
    An id that is long or no plain text is not echoed, but neither is it forgotten: its hash stands for it.
    """
    answer = await plane.ask("GET", "/subscriptions", headers={"x-ms-correlation-request-id": value})
    assert answer.headers["x-ms-correlation-request-id"] == f"sha256-{hashlib.sha256(value.encode()).hexdigest()}"


async def test_a_long_client_request_id_is_an_id_too(plane: Plane) -> None:
    """
    A repeated PUT whose client request id is longer than what we write down starts nothing.
    """
    await plane.machine()
    long_id = {"x-ms-client-request-id": "z" * 200}
    first, second = await plane.put("c1", **long_id), await plane.put("c1", **long_id)
    assert first.headers["Azure-AsyncOperation"] == second.headers["Azure-AsyncOperation"]


async def test_an_encoded_slash_is_no_separator(plane: Plane) -> None:
    """
    `x%2Fcancel` is refused: it must not cancel `x`.
    """
    await plane.machine()
    answer = await plane.ask("POST", f"{plane.path('x')}%2Fcancel")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "InvalidRequestContent")


async def test_body_at_the_limit(plane: Plane) -> None:
    """
    4 MiB are read, one byte more is a 400 that says the limit.
    """
    await plane.machine()
    fits = b" " * (MAX_BODY_BYTES - 2) + b"{}"
    assert (await plane.ask("PUT", plane.path("c1"), content=fits)).json()["error"]["target"] == "properties.source"
    over = (await plane.ask("PUT", plane.path("c1"), content=b" " + fits)).json()["error"]
    assert over["code"] == "RequestEntityTooLarge"
    assert str(MAX_BODY_BYTES) in over["message"]


async def test_body_beyond_the_limit_is_not_kept(plane: Plane) -> None:
    """
    What comes beyond the limit is read to its end and dropped, so that its sender gets to see the refusal.
    """
    await plane.machine()
    taken = 0

    async def pieces() -> Any:  # noqa: ANN401 - an async generator, which httpx takes
        nonlocal taken
        for _ in range(32):
            taken += 1
            yield b" " * (512 * 1024)

    answer = await plane.http.put(
        plane.path("c1"),
        content=pieces(),
        params={"api-version": VERSION},
        headers={"Authorization": f"Bearer {plane.token}"},
    )
    assert (answer.status_code, taken) == (400, 32)


@pytest.mark.parametrize(
    ("path", "headers"),
    [("/x" * 9000, {}), ("/subscriptions?a=" + "x" * 20000, {}), ("/subscriptions", {"X-Long": "x" * 70000})],
)
async def test_long_urls_and_headers(plane: Plane, path: str, headers: dict[str, str]) -> None:
    """
    A URL or headers of unreasonable size are refused.
    """
    answer = await plane.http.get(path, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "InvalidRequestContent")


async def test_wrong_verb(plane: Plane) -> None:
    """
    405 with the envelope and the verbs that apply.
    """
    answer = await plane.ask("POST", plane.path("c1"), command_body())
    assert (answer.status_code, answer.json()["error"]["code"]) == (405, "MethodNotAllowed")
    assert answer.headers["Allow"] == "DELETE, GET, PATCH, PUT"
    assert (await plane.http.post(plane.path("c1"))).status_code == 401
    assert (await plane.http.get("/adfs/oauth2/token")).status_code == 405


async def test_get_ignores_a_body(plane: Plane) -> None:
    """
    A GET with a body is a GET (T4).
    """
    answer = await plane.ask("GET", "/subscriptions", content=b"{nonsense")
    assert answer.status_code == 200


async def test_a_mistake_of_ours(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    An unexpected exception is an envelope without a trace; the log has it under the request's id.
    """

    async def broken(*_: object) -> None:
        text = "the inner workings"
        raise RuntimeError(text)

    monkeypatch.setattr(plane.services.access, "authenticate", broken)
    with capture_logs() as lines:
        answer = await plane.ask("GET", "/subscriptions")
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "InternalServerError")
    assert "inner workings" not in answer.text
    assert [line["event"] for line in lines] == ["request_failed", "request"]
    assert {line["request_id"] for line in lines} == {answer.headers["x-ms-request-id"]}
    assert lines[0]["request_id"] in answer.json()["error"]["message"]


async def test_full_disk(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A database that cannot be written is 503 with Retry-After: the client may come again.
    """

    async def full(*_: object) -> None:
        text = "The database cannot be written: no space left on device."
        raise StoreUnavailable(text)

    monkeypatch.setattr(plane.services.access, "authenticate", full)
    answer = await plane.ask("GET", "/subscriptions")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert answer.json()["error"]["code"] == "ServiceUnavailable"


@given(path=st.text(alphabet="/ab", max_size=30))
def test_normal_path(path: str) -> None:
    """
    A normal path begins with a slash, has no empty segment, and is its own normal path.
    """
    normal = normal_path("/" + path)
    assert normal.startswith("/")
    assert "//" not in normal
    assert normal_path(normal) == normal
    assert [part for part in normal.split("/") if part] == [part for part in path.split("/") if part]


SEGMENTS = st.sampled_from(
    [
        "subscriptions", "{s}", "resourceGroups", "enjoin", "providers", "Microsoft.Compute", "virtualMachines", "vm1",
        "runCommands", "c1", "executions", "1", "output", "cancel", "Microsoft.HybridCompute", "machines", "locations",
        "local", "operations", "operationresults", "01a1f8e8-0924-73b3-9437-0c3c5a5746de", "instanceView", "register",
        "enjoin", "v1", "principals", "enrolmentTokens", "enrol", "metadata", "endpoints", "tenants",
    ]
) | st.text(max_size=6)  # fmt: skip
BODIES = st.one_of(
    st.binary(max_size=40),
    st.just(b'{"location":"local","properties":{"source":{"script":"true"}}}'),
    st.just(b'{"name":"x","resourceGroup":"enjoin","location":"local"}'),
)
QUERIES = st.dictionaries(
    st.sampled_from(["api-version", "$expand", "$skiptoken", "stream", "offset"]) | st.text(max_size=4),
    st.sampled_from([VERSION, "instanceView", "0"]) | st.text(max_size=6),
    max_size=3,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    method=st.sampled_from(["GET", "PUT", "POST", "DELETE", "PATCH", "HEAD", "OPTIONS"]),
    segments=st.lists(SEGMENTS, max_size=12),
    likely=st.booleans(),
    query=QUERIES,
    body=BODIES,
)
async def test_any_request(
    plane: Plane, method: str, segments: list[str], *, likely: bool, query: dict[str, str], body: bytes
) -> None:
    """
    Whatever is asked, the answer is below 500, and an error is an envelope.
    """
    path = "/" + "/".join(segment if segment == "{s}" else quote(segment, safe="") for segment in segments)
    if likely:
        path = f"{plane.group_path}/providers/Microsoft.Compute/virtualMachines/vm1/runCommands{path}"
    if not await plane.services.machines.list(plane.subscription_id):
        await plane.machine()
    answer = await plane.http.request(
        method,
        URL + path.replace("{s}", plane.subscription_id),
        content=body,
        params={"api-version": VERSION, **query},
        headers={"Authorization": f"Bearer {plane.token}"},
    )
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400 and method != "HEAD" and "error" in answer.json():
        error = answer.json()["error"]
        assert isinstance(error, str) or (error["code"] and error["message"])

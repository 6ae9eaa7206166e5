"""Run commands through their routes, from outside."""

import asyncio
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from enjoin.api.run_commands import PAGE
from enjoin.model.execution import Event
from enjoin.model.machine import MachineKind
from tests.unit.api.plane import URL, Plane, command_body, new_id


async def test_life_of_a_command(plane: Plane) -> None:
    """
    Created, running with its output so far, ended with its exit code: each as GET shows it (F19, F22, F66, F71).
    """
    session = await plane.connect(await plane.machine())
    created = await plane.put()
    assert created.json()["properties"]["provisioningState"] == "Creating"
    execution_id = await plane.execution_id()
    await plane.report(session, execution_id, Event.STARTED)
    await plane.output(session, execution_id, b"hello\n")
    running = (await plane.ask("GET", plane.path("c1"), expand="instanceView")).json()["properties"]["instanceView"]
    assert (running["executionState"], running["output"], running["exitCode"]) == ("Running", "hello\n", 0)
    outcome = {"exit_code": 3, "stdout_bytes": 6, "stdout_tail": b"hello\n"}
    await plane.report(session, execution_id, Event.STARTED, Event.EXITED_NONZERO, **outcome)
    ended = (await plane.ask("GET", plane.path("c1"), expand="instanceView")).json()["properties"]
    assert ended["provisioningState"] == "Succeeded"
    view = ended["instanceView"]
    assert (view["executionState"], view["output"], view["exitCode"]) == ("Failed", "hello\n", 3)


async def test_instance_view_only_when_asked(plane: Plane) -> None:
    """
    On a VM the instance view comes with $expand only, in a list too (F23, F24).
    """
    await plane.machine()
    await plane.put()
    cases: list[tuple[dict[str, str], bool]] = [({}, False), ({"expand": "instanceView"}, True)]
    for expand, is_there in cases:
        item = (await plane.ask("GET", plane.path("c1"), query=expand)).json()
        listed = (await plane.ask("GET", plane.path(), query=expand)).json()["value"]
        assert [("instanceView" in body["properties"]) for body in (item, *listed)] == [is_there] * 2


async def test_protected_values_are_in_no_answer(plane: Plane) -> None:
    """
    What was sent protected never comes back (F43, F44).
    """
    await plane.machine()
    sent = command_body(protectedParameters=[{"name": "p", "value": "hunter2"}])
    answers = [
        await plane.put(body=sent),
        await plane.ask("GET", plane.path("c1"), expand="instanceView"),
        await plane.ask("GET", plane.path(), expand="instanceView"),
        await plane.ask("GET", f"{plane.path('c1')}/executions"),
    ]
    assert not [answer for answer in answers if "hunter2" in answer.text]
    assert not [answer for answer in answers if "protectedParameters" in answer.text]


async def test_list_in_pages(plane: Plane) -> None:
    """
    A long list comes in pages whose nextLink repeats api-version and $expand (F24, F27).
    """
    await plane.machine()
    names = [f"c{number:03}" for number in range(PAGE + 3)]
    for name in names:
        await plane.put(name)
    first = (await plane.ask("GET", plane.path(), expand="instanceView")).json()
    assert first["nextLink"].startswith(f"{URL}/subscriptions/")
    assert "api-version=2024-11-01" in first["nextLink"]
    assert "%24expand=instanceView" in first["nextLink"]
    answer = await plane.http.get(first["nextLink"], headers={"Authorization": f"Bearer {plane.token}"})
    second = answer.json()
    assert "nextLink" not in second
    shown = first["value"] + second["value"]
    assert [item["name"] for item in shown] == names
    assert all("instanceView" in item["properties"] for item in shown)


@pytest.mark.parametrize("token", ["%", "!!!!", "/w==", "4pg"])
async def test_bad_skip_token(plane: Plane, token: str) -> None:
    """
    A $skiptoken that this server did not give is refused or finds nothing; it is never an error of the server.
    """
    await plane.machine()
    await plane.put()
    for path in (plane.path(), f"{plane.path('c1')}/executions"):
        url = f"{path}?api-version=2024-11-01&$skiptoken={token}"
        answer = await plane.http.get(url, headers={"Authorization": f"Bearer {plane.token}"})
        assert answer.status_code in (200, 400)


@pytest.mark.parametrize("name", ["a.", ".a", "a b", "x" * 81, "é", "a%00b", "-a", "a'b", "a%22"])
async def test_names_that_cannot_be(plane: Plane, name: str) -> None:
    """
    A run command's name is checked when it is made.
    """
    await plane.machine()
    answer = await plane.put(name)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]


@pytest.mark.parametrize("name", ["a", "A-b_c.d", "1", "_x", "x" * 80])
async def test_names_that_can_be(plane: Plane, name: str) -> None:
    """
    Names of ARM's usual alphabet are taken and kept as spelled (F26).
    """
    await plane.machine()
    assert (await plane.put(name)).json()["name"] == name


async def test_absent_parent(plane: Plane) -> None:
    """
    On an absent machine a PUT is 404 ParentResourceNotFound, a GET 404 ResourceNotFound.
    """
    put = await plane.put()
    assert (put.status_code, put.json()["error"]["code"]) == (404, "ParentResourceNotFound")
    for path in (plane.path("c1"), plane.path()):
        answer = await plane.ask("GET", path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "ResourceNotFound")


async def test_location_is_required(plane: Plane) -> None:
    """
    A new run command needs a location; a replaced one keeps its own.
    """
    await plane.machine()
    without = {"properties": {"source": {"script": "true"}}}
    first = await plane.put(body=without)
    assert (first.status_code, first.json()["error"]["code"]) == (400, "LocationRequired")
    await plane.put()
    assert (await plane.put(body=without)).json()["location"] == "local"


async def test_a_repeated_put_starts_nothing(plane: Plane) -> None:
    """
    The same request again answers the same operation; with another body, or another id, it is a new one.
    """
    await plane.machine()
    request_id = new_id()
    answers = [
        await plane.put(x_ms_client_request_id=request_id),
        await plane.put(x_ms_client_request_id=request_id),
        await plane.put(x_ms_client_request_id=new_id()),
        await plane.put(body=command_body("other"), x_ms_client_request_id=request_id),
    ]
    operations = [answer.headers["Azure-AsyncOperation"] for answer in answers]
    assert operations[0] == operations[1]
    assert len(set(operations)) == 3
    found = (await plane.ask("GET", f"{plane.path('c1')}/executions")).json()["value"]
    assert [item["properties"]["generation"] for item in found] == [3, 2, 1]
    assert found[2]["properties"]["clientRequestId"] == request_id


async def test_executions(plane: Plane) -> None:
    """
    Each accepted PUT is an execution, kept with its state and whole sizes (F27).
    """
    session = await plane.connect(await plane.machine())
    await plane.put()
    first_id = await plane.execution_id()
    outcome = {"exit_code": 0, "stdout_bytes": 6, "stdout_tail": b"hello\n"}
    await plane.report(session, first_id, Event.STARTED, Event.EXITED_ZERO, **outcome)
    await plane.put()
    path = f"{plane.path('C1')}/executions"
    listed = (await plane.ask("GET", path)).json()["value"]
    assert [item["name"] for item in listed] == ["2", "1"]
    one = (await plane.ask("GET", f"{path}/1")).json()
    assert one["id"] == f"{plane.path('C1')}/executions/1"
    facts = one["properties"]
    assert facts["executionId"] == str(first_id)
    assert (facts["executionState"], facts["outputBytes"], facts["exitCode"]) == ("Succeeded", 6, 0)
    missing = await plane.ask("GET", f"{path}/3")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "ResourceNotFound")
    assert (await plane.ask("GET", f"{path}/x")).json()["error"]["target"] == "generation"


async def test_executions_in_pages(plane: Plane) -> None:
    """
    A long history comes in pages, newest first.
    """
    await plane.machine()
    for _ in range(PAGE + 2):
        await plane.put()
    first = (await plane.ask("GET", f"{plane.path('c1')}/executions")).json()
    answer = await plane.http.get(first["nextLink"], headers={"Authorization": f"Bearer {plane.token}"})
    generations = [item["properties"]["generation"] for item in first["value"] + answer.json()["value"]]
    assert generations == list(range(PAGE + 2, 0, -1))


async def test_cancel(plane: Plane) -> None:
    """
    A cancel is 202 with the execution; again it is 202 with the same; of nothing 404.
    """
    await plane.machine()
    await plane.put()
    answers = [await plane.ask("POST", f"{plane.path('c1')}/cancel") for _ in range(2)]
    assert [answer.status_code for answer in answers] == [202, 202]
    assert answers[1].json()["properties"]["executionState"] == "Canceled"
    assert (await plane.ask("POST", f"{plane.path('nope')}/cancel")).status_code == 404


async def test_output_is_byte_exact(plane: Plane) -> None:
    """
    The whole output is read as the script wrote it, from any offset, of either stream.
    """
    session = await plane.connect(await plane.machine())
    await plane.put()
    execution_id = await plane.execution_id()
    data = bytes(range(256)) * 1000  # goes on in a file
    await plane.report(session, execution_id, Event.STARTED)
    await plane.output(session, execution_id, data)
    path = f"{plane.path('c1')}/executions/1/output"
    whole = await plane.ask("GET", path, stream="stdout")
    assert whole.content == data
    assert whole.headers["Content-Type"] == "application/octet-stream"
    assert int(whole.headers["Content-Length"]) == len(data)
    assert (await plane.ask("GET", path, offset="65530")).content == data[65530:]
    assert (await plane.ask("GET", path, offset=str(len(data) + 5))).content == b""
    assert (await plane.ask("GET", path, stream="stderr")).content == b""
    head = await plane.ask("HEAD", path)
    assert (head.status_code, head.content) == (200, b"")


async def test_output_removed_while_it_is_read(plane: Plane, tmp_path: Path) -> None:
    """
    An answer whose rest is gone is broken off, so that no client takes it for whole, and the log says why.
    """
    session = await plane.connect(await plane.machine())
    await plane.put()
    execution_id = await plane.execution_id()
    await plane.report(session, execution_id, Event.STARTED)
    await plane.output(session, execution_id, bytes(200_000))
    remove_files(tmp_path / "output")
    reader = Reader(plane, f"{plane.path('c1')}/executions/1/output", "api-version=1")
    with capture_logs() as lines:
        first = await reader.piece()
        await reader.task
    assert first is not None
    assert len(first) < 200_000
    assert reader.is_unfinished
    assert [line["event"] for line in lines] == ["answer_cut_short", "request"]


def remove_files(directory: Path) -> None:
    """Remove every file below a directory."""
    for path in directory.rglob("*.std*"):
        path.unlink()


@pytest.mark.parametrize(
    ("query", "target"),
    [
        ({"stream": "x"}, "stream"),
        ({"offset": "-1"}, "offset"),
        ({"offset": "x"}, "offset"),
        ({"offset": "9" * 30}, "offset"),
        ({"follow": "maybe"}, "follow"),
    ],
)
async def test_output_refused(plane: Plane, query: dict[str, str], target: str) -> None:
    """
    A wrong query is a 400 with its target.
    """
    await plane.machine()
    await plane.put()
    answer = await plane.ask("GET", f"{plane.path('c1')}/executions/1/output", query=query)
    assert (answer.status_code, answer.json()["error"]["target"]) == (400, target)


class Reader:
    """A client that reads an answer piece by piece."""

    def __init__(self, plane: Plane, path: str, query: str) -> None:
        self._pieces: asyncio.Queue[MutableMapping[str, Any]] = asyncio.Queue()
        self.left = asyncio.Event()
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "https",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(b"authorization", f"Bearer {plane.token}".encode())],
        }
        self._asked = False
        self.task = asyncio.create_task(plane.app(scope, self._receive, self._pieces.put))

    async def _receive(self) -> MutableMapping[str, Any]:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self.left.wait()
        return {"type": "http.disconnect"}

    @property
    def is_unfinished(self) -> bool:
        """Whether the answer was broken off: there is no last piece."""
        return self.task.done() and self._pieces.empty()

    async def piece(self) -> bytes | None:
        """Return the next piece of the body; None at its end."""
        while True:
            message = await self._pieces.get()
            if message["type"] == "http.response.start":
                assert message["status"] == 200
            elif message["body"] or not message.get("more_body"):
                return message["body"] or None


async def test_output_followed_to_its_end(plane: Plane) -> None:
    """
    A following client gets each piece as it arrives, and the end when the stream is complete (F71).
    """
    session = await plane.connect(await plane.machine())
    await plane.put()
    execution_id = await plane.execution_id()
    await plane.report(session, execution_id, Event.STARTED)
    reader = Reader(plane, f"{plane.path('c1')}/executions/1/output", "api-version=1&follow=true&stream=stdout")
    await plane.output(session, execution_id, b"one\n")
    assert await reader.piece() == b"one\n"
    await plane.output(session, execution_id, b"two\n", offset=4)
    assert await reader.piece() == b"two\n"
    outcome = {"exit_code": 0, "stdout_bytes": 10}
    await plane.report(session, execution_id, Event.STARTED, Event.EXITED_ZERO, **outcome)
    await plane.output(session, execution_id, b"\xff\n", offset=8)
    assert await reader.piece() == b"\xff\n"
    assert await reader.piece() is None
    await reader.task


async def test_follower_is_let_go_when_the_server_stops(plane: Plane) -> None:
    """
    A server that is told to stop ends what is followed; the client sees that the execution is not over.
    """
    session = await plane.connect(await plane.machine())
    await plane.put()
    execution_id = await plane.execution_id()
    await plane.report(session, execution_id, Event.STARTED)
    await plane.output(session, execution_id, b"one\n")
    reader = Reader(plane, f"{plane.path('c1')}/executions/1/output", "api-version=1&follow=true")
    assert await reader.piece() == b"one\n"
    plane.services.stopping.set()
    assert await reader.piece() is None
    await reader.task


async def test_follower_that_leaves_is_forgotten(plane: Plane) -> None:
    """
    A client that goes away while nothing is written holds nothing here.
    """
    session = await plane.connect(await plane.machine())
    await plane.put()
    await plane.report(session, await plane.execution_id(), Event.STARTED)
    reader = Reader(plane, f"{plane.path('c1')}/executions/1/output", "api-version=1&follow=true")
    await asyncio.sleep(0)
    reader.left.set()
    await reader.task


async def test_two_kinds_of_one_name(plane: Plane) -> None:
    """
    A VM and an Arc machine of one name are two machines (F8, F10).
    """
    await plane.machine("m")
    await plane.machine("m", MachineKind.ARC)
    for kind in (MachineKind.VIRTUAL_MACHINE, MachineKind.ARC):
        path = plane.path("c1", machine="m", kind=kind)
        assert (await plane.ask("PUT", path, command_body(kind.value))).status_code == 201
        assert (await plane.ask("GET", path)).json()["properties"]["source"]["script"] == kind.value

"""PATCH and the update that az does, through the routes."""

import asyncio
from typing import Any

import httpx
import pytest

from enjoin.model.machine import MachineKind
from tests.unit.api.plane import Plane, command_body, new_id

EVERY_KIND = pytest.mark.parametrize("kind", list(MachineKind))


async def generation(plane: Plane, **of: Any) -> int:  # noqa: ANN401 - where the command is
    """Return which generation is the current one."""
    answer = await plane.ask("GET", plane.path("c1", **of), expand="instanceView")
    found: int = answer.json()["properties"]["instanceView"]["enjoin"]["generation"]
    return found


async def ended(plane: Plane, answer: httpx.Response) -> str:
    """Return the status of the operation that an answer names."""
    headers = {"Authorization": f"Bearer {plane.token}"}
    status: str = (await plane.http.get(answer.headers["Azure-AsyncOperation"], headers=headers)).json()["status"]
    return status


async def patch(plane: Plane, body: object, **of: Any) -> httpx.Response:  # noqa: ANN401 - where the command is
    """PATCH c1."""
    return await plane.ask("PATCH", plane.path("c1", **of), body)


@EVERY_KIND
async def test_merge(plane: Plane, kind: MachineKind) -> None:
    """
    What a PATCH names is changed and run again, the rest stays; the answer is 200 with an operation (F21).
    """
    await plane.machine("m", kind)
    body = command_body("one", parameters=[{"name": "a", "value": "1"}], timeoutInSeconds=7)
    await plane.ask("PUT", plane.path("c1", machine="m", kind=kind), {**body, "tags": {"x": "1", "y": "2"}})
    sent = {"location": "LOCAL", "tags": {"x": None, "z": "3"}, "properties": {"source": {"script": "two"}}}
    answer = await patch(plane, sent, machine="m", kind=kind)
    assert answer.status_code == 200
    assert "Azure-AsyncOperation" in answer.headers
    assert answer.headers["Retry-After"] == "1"
    shown = answer.json()
    assert shown["properties"]["provisioningState"] == "Updating"
    assert shown["properties"]["source"] == {"script": "two"}
    assert shown["properties"]["parameters"] == [{"name": "a", "value": "1"}]
    assert shown["properties"]["timeoutInSeconds"] == 7
    assert shown["tags"] == {"y": "2", "z": "3"}
    assert await generation(plane, machine="m", kind=kind) == 2


async def test_tags_alone(plane: Plane) -> None:
    """
    Tags run nothing: the operation is over at once, and what runs goes on (F21).
    """
    await plane.machine()
    first = await plane.put()
    unchanged = {"timeoutInSeconds": 0, "asyncExecution": False, "treatFailureAsDeploymentFailure": False}
    for body in ({"tags": {"a": "1"}}, {"tags": {"a": "1"}, "properties": unchanged}, {}):
        answer = await patch(plane, body)
        assert (answer.status_code, answer.json()["tags"]) == (200, {"a": "1"})
        assert answer.json()["properties"]["provisioningState"] == "Creating"
        assert await ended(plane, answer) == "Succeeded"
    assert await generation(plane) == 1
    status = await plane.ask("GET", plane.path("c1"), expand="instanceView")
    assert status.json()["properties"]["instanceView"]["executionState"] == "Pending"
    assert first.json()["etag"] != status.json()["etag"]


@pytest.mark.parametrize(
    "properties",
    [
        {"parameters": [{"name": "a", "value": "1"}]},
        {"timeoutInSeconds": 9},
        {"asyncExecution": True},
        {"treatFailureAsDeploymentFailure": True},
        {"protectedParameters": [{"name": "p", "value": "hunter2"}]},
        {"SOURCE": {"Script": "echo other"}},
    ],
)
async def test_what_runs_again(plane: Plane, properties: dict[str, object]) -> None:
    """
    Whatever changes what is run, runs it.
    """
    await plane.machine()
    await plane.put()
    answer = await patch(plane, {"properties": properties})
    assert answer.status_code == 200
    assert "hunter2" not in answer.text
    assert await generation(plane) == 2


async def test_null_removes(plane: Plane) -> None:
    """
    A null makes a property what it is when it was never set; the source cannot be taken away (RFC 7396).
    """
    await plane.machine()
    await plane.put(body=command_body(parameters=[{"name": "a", "value": "1"}], timeoutInSeconds=7))
    answer = await patch(plane, {"properties": {"parameters": None, "timeoutInSeconds": None}})
    assert (answer.json()["properties"]["parameters"], answer.json()["properties"]["timeoutInSeconds"]) == ([], 0)
    for body in ({"properties": {"source": None}}, {"properties": {"source": {"script": None}}}, {"properties": None}):
        refused = await patch(plane, body)
        assert (refused.status_code, refused.json()["error"]["target"]) == (400, "properties.source")
    assert await generation(plane) == 2


async def test_secrets_are_kept(plane: Plane) -> None:
    """
    PATCH and the PUT of what GET showed keep the secrets; [] clears them; they are in no answer (F43, F44).
    """
    machine = await plane.machine()
    await plane.put(body=command_body(protectedParameters=[{"name": "p", "value": "hunter2"}]))

    async def names() -> list[str]:
        command = await plane.services.store.read(lambda tx: tx.find_command(machine.id, "c1"))
        assert command is not None
        return [value.name for value in command.spec.protected]

    await patch(plane, {"properties": {"timeoutInSeconds": 5}})
    assert await names() == ["p"]
    shown = (await plane.ask("GET", plane.path("c1"))).json()
    shown["properties"]["timeoutInSeconds"] = 6
    updated = await plane.ask("PUT", plane.path("c1"), shown)
    assert updated.status_code == 200
    assert await names() == ["p"]
    await patch(plane, {"properties": {"protectedParameters": None}})
    assert await names() == ["p"]
    await patch(plane, {"properties": {"protectedParameters": []}})
    assert await names() == []


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ([], 400, "InvalidParameter"),
        ({"location": "elsewhere"}, 409, "Conflict"),
        ({"properties": []}, 400, "InvalidParameter"),
        ({"tags": {"a": "1", "A": "2"}}, 400, "InvalidParameter"),
        ({"properties": {"source": {"scriptUri": "https://example/x"}}}, 400, "NotSupported"),
        ({"properties": {"source": {"script": "a", "scriptUri": "b"}}}, 400, "InvalidParameter"),
        ({"properties": {"timeoutInSeconds": "soon"}}, 400, "InvalidParameter"),
    ],
)
async def test_refused(plane: Plane, body: object, status: int, code: str) -> None:
    """
    What cannot be done is refused with the property's name, and changes nothing.
    """
    await plane.machine()
    before = (await plane.put()).json()
    answer = await patch(plane, body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert (await plane.ask("GET", plane.path("c1"))).json() == before


async def test_nothing_there(plane: Plane) -> None:
    """
    A PATCH makes nothing: 404 for a command or a machine that is not there.
    """
    assert (await patch(plane, {})).json()["error"]["code"] == "ParentResourceNotFound"
    await plane.machine()
    missing = await patch(plane, {"properties": {"source": {"script": "true"}}})
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "ResourceNotFound")


async def test_repeated_patch(plane: Plane) -> None:
    """
    A PATCH that is sent again with the same id starts nothing, and answers with the same operation.
    """
    await plane.machine()
    await plane.put()
    for body in ({"properties": {"source": {"script": "two"}}}, {"tags": {"a": "1"}}):
        headers = {"x-ms-client-request-id": new_id()}
        first, second = [await plane.ask("PATCH", plane.path("c1"), body, headers=headers) for _ in range(2)]
        assert second.status_code == 200
        assert first.headers["Azure-AsyncOperation"] == second.headers["Azure-AsyncOperation"]
    assert await generation(plane) == 2


async def test_old_clients_know_nothing_of_treated_failures(plane: Plane) -> None:
    """
    A PATCH of an api-version before treatFailureAsDeploymentFailure leaves it as it is (T14).
    """
    await plane.machine()
    await plane.put(body=command_body(treatFailureAsDeploymentFailure=True))
    answer = await plane.http.patch(
        f"{plane.path('c1')}?api-version=2022-08-01",
        json={"tags": {"a": "1"}},
        headers={"Authorization": f"Bearer {plane.token}"},
    )
    assert answer.json()["properties"]["treatFailureAsDeploymentFailure"] is True
    assert await generation(plane) == 1


async def test_patches_at_the_same_time(plane: Plane) -> None:
    """
    None of many that change different things at once undoes another.
    """
    await plane.machine()
    await plane.put()
    answers = await asyncio.gather(*(patch(plane, {"tags": {f"t{number}": "1"}}) for number in range(8)))
    assert {answer.status_code for answer in answers} == {200}
    shown = (await plane.ask("GET", plane.path("c1"))).json()
    assert sorted(shown["tags"]) == [f"t{number}" for number in range(8)]
    assert await generation(plane) == 1

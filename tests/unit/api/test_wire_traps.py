"""The rules of the wire that break clients when got wrong: one test each, named after its trap."""

import asyncio
from datetime import timedelta

import httpx
import pytest

from enjoin.control.operations import HOLD_S
from enjoin.model.execution import Event
from enjoin.model.machine import MachineKind
from enjoin.model.operation import OperationState
from tests.unit.api.plane import URL, HandClock, Plane, command_body


def local(url: str) -> str:
    """Return the path and query of a URL that an answer gave, which begins with the public URL."""
    assert url.startswith(f"{URL}/"), url
    return url.removeprefix(URL)


async def poll(plane: Plane, url: str) -> httpx.Response:
    """Follow a URL that an answer gave."""
    return await plane.http.get(local(url), headers={"Authorization": f"Bearer {plane.token}"})


async def finish_held(plane: Plane, clock: HandClock, url: str) -> httpx.Response:
    """Follow a URL whose answer is held, and let the time of holding pass."""
    held = asyncio.create_task(poll(plane, url))
    while not held.done():
        await asyncio.sleep(0)
        clock.advance(timedelta(seconds=HOLD_S))
    return await held


async def test_trap_1_retry_after_is_a_whole_number_above_zero(plane: Plane, clock: HandClock) -> None:
    """
    Every unfinished answer, the first and each poll, carries Retry-After: 1 (0 or none costs clients 2 to 30 seconds).
    """
    await plane.machine()
    put = await plane.put()
    assert put.headers["Retry-After"] == "1"
    status = await finish_held(plane, clock, put.headers["Azure-AsyncOperation"])
    assert (status.status_code, status.json()["status"]) == (200, "InProgress")
    assert status.headers["Retry-After"] == "1"


async def test_trap_1_nothing_to_wait_for_when_it_is_over(plane: Plane) -> None:
    """
    A finished operation asks nobody to come again.
    """
    machine = await plane.machine()
    session = await plane.connect(machine)
    put = await plane.put()
    await plane.report(session, await plane.execution_id(), Event.STARTED, Event.EXITED_ZERO, exit_code=0)
    status = await poll(plane, put.headers["Azure-AsyncOperation"])
    assert status.json()["status"] == "Succeeded"
    assert "Retry-After" not in status.headers


async def test_trap_2_the_first_poll_is_held_until_the_script_ends(plane: Plane) -> None:
    """
    The first poll comes at once and is answered when the operation ends, so that no client sleeps (F31).
    """
    machine = await plane.machine()
    session = await plane.connect(machine)
    put = await plane.put()
    held = asyncio.create_task(poll(plane, put.headers["Azure-AsyncOperation"]))
    execution_id = await plane.execution_id()
    await plane.report(session, execution_id, Event.STARTED)
    assert not held.done(), "a script that only started is no end"
    await plane.report(session, execution_id, Event.STARTED, Event.EXITED_ZERO, exit_code=0)
    assert (await held).json()["status"] == "Succeeded"


async def test_trap_2_a_held_poll_is_let_go_when_the_server_stops(plane: Plane) -> None:
    """
    A server that is told to stop answers every held poll with InProgress.
    """
    await plane.machine()
    put = await plane.put()
    held = asyncio.create_task(poll(plane, put.headers["Azure-AsyncOperation"]))
    await asyncio.sleep(0)
    plane.services.stopping.set()
    assert (await held).json()["status"] == "InProgress"


async def test_trap_3_put_answers_201_then_200(plane: Plane) -> None:
    """
    A new run command is 201, a replaced one 200; 202 never (the Python SDKs raise on it) (F19, F20).
    """
    await plane.machine()
    assert [(await plane.put()).status_code, (await plane.put()).status_code] == [201, 200]


async def test_trap_4_delete_answers_202_then_204(plane: Plane) -> None:
    """
    A deletion is 202 with both headers; of nothing it is 204; 200 never (the Arc SDK raises on it) (F25).
    """
    await plane.machine()
    await plane.put()
    gone = await plane.ask("DELETE", plane.path("c1"))
    assert gone.status_code == 202
    assert gone.headers["Retry-After"] == "1"
    assert (await poll(plane, gone.headers["Azure-AsyncOperation"])).json()["status"] == "Succeeded"
    assert (await poll(plane, gone.headers["Location"])).status_code == 204
    assert (await plane.ask("DELETE", plane.path("c1"))).status_code == 204
    assert (await plane.ask("DELETE", plane.path("c1", machine="nobody"))).status_code == 204


async def test_trap_4_deletion_is_202_until_the_machine_confirms(plane: Plane, clock: HandClock) -> None:
    """
    While the machine has not confirmed the end, GET shows Deleting and the result is 202 with Location and Retry-After.
    """
    session = await plane.connect(await plane.machine())
    await plane.put()
    await plane.report(session, await plane.execution_id(), Event.STARTED)
    gone = await plane.ask("DELETE", plane.path("c1"))
    shown = await plane.ask("GET", plane.path("c1"))
    assert shown.json()["properties"]["provisioningState"] == "Deleting"
    result = await finish_held(plane, clock, gone.headers["Location"])
    assert result.status_code == 202
    assert result.headers["Retry-After"] == "1"
    assert local(result.headers["Location"]).startswith("/subscriptions/")


async def test_trap_6_put_always_names_its_operation(plane: Plane) -> None:
    """
    Azure-AsyncOperation is there even when a repetition finds all over; Location is not, for clients would GET it.
    """
    session = await plane.connect(await plane.machine())
    first = await plane.put(x_ms_client_request_id="one")
    await plane.report(session, await plane.execution_id(), Event.STARTED, Event.EXITED_ZERO, exit_code=0)
    again = await plane.put(x_ms_client_request_id="one")
    assert again.json()["properties"]["provisioningState"] == "Succeeded"
    assert again.headers["Azure-AsyncOperation"] == first.headers["Azure-AsyncOperation"]
    assert "Location" not in first.headers
    assert "Location" not in again.headers


async def test_trap_6_a_failed_operation_says_why(plane: Plane) -> None:
    """
    The status document carries the error that clients print.
    """
    session = await plane.connect(await plane.machine())
    put = await plane.put(body=command_body("exit 3", treatFailureAsDeploymentFailure=True))
    execution_id = await plane.execution_id()
    message = "the script ended with exit code 3."
    await plane.report(session, execution_id, Event.STARTED, Event.EXITED_NONZERO, exit_code=3, message=message)
    status = (await poll(plane, put.headers["Azure-AsyncOperation"])).json()
    assert status["status"] == "Failed"
    assert status["error"] == {"code": "RunCommandExecutionFailed", "message": message}
    assert status["endTime"] >= status["startTime"]


@pytest.mark.parametrize(
    "path",
    [
        "/SUBSCRIPTIONS/{s}/RESOURCEGROUPS/ENJOIN/PROVIDERS/MICROSOFT.COMPUTE/VIRTUALMACHINES/VM1/RUNCOMMANDS/C1",
        "/subscriptions/{s}/resourcegroups/enjoin/providers/microsoft.compute/virtualmachines/vm1/runcommands/c1",
        "/subscriptions/{s}/resourceGroups/enjoin/providers/Microsoft.Compute//virtualMachines/Vm1/runCommands/C1",
        "//subscriptions/{s}/resourceGroups/enjoin/providers/Microsoft.Compute/virtualMachines/vm1/runCommands/c1/",
    ],
)
async def test_trap_8_paths_without_regard_to_case_and_slashes(plane: Plane, path: str) -> None:
    """
    Letter case, doubled and trailing slashes mean nothing; the id keeps the first spelling (F28, F30, T5).
    """
    await plane.machine("Vm1")
    await plane.put("C1")
    found = await plane.ask("GET", URL + path.format(s=plane.subscription_id))
    assert found.status_code == 200
    machine = f"{plane.group_path}/providers/Microsoft.Compute/virtualMachines/Vm1"
    assert found.json()["id"] == f"{machine}/runCommands/C1"


@pytest.mark.parametrize("expand", ["$expand=instanceView", "%24expand=instanceView", "$EXPAND=InstanceView"])
async def test_trap_8_expand_in_either_writing(plane: Plane, expand: str) -> None:
    """
    $expand may arrive encoded (F23).
    """
    await plane.machine()
    await plane.put()
    url = f"{plane.path('c1')}?api-version=2024-11-01&{expand}"
    found = await plane.http.get(url, headers={"Authorization": f"Bearer {plane.token}"})
    assert "instanceView" in found.json()["properties"]


@pytest.mark.parametrize("version", ["2019-12-01", "2023-03-01", "2023-10-03-preview", "2026-07-15", "2099-01-01"])
async def test_trap_9_any_plausible_api_version(plane: Plane, version: str) -> None:
    """
    Every api-version is served (F29).
    """
    await plane.machine()
    path = f"{plane.path()}?api-version={version}"
    found = await plane.http.get(path, headers={"Authorization": f"Bearer {plane.token}"})
    assert found.json() == {"value": []}


@pytest.mark.parametrize("query", ["", "?api-version=", "?version=2024-11-01"])
async def test_trap_9_a_missing_api_version_is_refused(plane: Plane, query: str) -> None:
    """
    Without api-version: 400 MissingApiVersionParameter (F32, T5).
    """
    await plane.machine()
    found = await plane.http.get(plane.path() + query, headers={"Authorization": f"Bearer {plane.token}"})
    assert (found.status_code, found.json()["error"]["code"]) == (400, "MissingApiVersionParameter")


async def test_trap_10_definite_errors_are_never_repeated(plane: Plane) -> None:
    """
    What will not change by itself is no 5xx, 408 or 429: clients repeat those for seconds.
    """
    await plane.machine()
    answers = [
        await plane.put(body={"location": "local", "properties": {}}),
        await plane.put(body=command_body("x" * 300_000)),
        await plane.ask("PUT", plane.path("c1"), content=b"x" * 5_000_000),
        await plane.ask("PUT", plane.path("c1", machine="nobody"), command_body()),
        await plane.ask("POST", plane.path("c1"), command_body()),
        await plane.ask("GET", f"{plane.group_path}/providers/Microsoft.Network/networkInterfaces/n"),
    ]
    assert [answer.status_code for answer in answers] == [400, 400, 400, 404, 405, 404]
    assert all(answer.json()["error"]["message"] for answer in answers)


async def test_trap_11_register_answers_registered(plane: Plane) -> None:
    """
    No 409 MissingSubscriptionRegistration, ever: every provider is registered.
    """
    path = f"/subscriptions/{plane.subscription_id}/providers/microsoft.compute"
    for answer in (await plane.ask("GET", path), await plane.ask("POST", f"{path}/register")):
        assert answer.json()["registrationState"] == "Registered"
        assert answer.json()["namespace"] == "Microsoft.Compute"


@pytest.mark.parametrize("host", ["enjoin.example:8443", "evil.example"])
async def test_trap_12_polling_urls_are_absolute_and_stay(plane: Plane, host: str) -> None:
    """
    Operation URLs come from the public URL, whatever the Host header says, and go on to answer after the end.
    """
    session = await plane.connect(await plane.machine())
    put = await plane.ask("PUT", plane.path("c1"), command_body(), headers={"Host": host})
    url = put.headers["Azure-AsyncOperation"]
    assert url.startswith(f"{URL}/subscriptions/{plane.subscription_id}/providers/Microsoft.Compute/locations/local/")
    assert "api-version=" in url
    await plane.report(session, await plane.execution_id(), Event.STARTED, Event.EXITED_ZERO, exit_code=0)
    answers = [await poll(plane, url) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert {answer.json()["status"] for answer in answers} == {OperationState.SUCCEEDED.value}


async def test_no_status_at_the_top_of_a_resource(plane: Plane) -> None:
    """
    A field `status` beside `properties` would be read as the operation's; there is none on any body of a PUT.
    """
    await plane.machine()
    assert "status" not in (await plane.put()).json()


async def test_arc_always_shows_the_instance_view(plane: Plane) -> None:
    """
    The Arc SDK's get has no $expand, so that the view is always there (F10, F66).
    """
    await plane.machine("m1", MachineKind.ARC)
    path = plane.path("c1", machine="m1", kind=MachineKind.ARC)
    put = await plane.ask("PUT", path, command_body())
    assert put.status_code == 201
    assert "/providers/Microsoft.HybridCompute/locations/" in put.headers["Azure-AsyncOperation"]
    shown = (await plane.ask("GET", path)).json()
    assert shown["type"] == "Microsoft.HybridCompute/machines/runcommands"
    assert shown["properties"]["instanceView"]["executionState"] == "Pending"

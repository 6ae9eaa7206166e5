"""Long-running operations of the unmodified SDKs when the machine, or the control plane, is away meanwhile."""

from pathlib import Path

import pytest
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError

from tests.acceptance.azure_sdk import SDK, body
from tests.acceptance.processes import Agent, ControlPlane, Fleet, processes_of, until


@pytest.mark.parametrize("api_version", ["2019-12-01", "2023-03-01", "2024-11-01"])
def test_api_versions(server: ControlPlane, vm: Agent, api_version: str) -> None:
    """
    Clients of any age are served (F29), and their polls carry the version that they asked for.
    """
    with SDK(server) as sdk:
        commands = sdk.on(vm)
        commands.begin_create("versions", body("echo hello"), params={"api-version": api_version}).result()
        assert commands.get("versions").properties.instance_view.output == "hello\n"
        assert f"api-version={api_version}" in sdk.traffic.answers[0]["azure-asyncoperation"]
        assert sdk.traffic.slept_s == []


def test_machine_comes_later(fleet: Fleet) -> None:
    """
    A command for a machine that is away waits, says so, and its client hears of the end as soon as there is one.
    """
    server = fleet.control_plane()
    agent = fleet.new_agent(server, "m1")
    with SDK(server) as sdk, SDK(server) as onlooker:
        poller = sdk.on(agent).begin_create("waits", body("echo hello"))
        view = onlooker.on(agent).get("waits").properties.instance_view
        assert view.execution_state == "Pending"
        assert "not connected" in view.execution_message
        agent.start()
        assert poller.result().properties.instance_view.output == "hello\n"
        assert sdk.traffic.methods == "PUT GET GET"


def test_undelivered(fleet: Fleet) -> None:
    """
    A command that no machine fetched within the delivery deadline fails, and the SDK's error says so.
    """
    server = fleet.control_plane("--delivery-deadline", "1")
    agent = fleet.new_agent(server, "m1", kind="vm")
    with SDK(server) as sdk:
        commands = sdk.on(agent)
        with pytest.raises(HttpResponseError, match="not connect") as caught:
            commands.begin_create("late", body("echo hello")).result()
        assert caught.value.error is not None
        assert caught.value.error.code == "RunCommandNotRun"
        found = commands.get("late").properties
        assert (found.provisioning_state, found.instance_view.execution_state) == ("Failed", "Failed")
        assert "never sent" in found.instance_view.execution_message


def test_delete_on_an_absent_machine(fleet: Fleet) -> None:
    """
    A delete succeeds at the delivery deadline when the machine is away; what ran there ends when it comes back.
    """
    server = fleet.control_plane("--delivery-deadline", "2")
    agent = fleet.agent(server, "m1")
    with SDK(server) as sdk:
        commands = sdk.on(agent)
        commands.begin_create("doomed", body("exec sleep 600", asyncExecution=True)).result()
        [bundle] = agent.bundles
        agent.kill()
        poller = commands.begin_delete("doomed")
        assert commands.get("doomed").properties.provisioning_state == "Deleting"
        poller.result()
        with pytest.raises(ResourceNotFoundError):
            commands.get("doomed")
        assert processes_of(bundle.execution_id), "nobody could tell the machine"
        agent.start()
        until(lambda: not processes_of(bundle.execution_id), "the script ends")


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_control_plane_restarts_while_a_client_waits(fleet: Fleet, tmp_path: Path, how: str) -> None:
    """
    A client whose poll is held when the control plane ends, by SIGTERM or SIGKILL, gets its result from the next.
    """
    server = fleet.control_plane()
    agent = fleet.agent(server, "m1")
    gate, witness = tmp_path / "gate", tmp_path / "witness"
    with SDK(server) as sdk:
        poller = sdk.on(agent).begin_create(
            "waits", body(f"echo ran >>{witness}; until [ -e {gate} ]; do sleep 0.05; done; echo done")
        )
        until(lambda: witness.exists() and sdk.traffic.methods == "PUT GET", "the script runs and the client polls")
        (server.stop if how == "stop" else server.kill)()
        server.start()
        gate.touch()
        assert poller.result().properties.instance_view.output == "done\n"
    assert witness.read_text() == "ran\n"

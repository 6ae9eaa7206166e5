"""A resource group with running scripts is deleted, with real machines."""

import pytest

from tests.acceptance.arm_client import ARMClient
from tests.acceptance.azure_cli import Az, recipe
from tests.acceptance.processes import Agent, ControlPlane, Fleet, processes_of, until

SCRIPT = "echo begun; setsid sleep 3600 & trap '' TERM; while :; do sleep 1; done"


def running(client: ARMClient, agents: list[Agent]) -> list[str]:
    """Run a script that does not want to end on each machine; return the executions."""
    for agent in agents:
        client.on(agent).put("c1", SCRIPT)
    for agent in agents:
        client.on(agent).reached("c1", "Running")
        client.on(agent).whole_output("c1", len(b"begun\n"))
    return [client.on(agent).execution_id("c1") for agent in agents]


def nothing_left(client: ARMClient, server: ControlPlane, agents: list[Agent], executions: list[str]) -> None:
    """Every process has ended, every agent has left, and the control plane knows neither group nor machine."""
    assert [processes_of(execution) for execution in executions] == [[], [], []]
    group = f"/subscriptions/{server.connection['subscription_id']}/resourceGroups/enjoin"
    assert client.request("GET", group).status_code == 404
    assert client.request("GET", f"{group}/resources").status_code == 404
    for agent in agents:
        assert client.request("GET", agent.resource_id).status_code == 404
        assert agent.process is not None
        agent.process.wait()


def test_three_machines(fleet: Fleet) -> None:
    """
    Scripts on three machines that ignore SIGTERM and left their session all end, then the operation succeeds.
    """
    server = fleet.control_plane()
    agents = [fleet.agent(server, f"m{number}", kind=kind) for number, kind in enumerate(("vm", "arc", "vm"))]
    with ARMClient(server) as client:
        executions = running(client, agents)
        assert all(processes_of(execution) for execution in executions)
        group = f"/subscriptions/{server.connection['subscription_id']}/resourceGroups/enjoin"
        answer = client.request("DELETE", group)
        assert answer.status_code == 202
        assert client.request("GET", answer.headers["Location"]).status_code in (202, 204)
        done = client.on(agents[0]).operation(answer)
        assert done["status"] == "Succeeded"
        assert client.request("GET", answer.headers["Location"]).status_code == 204
        nothing_left(client, server, agents, executions)


def test_restart_in_between(fleet: Fleet) -> None:
    """
    A control plane that is killed right after it accepted the deletion brings it to its end when it is back.
    """
    server = fleet.control_plane()
    agents = [fleet.agent(server, f"m{number}") for number in range(3)]
    with ARMClient(server) as client:
        executions = running(client, agents)
        group = f"/subscriptions/{server.connection['subscription_id']}/resourceGroups/enjoin"
        answer = client.request("DELETE", group)
        server.kill()
        server.start()
        until(lambda: client.request("GET", group).status_code == 404, "the group is deleted")
        assert client.on(agents[0]).operation(answer)["status"] == "Succeeded"
        nothing_left(client, server, agents, executions)


@pytest.mark.requires("az")
def test_az_group_delete(fleet: Fleet) -> None:
    """
    `az group delete` returns when nothing runs any more.
    """
    server = fleet.control_plane()
    agents = [fleet.agent(server, f"m{number}", kind="vm") for number in range(3)]
    az = Az(fleet.directory, server)
    point, *_ = recipe(server, "m0")
    assert az.bash(point).returncode == 0
    with ARMClient(server) as client:
        executions = running(client, agents)
        assert az.ok("group", "delete", "-n", "enjoin", "--yes") == ""
        nothing_left(client, server, agents, executions)
    assert az.json("resource", "list") == []

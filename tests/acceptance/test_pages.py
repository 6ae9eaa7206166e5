"""Lists of 250 run commands, read to their end by every client, and the whole of the SDK for JavaScript."""

import json
import os
import subprocess
from collections.abc import Iterator

import pytest

from tests.acceptance.arm_client import ARMClient
from tests.acceptance.azure_cli import Az, recipe
from tests.acceptance.azure_sdk import SDK
from tests.acceptance.processes import LIMIT_S, Agent, ControlPlane, Fleet
from tests.tools import NODE_TOOLS, REPOSITORY, program

COUNT = 250
NAMES = [f"c{number:03}" for number in range(COUNT)]


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ControlPlane, Agent, Agent]]:
    """A VM and an Arc machine with COUNT run commands each, all ended."""
    with Fleet(tmp_path_factory.mktemp("many")) as fleet:
        server = fleet.control_plane()
        agents = fleet.agent(server, "vm1", kind="vm"), fleet.agent(server, "arc1")
        with ARMClient(server) as client:
            for agent in agents:
                for name in NAMES:
                    client.on(agent).put(name, "true")
            for agent in agents:
                for name in NAMES:
                    client.on(agent).ended(name)
        yield server, *agents


def test_python(many: tuple[ControlPlane, Agent, Agent]) -> None:
    """
    Both SDKs for Python page to the end, with the instance view when it is asked for (F24, F27).
    """
    server, *agents = many
    with SDK(server) as sdk:
        for agent in agents:
            sdk.traffic.clear()
            listed = list(sdk.on(agent).list(expand="instanceView"))
            assert [command.name for command in listed] == NAMES
            assert {command.instance_view.execution_state for command in listed} == {"Succeeded"}
            assert len([path for method, path in sdk.traffic.requests if method == "GET"]) > 1


@pytest.mark.requires("az")
def test_az(many: tuple[ControlPlane, Agent, Agent]) -> None:
    """
    `az vm run-command list` and `az resource list` show all of them.
    """
    server, vm, _ = many
    az = Az(server.data_dir, server)
    point, *_ = recipe(server, vm.name)
    assert az.bash(point).returncode == 0
    listed = az.json("vm", "run-command", "list", "-g", "enjoin", "--vm-name", "vm1", "--query", "[].name")
    assert listed == NAMES
    kind = "Microsoft.Compute/virtualMachines/runCommands"
    found = az.json("resource", "list", "--resource-type", kind, "--query", "[].name")
    assert found == [f"vm1/{name}" for name in NAMES]


@pytest.mark.requires("node")
def test_node(many: tuple[ControlPlane, Agent, Agent]) -> None:
    """
    @azure/arm-compute creates, reads, updates (secrets are kept), pages through the list, and deletes.
    """
    server, vm, _ = many
    own = server.connection
    variables = {name.upper(): own[name] for name in ("endpoint", "tenant_id", "client_id", "client_secret")}
    variables |= {"SUBSCRIPTION_ID": own["subscription_id"], "VM_NAME": vm.name, "NODE_TOOLS": str(NODE_TOOLS)}
    variables |= {"NODE_EXTRA_CA_CERTS": own["ca_file"], "PATH": os.environ.get("PATH", os.defpath)}
    done = subprocess.run(
        [program("node"), REPOSITORY / "tests/node/run_commands.mjs"],
        env=variables,
        check=False,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["created"] == ["node", "Succeeded"]
    assert seen["view"] == ["Succeeded", 0, "one\n"]
    assert seen["updated"] == ["Succeeded", {"a": "b"}, 'echo "two $p" | tr h H']
    assert seen["again"] == "two Hunter2\n"
    assert seen["failed"] == [404, "ResourceNotFound"]
    assert seen["listed"] == [[name, "Succeeded"] for name in [*NAMES, "node"]]
    assert seen["gone"] == 404

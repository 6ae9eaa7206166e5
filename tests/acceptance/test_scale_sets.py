"""Instances of scale sets as real machines, driven by the unmodified az, the SDK and our own CLI (F11)."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.azure_cli import Az, recipe
from tests.acceptance.azure_sdk import RESOURCE_GROUP, SDK, body
from tests.acceptance.processes import Agent, ControlPlane, Fleet, processes_of, run_enjoin

SET = "Microsoft.Compute/virtualMachineScaleSets/Web"
ON_INSTANCE = ("-g", "enjoin", "--vmss-name", "web", "--instance-id", "0")
RUN_COMMAND = ("vmss", "run-command")


@dataclass(frozen=True)
class Site:
    """A control plane with the instance Web/0 and the Arc machine arc1."""

    server: ControlPlane
    instance: Agent
    arc: Agent


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One for the module; its machines stay."""
    with Fleet(tmp_path_factory.mktemp("site")) as fleet:
        server = fleet.control_plane()
        yield Site(server, fleet.agent(server, "web-0", kind="vmss:Web/0"), fleet.agent(server, "arc1"))


@pytest.fixture(scope="module")
def az(tmp_path_factory: pytest.TempPathFactory, site: Site) -> Az:
    """The unmodified az, signed in."""
    return signed_in(tmp_path_factory.mktemp("az"), site.server)


def signed_in(directory: Path, server: ControlPlane) -> Az:
    """Return an az that followed the recipe."""
    az = Az(directory, server)
    point, *_ = recipe(server, "m1")
    done = az.bash(point)
    assert done.returncode == 0, done.stderr
    return az


@pytest.fixture(scope="module")
def sdk(site: Site) -> Iterator[SDK]:
    """The SDKs, signed in."""
    with SDK(site.server) as sdk:
        yield sdk


def test_join(site: Site, tmp_path: Path) -> None:
    """
    `join` prints the instance's id and refuses what is no SET/ID, or one that is there.
    """
    subscription = site.server.connection["subscription_id"]
    path = f"/subscriptions/{subscription}/resourceGroups/enjoin/providers/{SET}"
    assert site.instance.resource_id == f"{path}/virtualMachines/0"
    for kind, says in (("vmss", "vmss:SET/ID"), ("vmss:web/x", "SET/ID"), ("vmss:web/0", "already")):
        words = ["join", "--server", site.server.endpoint, "--ca-file", site.server.connection["ca_file"]]
        words += ["--token-file", "-", "--as", kind, "--state-dir", str(tmp_path / "state")]
        done = run_enjoin(*words, stdin=site.server.token().encode())
        assert (done.returncode, done.stdout) == (2, b"")
        assert says in done.stderr.decode()


def test_own_cli(site: Site) -> None:
    """
    `machines` lists an instance once, as SET/ID; SET/ID, SET_ID and both ids are the same machine.
    """
    rows = [row.split() for row in site.server.text("machines").splitlines()[1:]]
    assert [row[:4] for row in rows] == [
        ["Web/0", "vmss", "enjoin", "Connected"],
        ["arc1", "arc", "enjoin", "Connected"],
    ]
    listed = json.loads(site.server.text("machines", "-o", "json"))
    assert [item["id"] for item in listed] == [site.instance.resource_id, site.arc.resource_id]
    names = ("web/0", "web_0", site.instance.resource_id.upper())
    for name in names:
        assert site.server.text("run", name, "--name", "by-cli", "--", "echo $ENJOIN_GENERATION here") == "here"
    for name in names:
        assert site.server.text("logs", name, "by-cli") == "here"
        assert json.loads(site.server.text("show", name, "by-cli", "-o", "json"))["name"] == "by-cli"
    assert site.server.enjoin("delete", "web/0", "by-cli").returncode == 0
    assert site.server.enjoin("show", "web_0", "by-cli").returncode == 3


@pytest.mark.requires("az")
def test_az_reads_scale_sets(az: Az, site: Site) -> None:
    """
    The set is listed and shown, with its instances, their views, and the instance as a VM, by az.
    """
    [found] = az.json("vmss", "list")
    assert [found] == az.json("vmss", "list", "-g", "enjoin")
    assert (found["name"], found["sku"]["capacity"], found["orchestrationMode"]) == ("Web", 1, "Flexible")
    assert az.json("vmss", "show", "-g", "ENJOIN", "-n", "WEB") == found
    [instance] = az.json("vmss", "list-instances", "-g", "enjoin", "-n", "web")
    assert (instance["id"], instance["instanceId"]) == (site.instance.resource_id, "0")
    assert az.json("vmss", "show", "-g", "enjoin", "-n", "web", "--instance-id", "0")["id"] == instance["id"]
    view = az.json("vmss", "get-instance-view", "-g", "enjoin", "-n", "web", "--instance-id", "0")
    assert "PowerState/running" in [status["code"] for status in view["statuses"]]
    summary = az.json("vmss", "get-instance-view", "-g", "enjoin", "-n", "web")["virtualMachine"]["statusesSummary"]
    assert {"code": "PowerState/running", "count": 1} in summary
    assert [vm["name"] for vm in az.json("vm", "list")] == ["Web_0"]
    assert az.json("vm", "show", "-d", "-g", "enjoin", "-n", "web_0")["powerState"] == "VM running"


@pytest.mark.requires("az")
def test_az_run_commands(az: Az, site: Site) -> None:
    """
    With az a run command of an instance is created, shown, listed, updated, awaited and deleted; the VM has it too.
    """
    create = (*RUN_COMMAND, "create", *ON_INSTANCE, "--name", "c1", "--script", "echo $a $b")
    made = az.json(*create, "--parameters", "a=one", "--protected-parameters", "b=two")
    assert made["id"] == f"{site.instance.resource_id}/runCommands/c1"
    assert made["provisioningState"] == "Succeeded"
    shown = az.json(*RUN_COMMAND, "show", *ON_INSTANCE, "--name", "c1", "--instance-view")
    assert shown["instanceView"]["output"] == "one two\n"
    assert [item["name"] for item in az.json(*RUN_COMMAND, "list", *ON_INSTANCE)] == ["c1"]
    az.ok(*RUN_COMMAND, "update", *ON_INSTANCE, "--name", "c1", "--script", "echo again $a $b", "-l", "local")
    az.ok(*RUN_COMMAND, "wait", *ON_INSTANCE, "--name", "c1", "--created")
    as_vm = az.json(
        "vm", "run-command", "show", "-g", "enjoin", "--vm-name", "web_0", "--name", "c1", "--instance-view"
    )
    assert as_vm["id"].endswith("/virtualMachines/Web_0/runCommands/c1")
    assert as_vm["instanceView"]["output"] == "again one two\n"
    sleep = (*RUN_COMMAND, "create", *ON_INSTANCE, "--name", "c1", "--async-execution", "true")
    az.ok(*sleep, "--script", "echo $ENJOIN_EXECUTION_ID; sleep 600")
    wait = (*RUN_COMMAND, "wait", *ON_INSTANCE, "--name", "c1", "--expand", "instanceView", "--interval", "1")
    az.ok(*wait, "--custom", "instanceView.output!=''")
    shown = az.json(*RUN_COMMAND, "show", *ON_INSTANCE, "--name", "c1", "--instance-view")
    execution_id = shown["instanceView"]["output"].strip()
    assert processes_of(execution_id)
    assert az.ok(*RUN_COMMAND, "delete", *ON_INSTANCE, "--name", "c1", "--yes") == ""
    assert processes_of(execution_id) == []
    assert az.json(*RUN_COMMAND, "list", *ON_INSTANCE) == []
    absent = az(*RUN_COMMAND, "create", "-g", "enjoin", "--vmss-name", "web", "--instance-id", "7", "--name", "x",
                "--script", "x")  # fmt: skip
    assert absent.returncode == 3
    assert "(ParentResourceNotFound)" in absent.stderr


@pytest.mark.requires("az")
def test_az_tags(az: Az, site: Site) -> None:
    """
    With az tags of a VM, an Arc machine and a set are changed; what cannot be changed is an error, not silence.
    """
    az.ok("vm", "update", "-g", "enjoin", "-n", "web_0", "--set", "tags.rack=north")
    assert az.json("vm", "show", "-g", "enjoin", "-n", "web_0")["tags"] == {"rack": "north"}
    az.ok("vmss", "update", "-g", "enjoin", "-n", "web", "--set", "tags.row=south")
    assert az.json("vmss", "show", "-g", "enjoin", "-n", "web")["tags"] == {"row": "south"}
    az.ok("resource", "tag", "--ids", site.arc.resource_id, "--tags", "shelf=top")
    assert az.json("resource", "show", "--ids", site.arc.resource_id)["tags"] == {"shelf": "top"}
    for words in (
        ("vm", "resize", "-n", "web_0", "--size", "Big"),
        ("vmss", "scale", "-n", "web", "--new-capacity", "5"),
    ):
        refused = az(*words, "-g", "enjoin")
        assert refused.returncode == 1
        assert "cannot be changed" in refused.stderr


def test_sdk(sdk: SDK, site: Site) -> None:
    """
    The SDK's virtual_machine_scale_set_vm_run_commands: create, update, get, list, delete.
    """
    operations: Any = sdk.compute.virtual_machine_scale_set_vm_run_commands
    key = (RESOURCE_GROUP, "web", "0")
    made = operations.begin_create_or_update(*key, "sdk", body("echo one; exit 3")).result()
    assert made.id == f"{site.instance.resource_id}/runCommands/sdk"
    found = operations.get(*key, "sdk", expand="instanceView")
    assert (found.instance_view.execution_state, found.instance_view.exit_code) == ("Failed", 3)
    changed = operations.begin_update(*key, "sdk", {"properties": {"source": {"script": "echo two"}}}).result()
    assert changed.source.script == "echo two"
    [listed] = [item for item in operations.list(*key, expand="instanceView") if item.name == "sdk"]
    assert (listed.id, listed.instance_view.output) == (made.id, "two\n")
    operations.begin_delete(*key, "sdk").result()
    assert "sdk" not in [item.name for item in operations.list(*key)]


def test_sdk_machines(sdk: SDK, site: Site) -> None:
    """
    The SDKs list sets and instances, and change tags by PATCH of each kind of machine.
    """
    compute: Any = sdk.compute
    hybrid: Any = sdk.hybrid
    assert [found.name for found in compute.virtual_machine_scale_sets.list(RESOURCE_GROUP)] == ["Web"]
    assert [found.name for found in compute.virtual_machine_scale_sets.list_all()] == ["Web"]
    [instance] = compute.virtual_machine_scale_set_vms.list(RESOURCE_GROUP, "web")
    assert (instance.id, instance.instance_id) == (site.instance.resource_id, "0")
    assert compute.virtual_machine_scale_set_vms.get(RESOURCE_GROUP, "web", "0").vm_id == instance.vm_id
    tags = {"tags": {"by": "sdk"}}
    for changed in (
        compute.virtual_machines.begin_update(RESOURCE_GROUP, "web_0", tags).result(),
        compute.virtual_machine_scale_sets.begin_update(RESOURCE_GROUP, "web", tags).result(),
        hybrid.machines.update(RESOURCE_GROUP, "arc1", tags),
    ):
        assert changed.tags["by"] == "sdk"


@pytest.mark.requires("az")
def test_deletion(fleet: Fleet, tmp_path: Path) -> None:
    """
    When az deletes instances or a set, their agents end what runs and exit 3; a set stays until it is deleted.
    """
    server = fleet.control_plane()
    agents = [fleet.agent(server, "", kind=f"vmss:web/{number}") for number in range(3)]
    az = signed_in(tmp_path, server)
    started = [
        server.text("run", f"web/{number}", "--name", "c1", "--detach", "--", "sleep 600") for number in range(3)
    ]
    assert len(started) == len(agents)
    az.ok("vmss", "delete-instances", "-g", "enjoin", "-n", "web", "--instance-ids", "1")
    assert ends(agents[1]) == 3
    assert az.json("vmss", "show", "-g", "enjoin", "-n", "web")["sku"]["capacity"] == 2
    az.ok("vm", "delete", "-g", "enjoin", "-n", "web_2", "--yes")
    assert ends(agents[2]) == 3
    az.ok("vmss", "delete", "-g", "enjoin", "-n", "web")
    assert ends(agents[0]) == 3
    assert az.json("vmss", "list") == az.json("vm", "list") == []
    for agent in agents:
        assert [pid for bundle in agent.bundles for pid in processes_of(bundle.execution_id)] == []


def ends(agent: Agent) -> int:
    """Wait for an agent's end; return its exit code."""
    assert agent.process is not None
    return agent.process.wait()

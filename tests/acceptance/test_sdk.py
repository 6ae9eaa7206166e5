"""The current Azure SDKs for Python, unmodified, against a real control plane and real agents (F17)."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from azure.core.exceptions import ClientAuthenticationError, HttpResponseError, ResourceNotFoundError
from azure.mgmt.compute import models as compute
from azure.mgmt.hybridcompute import models as hybrid

from tests.acceptance.azure_sdk import RESOURCE_GROUP, SDK, Commands, VMCommands, body
from tests.acceptance.processes import Agent, ControlPlane, Fleet, processes_of, until

WAIT_FOR_FILE = 'echo begun; until [ -e "$gate" ]; do sleep 0.05; done; echo done'
TYPES = {"vm1": "Microsoft.Compute/virtualMachines/runCommands", "arc1": "Microsoft.HybridCompute/machines/runCommands"}
HELD = "PUT GET GET"  # the request, one poll that is held until the end, the resource


@pytest.fixture(scope="module")
def sdk(server: ControlPlane) -> Iterator[SDK]:
    """Both clients, signed in."""
    with SDK(server) as sdk:
        yield sdk


@pytest.fixture(scope="module")
def onlooker(server: ControlPlane) -> Iterator[SDK]:
    """Two more, to look on while the first ones wait."""
    with SDK(server, tenant="adfs") as sdk:
        yield sdk


@pytest.fixture(params=["vm", "machine"])
def agent(request: pytest.FixtureRequest) -> Agent:
    """A VM in one test and an Arc machine in the next: what is promised holds for both."""
    agent = request.getfixturevalue(request.param)
    assert isinstance(agent, Agent)
    return agent


@pytest.fixture
def commands(sdk: SDK, agent: Agent) -> Commands:
    """Its run commands; what the client did before is forgotten."""
    sdk.traffic.clear()
    return sdk.on(agent)


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Path]:
    """A file for which the scripts of a test wait; made at its end whatever happens."""
    path = tmp_path / "gate"
    yield path
    path.touch()


def named(**values: object) -> list[dict[str, str]]:
    """Return parameters with names."""
    return [{"name": name, "value": str(value)} for name, value in values.items()]


def nameless(*values: str) -> list[dict[str, str]]:
    """Return positional parameters."""
    return [{"name": "", "value": value} for value in values]


def test_create(commands: Commands, agent: Agent, sdk: SDK) -> None:
    """
    A create costs three requests and no sleep: the status poll is held until the script has ended (F19, F66).
    """
    made = commands.begin_create("create", body("echo hello; echo oh >&2")).result()
    assert made.id == f"{agent.resource_id}/runCommands/create"
    assert (made.name, made.location) == ("create", "local")
    assert made.type.lower() == TYPES[agent.name].lower(), "its case varies in Azure"
    assert made.properties.provisioning_state == "Succeeded"
    assert sdk.traffic.methods == HELD
    assert sdk.traffic.slept_s == []
    assert sdk.traffic.statuses == [201, 200, 200]
    assert sdk.traffic.answers[0]["retry-after"] == "1"
    found = commands.get("create").properties.instance_view
    assert (found.execution_state, found.exit_code, found.output, found.error) == ("Succeeded", 0, "hello\n", "oh\n")
    assert found.start_time <= found.end_time


def test_held_poll(commands: Commands, onlooker: SDK, agent: Agent, sdk: SDK, gate: Path) -> None:
    """
    However long a script takes, its client hears of the end at once; meanwhile the output can be read (F71).
    """
    poller = commands.begin_create("held", body(WAIT_FOR_FILE, parameters=named(gate=gate)))
    others = onlooker.on(agent)
    until(lambda: others.get("held").properties.instance_view.output == "begun\n", "its first line is there")
    assert others.get("held").properties.instance_view.execution_state == "Running"
    assert others.get("held").properties.provisioning_state == "Creating"
    assert not poller.done()
    gate.touch()
    poller.result()
    assert (sdk.traffic.methods, sdk.traffic.slept_s) == (HELD, [])
    assert commands.get("held").properties.instance_view.output == "begun\ndone\n"


def test_async_execution(commands: Commands, sdk: SDK, gate: Path) -> None:
    """
    With asyncExecution the operation ends when the script has started (F31).
    """
    wanted = body(WAIT_FOR_FILE, parameters=named(gate=gate), asyncExecution=True)
    made = commands.begin_create("async", wanted).result()
    assert (sdk.traffic.methods, sdk.traffic.slept_s) == (HELD, [])
    assert made.properties.provisioning_state == "Succeeded"
    assert made.properties.async_execution is True
    assert commands.get("async").properties.instance_view.execution_state == "Running"
    gate.touch()
    until(lambda: commands.get("async").properties.instance_view.execution_state == "Succeeded", "it ends")


def test_models(sdk: SDK, vm: Agent, machine: Agent) -> None:
    """
    What the SDKs' own model classes say arrives, and comes back in them.
    """
    made = sdk.compute.virtual_machine_run_commands.begin_create_or_update(
        RESOURCE_GROUP.upper(),
        vm.name.upper(),
        "models",
        compute.VirtualMachineRunCommand(
            location="local",
            tags={"team": "a"},
            properties=compute.VirtualMachineRunCommandProperties(
                source=compute.VirtualMachineRunCommandScriptSource(script='echo "$word"'),
                parameters=[compute.RunCommandInputParameter(name="word", value="vm")],
                timeout_in_seconds=60,
                treat_failure_as_deployment_failure=True,
            ),
        ),
    ).result()
    assert made.id == f"{vm.resource_id}/runCommands/models", "as it was spelled when the VM joined"
    assert made.tags == {"team": "a"}
    assert made.properties is not None
    assert (made.properties.timeout_in_seconds, made.properties.treat_failure_as_deployment_failure) == (60, True)
    assert made.system_data is not None

    arc = sdk.hybrid.machine_run_commands.begin_create_or_update(
        RESOURCE_GROUP,
        machine.name,
        "models",
        hybrid.MachineRunCommand(
            location="local",
            properties=hybrid.MachineRunCommandProperties(
                source=hybrid.MachineRunCommandScriptSource(script='echo "$word"'),
                parameters=[hybrid.RunCommandInputParameter(name="word", value="arc")],
            ),
        ),
    ).result()
    assert arc.properties is not None
    assert arc.properties.instance_view is not None, "this SDK cannot ask for it"
    assert arc.properties.instance_view.output == "arc\n"


def test_parameters(commands: Commands) -> None:
    """
    Values arrive as they were sent (F42, F46, F47, F48, F52): nameless ones by position, public before protected.
    """
    odd = "two words\n'q' \"Q\" $(id) `id` \\ & ^ ; * é"
    script = 'printf "<%s>" "$@"; printf "|%s" "$odd" "${empty-unset}"; tr "\\0" "\\n" </proc/$$/cmdline >&2'
    wanted = body(
        script,
        parameters=[*nameless("1", "", odd), *named(odd=odd, empty="")],
        protectedParameters=nameless("s3cret first", "s3cret second"),
    )
    commands.begin_create("parameters", wanted).result()
    found = commands.get("parameters").properties
    assert found.instance_view.output == f"<1><><{odd}><s3cret first><s3cret second>|{odd}|"
    assert "s3cret" not in found.instance_view.error, "not on the command line"
    assert [parameter.value for parameter in found.parameters] == ["1", "", odd, odd, ""]


def test_protected_parameters(commands: Commands, agent: Agent, server: ControlPlane) -> None:
    """
    A protected value reaches the script; leaving it out keeps it, an empty list clears it; nobody shows it (F43, F44).
    """
    secret = f"s3cret-{uuid4().hex}"
    digest = hashlib.sha256(secret.encode()).hexdigest()
    script = 'printf %s "$secret" | sha256sum'
    made = commands.begin_create("protected", body(script, protectedParameters=named(secret=secret))).result()
    assert made.properties.protected_parameters is None
    kept = commands.begin_create("protected", body(f"{script}; echo kept")).result()
    found = commands.get("protected")
    assert found.properties.instance_view.output.split() == [digest, "-", "kept"]
    assert secret not in "".join(str(model.as_dict()) for model in (made, kept, found, *commands.list()))
    cleared = body('echo "${secret-cleared}"', protectedParameters=[])
    commands.begin_create("protected", cleared).result()
    assert commands.get("protected").properties.instance_view.output == "cleared\n"
    until(lambda: not agent.bundles, "the machine let go of what ended")  # else files vanish while they are read
    files = [path for place in (server.data_dir, agent.state_dir) for path in place.rglob("*") if path.is_file()]
    assert [path for path in (*files, server.log, agent.log) if secret.encode() in path.read_bytes()] == []


def test_replace(commands: Commands, sdk: SDK) -> None:
    """
    A second create is answered 200 and ends what the first one started (F20).
    """
    first = body("echo $ENJOIN_EXECUTION_ID; exec sleep 600", asyncExecution=True)
    commands.begin_create("replace", first).result()
    view = until(lambda: (found := commands.get("replace").properties.instance_view).output and found, "its first line")
    assert view is not None
    sdk.traffic.clear()
    commands.begin_create("replace", body("echo second")).result()
    assert sdk.traffic.statuses == [200, 200, 200]
    assert processes_of(view.output.strip()) == []
    assert commands.get("replace").properties.instance_view.output == "second\n"


def test_failed_script(commands: Commands) -> None:
    """
    A script that fails is a command that succeeded (F67, F68).
    """
    made = commands.begin_create("fails", body("exit 3")).result()
    assert made.properties.provisioning_state == "Succeeded"
    found = commands.get("fails").properties.instance_view
    assert (found.execution_state, found.exit_code) == ("Failed", 3)


def test_failed_operation(sdk: SDK, vm: Agent) -> None:
    """
    With treatFailureAsDeploymentFailure the operation fails, and the SDK's error says why (F69).
    """
    poller = sdk.on(vm).begin_create("treated", body("exit 3", treatFailureAsDeploymentFailure=True))
    with pytest.raises(HttpResponseError, match="exit code 3") as caught:
        poller.result()
    assert caught.value.error is not None
    assert caught.value.error.code


def test_delete(commands: Commands, sdk: SDK) -> None:
    """
    Delete ends what runs and is over when that has ended (F25); deleting what is not there is no error.
    """
    commands.begin_create("doomed", body("echo $ENJOIN_EXECUTION_ID; sleep 600", asyncExecution=True)).result()
    view = until(lambda: (found := commands.get("doomed").properties.instance_view).output and found, "its first line")
    assert view is not None
    sdk.traffic.clear()
    commands.begin_delete("doomed").result()
    assert sdk.traffic.statuses[0] == 202
    assert sdk.traffic.slept_s == []
    assert processes_of(view.output.strip()) == []
    with pytest.raises(ResourceNotFoundError):
        commands.get("doomed")
    sdk.traffic.clear()
    commands.begin_delete("doomed").result()
    assert sdk.traffic.statuses == [204]


def test_list_in_pages(fleet: Fleet) -> None:
    """
    A list is whole however many pages it takes, and every page has the instance views that were asked for (F24).
    """
    server = fleet.control_plane()
    agent = fleet.new_agent(server, "away", kind="vm")
    names = [f"page{number:03}" for number in range(60)]
    with SDK(server) as sdk:
        commands = sdk.on(agent)
        for name in names:
            commands.begin_create(name, body("true"), polling=False)
        sdk.traffic.clear()
        found = list(commands.list(expand="instanceView"))
        assert sorted(command.name for command in found) == names
        assert {command.properties.instance_view.execution_state for command in found} == {"Pending"}
        assert "not connected" in found[-1].properties.instance_view.execution_message
        assert sdk.traffic.methods == "GET GET"
        commands.begin_delete(names[0]).result()
        assert sorted(command.name for command in commands.list()) == names[1:]


def test_continuation(commands: Commands, sdk: SDK, gate: Path) -> None:
    """
    A poller can be taken up again by another process, also after the operation has ended.
    """
    poller = commands.begin_create("taken-up", body(WAIT_FOR_FILE, parameters=named(gate=gate)))
    token = poller.continuation_token()
    gate.touch()
    poller.result()
    sdk.traffic.clear()
    again = commands.begin_create("taken-up", {}, continuation_token=token).result()
    assert again.properties.provisioning_state == "Succeeded"
    assert "PUT" not in sdk.traffic.methods


@pytest.mark.parametrize(
    ("wanted", "code", "says"),
    [
        ({"location": "local", "properties": {}}, "InvalidParameter", "no source"),
        (body("x", runAsUser="someone"), "NotSupported", "runAsUser"),
        (body("x" * (256 * 1024 + 1)), "InvalidParameter", "at most 262144"),
        (body("x", parameters=nameless("x" * (64 * 1024 + 1))), "InvalidParameter", "at most 65536"),
        (body("x", timeoutInSeconds="soon"), "InvalidParameter", "timeoutInSeconds"),
    ],
)
def test_refusals(sdk: SDK, vm: Agent, wanted: dict[str, object], code: str, says: str) -> None:
    """
    What cannot be done is refused once, with a code and a sentence: the SDK does not try it again.
    """
    sdk.traffic.clear()
    with pytest.raises(HttpResponseError, match=says) as caught:
        sdk.on(vm).begin_create("refused", wanted)
    assert (caught.value.status_code, caught.value.error and caught.value.error.code) == (400, code)
    assert sdk.traffic.methods == "PUT"


def test_no_such_machine(sdk: SDK, vm: Agent) -> None:
    """
    A run command on a machine that does not exist is 404, for a create and for a list.
    """
    assert vm.resource_id
    absent = VMCommands(sdk.compute, "absent")
    with pytest.raises(ResourceNotFoundError, match="parent resource"):
        absent.begin_create("x", body("x"))
    with pytest.raises(ResourceNotFoundError):
        list(absent.list())


def test_machines(sdk: SDK, vm: Agent, machine: Agent) -> None:
    """
    Both kinds of machine are listed and shown, with the state of their agent (F8, F10).
    """
    assert vm.resource_id in [found.id for found in sdk.compute.virtual_machines.list(RESOURCE_GROUP)]
    assert vm.resource_id in [found.id for found in sdk.compute.virtual_machines.list_all()]
    assert sdk.compute.virtual_machines.get(RESOURCE_GROUP, vm.name).id == vm.resource_id
    view = sdk.compute.virtual_machines.instance_view(RESOURCE_GROUP, vm.name)
    assert "PowerState/running" in [status.code for status in view.statuses or []]
    found = sdk.hybrid.machines.get(RESOURCE_GROUP, machine.name)
    assert found.id == machine.resource_id
    assert found.properties is not None
    assert found.properties.status == "Connected"
    assert machine.resource_id in [found.id for found in sdk.hybrid.machines.list_by_subscription()]
    assert machine.resource_id in [found.id for found in sdk.hybrid.machines.list_by_resource_group(RESOURCE_GROUP)]


def test_wrong_secret(server: ControlPlane, vm: Agent) -> None:
    """
    A wrong secret is refused when the SDK signs in.
    """
    with (
        SDK(server, client_secret="wrong") as stranger,
        pytest.raises(ClientAuthenticationError, match="AADSTS7000215"),
    ):
        stranger.on(vm).get("x")


def test_principal_without_role(server: ControlPlane, vm: Agent) -> None:
    """
    A principal that was given nothing may do nothing: 403, with the action and the scope in the message.
    """
    made = json.loads(server.text("principal", "create", "nobody", "-o", "json"))
    with SDK(server, client_id=made["clientId"], client_secret=made["clientSecret"]) as stranger:
        with pytest.raises(HttpResponseError, match="runCommands/write") as caught:
            stranger.on(vm).begin_create("x", body("x"))
        assert (caught.value.status_code, caught.value.error and caught.value.error.code) == (
            403,
            "AuthorizationFailed",
        )
        assert f"{vm.resource_id}/runCommands/x" in caught.value.message

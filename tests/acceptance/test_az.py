"""The unmodified az against a real control plane and a real agent (F15, F17)."""

import hashlib
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.acceptance.azure_cli import Az, recipe
from tests.acceptance.processes import Agent, ControlPlane, processes_of, until

pytestmark = pytest.mark.requires("az")
RUN_COMMAND = ("vm", "run-command")
ON_VM = ("-g", "enjoin", "--vm-name", "vm1")
WAIT_FOR_FILE = 'echo begun; until [ -e "$gate" ]; do sleep 0.05; done; echo done'


@pytest.fixture(scope="session")
def signed_in(
    tmp_path_factory: pytest.TempPathFactory, server: ControlPlane, vm: Agent
) -> tuple[Az, subprocess.CompletedProcess[str]]:
    """An az that followed the recipe, and what it printed; one for the session, because each call takes a second."""
    az = Az(tmp_path_factory.mktemp("az"), server)
    point, *_ = recipe(server, vm.name)
    return az, az.bash(point)


@pytest.fixture
def az(signed_in: tuple[Az, subprocess.CompletedProcess[str]], vm: Agent) -> Az:
    """The unmodified az, signed in; the VM is there."""
    az, done = signed_in
    assert done.returncode == 0, done.stderr
    assert vm.process is not None
    return az


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Path]:
    """A file for which the scripts of a test wait; made at its end whatever happens."""
    path = tmp_path / "gate"
    yield path
    path.touch()


def create(az: Az, name: str, script: str, *words: str | Path) -> Any:  # noqa: ANN401 - JSON
    """Create a run command and wait for its end, as az does."""
    return az.json(*RUN_COMMAND, "create", *ON_VM, "--name", name, "--script", script, *words)


def shown(az: Az, name: str) -> Any:  # noqa: ANN401 - JSON
    """Show a run command with its instance view."""
    return az.json(*RUN_COMMAND, "show", *ON_VM, "--name", name, "--instance-view")


def view(az: Az, name: str) -> Any:  # noqa: ANN401 - JSON
    """Show its instance view."""
    return shown(az, name)["instanceView"]


def test_three_command_recipe(
    signed_in: tuple[Az, subprocess.CompletedProcess[str]], server: ControlPlane, vm: Agent
) -> None:
    """
    What README.md tells its reader to type, and nothing else, points az at the control plane and runs a script (F1).
    """
    az, done = signed_in
    point, use = recipe(server, vm.name)
    assert [line.split()[:2] for line in point.splitlines()] == [
        ["export", f"REQUESTS_CA_BUNDLE={server.connection['ca_file']}"],
        ["az", "cloud"],
        ["az", "cloud"],
        ["az", "login"],
    ]
    assert done.returncode == 0, done.stderr
    [account] = json.loads(done.stdout)
    assert account["id"] == server.connection["subscription_id"]
    assert account["tenantId"] == server.connection["tenant_id"]
    assert account["user"] == {"name": server.connection["client_id"], "type": "servicePrincipal"}

    done = az.bash(f"export REQUESTS_CA_BUNDLE={server.connection['ca_file']}\n{use}")
    assert (done.returncode, done.stderr) == (0, "")
    created, seen = (json.loads(text) for text in re.split(r"(?<=^\})\n(?=^\{)", done.stdout, flags=re.MULTILINE))
    assert created["provisioningState"] == seen["provisioningState"] == "Succeeded"
    assert created["id"] == seen["id"] == f"{vm.resource_id}/runCommands/hello"
    assert created.get("instanceView") is None
    instance_view = seen["instanceView"]
    assert instance_view["executionState"] == "Succeeded"
    assert (instance_view["exitCode"], instance_view["output"], instance_view["error"]) == (0, "hello\n", "")
    assert instance_view["startTime"] <= instance_view["endTime"]


def test_account(az: Az, server: ControlPlane) -> None:
    """
    The subscription, its locations and its resource providers are known to az, and there is nothing to register.
    """
    [account] = az.json("account", "list")
    assert (account["state"], account["isDefault"]) == ("Enabled", True)
    assert server.connection["location"] in [found["name"] for found in az.json("account", "list-locations")]
    assert az.ok("provider", "register", "-n", "Microsoft.HybridCompute", "--wait") == ""
    [state] = az.json("provider", "list", "--query", "[?namespace=='Microsoft.HybridCompute'].registrationState")
    assert state == "Registered"


def test_virtual_machines(az: Az, server: ControlPlane, vm: Agent) -> None:
    """
    A joined VM is listed and shown, with its power state in the instance view and with -d (F8).
    """
    listed = az.json("vm", "list", "-g", "enjoin")
    assert [found["id"] for found in listed] == [vm.resource_id]
    found = az.json("vm", "show", "-g", "enjoin", "-n", "vm1")
    assert (found["name"], found["type"]) == ("vm1", "Microsoft.Compute/virtualMachines")
    assert (found["location"], found["provisioningState"]) == (server.connection["location"], "Succeeded")
    assert found["storageProfile"]["osDisk"]["osType"] == "Linux"
    assert az.json("vm", "show", "-d", "-g", "ENJOIN", "-n", "VM1")["powerState"] == "VM running"
    [found] = az.json("vm", "list", "-d")
    assert (found["powerState"], found["vmId"]) == ("VM running", listed[0]["vmId"])
    words = ("-g", "enjoin", "-n", "vm1", "--resource-type", "Microsoft.Compute/virtualMachines")
    assert az.json("resource", "show", *words)["id"] == vm.resource_id, "its path has // and its version is looked up"
    instance_view = az.json("vm", "get-instance-view", "-g", "enjoin", "-n", "vm1")["instanceView"]
    assert "PowerState/running" in [status["code"] for status in instance_view["statuses"]]
    assert [status["displayStatus"] for status in instance_view["vmAgent"]["statuses"]] == ["Ready"]


def test_resource_groups(az: Az) -> None:
    """
    Groups are created, listed, shown, found, updated and deleted.
    """
    made = az.json("group", "create", "-n", "Second", "-l", "local", "--tags", "a=b")
    assert (made["name"], made["tags"], made["properties"]) == (
        "Second",
        {"a": "b"},
        {"provisioningState": "Succeeded"},
    )
    assert {"enjoin", "Second"} <= {group["name"] for group in az.json("group", "list")}
    assert az.json("group", "show", "-n", "second") == made
    assert az.json("group", "exists", "-n", "second") is True
    assert az.json("group", "update", "-n", "second", "--set", "tags.c=d")["tags"] == {"a": "b", "c": "d"}
    assert az.json("group", "list", "--tag", "c=d")[0]["name"] == "Second"
    assert az.ok("group", "delete", "-n", "second", "--yes") == ""
    assert az.ok("group", "wait", "-n", "second", "--deleted") == ""
    assert az.json("group", "exists", "-n", "second") is False


def test_no_wait(az: Az, gate: Path) -> None:
    """
    --no-wait comes back while the script runs; its output can be read meanwhile; `wait` ends with it (F71).
    """
    create_words = (*RUN_COMMAND, "create", *ON_VM, "--name", "no-wait", "--script", WAIT_FOR_FILE)
    assert az.ok(*create_words, "--parameters", f"gate={gate}", "--no-wait") == ""
    waited = (*RUN_COMMAND, "wait", *ON_VM, "--name", "no-wait", "--instance-view", "--interval", "1")
    az.ok(*waited, "--custom", "starts_with(instanceView.output, 'begun')")
    found = shown(az, "no-wait")
    assert found["provisioningState"] == "Creating"
    assert (found["instanceView"]["executionState"], found["instanceView"].get("endTime")) == ("Running", None)
    gate.touch()
    az.ok(*waited, "--created")
    assert view(az, "no-wait")["output"] == "begun\ndone\n"


def test_async_execution(az: Az, gate: Path) -> None:
    """
    With --async-execution az comes back as soon as the script has started, and the command is provisioned (F31, F67).
    """
    made = create(az, "async", WAIT_FOR_FILE, "--parameters", f"gate={gate}", "--async-execution", "true")
    assert (made["asyncExecution"], made["provisioningState"]) == (True, "Succeeded")
    assert view(az, "async")["executionState"] == "Running"
    gate.touch()
    waited = (*RUN_COMMAND, "wait", *ON_VM, "--name", "async", "--instance-view", "--interval", "1")
    az.ok(*waited, "--custom", "instanceView.executionState=='Succeeded'")


def test_parameters(az: Az, tmp_path: Path) -> None:
    """
    key=value parameters arrive as they were typed (F42, F46, F51, F52), and a second create replaces them (F20).

    The script is read from a file on the client (F38).
    """
    odd = "two words & 'q' \"Q\" $(id) `id` \\n ^ ;* é"
    script = tmp_path / "script"
    script.write_text('#!/bin/bash\nprintf "%s|%s|%s|%s" "$a" "$odd" "$empty" "${empty+set}"\n')
    made = create(az, "parameters", f"@{script}", "--parameters", "a=1", f"odd={odd}", "empty=")
    assert made["parameters"] == [
        {"name": "a", "value": "1"},
        {"name": "odd", "value": odd},
        {"name": "empty", "value": ""},
    ]
    assert view(az, "parameters")["output"] == f"1|{odd}||set"
    assert made["source"]["script"] == script.read_text().rstrip("\n"), "az drops the last line's end"
    again = create(az, "parameters", f"@{script}", "--parameters", "a=2")
    assert again["parameters"] == [{"name": "a", "value": "2"}]
    assert view(az, "parameters")["output"] == "2|||"
    executions = az.json("rest", "--method", "get", "--url", f"{made['id']}/executions?api-version=2024-11-01")
    assert [found["properties"]["generation"] for found in executions["value"]] == [2, 1]


def test_protected_parameters(az: Az, server: ControlPlane, vm: Agent) -> None:
    """
    A protected value reaches the script, survives an update that cannot name it, and is nowhere else (F43, F44).
    """
    secret = f"s3cret-{uuid4().hex}"
    digest = hashlib.sha256(secret.encode()).hexdigest()
    script = 'printf %s "$secret" | sha256sum; tr "\\0" "\\n" </proc/$$/cmdline'
    said = [az.ok(*RUN_COMMAND, "create", *ON_VM, "--name", "protected", "--script", script,
                  "--protected-parameters", f"secret={secret}")]  # fmt: skip
    said += [az.ok(*RUN_COMMAND, "show", *ON_VM, "--name", "protected", "--instance-view")]
    assert digest in json.loads(said[-1])["instanceView"]["output"]
    said += [az.ok(*RUN_COMMAND, "update", *ON_VM, "--name", "protected", "--script", f"echo again; {script}")]
    said += [az.ok(*RUN_COMMAND, "show", *ON_VM, "--name", "protected", "--instance-view")]
    output = json.loads(said[-1])["instanceView"]["output"]
    assert output.startswith("again\n")
    assert digest in output
    said += [az.ok(*RUN_COMMAND, "list", *ON_VM)]
    said += [
        az.ok("rest", "--method", "get", "--url", f"{vm.resource_id}/runCommands/protected?api-version=2024-11-01")
    ]
    assert secret not in "".join(said)
    for place in (server.data_dir, server.log, vm.state_dir, vm.log):
        assert holders_of(secret.encode(), place) == []


def holders_of(value: bytes, place: Path) -> list[Path]:
    """Return the files at or below `place` that hold `value`."""
    files = [path for path in place.rglob("*") if path.is_file()] if place.is_dir() else [place]
    return [path for path in files if value in path.read_bytes()]


def test_endings(az: Az) -> None:
    """
    A script that fails or times out is a command that succeeded, with the script's own end (F39, F56, F67, F68).
    """
    assert create(az, "fails", "echo out; echo err >&2; exit 3")["provisioningState"] == "Succeeded"
    found = view(az, "fails")
    assert (found["executionState"], found["exitCode"], found["output"], found["error"]) == (
        "Failed",
        3,
        "out\n",
        "err\n",
    )
    made = create(az, "times-out", "echo out; sleep 600", "--timeout-in-seconds", "1")
    assert (made["provisioningState"], made["timeoutInSeconds"]) == ("Succeeded", 1)
    found = view(az, "times-out")
    assert (found["executionState"], found["exitCode"], found["output"]) == ("TimedOut", -1, "out\n")
    assert "1 s" in found["executionMessage"]


def test_failed_operation(az: Az, vm: Agent, tmp_path: Path) -> None:
    """
    When the operation itself fails az says why and exits 1 (F69); az update carries over what it cannot set.
    """
    body = tmp_path / "body.json"
    properties = {"source": {"script": "echo fine"}, "treatFailureAsDeploymentFailure": True}
    body.write_text(json.dumps({"location": "local", "properties": properties}))
    url = f"{vm.resource_id}/runCommands/treated?api-version=2024-11-01"
    assert az.json("rest", "--method", "put", "--url", url, "--body", f"@{body}")["name"] == "treated"
    done = az(*RUN_COMMAND, "update", *ON_VM, "--name", "treated", "--script", "echo worse; exit 4")
    assert done.returncode == 1
    assert re.search(r"^ERROR: \(\w+\) .*exit code 4", done.stderr, re.MULTILINE), done.stderr
    found = shown(az, "treated")
    assert (found["provisioningState"], found["instanceView"]["output"]) == ("Failed", "worse\n")


def test_update(az: Az, tmp_path: Path) -> None:
    """
    An update is a GET and a PUT of the whole: what it does not name stays, the secrets too, and it runs again (F20).
    """
    seen = tmp_path / "seen"
    script = f'echo "$public $secret" >> {seen}'
    secret = ("--parameters", "public=1", "--protected-parameters", "secret=hunter2", "--timeout-in-seconds", "60")
    create(az, "updated", script, *secret)
    done = az.json(*RUN_COMMAND, "update", *ON_VM, "--name", "updated", "--parameters", "public=2")
    assert (done["provisioningState"], done["source"]["script"], done["timeoutInSeconds"]) == ("Succeeded", script, 60)
    assert seen.read_text().splitlines() == ["1 hunter2", "2 hunter2"]
    az.json(*RUN_COMMAND, "update", *ON_VM, "--name", "updated", "--script", f"echo other $secret >> {seen}")
    assert seen.read_text().splitlines()[2:] == ["other hunter2"]
    tagged = az.json("resource", "tag", "--ids", done["id"], "--tags", "a=b")
    assert tagged["tags"] == {"a": "b"}


def test_resources(az: Az, vm: Agent) -> None:
    """
    `az resource` finds machines and run commands by id, type, name and tag; there are no locks.
    """
    create(az, "tagged", "true", "--tags", "owner=me")
    command_id = f"{vm.resource_id}/runCommands/tagged"
    kind = "Microsoft.Compute/virtualMachines/runCommands"
    assert command_id in [found["id"] for found in az.json("resource", "list")]
    assert command_id in [found["id"] for found in az.json("resource", "list", "-g", "enjoin")]
    assert command_id in [found["id"] for found in az.json("resource", "list", "--resource-type", kind)]
    assert [found["id"] for found in az.json("resource", "list", "--name", "vm1")] == [vm.resource_id]
    assert [found["id"] for found in az.json("resource", "list", "--tag", "owner=me")] == [command_id]
    assert az.json("resource", "show", "--ids", command_id)["name"] == "tagged"
    words = ("--parent", "virtualMachines/vm1", "--namespace", "Microsoft.Compute", "--resource-type", "runCommands")
    assert az.json("resource", "show", "-g", "enjoin", "-n", "tagged", *words)["id"] == command_id
    assert az.json("lock", "list") == az.json("lock", "list", "-g", "enjoin") == []
    assert "Microsoft.Compute" in [found["namespace"] for found in az.json("provider", "list")]
    types = az.json("provider", "show", "-n", "Microsoft.Compute", "--query", "resourceTypes[].resourceType")
    assert {"virtualMachines", "virtualMachines/runCommands"} <= set(types)


def test_list_and_delete(az: Az) -> None:
    """
    Commands stay listed (F24, F27) until they are deleted; deleting ends what runs (F25); twice is once.
    """
    made = create(az, "doomed", "echo $ENJOIN_EXECUTION_ID; sleep 600", "--async-execution", "true")
    [listed] = [found for found in az.json(*RUN_COMMAND, "list", *ON_VM) if found["name"] == "doomed"]
    assert listed["id"] == made["id"]
    waited = (*RUN_COMMAND, "wait", *ON_VM, "--name", "doomed", "--instance-view", "--interval", "1")
    az.ok(*waited, "--custom", "instanceView.output!=''")
    execution_id = view(az, "doomed")["output"].strip()
    assert processes_of(execution_id)
    assert az.ok(*RUN_COMMAND, "delete", *ON_VM, "--name", "doomed", "--yes") == ""
    assert processes_of(execution_id) == []
    assert "doomed" not in [found["name"] for found in az.json(*RUN_COMMAND, "list", *ON_VM)]
    assert az.ok(*RUN_COMMAND, "delete", *ON_VM, "--name", "doomed", "--yes") == ""


def test_arc_machine(az: Az, machine: Agent, tmp_path: Path) -> None:
    """
    Run commands on an Arc machine are driven with az rest (F9, F10, F29, F30); a GET always has the instance view.
    """
    url = f"{machine.resource_id.upper()}//runcommands/by-rest/?api-version=2023-10-03-preview"
    body = tmp_path / "body.json"
    body.write_text(json.dumps({"location": "local", "properties": {"source": {"script": "echo arc"}}}))
    made = az.json("rest", "--method", "put", "--url", url, "--body", f"@{body}")
    assert made["id"] == f"{machine.resource_id}/runCommands/by-rest"
    found = until(
        lambda: (
            (seen := az.json("rest", "--method", "get", "--url", url))["properties"]["provisioningState"] == "Succeeded"
            and seen
        ),
        "it ends",
    )
    assert found["properties"]["instanceView"]["output"] == "arc\n"


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("show", *ON_VM, "--name", "absent"), 3, "(ResourceNotFound)"),
        (
            ("create", "-g", "enjoin", "--vm-name", "absent", "--name", "x", "--script", "x"),
            3,
            "(ParentResourceNotFound)",
        ),
        (("create", *ON_VM, "--name", "x", "--script-uri", "https://example.invalid/x"), 1, "(NotSupported)"),
        (("create", *ON_VM, "--name", "x", "--command-id", "RunShellScript"), 1, "(NotSupported)"),
        (("create", *ON_VM, "--name", "x", "--script", "x", "--run-as-user", "u"), 1, "(NotSupported)"),
        (
            ("invoke", "-g", "enjoin", "-n", "vm1", "--command-id", "RunShellScript", "--scripts", "x"),
            1,
            "(NotSupported)",
        ),
    ],
)
def test_refusals(az: Az, words: tuple[str, ...], code: int, says: str) -> None:
    """
    What is not there is exit 3, what cannot be done is exit 1, and az prints the code and the message.
    """
    done = az(*RUN_COMMAND, *words)
    assert done.returncode == code, done.stderr
    error, *_ = done.stderr.splitlines()
    assert error.startswith(f"ERROR: {says} ")
    assert "Traceback" not in done.stderr


def test_wrong_secret(signed_in: tuple[Az, object], server: ControlPlane, tmp_path: Path) -> None:
    """
    A wrong secret is refused in the words that az shows.
    """
    assert signed_in
    az = Az(tmp_path, server)
    point, *_ = recipe(server, "vm1")
    done = az.bash(point.replace(server.connection["client_secret"], "wrong"))
    assert done.returncode == 1
    assert "AADSTS7000215: Invalid client secret" in done.stderr

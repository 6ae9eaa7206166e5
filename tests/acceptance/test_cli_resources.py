"""The resources of a real control plane: machines, run commands, tokens, principals; and `enjoin env`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.processes import ENJOIN, Agent, ControlPlane, Fleet, environment, run_enjoin, until

# What a program does that was written for Azure and reads its environment alone.
SDK_PROGRAM = """
import os, sys
from azure.identity import DefaultAzureCredential, EnvironmentCredential
from azure.mgmt.hybridcompute import HybridComputeManagementClient
endpoint = os.environ["ENJOIN_ENDPOINT"]
for credential in (EnvironmentCredential(), DefaultAzureCredential()):
    client = HybridComputeManagementClient(
        credential,
        os.environ["AZURE_SUBSCRIPTION_ID"],
        base_url=endpoint,
        credential_scopes=[endpoint + "/.default"],
    )
    print(*(machine.name for machine in client.machines.list_by_subscription()))
"""


def test_machines(server: ControlPlane, machine: Agent, vm: Agent) -> None:
    """
    `machines` lists both kinds (F8, F10) with their state and how each holds its scripts; -o json is a bare array.
    """
    table = [row.split() for row in server.text("machines").splitlines()]
    assert table[0] == ["NAME", "KIND", "GROUP", "STATUS", "CONTAINMENT", "AGENT"]
    rows = {row[0]: row[1:5] for row in table[1:]}
    for agent, kind in ((machine, "arc"), (vm, "vm")):
        shown = rows[agent.name]
        assert shown[:3] == [kind, "enjoin", "Connected"]
        assert shown[3] in ("cgroup", "subreaper")
    found = json.loads(server.text("machines", "-o", "json"))
    assert {item["id"].lower() for item in found} >= {machine.resource_id.lower(), vm.resource_id.lower()}


def test_names(server: ControlPlane, machine: Agent) -> None:
    """
    A machine is found by its name and by its whole id, in any spelling (F30); an absent one is exit 3.
    """
    for name in (machine.name.upper(), machine.resource_id, machine.resource_id.upper()):
        assert server.text("run", name, "--", "echo there") == "there"
    done = server.enjoin("list", "nosuch")
    assert (done.returncode, done.stdout) == (3, b"")
    assert server.enjoin("run", "set/7", "--", "id").returncode == 3


def test_two_of_a_name(fleet: Fleet) -> None:
    """
    A bare name that fits a VM and an Arc machine is exit 2 and lists both; each is reached by its id.
    """
    server = fleet.control_plane()
    pair = [fleet.agent(server, "same", kind=kind) for kind in ("vm", "arc")]
    done = server.enjoin("run", "same", "--", "id")
    assert done.returncode == 2
    for agent in pair:
        assert agent.resource_id in done.stderr.decode()
        assert server.text("run", agent.resource_id, "--", "echo here") == "here"


def test_life_of_a_run_command(server: ControlPlane, machine: Agent) -> None:
    """
    A run command is listed and shown with what became of it (F22, F24, F66), and gone when it is deleted (F25).
    """
    server.enjoin("run", machine.name, "--name", "life", "--", "echo text; echo wrong >&2; exit 2")
    [row] = [row.split() for row in server.text("list", machine.name).splitlines() if row.startswith("life ")]
    assert row[1:4] == ["Failed", "2", "1"]
    listed = {item["name"]: item for item in json.loads(server.text("list", machine.name, "-o", "json"))}
    assert listed["life"]["properties"]["instanceView"]["exitCode"] == 2
    shown = server.text("show", machine.name, "life")
    assert "executionState     Failed" in shown
    assert "output:\ntext" in shown
    assert "error:\nwrong" in shown
    view = json.loads(server.text("show", machine.name, "life", "-o", "json"))["properties"]["instanceView"]
    assert (view["output"], view["error"]) == ("text\n", "wrong\n")
    assert server.text("delete", machine.name, "life") == ""
    for words in (("show",), ("delete",), ("logs",), ("cancel",)):
        done = server.enjoin(*words, machine.name, "life")
        assert (done.returncode, done.stdout) == (3, b"")
        assert done.stderr.startswith(b"enjoin: ")


def test_cancel(server: ControlPlane, machine: Agent) -> None:
    """
    `cancel` ends the script and keeps the run command; canceling what has ended is exit 0 and says so.
    """
    server.text("run", machine.name, "--name", "ended", "--detach", "--", "sleep 600")
    assert server.text("cancel", machine.name, "ended") == "ended: Canceled"
    assert server.text("cancel", machine.name, "ended") == "ended has already ended: Canceled"
    shown = json.loads(server.text("cancel", machine.name, "ended", "-o", "json"))
    assert shown["properties"]["instanceView"]["executionState"] == "Canceled"


def test_delete_while_running(server: ControlPlane, machine: Agent) -> None:
    """
    `delete` ends a running script (F25) and returns when the machine has confirmed it.
    """
    server.text("run", machine.name, "--name", "doomed", "--detach", "--", "sleep 600")
    assert server.text("delete", machine.name, "doomed") == ""
    assert server.enjoin("show", machine.name, "doomed").returncode == 3


def test_errors_as_json(server: ControlPlane, machine: Agent) -> None:
    """
    With -o json an error is the ARM envelope on stderr, before the one line for people.
    """
    done = server.enjoin("show", machine.name, "absent", "-o", "json")
    assert (done.returncode, done.stdout) == (3, b"")
    *envelope, last = done.stderr.decode().splitlines()
    error = json.loads("\n".join(envelope))["error"]
    assert error["code"] == "ResourceNotFound"
    assert last == f"enjoin: {error['message']}"


def test_token(server: ControlPlane, fleet: Fleet) -> None:
    """
    A token stands alone on its line and is good as often and as long as was asked; -o json says until when.
    """
    [token] = server.enjoin("token", "create").stdout.decode().splitlines()
    assert token == token.strip()
    made = json.loads(server.text("token", "create", "--uses", "2", "--expires", "90m", "-o", "json"))
    assert set(made) == {"token", "expiresAt", "uses"}
    assert made["uses"] == 2
    words = ("--ca-file", server.connection["ca_file"], "--server", server.endpoint, "--token-file", "-")
    codes = [
        run_enjoin(
            "join", *words, "--name", f"twice{n}", "--state-dir", fleet.directory / str(n), stdin=made["token"].encode()
        ).returncode
        for n in range(3)
    ]
    assert codes[:2] == [0, 0]
    assert codes[2] != 0
    done = server.enjoin("token", "create", "--resource-group", "absent")
    assert done.returncode == 3


def test_principals(server: ControlPlane, tmp_path: Path) -> None:
    """
    A new principal's secret is shown once; it may do nothing yet (exit 4), and once deleted not even sign in (F84).
    """
    made = json.loads(server.text("principal", "create", "robot"))
    assert set(made) == {"clientId", "clientSecret", "objectId"}
    listed = server.text("principal", "list", "-o", "json")
    assert made["objectId"] in listed
    assert made["clientSecret"] not in listed
    own = tmp_path / "connection.json"
    secret_of = {"client_id": made["clientId"], "client_secret": made["clientSecret"]}
    own.write_text(json.dumps({**server.connection, **secret_of}))
    done = server.enjoin("machines", "--connection", own)
    assert (done.returncode, done.stdout) == (4, b"")
    assert made["clientSecret"].encode() not in done.stderr
    server.text("principal", "delete", "robot")
    done = server.enjoin("machines", "--connection", own)
    assert done.returncode == 4
    assert b"signing in failed" in done.stderr
    assert server.enjoin("principal", "delete", "robot").returncode == 3


def test_environment(server: ControlPlane, machine: Agent, tmp_path: Path) -> None:
    """
    With what `enjoin env` exports, an unmodified SDK program signs in and lists machines, told nothing else.
    """
    (tmp_path / "program.py").write_text(SDK_PROGRAM)
    shell = f'eval "$({sys.executable} -m enjoin.cli.main env)"; exec {sys.executable} program.py'
    clean = {name: value for name, value in environment(server.environment).items() if not name.startswith("AZURE_")}
    done = subprocess.run(["bash", "-c", shell], cwd=tmp_path, env=clean, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(machine.name in line.split() for line in done.stdout.splitlines())
    assert len(done.stdout.splitlines()) == 2


@pytest.mark.requires("curl")
def test_environment_for_curl(server: ControlPlane) -> None:
    """
    With what `enjoin env` exports, curl trusts the control plane.
    """
    url = "$ENJOIN_ENDPOINT/metadata/endpoints?api-version=1.0"
    shell = f'eval "$({sys.executable} -m enjoin.cli.main env)"; curl -sS "{url}"'
    done = subprocess.run(
        ["bash", "-c", shell], env=environment(server.environment), check=True, capture_output=True, text=True
    )
    assert json.loads(done.stdout)["authentication"]["loginEndpoint"].startswith(server.endpoint)


def test_secret_is_nowhere_to_be_seen(server: ControlPlane, machine: Agent) -> None:
    """
    Neither the client secret nor a protected value is on a command line of the client or in what it prints.
    """
    secret, value = server.connection["client_secret"], "protected-value-of-this-test"
    words = [*ENJOIN, "run", machine.name, "--name", "quiet", "--protected", "P", "--", "echo on; sleep 600"]
    variables = {**environment(server.environment), "P": value}
    with subprocess.Popen(words, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        assert run.stdout is not None
        assert run.stderr is not None
        assert run.stdout.readline() == b"on\n"
        shown = server.text("show", machine.name, "quiet", "-o", "json") + server.text(
            "list", machine.name, "-o", "json"
        )
        lines = b"".join(until(command_lines, "processes are seen"))
        server.text("cancel", machine.name, "quiet")
        assert run.wait(30) == 130
        shown += run.stderr.read().decode()
    for hidden in (secret, value):
        assert hidden not in shown
        assert hidden.encode() not in lines


def command_lines() -> list[bytes]:
    """What `ps` shows of every process."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                found.append((entry / "cmdline").read_bytes())
            except OSError:  # it has just ended
                continue
    return found

"""A reply is lost after the server committed; the unmodified SDK sends its request again, and nothing runs twice."""

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.acceptance.arm_client import ARMClient
from tests.acceptance.azure_sdk import SDK, Commands, body
from tests.acceptance.faults import Proxy
from tests.acceptance.processes import Agent, ControlPlane, processes_of, until


@pytest.fixture(scope="module")
def proxy(server: ControlPlane) -> Iterator[Proxy]:
    """A line to the server."""
    port = urlsplit(server.endpoint).port
    assert port is not None
    with Proxy.to(port) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def sdk(server: ControlPlane, proxy: Proxy) -> Iterator[SDK]:
    """Both clients at the end of that line; what they are told to poll lies on the direct way."""
    with SDK(server, endpoint=f"https://127.0.0.1:{proxy.port}") as sdk:
        yield sdk


@pytest.fixture(params=["vm", "machine"])
def agent(request: pytest.FixtureRequest) -> Agent:
    """A VM in one test and an Arc machine in the next."""
    agent = request.getfixturevalue(request.param)
    assert isinstance(agent, Agent)
    return agent


@pytest.fixture
def commands(sdk: SDK, agent: Agent) -> Commands:
    """The run commands of the machine, over a connection that is open and idle."""
    commands = sdk.on(agent)
    list(commands.list())
    sdk.traffic.clear()
    return commands


@pytest.fixture
def generations(server: ControlPlane, agent: Agent) -> Iterator["Generations"]:
    """What ran, as the server's history has it."""
    with ARMClient(server) as client:
        yield Generations(client, agent)


class Generations:
    """Asks for the executions of a run command."""

    def __init__(self, client: ARMClient, agent: Agent) -> None:
        self._client, self._agent = client, agent

    def __call__(self, name: str) -> list[int]:
        """Return the generations, newest first."""
        answer = self._client.request("GET", f"{self._agent.resource_id}/runCommands/{name}/executions")
        assert answer.status_code == 200, answer.text
        return [execution["properties"]["generation"] for execution in answer.json()["value"]]


def was_sent_twice(sdk: SDK, method: str) -> bool:
    """Whether the first two requests are one and the same, of which the first got no answer."""
    traffic = sdk.traffic
    same = traffic.requests[0] == traffic.requests[1] and traffic.request_ids[0] == traffic.request_ids[1]
    return same and traffic.requests[0][0] == method and len(traffic.statuses) == len(traffic.requests) - 1


def test_create(commands: Commands, sdk: SDK, proxy: Proxy, generations: Generations, tmp_path: Path) -> None:
    """
    The reply to a create is lost: the script runs once, and the repeated request is answered as the first one was.
    """
    witness = tmp_path / "witness"
    before = proxy.lost_answers
    proxy.lose_answers()
    made = commands.begin_create("lost", body(f"echo ran >>{witness}; echo hello")).result()
    assert proxy.lost_answers == before + 1
    assert was_sent_twice(sdk, "PUT")
    assert sdk.traffic.statuses[0] == 201
    assert made.properties.provisioning_state == "Succeeded"
    assert commands.get("lost").properties.instance_view.output == "hello\n"
    assert witness.read_text() == "ran\n"
    assert generations("lost") == [1]


def test_create_while_it_runs(
    commands: Commands, sdk: SDK, proxy: Proxy, generations: Generations, tmp_path: Path
) -> None:
    """
    Two replies in a row are lost while the script runs: all three requests lead to the same operation and its end.
    """
    gate, witness = tmp_path / "gate", tmp_path / "witness"
    proxy.lose_answers(2)
    poller = commands.begin_create("runs", body(f"echo ran >>{witness}; until [ -e {gate} ]; do sleep 0.05; done"))
    until(witness.exists, "the script runs")
    assert not poller.done()
    gate.touch()
    poller.result()
    assert sdk.traffic.methods.startswith("PUT PUT PUT GET")
    assert len(set(sdk.traffic.request_ids[:3])) == 1
    assert witness.read_text() == "ran\n"
    assert generations("runs") == [1]


def test_replace(commands: Commands, sdk: SDK, proxy: Proxy, generations: Generations, tmp_path: Path) -> None:
    """
    The reply to a second create, with the very same body, is lost: it ran once more, and not twice more.
    """
    witness = tmp_path / "witness"
    wanted = body(f"echo ran >>{witness}")
    commands.begin_create("again", wanted).result()
    sdk.traffic.clear()
    proxy.lose_answers()
    commands.begin_create("again", wanted).result()
    assert was_sent_twice(sdk, "PUT")
    assert sdk.traffic.statuses[0] == 200
    assert witness.read_text() == "ran\nran\n"
    assert generations("again") == [2, 1]


def test_delete(commands: Commands, sdk: SDK, proxy: Proxy) -> None:
    """
    The reply to a delete is lost: the repeated one ends in the same way, and what ran has ended.
    """
    commands.begin_create("doomed", body("echo $ENJOIN_EXECUTION_ID; sleep 600", asyncExecution=True)).result()
    view = until(lambda: (found := commands.get("doomed").properties.instance_view).output and found, "its first line")
    assert view is not None
    sdk.traffic.clear()
    proxy.lose_answers()
    commands.begin_delete("doomed").result()
    assert was_sent_twice(sdk, "DELETE")
    assert sdk.traffic.statuses[0] in (202, 204)
    assert processes_of(view.output.strip()) == []
    assert "doomed" not in [command.name for command in commands.list()]

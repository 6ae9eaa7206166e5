"""Agent, control plane and the line between them are taken away while a script runs; nothing of it is lost or doubled.

Everything is a real process, killed with SIGKILL or SIGTERM, or a real connection, cut.
"""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from tests.acceptance.arm_client import ARMClient, Commands
from tests.acceptance.faults import Proxy
from tests.acceptance.processes import (
    ENJOIN,
    LIMIT_S,
    Agent,
    ControlPlane,
    Fleet,
    Process,
    environment,
    processes_of,
    until,
)
from tests.acceptance.witness import COMPLAINED, PRINTED, PRINTED_FIRST, Witness

CUT_S = 10.0
SWALLOWED_BYTES = 20_000


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Fleet, ControlPlane, ARMClient]]:
    """A control plane that this module kills, and a client of it."""
    with Fleet(tmp_path_factory.mktemp("kills")) as fleet:
        server = fleet.control_plane()
        with ARMClient(server) as client:
            yield fleet, server, client


@pytest.fixture
def victim(plane: tuple[Fleet, ControlPlane, ARMClient], tmp_path: Path) -> Iterator[Agent]:
    """A machine of the test's own, connected."""
    fleet, server, _ = plane
    agent = fleet.agent(server, f"m-{tmp_path.name[-40:].replace('_', '-')}")
    yield agent
    agent.close()


@pytest.fixture
def commands(plane: tuple[Fleet, ControlPlane, ARMClient], victim: Agent) -> Commands:
    """Its run commands."""
    return plane[2].on(victim)


@pytest.fixture
def witness(commands: Commands, tmp_path: Path) -> Witness:
    """The script of a test; it ends with 7."""
    return Witness(commands, tmp_path, exit_code=7)


def test_agent_killed_and_back_before_the_end(victim: Agent, commands: Commands, witness: Witness) -> None:
    """
    An agent that was killed finds its script running when it is back, and reports its real end (F65, case 76).
    """
    witness.put()
    witness.wait_running()
    victim.restart()
    assert commands.view(witness.name)["executionState"] == "Running"
    witness.go()
    witness.assert_whole()


def test_agent_killed_and_back_after_the_end(victim: Agent, witness: Witness) -> None:
    """
    What a script printed and how it ended while no agent was there is complete and real (F65, case 76).
    """
    witness.put()
    witness.wait_running()
    victim.kill()
    witness.go_and_end()
    victim.start()
    witness.assert_whole()


def test_control_plane_killed(plane: tuple[Fleet, ControlPlane, ARMClient], victim: Agent, witness: Witness) -> None:
    """
    A control plane that was killed takes up output and end of a script where it was (F65).
    """
    witness.put()
    witness.wait_running()
    plane[1].restart()
    victim.wait_connected(2)
    witness.go()
    witness.assert_whole()


def test_control_plane_killed_until_after_the_end(
    plane: tuple[Fleet, ControlPlane, ARMClient], victim: Agent, witness: Witness
) -> None:
    """
    A script that ended while the control plane was away is reported when that is back.
    """
    _, server, _ = plane
    witness.put()
    witness.wait_running()
    server.kill()
    witness.go_and_end()
    server.start()
    witness.assert_whole()
    assert victim.process is not None
    assert victim.process.is_running


def test_both_killed(plane: tuple[Fleet, ControlPlane, ARMClient], victim: Agent, witness: Witness) -> None:
    """
    The same when both were killed, and the agent is back first.
    """
    _, server, _ = plane
    witness.put()
    witness.wait_running()
    server.kill()
    victim.kill()
    witness.go_and_end()
    victim.launch()
    server.start()
    witness.assert_whole()


@pytest.mark.parametrize(
    "words", [("run", "{machine}", "--script-file", "{file}"), ("logs", "-f", "{machine}", "{name}")]
)
def test_client_follows_across_a_kill(
    words: tuple[str, ...],
    plane: tuple[Fleet, ControlPlane, ARMClient],
    victim: Agent,
    witness: Witness,
    tmp_path: Path,
) -> None:
    """
    `enjoin run` and `enjoin logs -f` go on across a kill of the control plane, byte for byte, to the script's end.
    """
    _, server, _ = plane
    script = tmp_path / "script"
    script.write_text(witness.script)
    if words[0] == "logs":
        witness.put()
        witness.wait_running()
    filled = [word.format(machine=victim.name, file=script, name=witness.name) for word in words]
    out, err = tmp_path / "out", tmp_path / "err"
    with out.open("wb") as stdout, err.open("wb") as stderr:
        client = subprocess.Popen(
            [*ENJOIN, *filled],
            env=environment(server.environment),
            stdout=stdout,
            stderr=stderr,
            stdin=subprocess.DEVNULL,
        )
    until(lambda: out.read_bytes() == PRINTED_FIRST, "the client shows what was printed so far")
    server.restart()
    witness.go()
    assert client.wait(LIMIT_S) == (7 if words[0] == "run" else 0)
    assert out.read_bytes() == PRINTED
    assert err.read_bytes() == COMPLAINED
    assert witness.starts == 1


def test_control_plane_stopped(
    plane: tuple[Fleet, ControlPlane, ARMClient], victim: Agent, commands: Commands, witness: Witness
) -> None:
    """
    SIGTERM: a held poll is answered, the exit code is 0 within 10 s, and the machine is back at the next start.
    """
    _, server, client = plane
    accepted = commands.put(witness.name, witness.script)
    witness.wait_running()
    url = accepted.headers["Azure-AsyncOperation"]
    with ThreadPoolExecutor(1) as pool:
        poll = pool.submit(client.request, "GET", url)
        follow = followed(server, victim, witness)
        server.stop()
        server.start()
        answer = poll.result()
    assert (answer.status_code, answer.json()["status"]) == (200, "InProgress")
    victim.wait_connected(2)
    witness.go()
    witness.assert_whole()
    assert follow.wait() == 0
    assert commands.operation(accepted)["status"] == "Succeeded"
    assert "graceful shutdown exceeded" not in server.logs(), "nobody had to be waited for"


def followed(server: ControlPlane, victim: Agent, witness: Witness) -> Process:
    """Start `enjoin logs -f`, and wait until it prints."""
    log = server.data_dir.with_name("follow.log")
    follow = Process(["logs", "-f", victim.name, witness.name], env=environment(server.environment), log=log)
    follow.wait_for_line("10000")
    return follow


def test_agent_stopped(victim: Agent, commands: Commands, witness: Witness) -> None:
    """
    SIGTERM: the agent ends with 0 within 5 s and leaves the script alone; the next agent takes it up again.
    """
    witness.put()
    witness.wait_running()
    execution_id = commands.execution_id(witness.name)
    before = processes_of(execution_id)
    victim.stop()
    assert set(before) & set(processes_of(execution_id)), "the script's own process is still there"
    victim.start()
    witness.go()
    witness.assert_whole()


def status(client: ARMClient, agent: Agent) -> str:
    """Return what the control plane says of a machine's connection."""
    found: str = client.request("GET", agent.resource_id).json()["properties"]["enjoin"]["status"]
    return found


def test_line_cut(plane: tuple[Fleet, ControlPlane, ARMClient], tmp_path: Path) -> None:
    """
    The channel is cut for ten seconds in the middle of what a script prints: no number is lost, and none comes twice.
    """
    fleet, server, client = plane
    go = tmp_path / "go"
    script = f"""i=0
until [ -e {go} ]; do i=$((i+1)); printf '%08d\\n' $i; [ $((i % 500)) = 0 ] && sleep 0.02; done
echo $i >&2
"""
    with Proxy.to(int(server.endpoint.rpartition(":")[2])) as proxy:
        agent = fleet.agent(server, "cut", endpoint=f"https://127.0.0.1:{proxy.port}")
        commands = client.on(agent)
        commands.put("numbers", script)
        commands.whole_output("numbers", 9 * 1000)
        proxy.swallow()
        until(lambda: proxy.swallowed_bytes > SWALLOWED_BYTES, "something is under way that will not arrive")
        proxy.cut()
        cut_at_s = time.monotonic()
        until(lambda: status(client, agent) == "Disconnected", "the control plane knows that the line is cut")
        before = len(commands.output("numbers"))
        until(lambda: time.monotonic() - cut_at_s > CUT_S, "the cut lasts")
        assert len(commands.output("numbers")) == before, "the line was really cut"
        proxy.mend()
        commands.whole_output("numbers", before + 1)
        go.touch()
        assert commands.ended("numbers")["exitCode"] == 0
        count = int(commands.whole_output("numbers", 1, "stderr"))
        output = commands.whole_output("numbers", 9 * count)
        assert output == b"".join(b"%08d\n" % number for number in range(1, count + 1))
        assert agent.process is not None
        assert agent.process.count_lines("connected") == 2
        agent.stop()


def test_second_agent_on_one_state_directory(victim: Agent) -> None:
    """
    One state directory serves one agent: the second says so and ends, and the first goes on (F65).
    """
    second = Agent(victim.state_dir)
    second.log = victim.log.with_suffix(".second")
    assert second.launch().wait() == 2
    [line] = second.logs().splitlines()
    assert line.startswith("enjoin: another agent is running on ")
    assert victim.process is not None
    assert victim.process.is_running


def pins(execution_id: str) -> list[int]:
    """Return pidfds of the processes of an execution."""
    found = []
    for pid in processes_of(execution_id):
        with suppress(ProcessLookupError):  # a `sleep` of the script that has just ended
            found.append(os.pidfd_open(pid))
    assert found
    return found


@pytest.mark.parametrize("is_there", [True, False], ids=["connected", "away"])
def test_machine_deleted(
    plane: tuple[Fleet, ControlPlane, ARMClient], victim: Agent, witness: Witness, *, is_there: bool
) -> None:
    """
    The agent of a deleted machine ends its scripts and exits 3, at once or as soon as it is back; not again after that.
    """
    _, _, client = plane
    witness.put()
    witness.wait_running()
    execution_id = witness.execution_id
    pinned = pins(execution_id)
    assert victim.process is not None
    if not is_there:
        victim.kill()
    assert client.request("DELETE", victim.resource_id).status_code == 202
    if not is_there:
        victim.launch()
    assert victim.process.wait() == 3
    assert processes_of(execution_id) == []
    for pidfd in pinned:
        with pytest.raises(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, 0)
        os.close(pidfd)
    assert victim.launch().wait() == 3
    assert client.request("GET", victim.resource_id).status_code == 404


def test_wrong_server(fleet: Fleet, tmp_path: Path) -> None:
    """
    An agent does not speak to a server whose certificate its own authority did not sign, and goes on trying.
    """
    server = fleet.control_plane()
    agent = fleet.new_agent(server, "m1")
    server.stop()
    kept = tmp_path / "pki"
    shutil.move(server.data_dir / "pki", kept)
    server.start()
    agent.launch()
    until(lambda: agent.logs().count("certificate verify failed") >= 2, "it is refused twice")
    assert agent.process is not None
    assert agent.process.count_lines("connected") == 0
    server.stop()
    shutil.rmtree(server.data_dir / "pki")
    shutil.move(kept, server.data_dir / "pki")
    server.start()
    agent.wait_connected(1)

"""Each process dies by SIGKILL before and after each of its durable writes; what follows is told from outside.

A script appends a line to a file of the test and prints known output. Whatever died and came back: the file has at most
one line, the execution says how it ended, or honestly that nobody knows, and what it printed is there to the last byte.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest

from enjoin.agent.journal import COMPACT_ABOVE_BYTES, Journal
from tests.acceptance.arm_client import ARMClient, Commands
from tests.acceptance.faults import CrashPoint
from tests.acceptance.processes import Agent, ControlPlane, Fleet, run_enjoin, until
from tests.acceptance.witness import Witness

KILLED: Final = -9


def around(*stems: str) -> list[str]:
    """Return the two points of each durable write."""
    return [f"{stem}.{moment}" for stem in stems for moment in ("before", "after")]


def around_files(*stems: str) -> list[str]:
    """Return the four points of each file that is replaced durably."""
    return [point for stem in stems for point in around(stem, f"{stem}.directory")]


AGENT_ACCEPTING: Final = around("journal.append")
AGENT_ENDING: Final = around("journal.append")
AGENT_STARTING: Final = around("journal.append", "journal.directory", "journal.compact")
JOURNAL_FULL: Final = around("journal.undo")
FORBIDDING: Final = around("bundle.forbid", "bundle.forbid.directory")
SHIM: Final = around("shim.started", "shim.directory", "shim.exit")
JOINING: Final = around_files("state.ca", "state.signing_key", "state.sealing_key", "state.identity")
SERVER_FIRST_START: Final = [
    *around("store.create", "store.migrate", "store.commit"),
    *around_files("pki.authority", "pki.ca", "pki.server", "pki.token_key", "connection"),
]
SERVER_ACCEPTING: Final = around("store.commit")
SERVER_ENDING: Final = around("store.commit", "output.directory", "output.spill")
SERVER_STARTING: Final = [*around("store.commit"), *around_files("connection")]
ALL: Final = {
    *AGENT_ACCEPTING,
    *AGENT_ENDING,
    *AGENT_STARTING,
    *JOURNAL_FULL,
    *FORBIDDING,
    *SHIM,
    *JOINING,
    *SERVER_FIRST_START,
    *SERVER_ACCEPTING,
    *SERVER_ENDING,
    *SERVER_STARTING,
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Fleet, ControlPlane, ARMClient]]:
    """A control plane that this module kills, and a client of it."""
    with Fleet(tmp_path_factory.mktemp("crashes")) as fleet:
        server = fleet.control_plane()
        with ARMClient(server) as client:
            yield fleet, server, client


@pytest.fixture
def crash(tmp_path: Path) -> Callable[[str], CrashPoint]:
    """Make crash points of this test."""
    return lambda name: CrashPoint(name, tmp_path)


@pytest.fixture
def machine(world: tuple[Fleet, ControlPlane, ARMClient], tmp_path: Path) -> Iterator[Agent]:
    """A machine of its own, joined; its agent is not started."""
    fleet, server, _ = world
    agent = fleet.new_agent(server, f"m-{tmp_path.name[-40:].replace('_', '-')}")
    yield agent
    if agent.process is not None and agent.process.is_running:
        agent.stop()
    agent.close()


@pytest.fixture
def witness(world: tuple[Fleet, ControlPlane, ARMClient], machine: Agent, tmp_path: Path) -> Witness:
    """The script of a test."""
    return Witness(world[2].on(machine), tmp_path)


@pytest.mark.parametrize("point", AGENT_ACCEPTING)
def test_agent_dies_accepting(point: str, machine: Agent, witness: Witness, crash: Callable[[str], CrashPoint]) -> None:
    """
    An agent that dies before or after a command is in its journal runs it once when it is back (F65).
    """
    place = crash(point)
    machine.start(env=place.environment)
    place.arm()
    witness.put()
    assert machine.process is not None
    assert machine.process.wait() == KILLED
    machine.start()
    witness.go()
    witness.assert_whole()


@pytest.mark.parametrize("point", AGENT_ENDING)
def test_agent_dies_recording_the_end(
    point: str, machine: Agent, witness: Witness, crash: Callable[[str], CrashPoint]
) -> None:
    """
    An agent that dies before or after the end of a script is in its journal reports that end when it is back.
    """
    place = crash(point)
    machine.start(env=place.environment)
    witness.put()
    witness.wait_running()
    place.arm()
    witness.go()
    assert machine.process is not None
    assert machine.process.wait() == KILLED
    machine.start()
    witness.assert_whole()
    until(lambda: not machine.bundles, "nothing of it is kept on the machine")


@pytest.mark.parametrize("point", AGENT_STARTING)
def test_agent_dies_starting(
    point: str,
    world: tuple[Fleet, ControlPlane, ARMClient],
    machine: Agent,
    tmp_path: Path,
    crash: Callable[[str], CrashPoint],
) -> None:
    """
    An agent that dies while it opens its journal loses neither the script that runs nor the one that waits.
    """
    commands = world[2].on(machine)
    running, waiting = (Witness(commands, tmp_path, name) for name in ("running", "waiting"))
    machine.start()
    if "compact" in point:
        fill_journal(machine, commands)
    running.put()
    running.wait_running()
    machine.kill()
    waiting.put()
    place = crash(point)
    place.arm()
    assert machine.launch(env=place.environment).wait() == KILLED
    running.go()
    machine.start()
    waiting.go()
    running.assert_whole()
    waiting.assert_whole()
    if "compact" in point:
        assert (machine.state_dir / "journal").stat().st_size < COMPACT_ABOVE_BYTES


def fill_journal(machine: Agent, commands: Commands) -> None:
    """Run long scripts until the journal is one that the next start writes anew."""
    journal = machine.state_dir / "journal"
    for number in range(40):
        if journal.stat().st_size > COMPACT_ABOVE_BYTES:
            return
        commands.put(f"long{number}", "true\n" + "#" * 250_000)
        commands.ended(f"long{number}")
    pytest.fail("the journal does not grow")


@pytest.mark.parametrize("point", FORBIDDING)
def test_agent_dies_settling_a_torn_claim(
    point: str, machine: Agent, witness: Witness, crash: Callable[[str], CrashPoint]
) -> None:
    """
    A claim that a power cut left empty is never started, also when the agent dies while it says so.
    """
    place = crash("journal.append.after")
    machine.start(env=place.environment)
    place.arm()
    witness.put()
    assert machine.process is not None
    assert machine.process.wait() == KILLED
    bundle = machine.state_dir / "bundles" / witness.execution_id
    bundle.mkdir(parents=True)
    (bundle / "started").touch()
    place = crash(point)
    place.arm()
    assert machine.launch(env=place.environment).wait() == KILLED
    machine.start()
    witness.go()
    view = witness.assert_honest()
    assert (view["executionState"], witness.starts) == ("Failed", 0)


@pytest.mark.parametrize("point", SHIM)
def test_shim_dies(point: str, machine: Agent, witness: Witness, crash: Callable[[str], CrashPoint]) -> None:
    """
    A shim that dies around its claim starts nothing, and one that dies around its record has run the script once.
    """
    place = crash(point)
    machine.start(env=place.environment)
    place.arm()
    witness.put()
    witness.go()
    view = witness.assert_honest()
    assert place.was_reached
    if point.startswith("shim.exit"):
        witness.assert_whole()
    else:
        assert view["executionState"] in ("Failed", "Unknown")
        assert witness.starts == 0


@pytest.mark.parametrize("point", SHIM)
def test_shim_and_agent_die(point: str, machine: Agent, witness: Witness, crash: Callable[[str], CrashPoint]) -> None:
    """
    The same when the agent is killed too, while the script is still to be started or runs.
    """
    place = crash(point)
    machine.start(env=place.environment)
    if point.startswith("shim.exit"):
        witness.put()
        witness.wait_running()
        machine.kill()
        place.arm()
        witness.go()
        until(lambda: place.was_reached, point)
    else:
        place.arm()
        witness.put()
        until(lambda: place.was_reached, point)
        machine.kill()
    machine.start()
    view = witness.assert_honest()
    if point.startswith("shim.exit"):
        witness.assert_whole()
    else:
        assert (view["executionState"] in ("Failed", "Unknown"), witness.starts) == (True, 0)


@pytest.mark.parametrize("point", JOINING)
def test_join_dies(
    point: str, world: tuple[Fleet, ControlPlane, ARMClient], tmp_path: Path, crash: Callable[[str], CrashPoint]
) -> None:
    """
    A join that died is either done or can be done again with --replace; the machine then works.
    """
    fleet, server, client = world
    place = crash(point)
    place.arm()
    agent = Agent(fleet.directory / f"joining-{point}")
    name = f"joining-{point.replace('.', '-').replace('_', '-')}"
    words = ["join", "--server", server.endpoint, "--ca-file", server.connection["ca_file"], "--token-file", "-"]
    words += ["--name", name, "--state-dir", str(agent.state_dir)]
    done = run_enjoin(*words, env=place.environment, stdin=server.token().encode())
    assert (done.returncode, done.stdout) == (KILLED, b"")
    if not (agent.state_dir / "agent.json").exists():
        again = run_enjoin(*words, stdin=server.token().encode())
        assert again.returncode == 2
        assert b"--replace" in again.stderr
        again = run_enjoin(*words, "--replace", stdin=server.token().encode())
        assert again.returncode == 0, again.stderr
    agent.resource_id = machine_id(client, server, name)
    witness = Witness(client.on(agent), tmp_path)
    try:
        agent.start()
        witness.put()
        witness.go()
        witness.assert_whole()
        agent.stop()
    finally:
        agent.close()


def machine_id(client: ARMClient, server: ControlPlane, name: str) -> str:
    """Return the resource id of an Arc machine."""
    own = server.connection
    group = f"/subscriptions/{own['subscription_id']}/resourceGroups/{own['resource_group']}"
    answer = client.request("GET", f"{group}/providers/Microsoft.HybridCompute/machines/{name}")
    assert answer.status_code == 200, answer.text
    found: str = answer.json()["id"]
    return found


@pytest.mark.parametrize("point", SERVER_FIRST_START)
def test_server_dies_at_its_first_start(point: str, fleet: Fleet, crash: Callable[[str], CrashPoint]) -> None:
    """
    A control plane that died in the middle of its first start becomes ready at the second: clients sign in and write.
    """
    place = crash(point)
    place.arm()
    server = fleet.new_control_plane()
    assert server.launch(env=place.environment).wait() == KILLED
    server.start()
    with ARMClient(server) as client:
        group = f"/subscriptions/{server.connection['subscription_id']}/resourceGroups/after"
        assert client.request("PUT", group, body={"location": "local"}).status_code == 201
    server.kill()


@pytest.mark.parametrize("point", SERVER_ACCEPTING)
def test_server_dies_accepting(
    point: str,
    world: tuple[Fleet, ControlPlane, ARMClient],
    machine: Agent,
    witness: Witness,
    crash: Callable[[str], CrashPoint],
) -> None:
    """
    A PUT whose answer was lost with the control plane is repeated by the client and starts the script once.
    """
    _, server, _ = world
    place = crash(point)
    server.kill()
    server.start(env=place.environment)
    machine.start()
    assert server.process is not None
    place.arm()
    with ThreadPoolExecutor(1) as pool:
        put = pool.submit(witness.put)
        assert server.process.wait() == KILLED
        server.start()
        put.result()
    witness.go()
    witness.assert_whole()


@pytest.mark.parametrize("point", SERVER_ENDING)
def test_server_dies_recording_the_end(
    point: str,
    world: tuple[Fleet, ControlPlane, ARMClient],
    machine: Agent,
    witness: Witness,
    crash: Callable[[str], CrashPoint],
) -> None:
    """
    A control plane that dies while it records output and end of a script has both when it is back.
    """
    _, server, _ = world
    place = crash(point)
    server.kill()
    server.start(env=place.environment)
    machine.start()
    witness.put()
    witness.wait_running()
    place.arm()
    witness.go()
    assert server.process is not None
    assert server.process.wait() == KILLED
    server.start()
    witness.assert_whole()


@pytest.mark.parametrize("point", SERVER_STARTING)
def test_server_dies_starting_again(
    point: str,
    world: tuple[Fleet, ControlPlane, ARMClient],
    machine: Agent,
    witness: Witness,
    crash: Callable[[str], CrashPoint],
) -> None:
    """
    A control plane that dies while it starts again finds its machine and the script that runs there,
    and its clients need no new secret.
    """
    _, server, _ = world
    machine.start()
    witness.put()
    witness.wait_running()
    server.kill()
    secret = server.connection["client_secret"]
    place = crash(point)
    place.arm()
    assert server.launch(env=place.environment).wait() == KILLED
    witness.go()
    server.start()
    assert server.connection["client_secret"] == secret
    witness.assert_whole()


# Writes one record of a group and finds the disk full in the middle of it.
_FILLED_DISK: Final = """
import asyncio, resource, signal, sys
from pathlib import Path
from enjoin.agent.journal import Ended, Journal
from enjoin.model.execution import Event
from enjoin.model.identity import new_uuid7
from enjoin.protocol.messages import StatusReport

async def fill():
    journal = Journal(Path(sys.argv[1]))
    report = StatusReport(execution_id=new_uuid7(), sequence=1, journal_sequence=1, event=Event.REFUSED)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    room = Path(sys.argv[1]).stat().st_size + 20
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
    await journal.append(Ended(report))

asyncio.run(fill())
"""


@pytest.mark.parametrize("point", JOURNAL_FULL)
def test_journal_on_a_full_disk(tmp_path: Path, point: str) -> None:
    """
    An agent that dies while it takes back a record that found no room has not written it.
    """
    place, path = CrashPoint(point, tmp_path, armed=True), tmp_path / "journal"
    command = [sys.executable, "-c", _FILLED_DISK, str(path)]
    ended = subprocess.run(command, check=False, env={**os.environ, **place.environment}, capture_output=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    journal = Journal(path)
    assert journal.entries == {}
    assert journal.sequence == 2  # one start each

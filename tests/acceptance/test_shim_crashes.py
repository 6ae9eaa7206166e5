"""Agent, fork server and shim are killed at any moment: a script starts at most once, and what became of it is told."""

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import pytest

from enjoin.agent import shim
from enjoin.agent.bundle import Bundle
from enjoin.agent.recovery import Interrupted, MayStart, OutcomeUnknown, Readopt, Report, recover
from enjoin.agent.script import AlreadyClaimed, Lost
from tests.acceptance.shims import (
    CONTAINMENTS,
    LIMIT_S,
    Machine,
    children_of,
    exit_of,
    fork_server,
    is_gone,
    pids_in,
    processes_of,
    until,
    whole_lines,
)
from tests.tools import REPOSITORY

POINTS: Final = re.findall(r'crash_point\("([^"]+)"\)', Path(shim.__file__).read_text(encoding="utf-8"))
GATED: Final = "echo begin; until [ -e go ]; do sleep 0.02; done; echo end; exit 5"


@pytest.fixture(params=CONTAINMENTS)
def containment(request: pytest.FixtureRequest) -> str:
    """How the scripts of this test are contained."""
    return str(request.param)


@pytest.fixture
async def machine(containment: str, tmp_path: Path) -> AsyncIterator[Machine]:
    """A supervisor with its fork server."""
    async with Machine.started(tmp_path, containment) as machine:
        yield machine


class LoneAgent:
    """An agent in a process of its own, which can be killed."""

    def __init__(self, process: "subprocess.Popen[str]", state: Path) -> None:
        self.process, self.state = process, state

    def say(self, script: str) -> None:
        """Ask for a script to be launched."""
        path = self.state / "text"
        path.write_text(script)
        assert self.process.stdin is not None
        self.process.stdin.write(f"{path}\n")
        self.process.stdin.flush()

    def hear(self) -> list[str]:
        """Return the words of its next line."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().split()

    def launch(self, script: str) -> Bundle:
        """Have `script` started."""
        self.say(script)
        assert self.hear()[0] == "submitted"
        word, execution = self.hear()
        assert word == "started"
        return Bundle.of(self.state, execution)

    def kill(self) -> None:
        """End it as the OOM killer would."""
        self.process.kill()
        self.process.wait()

    def family(self) -> list[int]:
        """Return its fork server and all shims of that."""
        children = subprocess.run(["ps", "-e", "-o", "pid=,ppid=,comm="], capture_output=True, text=True, check=True)
        lines = [line.split() for line in children.stdout.splitlines()]
        servers = [int(pid) for pid, parent, name in lines if int(parent) == self.process.pid and name == "enjoin-fork"]
        return servers + [int(pid) for pid, parent, _ in lines if int(parent) in servers]


@contextmanager
def lone_agent(state: Path, containment: str) -> Iterator[LoneAgent]:
    """Run one until the end of the test at the latest."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.acceptance.lone_agent", str(state), containment],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        agent = LoneAgent(process, state)
        try:
            assert agent.hear() == ["ready"]
            yield agent
        finally:
            process.kill()


async def test_agent_killed_while_the_script_runs(containment: str, tmp_path: Path) -> None:
    """
    After kill -9 of the agent the next one adopts the script: output complete, real exit code, started once (case 76).
    """
    with lone_agent(tmp_path, containment) as agent:
        bundle = agent.launch(GATED)
        family = [os.pidfd_open(pid) for pid in agent.family()]
        agent.kill()
    holder = bundle.lock_holder()
    assert holder is not None
    await until(lambda: sum(map(is_gone, family)) == len(family) - 1, "all end but the shim of the script")
    async with Machine.started(tmp_path, containment) as machine:
        seen, script = await machine.supervisor.examine(bundle)
        assert recover(seen) == Readopt()
        assert script is not None
        assert (await script.started()).pid == holder
        other, _, _ = await machine.run("exit 4")
        assert other.exit_code == 4, "a new fork server works beside the old shim"
        (bundle.path / "work/go").touch()
        end = await exit_of(script)
        assert (end.reason, end.exit_code) == ("exited", 5)
        assert bundle.stdout.read_bytes() == b"begin\nend\n"
        assert recover((await machine.supervisor.examine(bundle))[0]) == Report(end)
    await until(lambda: all(map(is_gone, family)), "the old shim ends after its script")
    for member in family:
        os.close(member)


@pytest.mark.parametrize("ending", ["cancel", "end_leftovers", "timeout"])
async def test_adopted_script_is_ended(containment: str, tmp_path: Path, ending: str) -> None:
    """
    A script that an earlier agent started is ended as surely as one's own, and by its timeout with no agent at all.
    """
    with lone_agent(tmp_path, containment) as agent:
        bundle = agent.launch("setsid bash -c 'echo $$; exec sleep 600' & echo $$; sleep 600")
        members = await pids_in(bundle.stdout, 2)
        agent.kill()
    async with Machine.started(tmp_path, containment) as machine:
        if ending == "end_leftovers":
            assert not await machine.supervisor.end_leftovers(bundle)
        else:
            script = await machine.supervisor.adopt(bundle)
            assert script is not None
            script.cancel("deleted")
            assert (await exit_of(script)).reason == "canceled"
    assert all(map(is_gone, members))
    for member in members:
        os.close(member)


async def test_queued_request_runs_at_most_once(containment: str, tmp_path: Path) -> None:
    """
    A request that lay in the socket when its agent died is a race with the next agent's, and one of the two wins.
    """
    with lone_agent(tmp_path, containment) as agent:
        family = agent.family()
        for pid in family:
            os.kill(pid, signal.SIGSTOP)
        agent.say("echo ran; until [ -e go ]; do sleep 0.02; done")
        word, execution = agent.hear()
        assert word == "submitted"
        agent.kill()
    bundle = Bundle.of(tmp_path, execution)
    assert not bundle.is_claimed()
    async with Machine.started(tmp_path, containment) as machine:
        assert recover((await machine.supervisor.examine(bundle))[0]) == MayStart()
        for pid in family:
            os.kill(pid, signal.SIGCONT)
        script = await machine.launch("echo ran; until [ -e go ]; do sleep 0.02; done", bundle=bundle)
        try:
            await asyncio.wait_for(script.started(), LIMIT_S)
        except AlreadyClaimed:
            adopted = await machine.supervisor.adopt(bundle)
            assert adopted is not None
            script = adopted
        (bundle.path / "work/go").touch()
        assert (await exit_of(script)).exit_code == 0
    assert bundle.stdout.read_bytes() == b"ran\n"


async def test_fork_server_killed(machine: Machine) -> None:
    """
    Without its fork server a running script goes on, and the next one is started by a new fork server.
    """
    running = await machine.launch(GATED)
    started = await asyncio.wait_for(running.started(), LIMIT_S)
    for _ in range(3):
        os.kill(await fork_server(), signal.SIGKILL)
        later = await asyncio.gather(*(machine.launch(f"exit {code}") for code in range(10)))
        assert [(await exit_of(script)).exit_code for script in later] == list(range(10))
    assert running.bundle.lock_holder() == started.pid
    (running.bundle.path / "work/go").touch()
    end = await exit_of(running)
    assert (end.exit_code, running.bundle.stdout.read_bytes()) == (5, b"begin\nend\n")


async def test_shim_killed(machine: Machine, containment: str) -> None:
    """
    When a shim was killed its script is ended and reported as lost within seconds; with a cgroup for certain, also what
    hid from the environment, without one "processes may remain" is said (case 78).
    """
    text = "env -i setsid sleep 600 & echo $!; setsid bash -c 'echo $$; exec sleep 600' & echo $$; sleep 600"
    script = await machine.launch(text)
    started = await asyncio.wait_for(script.started(), LIMIT_S)
    members = await pids_in(script.bundle.stdout, 3)
    os.kill(started.pid, signal.SIGKILL)
    lost = await asyncio.wait_for(script.ended(), LIMIT_S)
    assert lost == Lost(was_alive=True, may_remain=containment == "subreaper")
    assert processes_of(script.bundle.execution_id) == []
    gone = [is_gone(member) for member in members]
    assert sum(gone) >= 2
    if containment == "cgroup":
        assert gone == [True, True, True]
        assert started.cgroup is not None
        await until(lambda: not Path(started.cgroup or "").exists(), "the cgroup is removed")
    for member in members:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(member, signal.SIGKILL)
        os.close(member)
    seen, again = await machine.supervisor.examine(script.bundle)
    assert again is None
    assert isinstance(recover(seen), OutcomeUnknown), "asked later, nobody can tell any more"


async def test_shim_killed_while_no_agent_looked(containment: str, tmp_path: Path) -> None:
    """
    The next agent ends what a dead shim left running and says Failed, "supervisor lost".
    """
    with lone_agent(tmp_path, containment) as agent:
        bundle = agent.launch("setsid bash -c 'echo $$; exec sleep 600' & echo $$; sleep 600")
        members = await pids_in(bundle.stdout, 2)
        agent.kill()
    holder = bundle.lock_holder()
    assert holder is not None
    os.kill(holder, signal.SIGKILL)
    await until(lambda: bundle.lock_holder() is None, "the shim is gone")
    async with Machine.started(tmp_path, containment) as machine:
        decision = recover((await machine.supervisor.examine(bundle))[0])
        assert isinstance(decision, Interrupted)
        assert "supervisor lost" in decision.message
    assert all(map(is_gone, members))
    for member in members:
        os.close(member)


@pytest.mark.parametrize("point", POINTS)
async def test_shim_dies_at_a_durable_write(
    containment: str, tmp_path: Path, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Killed before or after any durable write of the shim: the script ran at most once and what became of it is told.
    """
    monkeypatch.setenv("ENJOIN_CRASH_POINT", point)
    monkeypatch.setenv("ENJOIN_CRASH_ONCE", str(tmp_path / "died"))
    async with Machine.started(tmp_path, containment) as machine:
        script = await machine.launch("echo ran >> ../../../runs; exit 3")
        end = await asyncio.wait_for(script.ended(), LIMIT_S)
        assert (tmp_path / "died").exists(), f"{point} was not reached"
        runs = whole_lines(tmp_path / "runs") if (tmp_path / "runs").exists() else []
        seen, again = await machine.supervisor.examine(script.bundle)
        assert again is None
        if point.startswith("shim.exit"):  # the record may not be on the disk; but it is in the file
            assert runs == [b"ran"]
            assert not isinstance(end, Lost)
            assert (end.reason, end.exit_code) == ("exited", 3)
            assert recover(seen) == Report(end)
        else:
            assert runs == []
            assert isinstance(end, Lost)
            assert isinstance(recover(seen), OutcomeUnknown)
        with pytest.raises(AlreadyClaimed):
            await (await machine.launch("echo ran >> ../../../runs", bundle=script.bundle)).started()
        other, _, _ = await machine.run("exit 6")
        assert other.exit_code == 6


async def test_spares_die_with_a_request_in_the_socket(machine: Machine) -> None:
    """
    A request that no shim took before they were all killed is given to the next ones.
    """
    server = await fork_server()
    os.kill(server, signal.SIGSTOP)
    spares = children_of(server)
    for pid in spares:
        os.kill(pid, signal.SIGSTOP)
    script = await machine.launch("exit 9")
    for pid in [*spares, server]:
        os.kill(pid, signal.SIGKILL)
    assert (await exit_of(script)).exit_code == 9

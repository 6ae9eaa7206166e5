"""Ending means ending: of a timed out, canceled, replaced or deleted command no process is left, whatever it did.

Each test runs many trees at once on one machine, pins all their processes, and ends each tree in each way; with the
agent there, and with the agent killed before.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from enjoin.agent.bundle import Bundle, Started
from tests.acceptance.arm_client import ARMClient, Commands
from tests.acceptance.faults import CrashPoint
from tests.acceptance.processes import Agent, ControlPlane, Fleet, processes_of, until
from tests.acceptance.shims import CONTAINMENTS, is_gone
from tests.acceptance.test_shim_ends import RESPAWNER, TREES

TIMEOUT_S: Final = 4  # long enough for all trees to be there and the agent to be killed before
ENDINGS: Final = ("cancel", "replace", "delete", "timeout")
LEFT_BEHIND: Final = "nohup setsid bash -c 'echo $$; exec sleep 600' 2>/dev/null & echo $$"
SCRIPTS: Final = TREES | {"respawner": RESPAWNER.replace("sleep(0.003)", "sleep(0.02)")}  # several run at once


@dataclass(slots=True)
class Tree:
    """One running script with all the processes it told of."""

    name: str
    ending: str
    execution_id: str
    started: Started
    pids: list[int]
    pidfds: list[int] = field(default_factory=list)

    def is_gone(self) -> bool:
        """Whether no process of it exists: pinned, marked by its environment, or listed by its cgroup."""
        return (
            all(map(is_gone, self.pidfds))
            and processes_of(self.execution_id) == []
            and in_cgroup(self.started.cgroup) <= {self.started.pid}  # the shim may serve on
        )

    def is_kept(self, machine: Agent) -> bool:
        """Whether its bundle is still on the machine."""
        return Bundle.of(machine.state_dir, self.execution_id).path.exists()


def in_cgroup(path: str | None) -> set[int]:
    """Return what the kernel lists in a cgroup; nothing when there is none."""
    procs = Path(f"{path}/cgroup.procs")
    return set(map(int, procs.read_text().split())) if path is not None and procs.exists() else set()


def start(machine: Agent, commands: Commands, ending: str, tree: str, script: str) -> Tree:
    """Start a tree, wait until it has told its processes, and pin them."""
    name = f"{ending}-{tree.replace(' ', '-')}"
    commands.put(name, script, timeoutInSeconds=TIMEOUT_S if ending == "timeout" else 0)
    execution_id = commands.execution_id(name)
    bundle = Bundle.of(machine.state_dir, execution_id)

    def told() -> list[int]:
        lines = bundle.stdout.read_bytes().split(b"\n")[:-1] if bundle.stdout.exists() else []
        return [int(line) for line in lines[:2]] if len(lines) >= 2 else []

    pids = until(told, f"{name} tells its processes")
    started = bundle.read_started()
    assert started is not None
    running = Tree(name=name, ending=ending, execution_id=execution_id, started=started, pids=pids)
    for pid in pids:
        try:
            running.pidfds.append(os.pidfd_open(pid))
        except ProcessLookupError:
            assert tree.startswith(("respawner", "left behind")), f"{name}: {pid} has ended by itself"
    return running


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Fleet, ControlPlane, ARMClient]]:
    """A control plane for this module, and a client of it."""
    with Fleet(tmp_path_factory.mktemp("trees")) as fleet:
        server = fleet.control_plane()
        with ARMClient(server) as client:
            yield fleet, server, client


@pytest.fixture(params=CONTAINMENTS)
def machine(request: pytest.FixtureRequest, plane: tuple[Fleet, ControlPlane, ARMClient]) -> Iterator[Agent]:
    """A machine that holds its scripts by cgroups, or without."""
    fleet, server, client = plane
    name = re.sub(r"\W+", "-", request.node.name).strip("-_")
    agent = fleet.agent(server, name, env={"ENJOIN_CONTAINMENT": request.param})
    assert client.request("GET", agent.resource_id).json()["properties"]["enjoin"]["containment"] == request.param
    yield agent
    agent.close()


def end(commands: Commands, tree: Tree) -> None:
    """Ask for the end of a tree, in its way."""
    match tree.ending:
        case "cancel":
            commands.cancel(tree.name)
        case "delete":
            commands.delete(tree.name)
        case "replace":
            look = " ".join(map(str, tree.pids))
            commands.put(tree.name, f"for pid in {look}; do [ -e /proc/$pid/exe ] && echo $pid lives; done; echo new")


def assert_ended(commands: Commands, tree: Tree) -> None:
    """What clients are told of a tree that was ended, once no process of it exists."""
    match tree.ending:
        case "cancel":
            assert commands.ended(tree.name)["executionState"] == "Canceled"
        case "timeout":
            view = commands.ended(tree.name)
            assert (view["executionState"], view["exitCode"]) == ("TimedOut", -1)
        case "delete":
            commands.is_gone(tree.name)
        case "replace":
            assert commands.ended(tree.name)["executionState"] == "Succeeded"
            assert commands.output(tree.name) == b"new\n", "the old one ended before the new one began"
    until(tree.is_gone, f"no process of {tree.name} is left", limit_s=2.0)
    for pidfd in tree.pidfds:
        os.close(pidfd)


def test_trees_end_with_the_agent_there(plane: tuple[Fleet, ControlPlane, ARMClient], machine: Agent) -> None:
    """
    What called setsid, double-forked, ignores SIGTERM, hides its environment, is stopped or respawns ends with its
    command: by timeout, cancel, update and delete; before clients are told of it (F56, cases 45, 67).
    """
    commands = plane[2].on(machine)
    trees = [start(machine, commands, way, tree, script) for way in ENDINGS for tree, script in SCRIPTS.items()]
    for tree in trees:
        end(commands, tree)
    for tree in trees:
        assert_ended(commands, tree)
    machine.stop()


def test_trees_end_with_the_agent_killed(plane: tuple[Fleet, ControlPlane, ARMClient], machine: Agent) -> None:
    """
    With the agent killed the shim alone ends what reaches its timeout; what was canceled, replaced or deleted meanwhile
    ends as soon as the agent is back.
    """
    commands = plane[2].on(machine)
    trees = [start(machine, commands, way, tree, script) for way in ENDINGS for tree, script in SCRIPTS.items()]
    machine.kill()
    for tree in trees:
        end(commands, tree)
    timed = [tree for tree in trees if tree.ending == "timeout"]
    for tree in timed:
        until(tree.is_gone, f"the shim ends {tree.name} without an agent")
    for tree in trees:
        assert tree in timed or tree.name.endswith("respawner") or not tree.is_gone()
    machine.start()
    for tree in trees:
        assert_ended(commands, tree)
    machine.stop()


@pytest.mark.parametrize("killed", [False, True], ids=["there", "killed"])
def test_leftovers(plane: tuple[Fleet, ControlPlane, ARMClient], machine: Agent, *, killed: bool) -> None:
    """
    What a script left behind when it ended goes on, and ends with the update or the deletion of its command; then
    nothing of it is kept on the machine either.
    """
    commands = plane[2].on(machine)
    trees = [start(machine, commands, way, f"left behind {killed}", LEFT_BEHIND) for way in ("replace", "delete")]
    for tree in trees:
        assert commands.ended(tree.name)["executionState"] == "Succeeded"
        assert not tree.is_gone()
    if killed:
        machine.kill()
    for tree in trees:
        end(commands, tree)
    if killed:
        assert not any(tree.is_gone() for tree in trees)
        machine.start()
    for tree in trees:
        assert_ended(commands, tree)
    until(lambda: not any(tree.is_kept(machine) for tree in trees), "their bundles are removed")
    machine.stop()


def test_leftovers_of_an_end_told_twice(
    plane: tuple[Fleet, ControlPlane, ARMClient], machine: Agent, tmp_path: Path
) -> None:
    """
    An agent that died between recording an end and telling it still knows, when it is back, what was left behind.
    """
    commands = plane[2].on(machine)
    place = CrashPoint("journal.append.after", tmp_path)
    machine.stop()
    machine.start(env=place.environment)
    go = tmp_path / "go"
    tree = start(machine, commands, "delete", "left behind", f"{LEFT_BEHIND}; until [ -e {go} ]; do sleep 0.02; done")
    commands.reached(tree.name, "Running")
    place.arm()
    go.touch()
    assert commands.ended(tree.name)["executionState"] == "Succeeded"
    commands.put("filler", "true")  # its journal entry carries that of the end, if nothing else has
    assert machine.process is not None
    assert machine.process.wait() == -9
    machine.start()
    assert commands.ended("filler")["executionState"] == "Succeeded"
    filler_bundle = Bundle.of(machine.state_dir, commands.execution_id("filler"))
    until(lambda: not filler_bundle.path.exists(), "the machine lets go of what it has told")
    assert not tree.is_gone()
    end(commands, tree)
    assert_ended(commands, tree)
    machine.stop()

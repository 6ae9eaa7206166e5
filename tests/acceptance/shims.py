"""A state directory with a supervisor, for tests that start real processes."""

import asyncio
import os
import select
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final, Self

import pytest

from enjoin.agent.bundle import Bundle, Exit
from enjoin.agent.interpreter import invocation, normalise
from enjoin.agent.script import Script
from enjoin.agent.supervisor import Supervisor

LIMIT_S: Final = 30.0  # for what must come about; a test that meets it has failed
CONTAINMENTS: Final = [pytest.param("cgroup", marks=pytest.mark.requires("cgroup")), pytest.param("subreaper")]

Parameters = Sequence[tuple[str, str, bool]]


class Machine:
    """What the agent has below its loop, and short words for it."""

    def __init__(self, state: Path, supervisor: Supervisor) -> None:
        self.state, self.supervisor = state, supervisor

    @classmethod
    @asynccontextmanager
    async def started(cls, state: Path, containment: str) -> AsyncIterator[Self]:
        """Bring one up, and down again."""
        supervisor = Supervisor(state, use_cgroups=containment == "cgroup")
        await supervisor.start()
        try:
            assert supervisor.containment == containment
            yield cls(state, supervisor)
        finally:  # a test that failed leaves nothing running
            for path in (state / "bundles").glob("*"):
                await supervisor.end_leftovers(Bundle(path), grace_s=0)
            await supervisor.stop()
            log = (state / "forkserver.log").read_text(encoding="utf-8")
            assert log == "", f"fork server and shims had nothing to complain about, and wrote {log}"

    def bundle(self, script: str | bytes) -> Bundle:
        """Return a new bundle with `script`."""
        bundle = Bundle.of(self.state, str(uuid.uuid4()))
        bundle.create(normalise(script))
        return bundle

    async def launch(
        self,
        script: str | bytes,
        *,
        parameters: Parameters = (),
        bundle: Bundle | None = None,
        timeout_s: float | None = None,
        grace_s: float = 5.0,
        end_leftovers: bool = False,
    ) -> Script:
        """Hand a script to a shim."""
        bundle = bundle or self.bundle(script)
        call = invocation(normalise(script), bundle.script, parameters, execution_id=bundle.execution_id)
        return await self.supervisor.launch(
            bundle, call, timeout_s=timeout_s, grace_s=grace_s, end_leftovers=end_leftovers
        )

    async def run(self, script: str | bytes, parameters: Parameters = ()) -> tuple[Exit, bytes, bytes]:
        """Run a script to its end; return its record and what it wrote."""
        running = await self.launch(script, parameters=parameters)
        end = await exit_of(running)
        return end, running.bundle.stdout.read_bytes(), running.bundle.stderr.read_bytes()


async def exit_of(script: Script) -> Exit:
    """Wait for the end of a script that leaves a record."""
    end = await asyncio.wait_for(script.ended(), LIMIT_S)
    assert isinstance(end, Exit), end
    return end


async def until(condition: Callable[[], bool], what: str) -> None:
    """Wait until `condition` holds."""
    for _ in range(int(LIMIT_S * 100)):
        if condition():
            return
        await asyncio.sleep(0.01)
    pytest.fail(f"never came about: {what}")


async def pids_in(path: Path, count: int) -> list[int]:
    """Wait until a script has written `count` lines with pids; return pidfds of those processes."""
    await until(lambda: len(whole_lines(path)) >= count, f"{count} lines in {path}")
    return [os.pidfd_open(int(line)) for line in whole_lines(path)[:count]]


def whole_lines(path: Path) -> list[bytes]:
    """Return the lines of a file that have their end."""
    return path.read_bytes().split(b"\n")[:-1]


def is_gone(pidfd: int) -> bool:
    """Whether a pinned process has ended."""
    return bool(select.select([pidfd], [], [], 0)[0])


def processes_of(execution_id: str) -> list[int]:
    """Return the living processes whose environment names the execution: found by no name and no pid that it told."""
    mark = f"ENJOIN_EXECUTION_ID={execution_id}".encode()
    return [pid for pid, variables in _proc("environ") if mark in variables.split(b"\0")]


def command_lines() -> list[bytes]:
    """Return those of all processes but this one."""
    return [line for pid, line in _proc("cmdline") if pid != os.getpid()]


def _proc(name: str) -> list[tuple[int, bytes]]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                found.append((int(entry.name), (entry / name).read_bytes()))
    return found


async def fork_server() -> int:
    """Wait until there is one and return its pid."""
    await until(lambda: named_children_of(os.getpid(), "enjoin-fork") != [], "a fork server runs")
    return named_children_of(os.getpid(), "enjoin-fork")[0]


def children_of(pid: int) -> list[int]:
    """Return the pids of the processes that it started."""
    return [int(word) for path in Path(f"/proc/{pid}/task").glob("*/children") for word in path.read_text().split()]


def named_children_of(pid: int, name: str) -> list[int]:
    """Return those of its children that are called `name` and have not ended."""
    found = []
    for child in children_of(pid):
        with suppress(OSError):
            status = Path(f"/proc/{child}/status").read_text().splitlines()
            if status[0] == f"Name:\t{name}" and "Z" not in status[2]:
                found.append(child)
    return found

"""History is kept within its bounds, and says what it no longer has."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from enjoin.control import history
from enjoin.control.output import INLINE_BYTES
from enjoin.errors import Expired, NotFound
from enjoin.model.retention import Retention
from enjoin.testing import Cluster, FakeAgent

Start = Callable[[Retention], AbstractAsyncContextManager[Cluster]]
LONG = b"x" * (INLINE_BYTES + 1)


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Return what starts a cluster with other bounds than the usual."""

    @asynccontextmanager
    async def started(retention: Retention) -> AsyncIterator[Cluster]:
        async with Cluster(tmp_path, retention=retention) as cluster:
            yield cluster

    return started


async def run(cluster: Cluster, agent: FakeAgent, path: str = "m1/c1", output: bytes = b"output") -> None:
    """Run a script to its end."""
    accepted = await cluster.put(path)
    await cluster.exchange()
    agent.write(accepted.view.execution.id, output)
    agent.exit(accepted.view.execution.id)
    await cluster.exchange()


async def kept(cluster: Cluster, path: str = "m1/c1") -> list[int]:
    """Return the generations that are still there, newest first."""
    executions = await cluster.plane.commands.executions(cluster.address(path), before_generation=None, limit=100)
    return [execution.generation for execution in executions]


def files(cluster: Cluster) -> int:
    """Return how many files of output there are."""
    return sum(path.is_file() for path in (cluster.directory / "output").rglob("*"))


async def test_age(start: Start) -> None:
    """
    What ended long ago goes, but never the newest execution of a run command.
    """
    async with start(Retention(age=timedelta(days=90))) as cluster:
        agent = await cluster.join()
        await run(cluster, agent, output=LONG)
        await run(cluster, agent, output=LONG)
        await cluster.sweep(timedelta(days=89))
        assert await kept(cluster) == [2, 1]
        assert files(cluster) == 2
        await cluster.sweep(timedelta(days=2))
        assert await kept(cluster) == [2]
        assert files(cluster) == 1
        assert await cluster.output("m1/c1") == LONG
        with pytest.raises(Expired, match="Generation 1"):
            await cluster.execution("m1/c1", 1)
        with pytest.raises(NotFound):
            await cluster.execution("m1/c1", 3)


async def test_count(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Of each run command the newest executions are kept, however small the steps in which history is walked.
    """
    monkeypatch.setattr(history, "_BATCH", 2)
    async with start(Retention(executions=3)) as cluster:
        agent = await cluster.join()
        for _ in range(6):
            await run(cluster, agent)
            await run(cluster, agent, "m1/c2")
        for _ in range(7):
            await cluster.sweep()
        assert await kept(cluster) == await kept(cluster, "m1/c2") == [6, 5, 4]


async def test_bytes(start: Start) -> None:
    """
    Output beyond the bound goes, the oldest first; its execution stays and says so, and the newest keeps its output.
    """
    async with start(Retention(output_bytes=2 * len(LONG))) as cluster:
        agent = await cluster.join()
        for _ in range(3):
            await run(cluster, agent, output=LONG)
        await run(cluster, agent, "m1/c2", LONG)
        await cluster.sweep()
        assert await kept(cluster) == [3, 2, 1]
        dropped = [(await cluster.execution("m1/c1", number)).output_dropped_at is not None for number in (1, 2, 3)]
        assert dropped == [True, True, False]
        assert files(cluster) == 2
        assert await cluster.output("m1/c1") == await cluster.output("m1/c2") == LONG


async def test_what_is_not_over_stays(start: Start) -> None:
    """
    An execution whose end is not known is kept, however old, and so is what its machine is ordered to end.
    """
    async with start(Retention(age=timedelta(days=1), executions=1, output_bytes=0)) as cluster:
        agent = await cluster.join()
        await cluster.put("m1/c1", "sleep infinity")
        await cluster.exchange()
        await cluster.disconnect(agent)
        await cluster.put("m1/c1", "two")
        await cluster.sweep(timedelta(days=3))
        await cluster.sweep(timedelta(days=3))
        assert await kept(cluster) == [2, 1]


async def test_files_of_deleted_commands(start: Start) -> None:
    """
    The files of a deleted run command and of a deleted machine go too; a crash before that leaves none behind.
    """
    async with start(Retention()) as cluster:
        agent, other = await cluster.join("m1"), await cluster.join("m2")
        await run(cluster, agent, "m1/c1", LONG)
        await run(cluster, other, "m2/c1", LONG)
        assert files(cluster) == 2
        await cluster.delete("m1/c1")
        await cluster.exchange()
        await cluster.plane.machines.delete(cluster.machine_address("m2"))
        await cluster.restart()
        await cluster.sweep()
        assert files(cluster) == 0

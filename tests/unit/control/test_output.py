"""Output: all of it, in order, once, whatever the machine sends again; read, tailed and followed."""

import asyncio
import random
from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

import pytest

from enjoin.control.output import INLINE_BYTES
from enjoin.model.execution import ExecutionState
from enjoin.model.machine import LEASE
from enjoin.protocol.messages import OutputChunk
from enjoin.testing import Cluster, FakeAgent


async def running(cluster: Cluster) -> tuple[FakeAgent, UUID]:
    """A machine whose one script runs."""
    agent = await cluster.join()
    accepted = await cluster.put("m1/c1")
    await cluster.exchange()
    return agent, accepted.view.execution.id


async def send(cluster: Cluster, agent: FakeAgent, execution_id: UUID, *pieces: tuple[int, bytes]) -> int:
    """Send pieces of stdout at offsets, in one frame; return what the server acknowledges."""
    assert agent.session is not None
    chunks = [OutputChunk(execution_id=execution_id, stream="stdout", offset=at, data=data) for at, data in pieces]
    ack = await cluster.plane.reports.apply(agent.session, chunks)
    [(acknowledged_id, stream, offset)] = ack.outputs
    assert (acknowledged_id, stream) == (execution_id, "stdout")
    return offset


@pytest.mark.parametrize(
    ("pieces", "acknowledged"),
    [
        ([(0, b"hello")], 5),
        ([(0, b"hel"), (3, b"lo")], 5),
        ([(0, b"hello"), (0, b"hello")], 5),
        ([(0, b"hello"), (2, b"ll")], 5),
        ([(0, b"hel"), (1, b"ello")], 5),
        ([(0, b"hel"), (4, b"o")], 3),
        ([(4, b"o"), (0, b"hello")], 5),
        ([(0, b"")], 0),
        ([(9, b"far")], 0),
    ],
)
async def test_offsets(cluster: Cluster, pieces: Sequence[tuple[int, bytes]], acknowledged: int) -> None:
    """
    Overlaps and resends are dropped, a gap is not taken; what is acknowledged is what is here. One frame or several.
    """
    agent, execution_id = await running(cluster)
    assert await send(cluster, agent, execution_id, *pieces) == acknowledged
    assert await cluster.output("m1/c1") == b"hello"[:acknowledged]
    for piece in pieces:
        await send(cluster, agent, execution_id, piece)
    assert await cluster.output("m1/c1") == b"hello"[:acknowledged]


async def test_random_resends(cluster: Cluster) -> None:
    """
    Any pieces in any order, sent until all is there, make the same bytes, across the border between database and file.
    """
    agent, execution_id = await running(cluster)
    source = random.Random(7)  # noqa: S311 - a test's order
    data = source.randbytes(3 * INLINE_BYTES)
    held = 0
    while held < len(data):
        pieces = []
        for _ in range(source.randrange(1, 5)):
            offset = max(0, min(held + source.randrange(-40_000, 10_000), len(data) - 1))
            pieces.append((offset, data[offset : offset + source.randrange(1, 60_000)]))
        held = await send(cluster, agent, execution_id, *pieces)
        assert await cluster.output("m1/c1") == data[:held]


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, INLINE_BYTES - 1, INLINE_BYTES, INLINE_BYTES + 1, 700_000])
async def test_sizes(cluster: Cluster, size: int) -> None:
    """
    Output of any size comes back whole, from any offset, and its tail is its last 4,096 bytes (F70, F71).
    """
    agent, execution_id = await running(cluster)
    data = bytes(index * 7 % 251 for index in range(size))
    agent.write(execution_id, data)
    await cluster.exchange(chunk_bytes=50_000)
    view = await cluster.show("m1/c1")
    assert view.execution.state is ExecutionState.RUNNING
    assert view.tails.get("stdout", b"") == data[-4096:]
    assert view.received_bytes.get("stdout", 0) == size
    assert await cluster.output("m1/c1") == data
    for offset in {0, size // 2, max(size - 10, 0), size, size + 5, INLINE_BYTES - 3}:
        read = cluster.plane.output.read
        assert await read(view.execution, "stdout", offset=offset, limit_bytes=100) == data[offset : offset + 100]
    assert await cluster.plane.output.size(view.execution, "stdout") == size
    agent.exit(execution_id)
    await cluster.exchange()
    assert (await cluster.show("m1/c1")).tails["stdout"] == data[-4096:]


async def test_streams_and_generations_are_apart(cluster: Cluster) -> None:
    """
    Each stream of each generation is its own.
    """
    agent, first = await running(cluster)
    agent.write(first, b"one out")
    agent.write(first, b"one err", "stderr")
    await cluster.exchange()
    second = (await cluster.put("m1/c1", "two")).view.execution.id
    await cluster.exchange()
    agent.write(second, b"two out")
    await cluster.exchange()
    assert await cluster.output("m1/c1", generation=1) == b"one out"
    assert await cluster.output("m1/c1", "stderr", generation=1) == b"one err"
    assert await cluster.output("m1/c1") == b"two out"
    assert await cluster.output("m1/c1", "stderr") == b""


async def test_lost_acknowledgements(cluster: Cluster) -> None:
    """
    What was acknowledged and the acknowledgement lost is sent again at the next connection and counted once.
    """
    agent, execution_id = await running(cluster)
    data = b"x" * 100_000 + b"y" * 100_000
    agent.write(execution_id, data[:100_000])
    await cluster.exchange(acknowledge=False)
    await cluster.disconnect(agent)
    await cluster.connect(agent)
    agent.write(execution_id, data[100_000:])
    agent.exit(execution_id)
    await cluster.exchange(chunk_bytes=30_000)
    assert await cluster.output("m1/c1") == data
    assert agent.held[execution_id].is_settled


async def test_server_restart(cluster: Cluster) -> None:
    """
    What was acknowledged is there after a restart of the control plane.
    """
    agent, execution_id = await running(cluster)
    agent.write(execution_id, b"z" * 200_000)
    await cluster.exchange()
    await cluster.restart()
    assert await cluster.output("m1/c1") == b"z" * 200_000
    await cluster.connect(agent)
    agent.exit(execution_id)
    await cluster.exchange()
    assert await cluster.output("m1/c1") == b"z" * 200_000


class Reader:
    """Somebody who follows stdout."""

    def __init__(self, cluster: Cluster, execution_id: UUID, *, offset: int = 0) -> None:
        """Begin at `offset`."""
        self.data = bytearray()
        self._news = asyncio.Event()
        self._follow = cluster.plane.output.follow(execution_id, "stdout", offset=offset)
        self.task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for data in self._follow:
            self.data += data
            self._news.set()

    async def has(self, size: int) -> None:
        """Wait until so many bytes were read."""
        async with asyncio.timeout(20):
            while len(self.data) < size:
                await self._news.wait()
                self._news.clear()

    async def end(self) -> bytes:
        """Return what was read when the stream ended by itself."""
        async with asyncio.timeout(20):
            await self.task
        return bytes(self.data)


async def test_follow(cluster: Cluster) -> None:
    """
    A reader gets bytes as they arrive, across the border between database and file, and ends with the script (F71).
    """
    agent, execution_id = await running(cluster)
    reader, late = Reader(cluster, execution_id), Reader(cluster, execution_id, offset=INLINE_BYTES + 10)
    data = bytes(index % 253 for index in range(2 * INLINE_BYTES))
    for start in range(0, len(data), 30_000):
        agent.write(execution_id, data[start : start + 30_000])
        await cluster.exchange()
        await reader.has(min(start + 30_000, len(data)))
    assert not reader.task.done()
    agent.exit(execution_id)
    await cluster.exchange()
    assert await reader.end() == data
    assert await late.end() == data[INLINE_BYTES + 10 :]


async def test_follow_waits_for_the_rest(cluster: Cluster) -> None:
    """
    The end is reported before the last output: a reader waits for that too.
    """
    agent, execution_id = await running(cluster)
    agent.write(execution_id, b"last words")
    agent.exit(execution_id)
    reader = Reader(cluster, execution_id)
    reports = [message for message in agent.take() if not isinstance(message, OutputChunk)]
    assert agent.session is not None
    await cluster.plane.reports.apply(agent.session, reports)
    assert (await cluster.show("m1/c1")).execution.state is ExecutionState.SUCCEEDED
    await asyncio.sleep(0.01)
    assert not reader.task.done()
    await send(cluster, agent, execution_id, (0, b"last words"))
    assert await reader.end() == b"last words"


async def unfinished(cluster: Cluster) -> tuple[FakeAgent, Reader]:
    """A script that ended, whose machine went away before the last of its output was sent; somebody reads it."""
    agent, execution_id = await running(cluster)
    agent.write(execution_id, b"last words")
    agent.exit(execution_id)
    assert agent.session is not None
    await cluster.plane.reports.apply(agent.session, agent.take()[:1])
    reader = Reader(cluster, execution_id)
    await cluster.disconnect(agent)
    return agent, reader


async def test_follow_of_a_machine_that_is_back(cluster: Cluster) -> None:
    """
    Within its lease the machine brings the rest, and the reader has waited for it.
    """
    agent, reader = await unfinished(cluster)
    await cluster.sweep(LEASE - timedelta(seconds=1))
    await cluster.connect(agent)
    await cluster.exchange()
    assert await reader.end() == b"last words"


@pytest.mark.parametrize("why", ["lease", "reinstalled", "command deleted", "machine deleted"])
async def test_follow_of_what_never_comes(cluster: Cluster, why: str) -> None:
    """
    A reader is not kept waiting for output that can no longer come.
    """
    agent, reader = await unfinished(cluster)
    match why:
        case "lease":
            await cluster.sweep(LEASE)
        case "reinstalled":
            agent.reinstall()
            await cluster.connect(agent)
        case "command deleted":
            await cluster.delete("m1/c1")
        case _:
            await cluster.plane.machines.delete(cluster.machine_address("m1"))
    assert await reader.end() == b""


async def test_follow_of_an_unknown_outcome(cluster: Cluster) -> None:
    """
    A reader of what is Unknown is let go; nobody can say whether more will come.
    """
    agent, execution_id = await running(cluster)
    agent.write(execution_id, b"so far")
    await cluster.exchange()
    reader = Reader(cluster, execution_id)
    await reader.has(6)
    await cluster.disconnect(agent)
    await cluster.sweep(LEASE)
    assert await reader.end() == b"so far"


async def test_deletion_ends_readers(cluster: Cluster) -> None:
    """
    Readers of a running command end when it was deleted, at the machine's word or at the deadline.
    """
    agent, execution_id = await running(cluster)
    reader = Reader(cluster, execution_id)
    await cluster.disconnect(agent)
    await cluster.delete("m1/c1")
    await asyncio.sleep(0.01)
    assert not reader.task.done()
    cluster.clock.advance(timedelta(hours=2))
    await cluster.plane.sweeper.sweep()
    assert await reader.end() == b""

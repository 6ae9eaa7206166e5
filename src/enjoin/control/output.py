"""The whole output of every execution: the first bytes of a stream in the database, the rest in a file.

Most scripts print little: such output is committed with the report it came with and costs no file. What passes
INLINE_BYTES goes on in `DIR/<hh>/<execution>.<stream>`, byte `n` of the file being byte `INLINE_BYTES + n` of the
stream; writing the same bytes twice changes nothing, and only what the database says was received is ever shown.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final
from uuid import UUID

from enjoin.control import metrics
from enjoin.control.settlement import machine_topic, output_topic
from enjoin.crashpoints import crash_point
from enjoin.model.command import TAIL_BYTES, CommandView, RunCommand
from enjoin.model.execution import Execution, ExecutionState
from enjoin.protocol.messages import STREAMS, OutputChunk
from enjoin.store.base import Store, Transaction

INLINE_BYTES: Final = 64 * 1024
READ_BYTES: Final = 256 * 1024


def without_gaps(chunks: Sequence[OutputChunk], *, received: Mapping[UUID, Mapping[str, int]]) -> Sequence[OutputChunk]:
    """Return `chunks`, those after a gap without their bytes: they are answered, and the machine sends them again."""
    ends: dict[tuple[UUID, str], int] = {}
    taken = []
    for chunk in chunks:
        key = (chunk.execution_id, chunk.stream)
        have = ends.get(key, received[chunk.execution_id].get(chunk.stream, 0))
        if chunk.offset <= have:
            ends[key] = max(have, chunk.offset + len(chunk.data))
            taken.append(chunk)
        else:
            taken.append(OutputChunk(execution_id=chunk.execution_id, stream=chunk.stream, offset=0, data=b""))
    return taken


class Output:
    """Receives output from machines and gives it to readers."""

    def __init__(self, store: Store, directory: Path) -> None:
        """Keep long streams under `directory`, which is made."""
        self._store = store
        self._directory = directory
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def _path(self, execution_id: UUID, stream: str) -> Path:
        return self._directory / execution_id.hex[-2:] / f"{execution_id}.{stream}"

    async def spill(self, chunks: Sequence[OutputChunk]) -> None:
        """Make durable what of `chunks` lies beyond INLINE_BYTES, before the transaction that counts it."""
        beyond = [chunk for chunk in chunks if chunk.offset + len(chunk.data) > INLINE_BYTES]
        if beyond:
            await asyncio.to_thread(self._write, beyond)

    def _write(self, chunks: Sequence[OutputChunk]) -> None:
        files: dict[Path, int] = {}
        try:
            for chunk in chunks:
                path = self._path(chunk.execution_id, chunk.stream)
                if path not in files:
                    files[path] = _open_durably(path)
                skip = max(INLINE_BYTES - chunk.offset, 0)
                _write_at(files[path], chunk.data[skip:], chunk.offset + skip - INLINE_BYTES)
            for descriptor in files.values():
                crash_point("output.spill.before")
                os.fdatasync(descriptor)
                crash_point("output.spill.after")
        finally:
            for descriptor in files.values():
                os.close(descriptor)

    async def receive(self, tx: Transaction, chunks: Sequence[OutputChunk]) -> list[tuple[UUID, str, int]]:
        """Count `chunks`, already spilled, in order; return how far each stream now is. A gap is not taken."""
        received: dict[tuple[UUID, str], int] = {}
        for chunk in chunks:
            key = (chunk.execution_id, chunk.stream)
            if key not in received:
                received[key] = (await tx.received(chunk.execution_id)).get(chunk.stream, 0)
            have, end = received[key], chunk.offset + len(chunk.data)
            if chunk.offset > have or end <= have:
                continue  # a gap: the machine sends from the acknowledged offset again; or all known
            if have < INLINE_BYTES:
                data = chunk.data[have - chunk.offset : INLINE_BYTES - chunk.offset]
                await tx.add_output(chunk.execution_id, chunk.stream, have, data)
            await tx.set_received(chunk.execution_id, chunk.stream, end)
            metrics.received(end - have)
            received[key] = end
        for execution_id in {execution_id for execution_id, _ in received}:
            tx.wake(output_topic(execution_id))
        return [(execution_id, stream, size) for (execution_id, stream), size in received.items()]

    async def remove_files(self, execution_ids: Sequence[UUID]) -> None:
        """Remove the files of executions whose output is gone from the database; absent ones are fine."""
        paths = [self._path(execution_id, stream) for execution_id in execution_ids for stream in STREAMS]
        await asyncio.to_thread(_remove, paths)

    async def size(self, execution: Execution, stream: str) -> int:
        """Return how many bytes of a stream are here."""

        async def work(tx: Transaction) -> int:
            return (await tx.received(execution.id)).get(stream, 0)

        return await self._store.read(work)

    async def read(self, execution: Execution, stream: str, *, offset: int, limit_bytes: int) -> bytes:
        """Return at most `limit_bytes` of a stream from `offset` on; empty at its present end."""
        return await self._read(execution.id, stream, offset, limit_bytes)

    async def _read(self, execution_id: UUID, stream: str, offset: int, limit_bytes: int) -> bytes:
        async def work(tx: Transaction) -> tuple[int, bytes]:
            have = (await tx.received(execution_id)).get(stream, 0)
            if offset >= min(have, INLINE_BYTES):
                return have, b""
            return have, await tx.read_output(execution_id, stream, offset, limit_bytes)

        have, inline = await self._store.read(work)
        wanted = min(limit_bytes, have - offset) - len(inline)
        if wanted <= 0:
            return inline
        position = offset + len(inline) - INLINE_BYTES
        path = self._path(execution_id, stream)
        return inline + await asyncio.to_thread(_read_at, path, position, wanted)

    async def follow(self, execution_id: UUID, stream: str, *, offset: int) -> AsyncIterator[bytes]:
        """Yield a stream's bytes from `offset` on as they arrive, until it is complete or can no longer be."""
        machine_id = await self._machine_of(execution_id)
        if machine_id is None:
            return
        with (
            self._store.subscribe(output_topic(execution_id)) as news,
            self._store.subscribe(machine_topic(machine_id)) as machine_news,
        ):
            waits = [asyncio.ensure_future(news.wait()), asyncio.ensure_future(machine_news.wait())]
            try:
                while True:
                    data = await self._read(execution_id, stream, offset, READ_BYTES)
                    if data:
                        offset += len(data)
                        yield data
                    elif await self._is_over(execution_id, stream, offset):
                        return
                    else:
                        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                        if waits[0].done():
                            waits[0] = asyncio.ensure_future(news.wait())
                        if waits[1].done():
                            waits[1] = asyncio.ensure_future(machine_news.wait())
            finally:
                for wait in waits:
                    wait.cancel()

    async def _machine_of(self, execution_id: UUID) -> UUID | None:
        async def work(tx: Transaction) -> UUID | None:
            execution = await tx.get_execution(execution_id)
            return None if execution is None else execution.machine_id

        return await self._store.read(work)

    async def _is_over(self, execution_id: UUID, stream: str, offset: int) -> bool:
        async def work(tx: Transaction) -> bool:
            execution = await tx.get_execution(execution_id)
            if execution is None or execution.state is ExecutionState.UNKNOWN:
                return True
            if (await tx.received(execution_id)).get(stream, 0) > offset:
                return False
            if not execution.is_terminal:
                return False
            return offset >= _whole_size(execution, stream) or await _is_out_of_reach(tx, execution)

        return await self._store.read(work)

    async def current(self, tx: Transaction, command: RunCommand) -> CommandView:
        """Return the view of a command's current execution, as `view` does."""
        execution = await tx.get_execution(command.execution_id)
        assert execution is not None
        return await self.view(tx, command, execution)

    async def view(self, tx: Transaction, command: RunCommand, execution: Execution) -> CommandView:
        """Return a view whose tails are what the database has; `complete` adds what is in files."""
        received = await tx.received(execution.id)
        tails: dict[str, bytes] = {}
        if execution.is_terminal and execution.outcome.exit_code is not None:
            tails = {"stdout": execution.outcome.stdout_tail, "stderr": execution.outcome.stderr_tail}
        else:
            for stream, have in received.items():
                if 0 < have <= INLINE_BYTES:
                    tails[stream] = await tx.read_output(execution.id, stream, max(have - TAIL_BYTES, 0), TAIL_BYTES)
        return CommandView(command=command, execution=execution, received_bytes=received, tails=tails)

    async def complete(self, view: CommandView) -> CommandView:
        """Return `view` with the tails of long running streams read from their files."""
        missing = [stream for stream in STREAMS if view.received_bytes.get(stream, 0) and stream not in view.tails]
        if not missing:
            return view
        tails = dict(view.tails)
        for stream in missing:
            offset = max(view.received_bytes[stream] - TAIL_BYTES, 0)
            tails[stream] = await self._read(view.execution.id, stream, offset, TAIL_BYTES)
        return replace(view, tails=tails)


async def _is_out_of_reach(tx: Transaction, execution: Execution) -> bool:
    """Whether the machine will not bring the rest: it is gone, was made anew, or its lease ran out."""
    machine = await tx.get_machine(execution.machine_id)
    if machine is None or machine.epoch != execution.delivered_epoch:
        return True
    return not machine.connected and machine.lease_expires_at is None


def _whole_size(execution: Execution, stream: str) -> int:
    outcome = execution.outcome
    return outcome.stdout_bytes if stream == "stdout" else outcome.stderr_bytes


def _remove(paths: Sequence[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def _open_durably(path: Path) -> int:
    """Open a file to be written; one that is made here is found again after a power cut."""
    try:
        return os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        pass
    try:
        path.parent.mkdir(mode=0o700)
    except FileExistsError:
        pass
    else:
        _sync_directory(path.parent.parent)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    _sync_directory(path.parent)
    return descriptor


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        crash_point("output.directory.before")
        os.fsync(descriptor)
        crash_point("output.directory.after")
    finally:
        os.close(descriptor)


def _write_at(descriptor: int, data: bytes, position: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, position)
        view, position = view[written:], position + written


def _read_at(path: Path, position: int, limit_bytes: int) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return b""
    try:
        return os.pread(descriptor, limit_bytes, position)
    finally:
        os.close(descriptor)

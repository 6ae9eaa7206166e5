"""Which executions this machine holds: one append-only file, made durable in groups.

A record is a length and a CRC-32 (four bytes each, big-endian), then MessagePack. What a crash cut off at the end is
cut off again at the next start; nothing was answered for it. The assignment is in the record that accepts it, so the
journal alone can start what was accepted and never begun.
"""

import asyncio
import os
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import UUID

import msgspec
from msgspec import structs

from enjoin.agent.bundle import boot_id, sync_directory
from enjoin.crashpoints import crash_point
from enjoin.protocol.messages import Assignment, StatusReport

COMPACT_ABOVE_BYTES: Final = 4 * 1024 * 1024  # at a start
COMPACT_RUNNING_ABOVE_BYTES: Final = 4 * COMPACT_ABOVE_BYTES  # and when it grew fourfold since the last time
REMEMBER: Final = 100_000  # settled ids kept, newest first: longer than any backup of the control plane
_HEADER_BYTES: Final = 8


class Opened(msgspec.Struct, frozen=True, tag="opened"):
    """An agent started on this journal."""

    sequence: int  # records written before this one, over all compactions
    starts: int  # agents started before this one
    boot_id: str


class Accepted(msgspec.Struct, frozen=True, tag="accepted"):
    """This execution is ours: it may be started, once."""

    assignment: Assignment
    boot_id: str


class Ended(msgspec.Struct, frozen=True, tag="ended"):
    """Its last report. Without an Accepted before it: it must never be started here."""

    report: StatusReport


class Settled(msgspec.Struct, frozen=True, tag="settled"):
    """The server has its outcome and its output."""

    execution_id: UUID


Record = Opened | Accepted | Ended | Settled
_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(Record)


@dataclass(slots=True, kw_only=True)
class Entry:
    """What the journal knows of one execution."""

    assignment: Assignment | None = None  # None once ended, or never accepted
    boot_id: str = ""
    report: StatusReport | None = None  # its last; without its tails once settled
    settled: bool = False


class Journal:
    """The open journal of a running agent. Used from one event loop."""

    def __init__(self, path: Path) -> None:
        """Read what is there, cut off a torn end, and note this start durably."""
        self._path = path
        self.entries: dict[UUID, Entry] = {}
        self.sequence = 0  # durable records ever written, over all compactions
        self.starts = 0  # agents ever started on it
        self._waiting: list[tuple[Record, asyncio.Future[None] | None]] = []
        self._flushing: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="journal")
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._size = self._load()
        self._compact_above = COMPACT_RUNNING_ABOVE_BYTES
        self._is_name_durable = False
        self._write(_frame(Opened(self.sequence, self.starts, boot_id())))
        self.sequence, self.starts = self.sequence + 1, self.starts + 1
        if self._size > COMPACT_ABOVE_BYTES:
            self._compact()

    async def append(self, record: Record) -> None:
        """Return when `record` is durable. Raises OSError when it cannot be; then it is not in the journal."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((record, future))
        if self._flushing is None:
            self._flushing = asyncio.get_running_loop().create_task(self._flush())
        await future

    async def append_all(self, records: Sequence[Record]) -> None:
        """Return when all `records` are durable, in order and in one group. Raises OSError."""
        if not records:
            return
        for record in records[:-1]:
            self.append_later(record)
        await self.append(records[-1])

    def append_later(self, record: Record) -> None:
        """Add `record` to the next group that somebody waits for; losing it costs only a repetition."""
        self._waiting.append((record, None))

    async def close(self) -> None:
        """Write what waits, and let go of the file."""
        if self._waiting and self._flushing is None:
            await self._flush()
        while self._flushing is not None:
            await self._flushing
        self._thread.shutdown()
        os.close(self._descriptor)

    async def _flush(self) -> None:
        """Write group after group; what arrives during one fdatasync shares the next."""
        loop = asyncio.get_running_loop()
        while self._waiting:
            group, self._waiting = self._waiting, []
            try:
                data = b"".join(_frame(record) for record, _ in group)
                await loop.run_in_executor(self._thread, self._write, data)
            except Exception as error:  # noqa: BLE001 - whoever waits must hear of it, and later groups go on
                for _, future in group:
                    if future is not None and not future.done():
                        future.set_exception(error)
                continue
            self.sequence += len(group)
            for record, future in group:
                self._apply(record)
                if future is not None and not future.done():
                    future.set_result(None)
            if self._size > self._compact_above:  # no record is on its way meanwhile
                await loop.run_in_executor(self._thread, self._compact)
        self._flushing = None

    def _write(self, data: bytes) -> None:
        """Append and sync. On failure the file is as before: a half-written group must not hide later records."""
        if not self._is_name_durable:
            self._keep_name()
        crash_point("journal.append.before")
        try:
            position = self._size
            view = memoryview(data)
            while view:
                written = os.pwrite(self._descriptor, view, position)
                view, position = view[written:], position + written
            os.fdatasync(self._descriptor)
        except OSError:
            with suppress(OSError):
                self._take_back()
            raise
        self._size = position
        crash_point("journal.append.after")

    def _take_back(self) -> None:
        """Cut off, durably, what was half written: a crash must not bring back what was refused."""
        os.ftruncate(self._descriptor, self._size)
        crash_point("journal.undo.before")
        os.fdatasync(self._descriptor)
        crash_point("journal.undo.after")

    def _load(self) -> int:
        """Read all whole records; return where they end, having cut off what follows."""
        data = self._path.read_bytes()
        end = 0
        for record, position in _records(data):
            end = position
            self._apply(record)
            self.sequence += 1
            if isinstance(record, Opened):
                self.sequence, self.starts = record.sequence + 1, record.starts + 1
        if end < len(data):
            os.ftruncate(self._descriptor, end)
        return end

    def _apply(self, record: Record) -> None:
        match record:
            case Accepted():
                entry = self.entries.setdefault(record.assignment.execution_id, Entry())
                entry.assignment, entry.boot_id = record.assignment, record.boot_id
            case Ended():
                entry = self.entries.setdefault(record.report.execution_id, Entry())
                entry.assignment, entry.report = None, record.report
            case Settled():
                entry = self.entries.setdefault(record.execution_id, Entry())
                entry.assignment, entry.settled = None, True
                if entry.report is not None:
                    entry.report = structs.replace(entry.report, stdout_tail=b"", stderr_tail=b"")
            case Opened():
                pass

    def _compact(self) -> None:
        """Write the journal anew without what is known to be over, and without the oldest settled ids.

        When that fails, for a full disk mostly, the journal as it was is as good.
        """
        settled = [key for key, entry in self.entries.items() if entry.settled]
        for key in settled[: max(len(settled) - REMEMBER, 0)]:
            del self.entries[key]
        draft = self._path.with_name(f"{self._path.name}.draft")
        try:
            descriptor, size = self._rewrite(draft)
        except OSError:
            draft.unlink(missing_ok=True)
            self._compact_above = 2 * self._size
            return
        os.close(self._descriptor)
        self._descriptor, self._size, self._is_name_durable = descriptor, size, False
        self.sequence += 1
        with suppress(OSError):  # then the next record cannot be written before it is
            self._keep_name()
        self._compact_above = max(COMPACT_RUNNING_ABOVE_BYTES, 4 * size)

    def _rewrite(self, draft: Path) -> tuple[int, int]:
        """Put a shorter journal, durable, in the place of this one; return its descriptor and size."""
        descriptor = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(os.dup(descriptor), "wb") as file:
                for key, entry in self.entries.items():
                    for record in _rewritten(key, entry):
                        file.write(_frame(record))
                file.write(_frame(Opened(self.sequence, self.starts - 1, boot_id())))  # of this start, counted before
                file.flush()
                crash_point("journal.compact.before")
                os.fsync(file.fileno())
                crash_point("journal.compact.after")
                size = file.tell()
            draft.replace(self._path)
        except OSError:
            os.close(descriptor)
            raise
        return descriptor, size

    def _keep_name(self) -> None:
        """Make sure that the next start finds this file and not the one that it replaced."""
        sync_directory(self._path.parent, point="journal.directory")
        self._is_name_durable = True


def _rewritten(execution_id: UUID, entry: Entry) -> Iterator[Record]:
    if entry.assignment is not None:
        yield Accepted(entry.assignment, entry.boot_id)
    if entry.report is not None:
        yield Ended(entry.report)
    if entry.settled:
        yield Settled(execution_id)


def _frame(record: Record) -> bytes:
    body = _encoder.encode(record)
    return len(body).to_bytes(4, "big") + zlib.crc32(body).to_bytes(4, "big") + body


def _records(data: bytes) -> Iterator[tuple[Record, int]]:
    """Yield each whole record and where it ends; stop at the first that is not."""
    position = 0
    while position + _HEADER_BYTES <= len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        checksum = int.from_bytes(data[position + 4 : position + 8], "big")
        body = data[position + _HEADER_BYTES : position + _HEADER_BYTES + length]
        if len(body) < length or zlib.crc32(body) != checksum:
            return
        try:
            record = _decoder.decode(body)
        except msgspec.MsgspecError:
            return
        position += _HEADER_BYTES + length
        yield record, position

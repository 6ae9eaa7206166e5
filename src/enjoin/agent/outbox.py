"""What this machine has to say until the server has it: reports first, then output from the acknowledged offset."""

import asyncio
import os
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from uuid import UUID

from msgspec.structs import replace

from enjoin.protocol.messages import MAX_CHUNK_BYTES, STREAMS, Ack, OutputChunk, StatusReport, ToServer

WINDOW_BYTES: Final = 4 * 1024 * 1024  # of one stream, sent and not yet acknowledged
BATCH_BYTES: Final = 1024 * 1024  # of reports in one frame: after a long absence there may be very many
_REPORT_BYTES: Final = 512  # of a report, without its texts


def now_s() -> float:
    """Return seconds on a clock that counts the time a machine was suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(slots=True, kw_only=True)
class Stream:
    """One output file on its way to the server."""

    execution_id: UUID
    name: str  # "stdout" or "stderr"
    path: Path
    sent: int = 0
    acknowledged: int = 0
    whole: int | None = None  # its final size, once the script ended
    descriptor: int = -1

    def read(self) -> bytes:
        """Return what comes next, at most a chunk and within the window."""
        room = min(self.acknowledged + WINDOW_BYTES - self.sent, MAX_CHUNK_BYTES)
        if self.whole is not None:
            room = min(room, self.whole - self.sent)
        if room <= 0:
            return b""
        if self.descriptor < 0:
            try:
                self.descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            except OSError:  # not there yet, or replaced by a link: nothing of it may stop the others
                return b""
        return os.pread(self.descriptor, room, self.sent)

    @property
    def is_complete(self) -> bool:
        """Whether the server has all of it."""
        return self.whole is not None and self.acknowledged >= self.whole

    def close(self) -> None:
        """Let go of the file."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


@dataclass(slots=True)
class Outbox:
    """Fed by the loop, drained by the channel. Used from one event loop."""

    reports: dict[tuple[UUID, int], StatusReport] = field(default_factory=dict)  # not acknowledged, in order
    streams: dict[tuple[UUID, str], Stream] = field(default_factory=dict)
    settled: asyncio.Event = field(default_factory=asyncio.Event)  # an acknowledgement may have settled something
    ready: asyncio.Event = field(default_factory=asyncio.Event)  # there is something to take
    hurry: asyncio.Event = field(default_factory=asyncio.Event)  # and it is more than output
    _happened_s: dict[tuple[UUID, int], float] = field(default_factory=dict)  # of each report, on the clock of now_s
    _queue: deque[ToServer] = field(default_factory=deque)
    _dirty: dict[tuple[UUID, str], None] = field(default_factory=dict)  # streams that may have more, in turn

    def report(self, report: StatusReport, *, happened_s: float | None = None) -> None:
        """Queue a report; it is repeated at every connection until it is acknowledged.

        `happened_s` is when what it tells happened, on the clock of `now_s`; None for now.
        """
        self.reports[report.execution_id, report.sequence] = report
        self._happened_s[report.execution_id, report.sequence] = now_s() if happened_s is None else happened_s
        self.say(report)

    def say(self, *messages: ToServer) -> None:
        """Queue messages for this connection, before any output."""
        self._queue.extend(messages)
        self.hurry.set()
        self.ready.set()

    def follow(self, execution_id: UUID, directory: Path) -> None:
        """Send the output files of an execution as they grow."""
        for name in STREAMS:
            stream = Stream(execution_id=execution_id, name=name, path=directory / name)
            self.streams[execution_id, name] = stream
        self.touch(execution_id)

    def touch(self, execution_id: UUID) -> None:
        """Note that an execution's files may have grown."""
        for name in STREAMS:
            if (execution_id, name) in self.streams:
                self._dirty[execution_id, name] = None
        self.ready.set()

    def touch_all(self) -> None:
        """Note that any file may have grown: the kernel lost count."""
        for key in self.streams:
            self._dirty[key] = None
        self.ready.set()

    def drop(self, execution_id: UUID) -> None:
        """Stop following an execution's files."""
        for name in STREAMS:
            stream = self.streams.pop((execution_id, name), None)
            if stream is not None:
                stream.close()
            self._dirty.pop((execution_id, name), None)

    def reconnected(self) -> None:
        """Start over for a new connection: all that is not acknowledged is said again."""
        self._queue.clear()
        for stream in self.streams.values():
            stream.sent = stream.acknowledged
        self._queue.extend(self.reports.values())
        self.touch_all()

    def take(self) -> tuple[Sequence[ToServer], bool]:
        """Return what to send next, and whether more output is ready at once."""
        messages: list[ToServer] = []
        room = BATCH_BYTES
        while self._queue and room > 0:
            message = self._queue.popleft()
            room -= _weight(message)
            messages.append(self._dated(message))
        if self._queue:
            return messages, True
        room = MAX_CHUNK_BYTES
        while self._dirty and room > 0:
            key = next(iter(self._dirty))
            stream = self.streams[key]
            data = stream.read()
            if not data:
                del self._dirty[key]  # until its file grows or the window moves
                continue
            messages.append(
                OutputChunk(execution_id=stream.execution_id, stream=stream.name, offset=stream.sent, data=data)
            )
            stream.sent += len(data)
            room -= len(data)
            self._dirty[key] = self._dirty.pop(key)  # to the end: streams take turns
        return messages, bool(self._dirty)

    def _dated(self, message: ToServer) -> ToServer:
        """Return a report with the time that passed since what it tells, as it stands when it is sent."""
        if not isinstance(message, StatusReport):
            return message
        happened_s = self._happened_s.get((message.execution_id, message.sequence))
        return message if happened_s is None else replace(message, ago_s=max(now_s() - happened_s, 0.0))

    def acknowledge(self, ack: Ack) -> None:
        """Forget what the server has."""
        for key in ack.reports:
            self.reports.pop(key, None)
            self._happened_s.pop(key, None)
        for execution_id, name, offset in ack.outputs:
            stream = self.streams.get((execution_id, name))
            if stream is None:
                continue
            if offset < stream.acknowledged:  # the server was restored from a copy: it has less than it said
                stream.sent = offset
            stream.acknowledged = offset
            stream.sent = max(stream.sent, offset)
            self._dirty[execution_id, name] = None
            self.ready.set()
        self.settled.set()


def _weight(message: ToServer) -> int:
    """Return about how many bytes of a frame a message takes."""
    if isinstance(message, StatusReport):
        return _REPORT_BYTES + len(message.message) + len(message.stdout_tail) + len(message.stderr_tail)
    return _REPORT_BYTES

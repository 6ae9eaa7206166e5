"""The kernel's news about files, one descriptor for all of them. Linux only, through libc."""

import asyncio
import ctypes
import os
import struct
from dataclasses import dataclass
from enum import IntFlag
from pathlib import Path
from typing import Final, Self

_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_HEADER: Final = struct.Struct("iIII")  # struct inotify_event: wd, mask, cookie, length of the name that follows
_READ_BYTES: Final = 64 * 1024


class Mask(IntFlag):
    """What to watch for, and what an event says; the names of inotify(7)."""

    MODIFY = 0x002
    CLOSE_WRITE = 0x008
    MOVED_TO = 0x080
    CREATE = 0x100
    DELETE = 0x200
    DELETE_SELF = 0x400
    Q_OVERFLOW = 0x4000  # events were dropped: everything watched may have changed
    IGNORED = 0x8000  # the watch is gone: removed, or its file was deleted


@dataclass(frozen=True, slots=True)
class Event:
    """One event; `wd` is -1 for Q_OVERFLOW."""

    wd: int
    mask: Mask
    name: str  # of the entry when a directory is watched, else ""


class Inotify:
    """A set of watches. Either await `read()`, or give `fileno()` to a loop and call `read_now()` when it is ready."""

    def __init__(self) -> None:
        self._descriptor = _checked(_LIBC.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC), "inotify_init1")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fileno(self) -> int:
        """Return the descriptor that is readable when there are events."""
        return self._descriptor

    def add(self, path: Path, mask: Mask) -> int:
        """Watch `path` and return its watch descriptor; a path that is watched already keeps its own."""
        return _checked(_LIBC.inotify_add_watch(self._descriptor, os.fsencode(path), int(mask)), str(path))

    def remove(self, wd: int) -> None:
        """Stop watching; a watch that is already gone is no error."""
        _LIBC.inotify_rm_watch(self._descriptor, wd)

    def read_now(self) -> list[Event]:
        """Return the events that have arrived; none is no error."""
        try:
            data = os.read(self._descriptor, _READ_BYTES)
        except BlockingIOError:
            return []
        events, offset = [], 0
        while offset < len(data):
            wd, mask, _, length = _HEADER.unpack_from(data, offset)
            offset += _HEADER.size
            name = data[offset : offset + length].rstrip(b"\0")
            offset += length
            events.append(Event(wd, Mask(mask), os.fsdecode(name)))
        return events

    async def read(self) -> list[Event]:
        """Wait for events and return them, at least one. One caller at a time."""
        loop = asyncio.get_running_loop()
        while not (events := self.read_now()):
            ready = loop.create_future()
            loop.add_reader(self._descriptor, _settle, ready)
            try:
                await ready
            finally:
                loop.remove_reader(self._descriptor)
        return events

    def close(self) -> None:
        """End every watch; harmless when repeated."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def _settle(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
    return result

"""What tests do to processes and to the wire between them."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final
from uuid import uuid4

_CHUNK_BYTES: Final = 64 * 1024


class CrashPoint:
    """A place where a process dies by itself. Nothing happens there until `arm` was called, and then once."""

    def __init__(self, name: str, directory: Path, *, armed: bool = False) -> None:
        self.name = name
        self._once = directory / f"crash-{name}-{uuid4().hex}"
        if not armed:
            self._once.touch()

    @property
    def environment(self) -> dict[str, str]:
        """What the process needs to know, from its start."""
        return {"ENJOIN_CRASH_POINT": self.name, "ENJOIN_CRASH_ONCE": str(self._once)}

    def arm(self) -> None:
        """From now on the first process that comes there dies."""
        self._once.unlink()

    @property
    def was_reached(self) -> bool:
        """Whether a process died of it."""
        return self._once.exists()


class Proxy:
    """A line to a server that can be cut (it drops its connections and refuses new ones) and can lose answers."""

    def __init__(self, port: int) -> None:
        self.port = 0
        self.swallowed_bytes = 0
        self.lost_answers = 0
        self._swallows = False
        self._to_lose = 0
        self._target = port
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    @classmethod
    @contextmanager
    def to(cls, port: int) -> "Iterator[Proxy]":
        """Forward a port of its own to `port`."""
        proxy = cls(port)
        proxy._thread.start()
        proxy._do(proxy._listen())
        try:
            yield proxy
        finally:
            proxy.cut()
            proxy._loop.call_soon_threadsafe(proxy._loop.stop)
            proxy._thread.join()
            proxy._loop.close()

    def cut(self) -> None:
        """Drop every connection, in the middle of whatever passes, and take no new one."""
        self._do(self._cut())

    def swallow(self) -> None:
        """From now on keep what comes from both sides, as a line does that is about to break."""
        self._swallows = True

    def mend(self) -> None:
        """Take connections again, on the same port."""
        self._swallows = False
        self._do(self._listen())

    def lose_answers(self, count: int = 1) -> None:
        """Let the next `count` answers of the server never arrive: the connection is dropped in their place.

        An answer is whatever the server sends next, so an open connection has to be idle.
        """
        self._to_lose = count

    def _do(self, work: Coroutine[None, None, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _cut(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in list(self._open):
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        writers = [writer]
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
            writers.append(far_writer)
            ways = [
                asyncio.ensure_future(self._copy(reader, far_writer, lambda: False)),
                asyncio.ensure_future(self._copy(far_reader, writer, self._loses)),
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            for end in writers:
                end.transport.abort()
            self._open.discard(task)

    def _loses(self) -> bool:
        if not self._to_lose:
            return False
        self._to_lose -= 1
        self.lost_answers += 1
        return True

    async def _copy(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, loses: Callable[[], bool]
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(_CHUNK_BYTES):
                if self._swallows:
                    self.swallowed_bytes += len(data)
                    continue
                if loses():
                    return
                writer.write(data)
                await writer.drain()

"""The agent's end of the fork server: keeps one running and hands requests to its spares."""

import asyncio
import os
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

from enjoin.agent import forkserver
from enjoin.agent.records import receive

START_LIMIT_S: Final = 20.0
FIRST_PAUSE_S, LAST_PAUSE_S = 0.05, 5.0  # before a fork server that died is replaced; doubled each time
MAX_LOG_BYTES: Final = 1024 * 1024  # of the fork server's stderr; a new one starts when the agent finds it longer
PASSED_ON: Final = "ENJOIN_CRASH_"  # the only variables of the agent that the fork server inherits


class Pool:
    """One fork server at a time. When it dies its idle spares end, its busy ones go on, and a new one is made."""

    def __init__(self, *, base: str | None, log: Path) -> None:
        self.containment = ""
        self._base, self._log = base, log
        self._process: subprocess.Popen[bytes] | None = None
        self._requests: socket.socket | None = None  # None: no fork server now
        self._waiting: socket.socket | None = None  # the spares' end of it, to take back what none of them took
        self._lifeline: socket.socket | None = None
        self._ready = asyncio.Event()
        self._sending = asyncio.Lock()
        self._replacing: asyncio.Task[None] | None = None
        self._pause_s = FIRST_PAUSE_S

    async def start(self) -> None:
        """Start a fork server and wait until it has spares. Raises OSError when it cannot be started."""
        requests, their_requests = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        lifeline, their_lifeline = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._requests, self._waiting, self._lifeline = requests, their_requests, lifeline
        with their_lifeline:
            self._process = self._spawn(their_requests, their_lifeline)
        requests.settimeout(0)
        lifeline.settimeout(0)
        loop = asyncio.get_running_loop()
        try:
            answer = await asyncio.wait_for(loop.sock_recv(lifeline, 64), START_LIMIT_S)
        except TimeoutError:
            answer = b""
        if not answer:
            await self._end()
            message = f"the fork server ended while it started; its log is {self._log}"
            raise OSError(message)
        self.containment = answer.decode()
        loop.add_reader(lifeline.fileno(), self._lose)
        self._ready.set()

    def _spawn(self, requests: socket.socket, lifeline: socket.socket) -> "subprocess.Popen[bytes]":
        with suppress(FileNotFoundError):
            if self._log.stat().st_size > MAX_LOG_BYTES:
                self._log.unlink()
        descriptor = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        words = [str(requests.fileno()), str(lifeline.fileno()), self._base or "-"]
        try:
            return subprocess.Popen(
                [sys.executable, "-I", "-S", str(Path(forkserver.__file__).resolve()), *words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=descriptor,
                pass_fds=(requests.fileno(), lifeline.fileno()),
                env={name: value for name, value in os.environ.items() if name.startswith(PASSED_ON)},
                start_new_session=True,
            )
        finally:
            os.close(descriptor)

    async def stop(self) -> None:
        """End the fork server and the idle spares; what runs goes on."""
        if self._replacing is not None:
            self._replacing.cancel()
            with suppress(asyncio.CancelledError):
                await self._replacing
        self._forget()
        await self._end()

    def _forget(self) -> None:
        """Close our ends: that is how fork server and spares learn that they are not needed any more."""
        self._ready.clear()
        if self._lifeline is not None:
            asyncio.get_running_loop().remove_reader(self._lifeline.fileno())
        if self._waiting is not None:
            _take_back(self._waiting)
        for end in (self._requests, self._waiting, self._lifeline):
            if end is not None:
                end.close()
        self._requests = self._waiting = self._lifeline = None

    async def _end(self) -> None:
        self._forget()
        if self._process is not None:
            process, self._process = self._process, None
            try:
                await asyncio.to_thread(process.wait, START_LIMIT_S)
            except subprocess.TimeoutExpired:  # stopped by somebody
                process.kill()
                await asyncio.to_thread(process.wait)

    def _lose(self) -> None:
        """See the fork server's end of the lifeline closed: make a new one."""
        self._forget()
        if self._replacing is None or self._replacing.done():
            self._replacing = asyncio.get_running_loop().create_task(self._replace())

    async def _replace(self) -> None:
        while True:
            await self._end()
            await asyncio.sleep(self._pause_s)
            self._pause_s = min(LAST_PAUSE_S, 2 * self._pause_s)
            with suppress(OSError):
                return await self.start()

    async def submit(self, spec: bytes) -> socket.socket:
        """Hand a request to a spare and return our end of its control socket.

        End of file there without a word means that no shim holds the request, nor ever will.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(0)
        memfd = _memfd(spec)
        try:
            with theirs:
                await self._send([memfd, theirs.fileno()])
        except BaseException:
            ours.close()
            raise
        finally:
            os.close(memfd)
        return ours

    async def _send(self, descriptors: list[int]) -> None:
        async with self._sending:
            while True:
                await self._ready.wait()
                assert self._requests is not None
                try:
                    socket.send_fds(self._requests, [b"r"], descriptors)
                except BlockingIOError:
                    await self._room(self._requests)
                except OSError:  # every process of the pool is gone; the lifeline will say so, or did
                    self._lose()
                else:
                    self._pause_s = FIRST_PAUSE_S
                    return

    @staticmethod
    async def _room(requests: socket.socket) -> None:
        """Wait until the socket takes another request."""
        loop, room = asyncio.get_running_loop(), asyncio.Event()
        number = requests.fileno()
        loop.add_writer(number, room.set)
        try:
            await room.wait()
        finally:
            loop.remove_writer(number)


def _take_back(waiting: socket.socket) -> None:
    """Destroy the requests that no shim took: a busy one holds the socket, and would find them hours later."""
    with suppress(OSError):  # EAGAIN: there are no more
        while descriptors := receive(waiting, 1, 2, flags=socket.MSG_DONTWAIT)[1]:
            for descriptor in descriptors:
                os.close(descriptor)


def _memfd(data: bytes) -> int:
    """Return a descriptor of memory that holds `data`: a datagram is bounded, and a file would outlive a secret."""
    descriptor = os.memfd_create("spec")
    with os.fdopen(descriptor, "wb", closefd=False) as file:
        file.write(data)
    return descriptor

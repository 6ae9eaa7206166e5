"""Uvicorn as the control plane runs it: our signals, our end, and what goes on beside it."""

import asyncio
import signal
import socket
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import structlog
import uvicorn
from starlette.applications import Starlette

from enjoin.cli.connections import BoundedHTTP, BoundedWebSocket, cut_stalled, raise_descriptor_limit
from enjoin.protocol.messages import MAX_FRAME_BYTES

log = structlog.get_logger(__name__)
BACKLOG: Final = 2048
GRACEFUL_S: Final = 8
KEEP_ALIVE_S: Final = 75
LET_GO_S: Final = 0.5  # for a client to answer the end of its connection


class _Server(uvicorn.Server):
    """Uvicorn, with a call when it listens."""

    def __init__(self, config: uvicorn.Config, when_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._when_ready = when_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say so."""
        await super().startup(sockets)
        self._when_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End what is under way. A client that only keeps a connection open is not waited for: TLS would, for 30 s."""
        letting_go = asyncio.create_task(self._let_go())
        try:
            await super().shutdown(sockets)
        finally:
            letting_go.cancel()

    async def _let_go(self) -> None:
        while True:
            await asyncio.sleep(LET_GO_S)
            for connection in list(self.server_state.connections):
                transport = connection.transport
                if transport.is_closing() and transport.get_write_buffer_size() == 0:
                    transport.abort()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to run_server: uvicorn would raise SIGTERM again at its end, and the exit code must be 0."""
        yield


def configure(app: Starlette, *, certificate: str, key: str | None) -> uvicorn.Config:
    """Return the settings; `certificate` may hold the key too. The TLS context is there after this."""
    config = uvicorn.Config(
        app,
        loop="none",  # the caller's, uvloop's
        http=BoundedHTTP,
        ws=BoundedWebSocket,
        ws_max_size=MAX_FRAME_BYTES,
        ws_ping_interval=None,  # heartbeats of ours do it, for less
        ws_per_message_deflate=False,
        lifespan="off",
        ssl_certfile=certificate,
        ssl_keyfile=key,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=GRACEFUL_S,
        backlog=BACKLOG,
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
    )
    config.load()
    return config


async def run_server(
    config: uvicorn.Config,
    listener: socket.socket,
    *,
    stopping: asyncio.Event,
    when_ready: Callable[[], None],
    for_ever: Mapping[str, Coroutine[None, None, None]],
) -> None:
    """Serve until SIGTERM or SIGINT, or until one of `for_ever` ends, which none should."""
    raise_descriptor_limit()
    server = _Server(config, when_ready)

    def stop() -> None:
        stopping.set()
        server.should_exit = True

    def ended(task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            log.error("part_failed", part=task.get_name(), exc_info=task.exception())
            stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    parts = {**for_ever, "connections": cut_stalled(server.server_state.connections)}
    tasks = [asyncio.create_task(part, name=name) for name, part in parts.items()]
    for task in tasks:
        task.add_done_callback(ended)
    try:
        await server.serve(sockets=[listener])
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

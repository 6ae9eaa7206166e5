"""A connection that makes no progress is cut, by the clock and without waiting for it here."""

import asyncio
from collections.abc import AsyncIterator
from typing import Final

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from enjoin.cli.connections import (
    BODY_PAUSE_S,
    BODY_WITHIN_S,
    HEAD_WITHIN_S,
    LINGER_S,
    UNREAD_WITHIN_S,
    BoundedHTTP,
)

HEAD: Final = b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n"


class Wire(asyncio.Transport):
    """A transport that only remembers."""

    def __init__(self) -> None:
        super().__init__()
        self.unsent, self.aborted, self.closing = 0, False, False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Take nothing off our hands."""
        self.unsent += len(data)

    def get_write_buffer_size(self) -> int:
        """Return what the peer did not take."""
        return self.unsent

    def is_closing(self) -> bool:
        """Whether we closed it."""
        return self.closing

    def close(self) -> None:
        """Wait for the peer."""
        self.closing = True

    def abort(self) -> None:
        """End it."""
        self.aborted = self.closing = True

    def pause_reading(self) -> None:
        """Nothing is read here."""

    def resume_reading(self) -> None:
        """Nothing is read here."""


async def never(_: Scope, __: Receive, ___: Send) -> None:
    """Serve without an end."""
    await asyncio.Event().wait()


@pytest.fixture
async def connection() -> AsyncIterator[BoundedHTTP]:
    """A connection that was just made; its request is given up at the end."""
    config = uvicorn.Config(never, http=BoundedHTTP, ws="none", lifespan="off", log_config=None)
    config.load()
    connection = BoundedHTTP(config=config, server_state=ServerState(), app_state={})
    connection.connection_made(Wire())
    yield connection
    for task in connection.tasks:
        task.cancel()
    connection.connection_lost(None)  # after which nobody waits for its reader
    await asyncio.gather(*connection.tasks, return_exceptions=True)


def is_cut(connection: BoundedHTTP, after_s: float) -> bool:
    """Whether a look that much later ends it."""
    connection.look(asyncio.get_running_loop().time() + after_s)
    assert isinstance(connection.transport, Wire)
    return connection.transport.aborted


@pytest.mark.parametrize("sent", [b"", b"GET", b"\r\n", b"GET / HTTP/1.1\r\nHost: x\r\n"])
async def test_head(connection: BoundedHTTP, sent: bytes) -> None:
    """
    A head has to be whole within HEAD_WITHIN_S.
    """
    if sent:
        connection.data_received(sent)
    assert not is_cut(connection, HEAD_WITHIN_S - 1)
    assert is_cut(connection, HEAD_WITHIN_S + 1)


async def test_body_that_pauses(connection: BoundedHTTP) -> None:
    """
    A body may be slow, but not silent for BODY_PAUSE_S.
    """
    connection.data_received(HEAD + b"1")
    assert not is_cut(connection, BODY_PAUSE_S - 1)
    assert is_cut(connection, BODY_PAUSE_S + 1)


async def test_body_that_never_ends(connection: BoundedHTTP, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A body that goes on byte by byte ends with BODY_WITHIN_S.
    """
    connection.data_received(HEAD)
    loop = asyncio.get_running_loop()
    now_s = loop.time()
    with monkeypatch.context() as patch:
        patch.setattr(loop, "time", lambda: now_s + BODY_WITHIN_S + 1)
        connection.data_received(b"1")
    assert is_cut(connection, BODY_WITHIN_S + 1)


async def test_request_that_is_being_answered(connection: BoundedHTTP) -> None:
    """
    A whole request may take as long as its answer needs: a held poll, output that is followed.
    """
    connection.data_received(HEAD + b"123456789")
    assert not is_cut(connection, 24 * 3600)


async def test_pipelined_requests_wait_without_limit(connection: BoundedHTTP) -> None:
    """
    A request behind one that is being answered is not read, so nobody is to blame for its pause.
    """
    connection.data_received((HEAD + b"123456789") * 2 + HEAD)
    assert not is_cut(connection, 24 * 3600)


async def test_unread_answer(connection: BoundedHTTP) -> None:
    """
    An answer of which nothing is taken ends after UNREAD_WITHIN_S; one that is taken slowly does not.
    """
    wire = connection.transport
    assert isinstance(wire, Wire)
    connection.data_received(HEAD + b"123456789")
    wire.unsent = 1_000_000
    connection.pause_writing()
    assert not is_cut(connection, 0)
    wire.unsent -= 1
    assert not is_cut(connection, UNREAD_WITHIN_S + 1)
    assert not is_cut(connection, 2 * UNREAD_WITHIN_S)
    assert is_cut(connection, 2 * UNREAD_WITHIN_S + 2)


async def test_read_again(connection: BoundedHTTP) -> None:
    """
    Whoever goes on reading after a pause has all the time again.
    """
    connection.data_received(HEAD + b"123456789")
    connection.pause_writing()
    assert not is_cut(connection, 0)
    connection.resume_writing()
    assert not is_cut(connection, UNREAD_WITHIN_S + 1)
    connection.pause_writing()
    assert not is_cut(connection, UNREAD_WITHIN_S + 2)


async def test_peer_that_does_not_let_go(connection: BoundedHTTP) -> None:
    """
    A connection that we closed and the peer keeps is ended after LINGER_S.
    """
    connection.transport.close()
    assert not is_cut(connection, 0)
    assert is_cut(connection, LINGER_S + 1)

"""What a stranger's connection may cost: bytes before there is a request, and time without progress.

uvicorn itself waits for ever for the rest of a request and for a reader of its answer, and keeps what was read so far.
"""

import asyncio
import resource
from collections.abc import Set as AbstractSet
from typing import Any, Final

import msgspec
import structlog
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame

from enjoin.arm.envelope import render_error
from enjoin.errors import InvalidRequest

log = structlog.get_logger(__name__)
MAX_BARE_BYTES: Final = 128 * 1024  # that make neither a request's head nor a byte of its body: headers, trailers
MAX_PIPELINED: Final = 64  # requests that wait for the answer before theirs: each costs some KiB, a few bytes make one
HEAD_WITHIN_S: Final = 20.0
BODY_PAUSE_S: Final = 20.0
BODY_WITHIN_S: Final = 600.0
UNREAD_WITHIN_S: Final = 300.0  # an answer of which the client takes nothing: someone may be reading it in a pager
LINGER_S: Final = 30.0  # from our end of the connection to the peer's
LOOK_EVERY_S: Final = 1.0
SPARE_DESCRIPTORS: Final = 128  # for the database, files and the listener itself
MAX_FRAGMENTS: Final = 1024  # of one message on the channel
_REFUSAL: Final = "The bytes received are not a request of HTTP/1.1, or are more than one may have before its body."


class TooManyWait(Exception):
    """A connection wrote more requests than anyone does who wants their answers."""


class BoundedHTTP(HttpToolsProtocol):
    """A connection with its limits. A request pays for them with a few assignments; `look` is called now and then."""

    _bare_bytes: int = 0
    _began_s: float | None = None  # the request that is coming in, or the connection
    _moved_s: float = 0.0  # when bytes of it came last
    _body_bytes: int = 0
    _unread: tuple[float, int] | None = None  # since when the answer waits for its reader, and how much of it
    _closing_s: float | None = None  # since when we wait for the peer to let us go

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin, unless there are too many."""
        super().connection_made(transport)
        self._began_s = self._moved_s = self.loop.time()
        if len(self.connections) > max_connections():
            log.warning("connection_refused", reason="too many connections", connections=len(self.connections))
            transport.abort()

    def data_received(self, data: bytes) -> None:
        """Take bytes; refuse the request when too many of them say nothing."""
        before = (self.cycle, self._body_bytes)
        self._moved_s = self.loop.time()
        if self._began_s is None:
            self._began_s = self._moved_s
        super().data_received(data)
        if before != (self.cycle, self._body_bytes):
            self._bare_bytes = 0
            return
        self._bare_bytes += len(data)
        if self._bare_bytes > MAX_BARE_BYTES and not self.transport.is_closing():
            self.send_400_response(_REFUSAL)

    def on_message_begin(self) -> None:
        """Note that a request begins."""
        self._began_s = self._moved_s
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Take a head; raise, which the parser hands back to us as a refusal, when too many wait for their turn."""
        super().on_headers_complete()
        if len(self.pipeline) > MAX_PIPELINED:
            raise TooManyWait

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Note that the request is whole."""
        self._began_s = None
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's words are not an envelope
        """Refuse what the parser cannot read, and close. When earlier requests want their answers nothing is said."""
        cycle = self._current
        if self.pipeline or (cycle is not None and cycle.response_started and not cycle.response_complete):
            self.transport.abort()
            return
        body = msgspec.json.encode(render_error(InvalidRequest(_REFUSAL)))
        head = [
            STATUS_LINE[InvalidRequest.status],
            b"content-type: application/json; charset=utf-8\r\n",
            b"content-length: %d\r\nconnection: close\r\n\r\n" % len(body),
        ]
        self.transport.write(b"".join([*head, body]))
        self.transport.close()

    @property
    def _current(self) -> RequestResponseCycle | None:
        """The last request whose head is whole; uvicorn's own type leaves out that there may be none."""
        return self.cycle

    def look(self, now_s: float) -> None:
        """Close the connection if it makes no progress."""
        if self.transport.is_closing():
            self._closing_s = now_s if self._closing_s is None else self._closing_s
            if now_s - self._closing_s > LINGER_S:
                self.transport.abort()
        elif self._is_unread(now_s) or self._is_stalled(now_s):
            log.info("connection_cut", reason="no progress", body_bytes=self._body_bytes)
            self.transport.abort()

    def _is_unread(self, now_s: float) -> bool:
        if not self.flow.write_paused:
            self._unread = None
            return False
        left = self.transport.get_write_buffer_size()
        if self._unread is None or left != self._unread[1]:
            self._unread = (now_s, left)
        return now_s - self._unread[0] > UNREAD_WITHIN_S

    def _is_stalled(self, now_s: float) -> bool:
        if self._began_s is None:
            return False
        if self.flow.read_paused:  # we do not read: an earlier request of the connection is being answered
            self._began_s = self._moved_s = now_s
            return False
        since_s = now_s - self._began_s
        cycle = self._current
        if cycle is None or cycle.response_complete:  # a head, or the rest of a body that nobody wants
            return since_s > HEAD_WITHIN_S
        return now_s - self._moved_s > BODY_PAUSE_S or since_s > BODY_WITHIN_S


class BoundedWebSocket(WebSocketsSansIOProtocol):
    """The channel's connection with its limits."""

    def pause_writing(self) -> None:
        """Read no more from a peer that does not read: it could make us write pongs without end."""
        super().pause_writing()
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        """Go on."""
        super().resume_writing()
        if not self.read_paused and not self.transport.is_closing():
            self.transport.resume_reading()

    def handle_cont(self, event: Frame) -> None:
        """Take a fragment; a message of very many is none of ours, and empty ones pass every limit of size."""
        if len(self.frames) >= MAX_FRAGMENTS:
            self.conn.fail(1009, "too many fragments")
            self.handle_parser_exception()
            return
        super().handle_cont(event)

    def send_receive_event_to_app(self) -> None:
        """Hand a message over. A text is wrong whatever it says, so it need not be UTF-8."""
        if self.curr_msg_data_type == "text":
            self.frames = [b"".join(self.frames).decode(errors="replace").encode()]
        super().send_receive_event_to_app()


def max_connections() -> int:
    """Return how many connections the descriptors of this process allow."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0] - SPARE_DESCRIPTORS


def raise_descriptor_limit() -> None:
    """Let this process have as many descriptors as it may: each machine needs one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def cut_stalled(connections: AbstractSet[Any]) -> None:
    """Look at every connection, for ever."""
    now_s = asyncio.get_running_loop().time
    while True:
        await asyncio.sleep(LOOK_EVERY_S)
        for connection in list(connections):
            if isinstance(connection, BoundedHTTP):
                connection.look(now_s())

"""The agents' routes: enrolment, and the WebSocket channel (assignments down, reports and output up)."""

import asyncio
import contextlib
import secrets
from typing import Final

import msgspec
import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.websockets import WebSocket, WebSocketDisconnect

from enjoin import __version__
from enjoin.api.services import Services
from enjoin.arm.ids import machine_id_path
from enjoin.control.metrics import CHANNELS_REFUSED
from enjoin.control.sessions import MachineGone, Session
from enjoin.control.settlement import machine_topic
from enjoin.errors import ChannelError, InvalidRequest, StoreUnavailable
from enjoin.model.address import MachineAddress
from enjoin.model.machine import HEARTBEAT
from enjoin.protocol.codec import decode_to_server, encode
from enjoin.protocol.enrolment import EnrolmentAnswer, EnrolmentRequest
from enjoin.protocol.messages import (
    MAX_FRAME_BYTES,
    Challenge,
    Heartbeat,
    Hello,
    MachineDeleted,
    ToAgent,
    ToServer,
    Welcome,
)

log = structlog.get_logger(__name__)
HELLO_WITHIN_S: Final = 20.0
MAX_INBOX_FRAMES: Final = 16  # read ahead of what is durable; then TCP slows the machine down
CLOSE_PROTOCOL_ERROR: Final = 1002
CLOSE_RESTARTING: Final = 1012
CLOSE_TRY_LATER: Final = 1013
CLOSE_REFUSED: Final = 4403
CLOSE_REPLACED: Final = 4409
CLOSE_DELETED: Final = 4410


async def enrol(request: Request) -> Response:
    """POST /enjoin/v1/enrol. 201 with the machine's identity; the token is the credential."""
    services: Services = request.app.state.services
    try:
        wanted = msgspec.json.decode(await request.body(), type=EnrolmentRequest)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        text = f"The enrolment request cannot be read: {error}."
        raise InvalidRequest(text) from error
    enrolled = await services.enrolment.enrol(wanted)
    machine = enrolled.machine
    address = MachineAddress(
        subscription_id=machine.subscription_id,
        resource_group=machine.resource_group,
        kind=machine.kind,
        name=machine.name,
    )
    answer = EnrolmentAnswer(
        machine_id=str(machine.id),
        resource_id=machine_id_path(address),
        server_name=enrolled.server_name,
        sealing_key_id=machine.sealing_key_id,
    )
    return Response(msgspec.json.encode(answer), status_code=201, media_type="application/json")


async def channel(websocket: WebSocket) -> None:
    """GET /enjoin/v1/channel, upgraded. One machine's session, from Challenge to close."""
    services: Services = websocket.app.state.services
    await websocket.accept()
    code, reason = CLOSE_PROTOCOL_ERROR, ""
    try:
        session = await _greet(websocket, services)
        try:
            code, reason = await _Connection(websocket, services, session).run()
        finally:
            await asyncio.shield(services.sessions.close(session))
    except MachineGone:
        await websocket.send_bytes(encode([MachineDeleted()]))
        code, reason = CLOSE_DELETED, "the machine was deleted"
    except ChannelError as error:
        code, reason = CLOSE_REFUSED, str(error)
        CHANNELS_REFUSED.inc()
        log.warning("channel_refused", reason=reason)
    except StoreUnavailable:
        code, reason = CLOSE_TRY_LATER, "the control plane cannot write now"
    except (WebSocketDisconnect, TimeoutError):
        return
    with contextlib.suppress(RuntimeError, WebSocketDisconnect):  # the other end may be gone already
        await websocket.close(code, reason[:120])


async def _greet(websocket: WebSocket, services: Services) -> Session:
    """Challenge the agent, check its Hello, open its session."""
    server_name = services.enrolment.server_name
    nonce = secrets.token_bytes(32)
    await websocket.send_bytes(encode([Challenge(nonce=nonce, server_name=server_name)]))
    async with asyncio.timeout(HELLO_WITHIN_S):
        match decode_to_server(await _frame(websocket)):
            case [Hello() as hello]:
                pass
            case _:
                text = "the first frame of an agent must be one Hello"
                raise ChannelError(text)
    await services.sessions.verify(hello, nonce=nonce, server_name=server_name)
    session = await services.sessions.open(hello)
    welcome = Welcome(session_epoch=session.epoch, heartbeat_s=HEARTBEAT.total_seconds(), server_version=__version__)
    session.outbox.appendleft(welcome)
    session.wake.set()
    return session


async def _frame(websocket: WebSocket) -> bytes:
    message = await websocket.receive()
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", 1005))
    frame = message.get("bytes")
    if frame is None:
        text = "a text frame; the channel speaks binary frames only"
        raise ChannelError(text)
    assert isinstance(frame, bytes)
    return frame


class _Connection:
    """The tasks of one open session."""

    def __init__(self, websocket: WebSocket, services: Services, session: Session) -> None:
        self._websocket = websocket
        self._services = services
        self._session = session
        self._inbox: asyncio.Queue[list[ToServer]] = asyncio.Queue(MAX_INBOX_FRAMES)

    async def run(self) -> tuple[int, str]:
        """Serve until a side ends it; return the close code and reason."""
        ended = asyncio.create_task(self._session.ended.wait())
        stopping = asyncio.create_task(self._services.stopping.wait())
        work = [asyncio.create_task(part) for part in (self._read(), self._apply(), self._write(), self._fetch())]
        try:
            done, _ = await asyncio.wait([ended, stopping, *work], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()  # raises what ended it
        finally:
            for task in (ended, stopping, *work):
                task.cancel()
            await asyncio.gather(ended, stopping, *work, return_exceptions=True)
        if self._services.stopping.is_set():
            return CLOSE_RESTARTING, "the control plane restarts"
        return CLOSE_REPLACED, "another connection of this machine took over, or it fell silent"

    async def _read(self) -> None:
        while True:
            messages = decode_to_server(await _frame(self._websocket))
            self._session.heard_at_s = self._services.clock.monotonic_s()
            news: list[ToServer] = [message for message in messages if not isinstance(message, Heartbeat)]
            if news:
                await self._inbox.put(news)

    async def _apply(self) -> None:
        while True:
            messages = await self._inbox.get()
            size = len(messages)
            while not self._inbox.empty() and size < MAX_FRAME_BYTES:  # what waited shares one commit
                messages += self._inbox.get_nowait()
            ack = await self._services.reports.apply(self._session, messages)
            if ack.reports or ack.outputs:
                self._session.push(ack)

    async def _fetch(self) -> None:
        topic = machine_topic(self._session.machine_id)
        with self._services.store.subscribe(topic) as wakeup:
            while True:
                messages, more = await self._services.assignments.take(self._session)
                self._session.push(*messages)
                if not more:
                    await wakeup.wait()

    async def _write(self) -> None:
        outbox = self._session.outbox
        while True:
            await self._session.wake.wait()
            self._session.wake.clear()
            while outbox:
                frame, count = _fill(list(outbox))
                await self._websocket.send_bytes(frame)
                for _ in range(count):
                    outbox.popleft()


def _fill(messages: list[ToAgent]) -> tuple[bytes, int]:
    """Return one frame with as many messages as fit, at least one, and how many they are."""
    count = len(messages)
    while True:
        try:
            return encode(messages[:count]), count
        except ChannelError:
            if count == 1:
                raise
            count //= 2

"""The WebSocket to the control plane: dial, greet, speak, and dial again with jitter."""

import asyncio
import platform
import random
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI

from enjoin import __version__
from enjoin.agent import log
from enjoin.agent.loop import Loop
from enjoin.agent.state import State
from enjoin.errors import ChannelError
from enjoin.protocol.codec import decode_to_agent, encode
from enjoin.protocol.enrolment import CHANNEL_PATH
from enjoin.protocol.messages import (
    MAX_FRAME_BYTES,
    MAX_HELD,
    PROTOCOL_VERSION,
    Challenge,
    Heartbeat,
    Hello,
    MachineDeleted,
    OutputChunk,
    Welcome,
    signed_content,
)

FIRST_RETRY_S: Final = 0.2
LONGEST_RETRY_S: Final = 30.0
GREETING_S: Final = 20.0
OUTPUT_REST_S: Final = 0.02  # after output was sent, more of it waits this long: fewer, larger frames
SILENCE_S: Final = 150.0  # the server answers each heartbeat's TCP; a write that hangs this long is a dead line


class Deleted(Exception):
    """The control plane says that this machine's resource is gone."""


class Channel:
    """Keeps the machine connected for as long as `run` runs."""

    def __init__(self, state: State, loop: Loop, *, containment: str, on_connect: Callable[[], None]) -> None:
        """Speak for `loop`; call `on_connect` at every connection that stands."""
        self._state = state
        self._loop = loop
        self._containment = containment
        self._on_connect = on_connect
        server = urlsplit(state.identity.server)
        scheme = "wss" if server.scheme == "https" else "ws"
        self._uri = f"{scheme}://{server.netloc}{server.path.rstrip('/')}{CHANNEL_PATH}"
        self._tls = tls_context(state.ca_file) if scheme == "wss" else None

    async def run(self) -> None:
        """Connect, and again after every loss, with a delay that doubles and is jittered. Raises Deleted."""
        delay_s = FIRST_RETRY_S
        while True:
            try:
                async with connect(
                    self._uri,
                    ssl=self._tls,
                    compression=None,
                    ping_interval=None,
                    max_size=MAX_FRAME_BYTES,
                    open_timeout=GREETING_S,
                    close_timeout=1,
                ) as socket:
                    heartbeat_s = await self._greet(socket)
                    delay_s = FIRST_RETRY_S
                    self._on_connect()
                    await self._speak(socket, heartbeat_s)
            except (OSError, TimeoutError, ConnectionClosed, InvalidHandshake, InvalidURI, ChannelError) as error:
                log.warning("not_connected", server=self._state.identity.server, reason=_reason(error))
            await asyncio.sleep(delay_s * random.uniform(0.5, 1.5))  # noqa: S311 - jitter, not a secret
            delay_s = min(delay_s * 2, LONGEST_RETRY_S)

    async def _greet(self, socket: ClientConnection) -> float:
        """Answer the challenge; return the heartbeat's period in seconds."""
        async with asyncio.timeout(GREETING_S):
            match await _receive(socket):
                case [Challenge() as challenge]:
                    pass
                case _:
                    text = "the server did not begin with a challenge"
                    raise ChannelError(text)
            identity = self._state.identity
            if challenge.server_name != identity.server_name:
                text = f"the server is {challenge.server_name!r}; this machine joined {identity.server_name!r}"
                raise ChannelError(text)
            content = signed_content(
                nonce=challenge.nonce,
                server_name=challenge.server_name,
                machine_id=identity.machine_id,
                epoch=identity.epoch,
            )
            os_name, os_version = _operating_system()
            hello = Hello(
                machine_id=identity.machine_id,
                protocol_version=PROTOCOL_VERSION,
                agent_version=__version__,
                epoch=identity.epoch,
                journal_sequence=self._loop.journal_sequence,
                held=self._loop.held()[-MAX_HELD:],
                signature=self._state.signing_key.sign(content),
                os_name=os_name,
                os_version=os_version,
                host_name=platform.node(),
                architecture=platform.machine(),
                containment=self._containment,
            )
            self._loop.outbox.reconnected()
            await socket.send(encode([hello]))
            messages = await _receive(socket)
            for message in messages:
                match message:
                    case MachineDeleted():
                        raise Deleted
                    case Welcome():
                        welcome = message
                        break
            else:
                text = "the server did not welcome the machine"
                raise ChannelError(text)
        for message in messages:
            self._loop.handle(message)
        return welcome.heartbeat_s

    async def _speak(self, socket: ClientConnection, heartbeat_s: float) -> None:
        parts = (self._listen(socket), self._tell(socket), self._beat(heartbeat_s))
        tasks = [asyncio.create_task(part) for part in parts]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _listen(self, socket: ClientConnection) -> None:
        while True:
            for message in await _receive(socket):
                if isinstance(message, MachineDeleted):
                    raise Deleted
                self._loop.handle(message)

    async def _tell(self, socket: ClientConnection) -> None:
        outbox = self._loop.outbox
        while True:
            await outbox.ready.wait()
            outbox.ready.clear()
            more = True
            while more:
                messages, more = outbox.take()
                if messages:
                    async with asyncio.timeout(SILENCE_S):
                        await socket.send(encode(messages))
                    if not more and isinstance(messages[-1], OutputChunk):
                        await self._rest()

    async def _rest(self) -> None:
        """Wait a little before more output; a report that comes meanwhile does not wait."""
        self._loop.outbox.hurry.clear()
        try:
            async with asyncio.timeout(OUTPUT_REST_S):
                await self._loop.outbox.hurry.wait()
        except TimeoutError:
            pass

    async def _beat(self, period_s: float) -> None:
        while True:
            await asyncio.sleep(period_s * random.uniform(0.9, 1.1))  # noqa: S311 - jitter, not a secret
            self._loop.outbox.say(Heartbeat(running=self._loop.running))


async def _receive(socket: ClientConnection) -> list:  # type: ignore[type-arg]
    frame = await socket.recv()
    if isinstance(frame, str):
        text = "a text frame from the server; the channel speaks binary frames only"
        raise ChannelError(text)
    return decode_to_agent(frame)


def tls_context(ca_file: Path | None) -> ssl.SSLContext:
    """Return a client context that trusts `ca_file` alone, or the system's authorities when None."""
    context = ssl.create_default_context(cafile=ca_file)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _operating_system() -> tuple[str, str]:
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        return platform.system(), platform.release()
    return release.get("NAME", platform.system()), release.get("VERSION_ID", "")


def _reason(error: Exception) -> str:
    if isinstance(error, ConnectionClosed) and error.rcvd is not None:
        return f"closed by the server ({error.rcvd.code} {error.rcvd.reason})".replace(" )", ")")
    return str(error) or type(error).__name__

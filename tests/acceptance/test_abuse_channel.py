"""A hostile stranger on the agents' channel: who never says Hello, says nonsense, or says it for somebody else."""

import base64
import os
import ssl
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final
from uuid import uuid4

import pytest
from msgspec.structs import replace

from enjoin.agent.state import State, load
from enjoin.api.agents import HELLO_WITHIN_S
from enjoin.cli.connections import MAX_FRAGMENTS
from enjoin.model.execution import Event
from enjoin.protocol.codec import decode_to_agent, encode
from enjoin.protocol.messages import (
    MAX_FRAME_BYTES,
    PROTOCOL_VERSION,
    Challenge,
    Heartbeat,
    Hello,
    StatusReport,
    Welcome,
    signed_content,
)
from tests.acceptance.abuse import HEAD_END, Target, receive, send
from tests.acceptance.processes import Fleet

UPGRADE: Final = (
    b"GET /enjoin/v1/channel HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n\r\n"
)
CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
REFUSED: Final = 4403
GROWTH_KIB: Final = 48 * 1024


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, mask: bool = True, claims: int = -1) -> bytes:
    """Return one frame as a client writes it; `claims` is its length as told."""
    size = len(payload) if claims < 0 else claims
    first, masked = opcode | (0x80 if fin else 0), 0x80 if mask else 0
    if size < 126:
        head = struct.pack("!BB", first, masked | size)
    elif size < 65536:
        head = struct.pack("!BBH", first, masked | 126, size)
    else:
        head = struct.pack("!BBQ", first, masked | 127, size)
    return head + (bytes(4) if mask else b"") + payload  # a mask of zeros changes nothing


@dataclass(slots=True)
class Channel:
    """An open channel, byte by byte."""

    wire: ssl.SSLSocket
    buffer: bytes = b""

    def say(self, data: bytes) -> bool:
        """Send bytes; return whether the server took them."""
        return send(self.wire, data)

    def _take(self, size: int) -> bytes | None:
        while len(self.buffer) < size:
            piece = receive(self.wire)
            if not piece:
                return None
            self.buffer += piece
        taken, self.buffer = self.buffer[:size], self.buffer[size:]
        return taken

    def hear(self) -> tuple[int, bytes] | None:
        """Return the next frame of the server; None when it closed the connection."""
        head = self._take(2)
        if head is None:
            return None
        size = head[1] & 0x7F
        if size > 125:
            more = self._take(2 if size == 126 else 8)
            if more is None:
                return None
            size = int.from_bytes(more, "big")
        payload = self._take(size)
        return None if payload is None else (head[0] & 0x0F, payload)

    def ending(self) -> int | None:
        """Read to the end; return the code of the close frame, None when there was none."""
        code = None
        while (heard := self.hear()) is not None:
            if heard[0] == CLOSE and len(heard[1]) >= 2:
                code = int.from_bytes(heard[1][:2], "big")
                self.say(frame(CLOSE, heard[1][:2]))
        return code

    def challenge(self) -> Challenge:
        """Return the server's first message."""
        heard = self.hear()
        assert heard is not None
        (challenge,) = decode_to_agent(heard[1])
        assert isinstance(challenge, Challenge)
        return challenge


@contextmanager
def channel(target: Target) -> Iterator[Channel]:
    """Open a channel."""
    with target.wire() as wire:
        send(wire, UPGRADE % base64.b64encode(os.urandom(16)))
        found = b""
        while HEAD_END not in found:
            found += receive(wire) or b"closed" + HEAD_END
        head, _, rest = found.partition(HEAD_END)
        assert head.startswith(b"HTTP/1.1 101 "), head
        yield Channel(wire, rest)


def hello(state: State, challenge: Challenge) -> Hello:
    """Return what the machine itself would say."""
    identity = state.identity
    content = signed_content(
        nonce=challenge.nonce,
        server_name=challenge.server_name,
        machine_id=identity.machine_id,
        epoch=identity.epoch,
    )
    return Hello(
        machine_id=identity.machine_id,
        protocol_version=PROTOCOL_VERSION,
        agent_version="0.1.0",
        epoch=identity.epoch,
        journal_sequence=0,
        held=[],
        signature=state.signing_key.sign(content),
    )


@dataclass(frozen=True, slots=True)
class Stage:
    """A control plane and the keys of two of its machines."""

    target: Target
    own: State
    other: State


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Machines whose agents never run: we speak in their place. At the end the control plane is well."""
    with Fleet(tmp_path_factory.mktemp("channel")) as fleet:
        server = fleet.control_plane()
        own, other = fleet.new_agent(server, "m1"), fleet.new_agent(server, "m2")
        target = Target(server)
        before = target.memory_kib()
        yield Stage(target, load(own.state_dir), load(other.state_dir))
        (answer,) = target.ask(b"GET /readyz HTTP/1.1\r\nHost: x")
        assert answer.status == 200
        assert target.memory_kib() - before < GROWTH_KIB
        assert "Traceback" not in server.logs()


NONSENSE: Final = {
    "no MessagePack": frame(BINARY, b"\xc1" * 100),
    "empty": frame(BINARY),
    "no list": frame(BINARY, b"\x01"),
    "empty list": frame(BINARY, b"\x90"),
    "no UTF-8 inside": frame(BINARY, b"\x91\x81\xa1\xff\xa1\xff"),
    "deep": frame(BINARY, b"\x91" * 100_000),
    "a list that claims to be long": frame(BINARY, b"\xdd\xff\xff\xff\xff"),
    "another first message": frame(BINARY, encode([Heartbeat(running=0)])),
    "two messages": frame(BINARY, encode([Heartbeat(running=0)] * 2)),
    "text": frame(TEXT, b"hello"),
    "text that is no UTF-8": frame(TEXT, b"\xff\xfe"),
    "text in fragments, no UTF-8": frame(TEXT, b"\xc3", fin=False) + frame(CONT, b"("),
    "unmasked": frame(BINARY, b"x", mask=False),
    "a reserved opcode": frame(3, b"x"),
    "reserved bits": bytes([0xF2]) + frame(BINARY, b"x")[1:],
    "a continuation of nothing": frame(CONT, b"x"),
    "a message within another": frame(BINARY, b"x", fin=False) + frame(BINARY, b"y"),
    "a long ping": frame(PING, b"x" * 126),
    "a ping in fragments": frame(PING, b"x", fin=False),
    "a close of one byte": frame(CLOSE, b"x"),
    "a close with a wrong code": frame(CLOSE, struct.pack("!H", 5)),
    "a close whose reason is no UTF-8": frame(CLOSE, struct.pack("!H", 1000) + b"\xff"),
    "oversize": frame(BINARY, b"x" * 1000, claims=MAX_FRAME_BYTES + 1),
    "an enormous claim": frame(BINARY, b"", claims=2**62),
    "HTTP": b"GET / HTTP/1.1\r\n\r\n",
    "empty fragments without end": frame(BINARY, fin=False) + frame(CONT, fin=False) * (MAX_FRAGMENTS * 20),
    "a close": frame(CLOSE, struct.pack("!H", 1000)),
}


@pytest.mark.parametrize("sent", NONSENSE.values(), ids=NONSENSE.keys())
def test_nonsense_ends_the_connection(stage: Stage, sent: bytes) -> None:
    """
    Whatever is said instead of Hello, the channel ends at once, and no machine counts as connected.
    """
    with channel(stage.target) as stranger:
        stranger.challenge()
        stranger.say(sent)
        assert stranger.ending() in (None, 1000, 1002, 1003, 1007, 1008, 1009, REFUSED)


LIES: Final[dict[str, Callable[[Hello, Hello], Hello]]] = {
    "of another machine": lambda own, other: replace(own, machine_id=other.machine_id),
    "with another machine's signature": lambda own, other: replace(own, signature=other.signature),
    "unsigned": lambda own, _: replace(own, signature=b""),
    "with a long signature": lambda own, _: replace(own, signature=b"x" * 100_000),
    "of a machine that is not there": lambda own, _: replace(own, machine_id=uuid4()),
    "with another epoch": lambda own, _: replace(own, epoch="x"),
    "of a protocol to come": lambda own, _: replace(own, protocol_version=PROTOCOL_VERSION + 1),
    "of protocol zero": lambda own, _: replace(own, protocol_version=0),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
def test_lies_are_refused(stage: Stage, lie: Callable[[Hello, Hello], Hello]) -> None:
    """
    A Hello that is not the machine's own is refused with the code that says so.
    """
    with channel(stage.target) as stranger:
        challenge = stranger.challenge()
        stranger.say(frame(BINARY, encode([lie(hello(stage.own, challenge), hello(stage.other, challenge))])))
        assert stranger.ending() == REFUSED


def test_replayed_hello(stage: Stage) -> None:
    """
    A Hello that was overheard is good for its own connection only; each challenge is new.
    """
    with channel(stage.target) as honest, channel(stage.target) as thief:
        first, second = honest.challenge(), thief.challenge()
        assert first.nonce != second.nonce
        overheard = encode([hello(stage.own, first)])
        thief.say(frame(BINARY, overheard))
        assert thief.ending() == REFUSED
        honest.say(frame(BINARY, overheard))
        heard = honest.hear()
        assert heard is not None
        assert isinstance(decode_to_agent(heard[1])[0], Welcome)


def test_machine_that_lies_about_others(stage: Stage) -> None:
    """
    A machine that is who it says can tell of its own executions only; impossible numbers end its connection.
    """
    report = StatusReport(execution_id=uuid4(), sequence=0, journal_sequence=0, event=Event.EXITED_ZERO)
    with channel(stage.target) as machine:
        machine.say(frame(BINARY, encode([hello(stage.own, machine.challenge())])))
        machine.hear()
        machine.say(frame(BINARY, encode([report])))
        assert machine.hear() is not None, "a report of an unknown execution is acknowledged, so that it ends"
        machine.say(frame(BINARY, encode([replace(report, sequence=-1)])))
        assert machine.ending() == REFUSED


def test_thousands_of_pings(stage: Stage) -> None:
    """
    A peer that pings without reading the answers does not grow the server.
    """
    before = stage.target.memory_kib()
    with target_channels(stage.target, 5) as strangers:
        for stranger in strangers:
            stranger.wire.settimeout(1.0)
            for _ in range(200):
                if not stranger.say(frame(PING, b"x" * 125) * 500):
                    break
        assert stage.target.memory_kib() - before < GROWTH_KIB
    with channel(stage.target) as reader:
        reader.challenge()
        reader.say(frame(PING, b"x") * 1000)
        assert [reader.hear() for _ in range(1000)] == [(PONG, b"x")] * 1000


@contextmanager
def target_channels(target: Target, count: int) -> Iterator[list[Channel]]:
    """Open several channels."""
    with ExitStack() as stack:
        yield [stack.enter_context(channel(target)) for _ in range(count)]


def test_no_hello(stage: Stage) -> None:
    """
    Whoever never says Hello is let go after a bounded time; a hundred of them keep no machine out.
    """
    with target_channels(stage.target, 100) as strangers:
        for stranger in strangers:
            stranger.challenge()
        with channel(stage.target) as honest:
            honest.say(frame(BINARY, encode([hello(stage.own, honest.challenge())])))
            assert honest.hear() is not None
        assert HELLO_WITHIN_S < 60
        for stranger in strangers:
            stranger.ending()


HANDSHAKES: Final = {
    "no key": UPGRADE.replace(b"Sec-WebSocket-Key: %s\r\n", b""),
    "a bad key": UPGRADE % b"x",
    "version 7": (UPGRADE % b"AAAAAAAAAAAAAAAAAAAAAA==").replace(b"13", b"7"),
    "POST": (UPGRADE % b"AAAAAAAAAAAAAAAAAAAAAA==").replace(b"GET", b"POST"),
    "another path": (UPGRADE % b"AAAAAAAAAAAAAAAAAAAAAA==").replace(b"channel", b"nothing"),
    "no upgrade": b"GET /enjoin/v1/channel HTTP/1.1\r\nHost: x\r\n\r\n",
}


@pytest.mark.parametrize("sent", HANDSHAKES.values(), ids=HANDSHAKES.keys())
def test_bad_handshakes(stage: Stage, sent: bytes) -> None:
    """
    A handshake that is none is an error of the client, never of the server.
    """
    with stage.target.wire() as wire:
        send(wire, sent)
        status = int(receive(wire).split()[1])
        assert 400 <= status < 500

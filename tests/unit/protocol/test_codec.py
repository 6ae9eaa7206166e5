"""Messages on the wire: every one comes back, unknown fields are ignored, everything else is refused cleanly."""

from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from enjoin.errors import ChannelError
from enjoin.model.execution import Event
from enjoin.protocol.codec import decode_to_agent, decode_to_server, encode
from enjoin.protocol.messages import (
    MAX_FRAME_BYTES,
    Ack,
    Assignment,
    Cancel,
    CancelDone,
    Challenge,
    Heartbeat,
    Hello,
    MachineDeleted,
    NotHeld,
    OutputChunk,
    Question,
    SealedField,
    StatusReport,
    ToAgent,
    ToServer,
    Welcome,
    signed_content,
)

ID = uuid4()
DOWN: list[ToAgent] = [
    Challenge(nonce=bytes(32), server_name="s"),
    Welcome(session_epoch=1, heartbeat_s=60.0, server_version="0.1.0"),
    Assignment(
        execution_id=ID,
        machine_id=ID,
        incarnation_id=ID,
        command="c1",
        generation=2,
        script="#!/bin/sh\n\0é",
        parameters=[("a", "1"), ("", "")],
        protected=[SealedField(name="p", field="f", seal_id=ID, key_id="k", ciphertext=b"\xff", sha256=bytes(32))],
        timeout_s=5,
        supersedes=uuid4(),
    ),
    Question(execution_id=ID),
    Cancel(execution_id=ID, reason="deleted", forget=True),
    Ack(reports=[(ID, 2**40)], outputs=[(ID, "stdout", 7)]),
    MachineDeleted(),
]
UP: list[ToServer] = [
    Hello(
        machine_id=ID,
        protocol_version=1,
        agent_version="0.1.0",
        epoch="e",
        journal_sequence=3,
        held=[ID],
        signature=bytes(64),
    ),
    StatusReport(execution_id=ID, sequence=1, journal_sequence=2, event=Event.EXITED_ZERO, stdout_tail=b"\xff\0"),
    OutputChunk(execution_id=ID, stream="stdout", offset=0, data=b"\0\xff"),
    NotHeld(execution_id=ID, journal_sequence=9),
    CancelDone(execution_id=ID, may_remain=True),
    Heartbeat(running=0),
]


def test_round_trip() -> None:
    """
    Every message comes back as it was, alone and several in a frame.
    """
    assert decode_to_agent(encode(DOWN)) == DOWN
    assert decode_to_server(encode(UP)) == UP
    for down in DOWN:
        assert decode_to_agent(encode([down])) == [down]
    for up in UP:
        assert decode_to_server(encode([up])) == [up]
    assert decode_to_agent(encode([])) == []


def plain(message: ToAgent | ToServer) -> dict[str, Any]:
    """A message as the map that it is on the wire."""
    [fields] = msgspec.msgpack.decode(encode([message]))
    assert isinstance(fields, dict)
    return fields


def test_unknown_fields_are_ignored() -> None:
    """
    A later version may say more.
    """
    for down in DOWN:
        assert decode_to_agent(msgspec.msgpack.encode([plain(down) | {"new": {"deep": [1]}}])) == [down]
    for up in UP:
        assert decode_to_server(msgspec.msgpack.encode([plain(up) | {"new": 1}])) == [up]


@pytest.mark.parametrize("message", [*DOWN, *UP])
def test_missing_fields_are_refused(message: ToAgent | ToServer) -> None:
    """
    Each field without a default must be there, and of its type.
    """
    decode = decode_to_agent if message in DOWN else decode_to_server
    required = {field.encode_name for field in msgspec.structs.fields(message) if field.required}
    for name in (*required, "type"):
        for broken in ({k: v for k, v in plain(message).items() if k != name}, plain(message) | {name: [[]]}):
            with pytest.raises(ChannelError, match="unreadable frame"):
                decode(msgspec.msgpack.encode([broken]))


def test_wrong_direction() -> None:
    """
    What only one side says is refused from the other.
    """
    for down in DOWN:
        with pytest.raises(ChannelError):
            decode_to_server(encode([down]))
    for up in UP:
        with pytest.raises(ChannelError):
            decode_to_agent(encode([up]))


@given(st.binary(max_size=300))
def test_garbage(frame: bytes) -> None:
    """
    Any bytes are a list of messages or a ChannelError, never anything else.
    """
    for decode in (decode_to_agent, decode_to_server):
        try:
            assert isinstance(decode(frame), list)
        except ChannelError:
            continue


@given(st.data())
def test_damaged_frame(data: st.DataObject) -> None:
    """
    The same of real frames that were cut or altered.
    """
    frame = bytearray(encode(data.draw(st.sampled_from([DOWN, UP]))))
    for _ in range(data.draw(st.integers(1, 4))):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(frame[: data.draw(st.integers(0, len(frame)))])
    test_garbage.hypothesis.inner_test(cut)  # type: ignore[attr-defined]


def test_deep_nesting() -> None:
    """
    Nesting without end is refused, not a crash.
    """
    for decode in (decode_to_agent, decode_to_server):
        with pytest.raises(ChannelError):
            decode(b"\x91" * 100_000)


def test_text_that_is_none() -> None:
    """
    A text that is not UTF-8 makes the frame unreadable, like anything else.
    """
    frame = encode([Cancel(execution_id=ID, reason="deleted")]).replace(b"deleted", b"dele\xffed")
    with pytest.raises(ChannelError, match="unreadable frame"):
        decode_to_agent(frame)


def test_frame_limit() -> None:
    """
    A frame over the limit is not made.
    """
    with pytest.raises(ChannelError, match=str(MAX_FRAME_BYTES)):
        encode([OutputChunk(execution_id=ID, stream="stdout", offset=0, data=bytes(MAX_FRAME_BYTES))])


def test_signed_content_is_unambiguous() -> None:
    """
    No two different Hellos sign the same bytes.
    """
    made = {
        signed_content(nonce=nonce, server_name=server, machine_id=machine, epoch=epoch)
        for nonce in (b"", b"a", b"ab")
        for server in ("", "b", "bc")
        for machine in (UUID(int=0), UUID(int=1))
        for epoch in ("", "c")
    }
    assert len(made) == 3 * 3 * 2 * 2

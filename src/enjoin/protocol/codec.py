"""Messages to bytes and back: MessagePack. Unknown fields are ignored, missing ones refused."""

from collections.abc import Sequence
from typing import Final

import msgspec

from enjoin.errors import ChannelError
from enjoin.protocol.messages import MAX_FRAME_BYTES, ToAgent, ToServer

_encoder: Final = msgspec.msgpack.Encoder()
_to_agent: Final = msgspec.msgpack.Decoder(list[ToAgent])
_to_server: Final = msgspec.msgpack.Decoder(list[ToServer])


def encode(messages: Sequence[ToAgent | ToServer]) -> bytes:
    """Return one frame; raise ChannelError when it is over MAX_FRAME_BYTES."""
    frame = _encoder.encode(messages)
    if len(frame) > MAX_FRAME_BYTES:
        text = f"a frame of {len(frame)} bytes; at most {MAX_FRAME_BYTES}"
        raise ChannelError(text)
    return frame


def decode_to_agent(frame: bytes) -> list[ToAgent]:
    """Read what a server sent; raise ChannelError when it is none of its messages."""
    try:
        return _to_agent.decode(frame)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        text = f"unreadable frame from the server: {error}"
        raise ChannelError(text) from error


def decode_to_server(frame: bytes) -> list[ToServer]:
    """Read what an agent sent; raise ChannelError when it is none of its messages."""
    try:
        return _to_server.decode(frame)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        text = f"unreadable frame from the agent: {error}"
        raise ChannelError(text) from error

"""What agent and shim write for each other: sealed lines for files, where a torn write must show; the spec of a run.

Standard library only, and little of it: every shim carries this module.
"""

import array
import errno
import json
import os
import socket
import zlib
from typing import Any


def seal(fields: dict[str, object]) -> bytes:
    """Return one line that `unseal` gives back as `fields`."""
    text = json.dumps(fields, separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def unseal(data: bytes) -> dict[str, Any] | None:
    """Return what the last whole line of `data` says; None if there is none, whatever `data` is."""
    for line in reversed(data.split(b"\n")[:-1]):  # what follows the last newline was cut off
        checksum, _, text = line.partition(b" ")
        if checksum != b"%08x" % zlib.crc32(text):
            continue
        try:
            fields = json.loads(text)
        except ValueError:
            continue
        if isinstance(fields, dict):
            return fields
    return None


def encode_spec(spec: dict[str, object]) -> bytes:
    """Return the text of a request to a shim. Bytes become strings, from which `raw` makes the same bytes again."""
    return json.dumps(spec, default=lambda value: value.decode("utf-8", "surrogateescape")).encode()


def raw(text: str) -> bytes:
    """Return the bytes that `encode_spec` was given."""
    return text.encode("utf-8", "surrogateescape")


def append(descriptor: int, fields: dict[str, object]) -> None:
    """Write one sealed line; what was torn before it stays on a line of its own. Raises OSError if it did not fit."""
    data = b"\n" + seal(fields)
    if os.write(descriptor, data) != len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def receive(end: socket.socket, size_bytes: int, count: int, *, flags: int = 0) -> tuple[bytes, list[int]]:
    """Return one datagram and at most `count` descriptors with it, which no child inherits.

    `socket.recv_fds` will not do: it drops its flags, and each script would be born with the descriptors of its shim.
    """
    descriptors = array.array("i")
    room = socket.CMSG_LEN(count * descriptors.itemsize)
    data, ancillary, _, _ = end.recvmsg(size_bytes, room, flags | socket.MSG_CMSG_CLOEXEC)
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(content[: len(content) - len(content) % descriptors.itemsize])
    return data, list(descriptors)

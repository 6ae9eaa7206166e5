"""Identifiers that sort by the time they were made."""

import os
import threading
import time
from typing import Final
from uuid import UUID

_RANDOM_BITS: Final = 74
_lock = threading.Lock()
_last_ms = 0
_last_random = 0


def new_uuid7() -> UUID:
    """Return a UUIDv7 (RFC 9562 section 5.7): milliseconds, then 74 random bits; later calls here sort later."""
    global _last_ms, _last_random  # noqa: PLW0603 - what "later" means is a fact of the process
    with _lock:
        now_ms = time.time_ns() // 1_000_000
        if now_ms > _last_ms:
            _last_ms = now_ms
            _last_random = int.from_bytes(os.urandom(10), "big") >> 7  # top bit clear: room to count up
        else:
            _last_random += 1
        milliseconds, random = _last_ms, _last_random % (1 << _RANDOM_BITS)
    high, low = random >> 62, random & ((1 << 62) - 1)
    return UUID(int=(milliseconds << 80) | (0x7 << 76) | (high << 64) | (0b10 << 62) | low)

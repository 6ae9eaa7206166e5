"""The agent's log: JSON lines on stderr, with the names that the control plane's log has."""

import os
import sys
from datetime import UTC, datetime
from typing import Final

import msgspec

LEVEL: Final = "ENJOIN_LOG_LEVEL"
LEVELS: Final = ("debug", "info", "warning", "error")
_encode: Final = msgspec.json.Encoder(enc_hook=str).encode


def wanted_level() -> str:
    """Return from which level on lines are written."""
    return os.environ.get(LEVEL, "info").lower()


_written: Final = frozenset(LEVELS[LEVELS.index(wanted_level()) :] if wanted_level() in LEVELS else LEVELS)


def info(event: str, **fields: object) -> None:
    """Write what is as it should be. No value of a parameter, no script and no output belongs into a line."""
    _write("info", event, fields)


def warning(event: str, **fields: object) -> None:
    """Write what mends itself."""
    _write("warning", event, fields)


def error(event: str, **fields: object) -> None:
    """Write what somebody has to look at."""
    _write("error", event, fields)


def _write(level: str, event: str, fields: dict[str, object]) -> None:
    if level not in _written:
        return
    line = {**fields, "event": event, "level": level, "timestamp": datetime.now(UTC).isoformat()}
    print(_encode(line).decode(), file=sys.stderr, flush=True)  # noqa: T201 - the agent's log is its stderr

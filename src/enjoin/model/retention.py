"""How much of the past is kept, and what goes first."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

DAYS: Final = 90
EXECUTIONS: Final = 1000
OUTPUT_BYTES: Final = 50 * 1024**3


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """The bounds of history. The newest execution of a run command is kept whatever they are."""

    age: timedelta = timedelta(days=DAYS)  # since its end; then an execution goes, with its output
    executions: int = EXECUTIONS  # of one run command
    output_bytes: int = OUTPUT_BYTES  # of all executions together; then the oldest outputs go, their records stay


class Fate(StrEnum):
    """What becomes of a past execution."""

    KEPT = "kept"
    WITHOUT_OUTPUT = "without-output"
    GONE = "gone"


def fate(retention: Retention, *, ended_at: datetime, newer_executions: int, output_bytes: int, now: datetime) -> Fate:
    """Return what becomes of an execution that is over and not the newest of its command.

    `newer_executions` of the same command are kept before it; `output_bytes` are its own and those of all that were
    accepted later, of whichever command.
    """
    if ended_at <= now - retention.age or newer_executions >= retention.executions:
        return Fate.GONE
    return Fate.WITHOUT_OUTPUT if output_bytes > retention.output_bytes else Fate.KEPT

"""The life of one execution: its states, the events that move it, and the one function that does so."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Final
from uuid import UUID

from enjoin.errors import IllegalTransition


class ExecutionState(StrEnum):
    """As ARM spells `instanceView.executionState`."""

    PENDING = "Pending"
    RUNNING = "Running"
    UNKNOWN = "Unknown"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    TIMED_OUT = "TimedOut"
    CANCELED = "Canceled"


class Event(StrEnum):
    """What can happen to an execution. The agent sends the ones marked (agent); the control plane finds the others."""

    STARTED = "started"  # (agent) the script's process exists
    READOPTED = "readopted"  # (agent) it is still running, seen after a silence
    NEVER_HELD = "never-held"  # (agent) asked to end it, a machine says that it never had it: see control/reports.py
    REFUSED = "refused"  # (agent) the machine's local policy forbids it
    NOT_PREPARED = "not-prepared"  # (agent) it could not be started: interpreter, disk, secrets, ...
    UNDELIVERED = "undelivered"  # the deadline passed and it had never been written to a channel
    MACHINE_LOST = "machine-lost"  # it was handed over, and the machine's lease or the deadline ran out
    OUTCOME_UNKNOWN = "outcome-unknown"  # (agent) it was started, and nobody saw how it ended
    EXITED_ZERO = "exited-zero"  # (agent)
    EXITED_NONZERO = "exited-nonzero"  # (agent)
    SIGNALED = "signaled"  # (agent) a signal ended it
    INTERRUPTED = "interrupted"  # (agent) its supervisor or its machine went down and it was ended
    TIMED_OUT = "timed-out"  # (agent) it reached timeoutInSeconds and its tree was ended
    CANCELED = "canceled"  # (agent, or the control plane before delivery)


S, E = ExecutionState, Event

ENDINGS: Final[Mapping[Event, ExecutionState]] = {
    E.EXITED_ZERO: S.SUCCEEDED,
    E.EXITED_NONZERO: S.FAILED,
    E.SIGNALED: S.FAILED,
    E.INTERRUPTED: S.FAILED,
    E.NEVER_HELD: S.CANCELED,
    E.REFUSED: S.FAILED,
    E.NOT_PREPARED: S.FAILED,
    E.TIMED_OUT: S.TIMED_OUT,
    E.CANCELED: S.CANCELED,
}

TRANSITIONS: Final[Mapping[ExecutionState, Mapping[Event, ExecutionState]]] = {
    S.PENDING: {
        E.STARTED: S.RUNNING,
        E.READOPTED: S.RUNNING,  # it started, and the report of that was lost with the agent
        E.UNDELIVERED: S.FAILED,
        E.MACHINE_LOST: S.UNKNOWN,  # handed over, and never acknowledged
        E.OUTCOME_UNKNOWN: S.UNKNOWN,
        **ENDINGS,
    },
    S.RUNNING: {E.READOPTED: S.RUNNING, E.MACHINE_LOST: S.UNKNOWN, E.OUTCOME_UNKNOWN: S.UNKNOWN, **ENDINGS},
    # not terminal: the machine may come back and tell
    S.UNKNOWN: {E.STARTED: S.RUNNING, E.READOPTED: S.RUNNING, E.OUTCOME_UNKNOWN: S.UNKNOWN, **ENDINGS},
    S.SUCCEEDED: {},
    S.FAILED: {},
    S.TIMED_OUT: {},
    S.CANCELED: {},
}
TERMINAL: Final = frozenset(state for state, exits in TRANSITIONS.items() if not exits)
OPEN: Final = frozenset(TRANSITIONS) - TERMINAL


class Origin(StrEnum):
    """Which surface asked for an execution."""

    MANAGED = "managed"
    ACTION = "action"
    DEPLOYMENT = "deployment"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a script ended, as the machine saw it."""

    exit_code: int | None = None  # the script's own; -1 if a signal or the timeout ended it
    signal: int | None = None  # which signal, if one did
    stdout_bytes: int = 0  # all that the script wrote, whether or not it arrived here yet
    stderr_bytes: int = 0
    stdout_tail: bytes = b""  # at most the last 4,096 bytes, so that the view is whole before the output is
    stderr_tail: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """One run of a spec on one machine. Its id, a UUIDv7, is its identity everywhere; there are no attempts."""

    id: UUID
    machine_id: UUID
    incarnation_id: UUID  # of the run command whose spec it runs
    generation: int  # 1, 2, ... within the incarnation
    origin: Origin = Origin.MANAGED
    principal_id: UUID
    correlation_id: str
    client_request_id: str | None = None
    created_at: datetime
    deadline_at: datetime  # by when the machine must have acknowledged it
    state: ExecutionState = ExecutionState.PENDING
    message: str = ""  # instanceView.executionMessage
    next_sequence: int = 0  # of the next report that is news
    start_number: int = 1
    supersedes: UUID | None = None  # to be ended before this one starts
    delivered_at: datetime | None = None  # when it was first given to a channel; None: may be given up freely
    delivered_epoch: str | None = None  # of the agent's state directory then
    delivered_sequence: int = 0  # of the agent's journal then
    started_at: datetime | None = None
    ended_at: datetime | None = None
    outcome: Outcome = field(default_factory=Outcome)
    outputs: Mapping[str, str] = field(default_factory=dict)
    output_place: str = "local"  # which store holds the whole output
    output_dropped_at: datetime | None = None  # when retention removed the output

    @property
    def is_terminal(self) -> bool:
        """Whether nothing more can happen to it."""
        return self.state in TERMINAL

    @property
    def was_started(self) -> bool:
        """Whether its script is known to have been started."""
        return self.started_at is not None


def advance(
    execution: Execution,
    event: Event,
    *,
    at: datetime,
    message: str | None = None,
    started_at: datetime | None = None,
    outcome: Outcome | None = None,
) -> Execution:
    """Return `execution` after `event`; raise IllegalTransition if TRANSITIONS has no such row.

    `started_at`, measured by the machine, wins over when the start was heard of. `message` replaces
    `executionMessage` unless None.
    """
    try:
        state = TRANSITIONS[execution.state][event]
    except KeyError:
        text = f"{event.name} does not apply to an execution that is {execution.state}"
        raise IllegalTransition(text) from None
    running = started_at or execution.started_at or (at if state is S.RUNNING else None)
    return replace(
        execution,
        state=state,
        message=execution.message if message is None else message,
        started_at=running,
        ended_at=at if state in TERMINAL else None,
        outcome=outcome if outcome is not None else execution.outcome,
    )

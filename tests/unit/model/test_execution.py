"""The state machine of an execution: every state and event, written down a second time, by hand."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from enjoin.errors import IllegalTransition
from enjoin.model.execution import OPEN, TERMINAL, Event, Execution, ExecutionState, Outcome, advance

S, E = ExecutionState, Event
NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
LATER = NOON + timedelta(minutes=5)
EXECUTION = Execution(
    id=UUID(int=1),
    machine_id=UUID(int=2),
    incarnation_id=UUID(int=3),
    generation=1,
    principal_id=UUID(int=4),
    correlation_id="c",
    created_at=NOON,
    deadline_at=LATER,
    message="waiting",
)

# DESIGN section 4. A pair that is not here must be refused.
ENDINGS = {
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
EXPECTED = {
    S.PENDING: {
        E.STARTED: S.RUNNING,
        E.READOPTED: S.RUNNING,
        E.UNDELIVERED: S.FAILED,
        E.MACHINE_LOST: S.UNKNOWN,
        E.OUTCOME_UNKNOWN: S.UNKNOWN,
    }
    | ENDINGS,
    S.RUNNING: {E.READOPTED: S.RUNNING, E.MACHINE_LOST: S.UNKNOWN, E.OUTCOME_UNKNOWN: S.UNKNOWN} | ENDINGS,
    S.UNKNOWN: {E.STARTED: S.RUNNING, E.READOPTED: S.RUNNING, E.OUTCOME_UNKNOWN: S.UNKNOWN} | ENDINGS,
}


@pytest.mark.parametrize("state", list(S))
@pytest.mark.parametrize("event", list(E))
def test_every_pair(state: ExecutionState, event: Event) -> None:
    """
    Each event does in each state what the design says, or is refused and changes nothing.
    """
    before = replace(EXECUTION, state=state)
    expected = EXPECTED.get(state, {}).get(event)
    if expected is None:
        with pytest.raises(IllegalTransition, match=f"{event.name} .* {state}"):
            advance(before, event, at=LATER)
        return
    after = advance(before, event, at=LATER)
    assert after.state is expected
    assert after.is_terminal == (expected in (S.SUCCEEDED, S.FAILED, S.TIMED_OUT, S.CANCELED))
    assert after.ended_at == (LATER if after.is_terminal else None)
    assert after.message == "waiting"
    assert after.started_at == (LATER if expected is S.RUNNING else None)
    assert after.was_started == (expected is S.RUNNING)


def test_terminal_states() -> None:
    """
    Terminal is what nothing leads out of; Unknown is not: the machine may come back.
    """
    assert {S.SUCCEEDED, S.FAILED, S.TIMED_OUT, S.CANCELED} == TERMINAL
    assert {S.PENDING, S.RUNNING, S.UNKNOWN} == OPEN


def test_every_state_can_end() -> None:
    """
    From every open state some event of the machine leads to a terminal one.
    """
    assert all(set(EXPECTED[state].values()) & TERMINAL for state in OPEN)


def test_what_is_kept() -> None:
    """
    The start stays once heard of until the machine measured it; a message and an outcome replace if there is one.
    """
    running = advance(EXECUTION, E.STARTED, at=NOON, message="running")
    assert (running.started_at, running.message) == (NOON, "running")
    lost = advance(running, E.MACHINE_LOST, at=LATER)
    again = advance(lost, E.READOPTED, at=LATER)
    assert (again.started_at, again.message) == (NOON, "running")
    outcome = Outcome(exit_code=3)
    ended = advance(again, E.EXITED_NONZERO, at=LATER, started_at=LATER, outcome=outcome, message="")
    assert (ended.started_at, ended.outcome, ended.message) == (LATER, outcome, "")
    unseen = advance(EXECUTION, E.EXITED_ZERO, at=LATER, started_at=NOON)
    assert unseen.started_at == NOON

"""How the end of a script becomes the end of an operation: DESIGN's result mapping, row by row."""

from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import pytest

from enjoin.model.execution import Execution, ExecutionState, Outcome
from enjoin.model.operation import (
    FAILURE_CODE,
    NOT_RUN_CODE,
    SUCCEEDED,
    UNKNOWN_CODE,
    Awaits,
    OperationState,
    Verdict,
    verdict,
)

S = ExecutionState
NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)


def execution(state: ExecutionState, *, exit_code: int | None = None, started: bool = False) -> Execution:
    """An execution that came so far."""
    return replace(
        Execution(
            id=UUID(int=1),
            machine_id=UUID(int=2),
            incarnation_id=UUID(int=3),
            generation=1,
            principal_id=UUID(int=4),
            correlation_id="c",
            created_at=NOON,
            deadline_at=NOON,
            message="why",
        ),
        state=state,
        started_at=NOON if started else None,
        outcome=Outcome(exit_code=exit_code),
    )


UNKNOWN = Verdict(state=OperationState.FAILED, code=UNKNOWN_CODE, message="why")
NOT_RUN = Verdict(state=OperationState.FAILED, code=NOT_RUN_CODE, message="why")
TREATED = Verdict(state=OperationState.FAILED, code=FAILURE_CODE, message="why")

# execution, awaits the end: by default and with treatFailureAsDeploymentFailure; awaits the start: by default
ROWS = {
    "waits": (execution(S.PENDING), None, None, None),
    "runs": (execution(S.RUNNING, started=True), None, None, SUCCEEDED),
    "succeeded": (execution(S.SUCCEEDED, exit_code=0, started=True), SUCCEEDED, SUCCEEDED, SUCCEEDED),
    "script failed": (execution(S.FAILED, exit_code=12, started=True), SUCCEEDED, TREATED, SUCCEEDED),
    "signal": (execution(S.FAILED, exit_code=-1, started=True), SUCCEEDED, TREATED, SUCCEEDED),
    "download failed": (execution(S.FAILED, exit_code=-100), SUCCEEDED, TREATED, SUCCEEDED),
    "blob failed": (execution(S.FAILED, exit_code=-101), SUCCEEDED, TREATED, SUCCEEDED),
    "no such user": (execution(S.FAILED, exit_code=-102), SUCCEEDED, TREATED, SUCCEEDED),
    "refused or undelivered": (execution(S.FAILED), NOT_RUN, NOT_RUN, NOT_RUN),
    "started, code not known": (execution(S.FAILED, started=True), SUCCEEDED, TREATED, SUCCEEDED),
    "timed out": (execution(S.TIMED_OUT, exit_code=-1, started=True), SUCCEEDED, TREATED, SUCCEEDED),
    "canceled": (execution(S.CANCELED, exit_code=-1, started=True), SUCCEEDED, TREATED, SUCCEEDED),
    "nobody knows": (execution(S.UNKNOWN, started=True), UNKNOWN, UNKNOWN, UNKNOWN),
}


@pytest.mark.parametrize("name", ROWS)
def test_result_mapping(name: str) -> None:
    """
    The script's failure is the execution's; the operation fails when it was not run, is unknown, or was asked to (F69).
    """
    given, by_default, treated, at_start = ROWS[name]
    assert verdict(given, awaits=Awaits.END, treat_failure=False) == by_default
    assert verdict(given, awaits=Awaits.END, treat_failure=True) == treated
    assert verdict(given, awaits=Awaits.START, treat_failure=False) == at_start


def test_every_state_has_a_row() -> None:
    """
    No state is without an answer.
    """
    assert {row[0].state for row in ROWS.values()} == set(S)

"""ARM long-running operations: what a client polls, and when it is over."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final
from uuid import UUID

from enjoin.model.execution import TERMINAL, Execution, ExecutionState


class OperationState(StrEnum):
    """As ARM spells the `status` of an operation."""

    IN_PROGRESS = "InProgress"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    CANCELED = "Canceled"


class Awaits(StrEnum):
    """What ends an operation."""

    END = "end"  # of the script
    START = "start"  # of the script: asyncExecution
    DELETION = "deletion"  # the machine confirmed that nothing of the command is left
    GROUP_DELETION = "group-deletion"  # every machine of a resource group confirmed it
    NOTHING = "nothing"  # it is over when it is accepted


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One accepted PUT, PATCH, POST or DELETE. Once ended it never changes, whatever is learnt later."""

    id: UUID
    subscription_id: str
    provider: str  # "Microsoft.Compute": part of its URL
    location: str
    resource_path: str  # the resource it is about, as the client spelled it
    awaits: Awaits
    incarnation_id: UUID | None = None
    execution_id: UUID | None = None
    principal_id: UUID
    state: OperationState = OperationState.IN_PROGRESS
    error_code: str | None = None
    error_message: str | None = None
    started_at: datetime
    ended_at: datetime | None = None
    deadline_at: datetime | None = None  # a deletion ends then even if the machine is away


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """How an operation ended."""

    state: OperationState
    code: str | None = None
    message: str | None = None


SUCCEEDED: Final = Verdict(state=OperationState.SUCCEEDED)
PREEMPTED: Final = Verdict(
    state=OperationState.CANCELED,
    code="OperationPreempted",
    message="A later request replaced or deleted the run command before this one was over.",
)
UNKNOWN_CODE: Final = "ExecutionStateUnknown"
NOT_RUN_CODE: Final = "RunCommandNotRun"  # refused, undelivered or not prepared: the script never started
FAILURE_CODE: Final = "RunCommandExecutionFailed"  # under treatFailureAsDeploymentFailure


def verdict(execution: Execution, *, awaits: Awaits, treat_failure: bool) -> Verdict | None:
    """Return how an operation that waits for `execution` ends now, or None when it goes on.

    The mapping is DESIGN's "result mapping": what the script did is the execution's state; the operation fails only
    when the script could not be run, when nobody knows, or when the author asked for it with
    treatFailureAsDeploymentFailure. A script that was to run and could not be prepared (exit codes -100 to -102) is,
    as in Azure, the script's failure.
    """
    if execution.state is ExecutionState.UNKNOWN:
        return Verdict(state=OperationState.FAILED, code=UNKNOWN_CODE, message=execution.message)
    if execution.state is ExecutionState.PENDING:
        return None
    if execution.state is ExecutionState.RUNNING:
        return SUCCEEDED if awaits is Awaits.START else None
    if execution.state is ExecutionState.SUCCEEDED:
        return SUCCEEDED
    assert execution.state in TERMINAL
    if execution.state is ExecutionState.FAILED and execution.outcome.exit_code is None and not execution.was_started:
        return Verdict(state=OperationState.FAILED, code=NOT_RUN_CODE, message=execution.message)
    if treat_failure:
        return Verdict(state=OperationState.FAILED, code=FAILURE_CODE, message=execution.message)
    return SUCCEEDED

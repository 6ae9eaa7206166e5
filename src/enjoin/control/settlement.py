"""How a change of an execution reaches what waits for it: operations, the resource, clients that hold a poll."""

from dataclasses import replace
from datetime import datetime
from uuid import UUID

from enjoin.control import metrics
from enjoin.model.command import RunCommand
from enjoin.model.execution import Event, Execution, Outcome, advance
from enjoin.model.operation import PREEMPTED, SUCCEEDED, Operation, OperationState, Verdict, verdict
from enjoin.model.provisioning import Change, ProvisioningState, change
from enjoin.store.base import Transaction

_CHANGES = {
    OperationState.SUCCEEDED: Change.SUCCEEDED,
    OperationState.FAILED: Change.FAILED,
    OperationState.CANCELED: Change.CANCELED,
}
_SETTLING = (ProvisioningState.CREATING, ProvisioningState.UPDATING)


def machine_topic(machine_id: UUID) -> str:
    """Return the topic that is woken when a machine has something to fetch."""
    return f"machine:{machine_id}"


def operation_topic(operation_id: UUID) -> str:
    """Return the topic that is woken when an operation ends."""
    return f"operation:{operation_id}"


def output_topic(execution_id: UUID) -> str:
    """Return the topic that is woken when an execution has new output or a new state."""
    return f"output:{execution_id}"


def deleted_machine(machine_id: UUID) -> str:
    """Return the setting that keeps a deleted machine's identity key, so that its agent can be told."""
    return f"machine.deleted.{machine_id}"


async def move(
    tx: Transaction,
    execution: Execution,
    event: Event,
    *,
    at: datetime,
    now: datetime,
    message: str | None = None,
    started_at: datetime | None = None,
    outcome: Outcome | None = None,
    next_sequence: int | None = None,
) -> Execution:
    """Advance `execution`, save it, and end every operation that this decides. Raises IllegalTransition."""
    moved = advance(execution, event, at=at, message=message, started_at=started_at, outcome=outcome)
    if next_sequence is not None:
        moved = replace(moved, next_sequence=next_sequence)
    await tx.put_execution(moved)
    metrics.moved(execution, moved)
    tx.wake(output_topic(moved.id))
    command: RunCommand | None = None
    for operation in await tx.open_operations(moved.id):
        command = command or await tx.get_command_for_update(moved.incarnation_id)
        treat_failure = command is not None and command.spec.treat_failure_as_deployment_failure
        decided = verdict(moved, awaits=operation.awaits, treat_failure=treat_failure)
        if decided is not None:
            await end_operation(tx, operation, decided, now=now)
            await _settle(tx, command, moved, decided)
    return moved


async def preempt(tx: Transaction, execution: Execution, *, now: datetime) -> None:
    """End the operations that wait for an execution which a later request replaces or deletes."""
    for operation in await tx.open_operations(execution.id):
        await end_operation(tx, operation, PREEMPTED, now=now)


async def end_operation(tx: Transaction, operation: Operation, decided: Verdict, *, now: datetime) -> None:
    """Record how an operation ended; it never changes afterwards."""
    await tx.put_operation(
        replace(operation, state=decided.state, error_code=decided.code, error_message=decided.message, ended_at=now)
    )
    tx.wake(operation_topic(operation.id))


async def _settle(tx: Transaction, command: RunCommand | None, execution: Execution, decided: Verdict) -> None:
    if command is None or command.execution_id != execution.id or command.provisioning_state not in _SETTLING:
        return  # deleted, or a later generation owns the resource's state
    state = change(command.provisioning_state, _CHANGES[decided.state])
    await tx.put_command(replace(command, provisioning_state=state))


async def finish_deletion(tx: Transaction, incarnation_id: UUID, *, now: datetime) -> None:
    """Remove a run command, and end the operations and the readers of output that wait for that."""
    for operation in await tx.open_deletions(incarnation_id):
        await end_operation(tx, operation, SUCCEEDED, now=now)
    oldest: int | None = None
    while executions := await tx.list_executions(incarnation_id, before_generation=oldest):
        for execution in executions:
            tx.wake(output_topic(execution.id))
        oldest = executions[-1].generation
    await tx.delete_command(incarnation_id)

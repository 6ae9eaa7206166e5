"""Ending what runs of a command: here when its machine never had it, else by orders repeated until confirmed."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from uuid import UUID

from enjoin.control.settlement import finish_deletion, move, output_topic
from enjoin.model.execution import Event, Execution
from enjoin.protocol.messages import Cancel
from enjoin.store.base import CancelOrder, Transaction

CANCELED: str = "canceled"
DELETED: str = "deleted"
MAY_REMAIN: str = "Processes that it started may remain on the machine."
_BEFORE_SENT: str = "Canceled before it was sent to the machine."


async def handed_over(tx: Transaction, execution: Execution) -> Sequence[Execution]:
    """Return those executions of the same command that its machine may be running, or about to run."""
    opened = await tx.delivered_and_open(execution.machine_id)
    return [other for other in opened if other.incarnation_id == execution.incarnation_id]


async def end_command(
    tx: Transaction, execution: Execution, *, reason: str, now: datetime
) -> tuple[Execution, Sequence[Cancel]]:
    """End the current `execution` of a command, and earlier ones that its machine may still run; return the orders.

    An update that never reached the machine did not end what it replaced: that is ordered to end too. A deletion also
    makes the machine forget what it keeps of the last execution that it was given.
    """
    forget = reason == DELETED
    if execution.delivered_at is None and not execution.is_terminal:
        execution = await move(tx, execution, Event.CANCELED, at=now, now=now, message=_BEFORE_SENT)
    targets = {other.id for other in await handed_over(tx, execution)}
    last_given = execution.id if execution.delivered_at is not None else execution.supersedes
    if forget and last_given is not None:
        targets.add(last_given)
    return execution, [
        await order(tx, execution.machine_id, target, reason=reason, now=now) for target in sorted(targets)
    ]


async def order(tx: Transaction, machine_id: UUID, execution_id: UUID, *, reason: str, now: datetime) -> Cancel:
    """Order the machine to end an execution, until it confirms; return the message that says so."""
    forget = reason == DELETED
    await tx.put_cancel(
        CancelOrder(machine_id=machine_id, execution_id=execution_id, reason=reason, forget=forget, ordered_at=now)
    )
    return Cancel(execution_id=execution_id, reason=reason, forget=forget)


async def confirm(
    tx: Transaction, machine_id: UUID, execution_id: UUID, *, now: datetime, may_remain: bool = False
) -> None:
    """Take a machine's word that nothing of an execution runs; the last such word of a deletion ends it.

    What `may_remain`, for all that the machine could see, is said in the execution's message.
    """
    taken = await tx.take_cancel(execution_id)
    if taken is None:
        return
    if taken.machine_id != machine_id:
        await tx.put_cancel(taken)  # not that machine's to confirm
        return
    execution = await tx.get_execution(execution_id)
    if execution is None:
        return  # the deletion ended at its deadline
    tx.wake(output_topic(execution.id))
    if may_remain and MAY_REMAIN not in execution.message:
        await tx.put_execution(replace(execution, message=f"{execution.message} {MAY_REMAIN}".strip()))
    if taken.reason == DELETED and not await _is_awaited(tx, execution):
        await finish_deletion(tx, execution.incarnation_id, now=now)


async def is_ordered(tx: Transaction, execution: Execution) -> bool:
    """Whether the machine was ordered to end `execution`, and has not confirmed."""
    return any(given.execution_id == execution.id for given in await tx.list_cancels(execution.machine_id))


async def _is_awaited(tx: Transaction, execution: Execution) -> bool:
    """Whether the machine has still to confirm the end of another execution of the same deleted command."""
    for given in await tx.list_cancels(execution.machine_id):
        if given.reason == DELETED:
            other = await tx.get_execution(given.execution_id)
            if other is not None and other.incarnation_id == execution.incarnation_id:
                return True
    return False

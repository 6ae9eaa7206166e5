"""PUT and PATCH of run commands: secrets sealed first, then everything in one transaction."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Final
from uuid import UUID

from enjoin.arm.ids import MACHINE_TYPES
from enjoin.clock import Clock
from enjoin.control import metrics
from enjoin.control.accepted import Accepted
from enjoin.control.assignments import Assignments, build_assignment, uninterrupted
from enjoin.control.lookups import no_command, no_parent, refuse_deleting
from enjoin.control.machines import find_machine
from enjoin.control.output import Output
from enjoin.control.puts import Put, new_command, only_tags, retagged, waiting_message
from enjoin.control.repeats import find_repeated, remember
from enjoin.control.sealing import seal_parameters
from enjoin.control.sessions import Session, Sessions
from enjoin.control.settlement import machine_topic, move, preempt
from enjoin.errors import Conflict, NotFound
from enjoin.model.address import Caller, CommandAddress, Trace
from enjoin.model.command import CommandRequest, CommandView, RunCommand
from enjoin.model.entity_tag import Precondition, command_tag
from enjoin.model.execution import Event, Execution, ExecutionState
from enjoin.model.identity import new_uuid7
from enjoin.model.machine import Machine
from enjoin.model.operation import Awaits, Operation, OperationState
from enjoin.model.provisioning import ProvisioningState
from enjoin.protocol.messages import Assignment
from enjoin.store.base import Store, Transaction

_TRIES: Final = 20  # each round at least one of those who change it at the same time gets through
Merge = Callable[[RunCommand], CommandRequest]  # what a PATCH makes of what is there


class _MovedMeanwhile(Exception):
    """What the secrets were sealed for, or a PATCH was merged with, is not what is there now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """A PUT or a PATCH as it came."""

    caller: Caller
    address: CommandAddress
    trace: Trace
    precondition: Precondition
    request: CommandRequest | None  # of a PUT
    merge: Merge | None  # of a PATCH


class Writes:
    """Use cases that make a run command run."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        sessions: Sessions,
        assignments: Assignments,
        output: Output,
        *,
        delivery_deadline: timedelta,
    ) -> None:
        """Give a command up when its machine did not fetch it within `delivery_deadline`."""
        self._store = store
        self._clock = clock
        self._sessions = sessions
        self._assignments = assignments
        self._output = output
        self._delivery_deadline = delivery_deadline

    async def put(
        self,
        caller: Caller,
        address: CommandAddress,
        request: CommandRequest,
        *,
        trace: Trace,
        precondition: Precondition,
    ) -> Accepted:
        """Create or replace, and run."""
        wanted = _Wanted(
            caller=caller, address=address, trace=trace, precondition=precondition, request=request, merge=None
        )
        return await self._write(wanted)

    async def patch(
        self, caller: Caller, address: CommandAddress, merge: Merge, *, trace: Trace, precondition: Precondition
    ) -> Accepted:
        """Change what is there; run it when more than tags changed. `merge` may be asked more than once."""
        wanted = _Wanted(
            caller=caller, address=address, trace=trace, precondition=precondition, request=None, merge=merge
        )
        return await self._write(wanted)

    async def _write(self, wanted: _Wanted) -> Accepted:
        for _ in range(_TRIES):
            put = await self._seal(wanted)
            try:
                return await uninterrupted(self._commit(put))
            except _MovedMeanwhile:
                continue
        text = f"The run command '{wanted.address.name}' is being changed by others at the same time; try again."
        raise Conflict(text)

    async def _commit(self, put: Put) -> Accepted:
        """Store the PUT and hand it over to the machine if that is connected."""
        session = self._sessions.live(put.machine.id)
        accepted, assignment = await self._store.write(partial(self._put, put=put, session=session))
        if assignment is not None:
            self._hand_over(put.machine.id, session, assignment)
        return accepted

    def _hand_over(self, machine_id: UUID, session: Session | None, assignment: Assignment) -> None:
        """Give a committed assignment to the session it was marked for; a later session asks for it instead."""
        live = self._sessions.live(machine_id)
        if session is not None and live is session and not session.ended.is_set():
            session.push(assignment)
        elif live is not None:
            live.ask(assignment.execution_id)

    async def _seal(self, wanted: _Wanted) -> Put:
        """Return the PUT, or what a PATCH amounts to, with its secrets sealed before anything of it is stored."""
        address = wanted.address

        async def work(tx: Transaction) -> tuple[Machine, RunCommand | None]:
            try:
                machine = await find_machine(tx, address.machine)
            except NotFound:
                raise no_parent(address) from None
            refuse_deleting(await tx.get_group(machine.subscription_id, machine.resource_group))
            return machine, await tx.find_command(machine.id, address.name)

        machine, current = await self._store.read(work)
        request, merged_with = wanted.request, None
        if request is None:
            assert wanted.merge is not None
            if current is None:
                raise no_command(address)
            request, merged_with = wanted.merge(current), current.revision
        incarnation_id = current.incarnation_id if current else new_uuid7()
        sealed = (
            None
            if request.protected is None
            else seal_parameters(request.protected, machine=machine, incarnation_id=incarnation_id)
        )
        return Put(
            caller=wanted.caller,
            address=address,
            request=request,
            trace=wanted.trace,
            precondition=wanted.precondition,
            machine=machine,
            incarnation_id=incarnation_id,
            is_update=current is not None,
            merged_with=merged_with,
            sealed=sealed,
        )

    async def _put(self, tx: Transaction, put: Put, session: Session | None) -> tuple[Accepted, Assignment | None]:
        now = self._clock.now()
        repeated = await find_repeated(tx, put.caller, put.trace, now=now)
        if repeated is not None:
            return await self._answer_again(tx, put, repeated), None
        machine = await tx.get_machine(put.machine.id)
        if machine is None:
            raise no_parent(put.address)
        current = await tx.find_command_for_update(machine.id, put.address.name)
        put.precondition.check(command_tag(current) if current else None, what=f"the run command '{put.address.name}'")
        if _is_moved(put, machine, current):
            raise _MovedMeanwhile
        if current is not None and put.merged_with is not None and only_tags(put, current):
            return await self._retag(tx, put, machine, current, now=now), None
        supersedes = await _replace(tx, current, now=now) if current is not None else None
        execution = Execution(
            id=new_uuid7(),
            machine_id=machine.id,
            incarnation_id=put.incarnation_id,
            generation=current.generation + 1 if current else 1,
            principal_id=put.caller.principal_id,
            correlation_id=put.trace.correlation_id,
            client_request_id=put.trace.client_request_id,
            created_at=now,
            deadline_at=now + self._delivery_deadline,
            message=waiting_message(machine),
            supersedes=supersedes,
        )
        if session is not None and not session.ended.is_set():
            execution = self._assignments.hand_over(execution, session)
        command = new_command(put, machine, current, execution)
        awaits = Awaits.START if command.spec.async_execution else Awaits.END
        operation = _operation(put, machine, command, awaits=awaits, execution_id=execution.id, now=now)
        await (tx.add_command(command) if current is None else tx.put_command(command))
        await tx.add_execution(execution)
        metrics.accepted(execution)
        await tx.add_operation(operation)
        await remember(tx, put.caller, put.trace, operation, now=now)
        view = CommandView(command=command, execution=execution, received_bytes={}, tails={})
        accepted = Accepted(view=view, operation=operation, created=current is None)
        if execution.delivered_at is None:
            tx.wake(machine_topic(machine.id))
            return accepted, None
        return accepted, build_assignment(command, execution)

    async def _retag(
        self, tx: Transaction, put: Put, machine: Machine, current: RunCommand, *, now: datetime
    ) -> Accepted:
        """Store a PATCH that runs nothing: what runs goes on, and the operation is over at once."""
        command = retagged(put, current, now=now)
        operation = _operation(put, machine, command, awaits=Awaits.NOTHING, execution_id=None, now=now)
        operation = replace(operation, state=OperationState.SUCCEEDED, ended_at=now)
        await tx.put_command(command)
        await tx.add_operation(operation)
        await remember(tx, put.caller, put.trace, operation, now=now)
        return Accepted(view=await self._output.current(tx, command), operation=operation, created=False)

    async def _answer_again(self, tx: Transaction, put: Put, operation: Operation) -> Accepted:
        """Answer a repetition with what the accepted request led to, as it stands now."""
        current = await tx.find_command(put.machine.id, put.address.name)
        if current is None or current.incarnation_id != operation.incarnation_id:
            text = (
                f"This request was accepted before, and the run command '{put.address.name}' was deleted since; "
                "send it with another x-ms-client-request-id to create and run it again."
            )
            raise Conflict(text)
        view = await self._output.current(tx, current)
        created = operation.execution_id == view.execution.id and view.execution.generation == 1
        return Accepted(view=view, operation=operation, created=created)


def _is_moved(put: Put, machine: Machine, current: RunCommand | None) -> bool:
    """Whether what `put` was made for has changed since."""
    if (current is not None) != put.is_update:
        return True
    if current is not None and current.incarnation_id != put.incarnation_id:
        return True
    if current is not None and put.merged_with not in (None, current.revision):
        return True
    return bool(put.sealed) and machine.sealing_key_id != put.machine.sealing_key_id


async def _replace(tx: Transaction, current: RunCommand, *, now: datetime) -> UUID | None:
    """Give up or supersede the current execution; return the one that the machine must end first."""
    if current.provisioning_state is ProvisioningState.DELETING:
        text = f"The run command '{current.name}' is being deleted; create it again when that is over."
        raise Conflict(text)
    execution = await tx.get_execution_for_update(current.execution_id)
    assert execution is not None
    await preempt(tx, execution, now=now)
    if execution.state is ExecutionState.PENDING and execution.delivered_at is None:
        await move(tx, execution, Event.CANCELED, at=now, now=now, message="Replaced before it was sent.")
        return execution.supersedes
    return execution.id if execution.delivered_at is not None else execution.supersedes


def _operation(
    put: Put, machine: Machine, command: RunCommand, *, awaits: Awaits, execution_id: UUID | None, now: datetime
) -> Operation:
    return Operation(
        id=new_uuid7(),
        subscription_id=machine.subscription_id,
        provider=MACHINE_TYPES[machine.kind].split("/", 1)[0],
        location=command.location,
        resource_path=put.trace.resource_key,
        awaits=awaits,
        incarnation_id=command.incarnation_id,
        execution_id=execution_id,
        principal_id=put.caller.principal_id,
        started_at=now,
    )

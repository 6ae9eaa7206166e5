"""Put, show, list, cancel and delete run commands."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Final
from uuid import UUID

from enjoin.clock import Clock
from enjoin.control.accepted import Accepted
from enjoin.control.assignments import Assignments, build_assignment, uninterrupted
from enjoin.control.cancels import CANCELED, DELETED, end_command, handed_over
from enjoin.control.machines import TYPES, find_machine
from enjoin.control.output import Output
from enjoin.control.puts import Put, new_command, waiting_message
from enjoin.control.repeats import find_repeated, remember
from enjoin.control.sealing import seal_parameters
from enjoin.control.sessions import Session, Sessions
from enjoin.control.settlement import finish_deletion, machine_topic, move, preempt
from enjoin.errors import Conflict, NotFound, ParentNotFound
from enjoin.model.address import Caller, CommandAddress, MachineAddress, Trace
from enjoin.model.command import CommandRequest, CommandView, RunCommand
from enjoin.model.execution import Event, Execution, ExecutionState
from enjoin.model.identity import new_uuid7
from enjoin.model.machine import Machine
from enjoin.model.operation import Awaits, Operation, OperationState
from enjoin.model.provisioning import Change, ProvisioningState, change
from enjoin.protocol.messages import Assignment, Cancel
from enjoin.store.base import Store, Transaction

DELIVERY_DEADLINE: Final = timedelta(minutes=90)
_RESEAL_TRIES: Final = 5


class _MovedMeanwhile(Exception):
    """What the secrets were sealed for is not what is there now."""


class Commands:
    """Use cases of managed run commands."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        sessions: Sessions,
        assignments: Assignments,
        output: Output,
        *,
        delivery_deadline: timedelta = DELIVERY_DEADLINE,
    ) -> None:
        """Give a command up when its machine did not fetch it within `delivery_deadline`."""
        self._store = store
        self._clock = clock
        self._sessions = sessions
        self._assignments = assignments
        self._output = output
        self._delivery_deadline = delivery_deadline

    async def put(self, caller: Caller, address: CommandAddress, request: CommandRequest, *, trace: Trace) -> Accepted:
        """Create or replace, and run. A repetition of an accepted request answers that one and starts nothing."""
        for _ in range(_RESEAL_TRIES):
            put = await self._seal(caller, address, request, trace)
            try:
                return await uninterrupted(self._commit(put))
            except _MovedMeanwhile:
                continue
        text = f"The run command '{address.name}' is being changed by others at the same time; try again."
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

    async def _seal(self, caller: Caller, address: CommandAddress, request: CommandRequest, trace: Trace) -> Put:
        """Return the PUT with its secrets sealed, before anything of it is stored."""

        async def work(tx: Transaction) -> tuple[Machine, RunCommand | None]:
            try:
                machine = await find_machine(tx, address.machine)
            except NotFound:
                raise _no_parent(address) from None
            return machine, await tx.find_command(machine.id, address.name)

        machine, current = await self._store.read(work)
        incarnation_id = current.incarnation_id if current else new_uuid7()
        sealed = (
            None
            if request.protected is None
            else seal_parameters(request.protected, machine=machine, incarnation_id=incarnation_id)
        )
        return Put(
            caller=caller,
            address=address,
            request=request,
            trace=trace,
            machine=machine,
            incarnation_id=incarnation_id,
            is_update=current is not None,
            sealed=sealed,
        )

    async def _put(self, tx: Transaction, put: Put, session: Session | None) -> tuple[Accepted, Assignment | None]:
        now = self._clock.now()
        repeated = await find_repeated(tx, put.caller, put.trace, now=now)
        if repeated is not None:
            return await self._answer_again(tx, put, repeated), None
        machine = await tx.get_machine(put.machine.id)
        if machine is None:
            raise _no_parent(put.address)
        current = await tx.find_command_for_update(machine.id, put.address.name)
        is_moved = (current is not None) != put.is_update or (
            current is not None and current.incarnation_id != put.incarnation_id
        )
        if is_moved or (put.sealed and machine.sealing_key_id != put.machine.sealing_key_id):
            raise _MovedMeanwhile
        supersedes = await self._replace(tx, current, now=now) if current is not None else None
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
        operation = Operation(
            id=new_uuid7(),
            subscription_id=machine.subscription_id,
            provider=TYPES[machine.kind].split("/", 1)[0],
            location=command.location,
            resource_path=put.trace.resource_key,
            awaits=Awaits.START if command.spec.async_execution else Awaits.END,
            incarnation_id=command.incarnation_id,
            execution_id=execution.id,
            principal_id=put.caller.principal_id,
            started_at=now,
        )
        await (tx.add_command(command) if current is None else tx.put_command(command))
        await tx.add_execution(execution)
        await tx.add_operation(operation)
        await remember(tx, put.caller, put.trace, operation, now=now)
        view = CommandView(command=command, execution=execution, received_bytes={}, tails={})
        accepted = Accepted(view=view, operation=operation, created=current is None)
        if execution.delivered_at is None:
            tx.wake(machine_topic(machine.id))
            return accepted, None
        return accepted, build_assignment(command, execution)

    async def _answer_again(self, tx: Transaction, put: Put, operation: Operation) -> Accepted:
        """Answer a repetition with what the accepted request led to, as it stands now."""
        current = await tx.find_command(put.machine.id, put.address.name)
        if current is None or current.incarnation_id != operation.incarnation_id:
            text = (
                f"This request was accepted before, and the run command '{put.address.name}' was deleted since; "
                "send it with another x-ms-client-request-id to create and run it again."
            )
            raise Conflict(text)
        view = await self._view(tx, current)
        created = operation.execution_id == view.execution.id and view.execution.generation == 1
        return Accepted(view=view, operation=operation, created=created)

    async def _replace(self, tx: Transaction, current: RunCommand, *, now: datetime) -> UUID | None:
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

    async def get(self, address: CommandAddress) -> CommandView:
        """Return a run command with its current execution; raise NotFound."""

        async def work(tx: Transaction) -> CommandView:
            return await self._view(tx, await _find(tx, address))

        return await self._output.complete(await self._store.read(work))

    async def list(self, machine: MachineAddress, *, after_name: str, limit: int) -> Sequence[CommandView]:
        """Return at most `limit` run commands of a machine, by name, after `after_name`."""

        async def work(tx: Transaction) -> list[CommandView]:
            found = await find_machine(tx, machine)
            commands = await tx.list_commands(found.id, after_name=after_name, limit=limit)
            return [await self._view(tx, command) for command in commands]

        return [await self._output.complete(view) for view in await self._store.read(work)]

    async def _view(self, tx: Transaction, command: RunCommand) -> CommandView:
        execution = await tx.get_execution(command.execution_id)
        assert execution is not None
        return await self._output.view(tx, command, execution)

    async def executions(
        self, address: CommandAddress, *, before_generation: int | None, limit: int
    ) -> Sequence[Execution]:
        """Return at most `limit` executions, newest first."""

        async def work(tx: Transaction) -> Sequence[Execution]:
            command = await _find(tx, address)
            return await tx.list_executions(command.incarnation_id, before_generation=before_generation, limit=limit)

        return await self._store.read(work)

    async def execution(self, address: CommandAddress, generation: int) -> Execution:
        """Return one execution; raise NotFound."""

        async def work(tx: Transaction) -> Execution:
            command = await _find(tx, address)
            execution = await tx.find_execution(command.incarnation_id, generation)
            if execution is None:
                text = (
                    f"The run command '{command.name}' has no generation {generation}; "
                    f"the newest is {command.generation}."
                )
                raise NotFound(text)
            return execution

        return await self._store.read(work)

    async def cancel(self, caller: Caller, address: CommandAddress, *, trace: Trace) -> Execution:  # noqa: ARG002 - who and why, for the audit
        """Ask for the end of what runs; return the execution as it stands. One that ended is left as it is."""

        async def work(tx: Transaction) -> tuple[Execution, Sequence[Cancel]]:
            command = await _find(tx, address)
            execution = await tx.get_execution_for_update(command.execution_id)
            assert execution is not None
            if execution.is_terminal and not await handed_over(tx, execution):
                return execution, ()
            return await end_command(tx, execution, reason=CANCELED, now=self._clock.now())

        async def end() -> Execution:
            execution, orders = await self._store.write(work)
            self._send(execution.machine_id, orders)
            return execution

        return await uninterrupted(end())

    async def delete(self, caller: Caller, address: CommandAddress, *, trace: Trace) -> Operation | None:
        """Delete a run command, ending what runs; None when there is none."""

        async def work(tx: Transaction) -> tuple[Operation, UUID, Sequence[Cancel]] | None:
            machine = await find_machine(tx, address.machine)
            command = await tx.find_command_for_update(machine.id, address.name)
            if command is None:
                return None
            return await self._delete(tx, caller, machine, command, trace)

        async def end() -> Operation | None:
            done = await self._store.write(work)
            if done is None:
                return None
            operation, machine_id, orders = done
            self._send(machine_id, orders)
            return operation

        return await uninterrupted(end())

    async def _delete(
        self, tx: Transaction, caller: Caller, machine: Machine, command: RunCommand, trace: Trace
    ) -> tuple[Operation, UUID, Sequence[Cancel]]:
        now = self._clock.now()
        for operation in await tx.open_deletions(command.incarnation_id):
            return operation, machine.id, ()
        execution = await tx.get_execution_for_update(command.execution_id)
        assert execution is not None
        await preempt(tx, execution, now=now)
        operation = Operation(
            id=new_uuid7(),
            subscription_id=machine.subscription_id,
            provider=TYPES[machine.kind].split("/", 1)[0],
            location=command.location,
            resource_path=trace.resource_key,
            awaits=Awaits.DELETION,
            incarnation_id=command.incarnation_id,
            principal_id=caller.principal_id,
            started_at=now,
            deadline_at=now + self._delivery_deadline,
        )
        may_run = await handed_over(tx, execution)
        execution, orders = await end_command(tx, execution, reason=DELETED, now=now)
        await tx.put_command(
            replace(command, provisioning_state=change(command.provisioning_state, Change.DELETE_ACCEPTED))
        )
        await tx.add_operation(operation)
        if not orders or (not may_run and not machine.connected):
            # nothing of it can be running that anyone waits for; what the machine keeps goes when it is back
            await finish_deletion(tx, command.incarnation_id, now=now)
            operation = replace(operation, state=OperationState.SUCCEEDED, ended_at=now)
        return operation, machine.id, orders

    def _send(self, machine_id: UUID, orders: Sequence[Cancel]) -> None:
        session = self._sessions.live(machine_id)
        if session is not None:
            session.push(*orders)


async def _find(tx: Transaction, address: CommandAddress) -> RunCommand:
    machine = await find_machine(tx, address.machine)
    command = await tx.find_command(machine.id, address.name)
    if command is None:
        kind = TYPES[address.machine.kind]
        text = (
            f"The Resource '{kind}/{address.machine.name}/runCommands/{address.name}' under resource group "
            f"'{address.machine.resource_group}' was not found."
        )
        raise NotFound(text)
    return command


def _no_parent(address: CommandAddress) -> ParentNotFound:
    kind = TYPES[address.machine.kind]
    text = (
        f"Failed to perform 'write' on resource(s) of type '{kind}/runCommands', because the parent resource "
        f"'/subscriptions/{address.machine.subscription_id}/resourceGroups/{address.machine.resource_group}"
        f"/providers/{kind}/{address.machine.name}' could not be found."
    )
    return ParentNotFound(text)

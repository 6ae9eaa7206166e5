"""Put, show, list, cancel and delete run commands."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Final
from uuid import UUID

from enjoin.arm.ids import MACHINE_TYPES
from enjoin.clock import Clock
from enjoin.control.accepted import Accepted
from enjoin.control.assignments import Assignments, uninterrupted
from enjoin.control.cancels import CANCELED, DELETED, end_command, handed_over
from enjoin.control.lookups import find_command
from enjoin.control.machines import find_machine
from enjoin.control.output import Output
from enjoin.control.sessions import Sessions
from enjoin.control.settlement import finish_deletion, preempt
from enjoin.control.writes import Merge, Writes
from enjoin.errors import Expired, NotFound
from enjoin.model.address import Caller, CommandAddress, MachineAddress, Trace
from enjoin.model.command import CommandRequest, CommandView, RunCommand
from enjoin.model.entity_tag import NO_PRECONDITION, Precondition, command_tag
from enjoin.model.execution import Execution
from enjoin.model.identity import new_uuid7
from enjoin.model.machine import Machine
from enjoin.model.operation import Awaits, Operation, OperationState
from enjoin.model.provisioning import Change, change
from enjoin.protocol.messages import Cancel
from enjoin.store.base import Store, Transaction

DELIVERY_DEADLINE: Final = timedelta(minutes=90)


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
        self._writes = Writes(store, clock, sessions, assignments, output, delivery_deadline=delivery_deadline)

    async def put(
        self,
        caller: Caller,
        address: CommandAddress,
        request: CommandRequest,
        *,
        trace: Trace,
        precondition: Precondition = NO_PRECONDITION,
    ) -> Accepted:
        """Create or replace, and run. A repetition of an accepted request answers that one and starts nothing."""
        return await self._writes.put(caller, address, request, trace=trace, precondition=precondition)

    async def patch(
        self,
        caller: Caller,
        address: CommandAddress,
        merge: Merge,
        *,
        trace: Trace,
        precondition: Precondition = NO_PRECONDITION,
    ) -> Accepted:
        """Change what is there, and run it when anything but its tags changed; raise NotFound."""
        return await self._writes.patch(caller, address, merge, trace=trace, precondition=precondition)

    async def get(self, address: CommandAddress) -> CommandView:
        """Return a run command with its current execution; raise NotFound."""

        async def work(tx: Transaction) -> CommandView:
            return await self._output.current(tx, await find_command(tx, address))

        return await self._output.complete(await self._store.read(work))

    async def list(self, machine: MachineAddress, *, after_name: str, limit: int) -> Sequence[CommandView]:
        """Return at most `limit` run commands of a machine, by name, after `after_name`."""

        async def work(tx: Transaction) -> list[CommandView]:
            found = await find_machine(tx, machine)
            commands = await tx.list_commands(found.id, after_name=after_name, limit=limit)
            return [await self._output.current(tx, command) for command in commands]

        return [await self._output.complete(view) for view in await self._store.read(work)]

    async def executions(
        self, address: CommandAddress, *, before_generation: int | None, limit: int
    ) -> Sequence[Execution]:
        """Return at most `limit` executions, newest first."""

        async def work(tx: Transaction) -> Sequence[Execution]:
            command = await find_command(tx, address)
            return await tx.list_executions(command.incarnation_id, before_generation=before_generation, limit=limit)

        return await self._store.read(work)

    async def execution(self, address: CommandAddress, generation: int) -> Execution:
        """Return one execution; raise NotFound, or Expired when retention removed it."""

        async def work(tx: Transaction) -> Execution:
            command = await find_command(tx, address)
            execution = await tx.find_execution(command.incarnation_id, generation)
            if execution is None and 1 <= generation < command.generation:
                text = (
                    f"Generation {generation} of the run command '{command.name}' was removed: "
                    "history does not reach back that far any more."
                )
                raise Expired(text)
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
            command = await find_command(tx, address)
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

    async def delete(
        self, caller: Caller, address: CommandAddress, *, trace: Trace, precondition: Precondition = NO_PRECONDITION
    ) -> Operation | None:
        """Delete a run command, ending what runs; None when there is none: an earlier try may have succeeded."""

        async def work(tx: Transaction) -> tuple[Operation, UUID, Sequence[Cancel]] | None:
            machine = await find_machine(tx, address.machine)
            command = await tx.find_command_for_update(machine.id, address.name)
            if command is None:
                return None
            precondition.check(command_tag(command), what=f"the run command '{command.name}'")
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
            provider=MACHINE_TYPES[machine.kind].split("/", 1)[0],
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

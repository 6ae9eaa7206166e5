"""Resource groups: made, changed, and deleted with all that is in them."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Final
from uuid import UUID

from enjoin.arm.group import GroupRequest
from enjoin.arm.ids import group_id_path
from enjoin.clock import Clock
from enjoin.control.assignments import uninterrupted
from enjoin.control.cancels import CANCELED, order
from enjoin.control.directory import check_group_name, find_group, find_subscription
from enjoin.control.lookups import refuse_deleting
from enjoin.control.machines import remove_machine
from enjoin.control.sessions import Sessions
from enjoin.control.settlement import end_operation, move, preempt
from enjoin.errors import Conflict, LocationRequired
from enjoin.model.address import Caller
from enjoin.model.directory import ResourceGroup
from enjoin.model.entity_tag import NO_PRECONDITION, Precondition, group_tag
from enjoin.model.execution import Event
from enjoin.model.identity import new_uuid7
from enjoin.model.machine import Machine
from enjoin.model.operation import SUCCEEDED, Awaits, Operation
from enjoin.model.provisioning import Change, change
from enjoin.protocol.messages import Cancel, MachineDeleted
from enjoin.store.base import Store, Transaction

_BATCH: Final = 20  # machines in one transaction: each may have many run commands
_GONE: Final = "Canceled before it was sent: its resource group was deleted."
Merge = Callable[[ResourceGroup], GroupRequest]  # what a PATCH makes of what is there
_Address = tuple[str, str, str]


@dataclass(slots=True)
class _Step:
    """What one transaction of a deletion did, to be told to the machines after its commit."""

    last: _Address | None = None  # the last machine it looked at; None when there was none left to look at
    removed: list[UUID] = field(default_factory=list)
    orders: list[tuple[UUID, Cancel]] = field(default_factory=list)
    opened: set[UUID] = field(default_factory=set)  # executions whose end is ordered, now or before


class Groups:
    """Use cases that write resource groups."""

    def __init__(self, store: Store, clock: Clock, sessions: Sessions, *, delivery_deadline: timedelta) -> None:
        """A machine that is away keeps its group for `delivery_deadline` at most."""
        self._store = store
        self._clock = clock
        self._sessions = sessions
        self._delivery_deadline = delivery_deadline
        # What this process ordered to end, by operation: a machine that confirmed it and cannot tell how it ended is
        # not asked again and again.
        self._ordered: dict[UUID, set[UUID]] = {}

    async def put(
        self, subscription_id: str, name: str, request: GroupRequest, *, precondition: Precondition = NO_PRECONDITION
    ) -> tuple[ResourceGroup, bool]:
        """Create or replace a group; return it, and whether it is new."""
        check_group_name(name)

        async def work(tx: Transaction) -> tuple[ResourceGroup, bool]:
            subscription = await find_subscription(tx, subscription_id)
            current = await tx.get_group_for_update(subscription.id, name)
            precondition.check(group_tag(current) if current else None, what=f"the resource group '{name}'")
            if current is not None:
                return await _replace(tx, current, request), False
            if request.location is None:
                text = "The location property is required for this definition."
                raise LocationRequired(text, target="location")
            group = ResourceGroup(
                subscription_id=subscription.id,
                name=name,
                location=request.location,
                tags=request.tags,
                managed_by=request.managed_by,
                created_at=self._clock.now(),
            )
            await tx.put_group(group)
            return group, True

        return await self._store.write(work)

    async def patch(
        self, subscription_id: str, name: str, merge: Merge, *, precondition: Precondition = NO_PRECONDITION
    ) -> ResourceGroup:
        """Change a group that is there; raise GroupNotFound."""

        async def work(tx: Transaction) -> ResourceGroup:
            group = await find_group(tx, subscription_id, name)
            current = await tx.get_group_for_update(group.subscription_id, group.name)
            assert current is not None
            precondition.check(group_tag(current), what=f"the resource group '{current.name}'")
            return await _replace(tx, current, merge(current))

        return await self._store.write(work)

    async def delete(
        self, caller: Caller, subscription_id: str, name: str, *, precondition: Precondition = NO_PRECONDITION
    ) -> Operation:
        """Begin to delete a group and all that is in it, once what runs there has ended; raise GroupNotFound.

        Nothing new may come into it from here on. `advance` brings it to its end, in whatever process.
        """
        now = self._clock.now()

        async def work(tx: Transaction) -> Operation:
            found = await find_group(tx, subscription_id, name)
            group = await tx.get_group_for_update(found.subscription_id, found.name)
            assert group is not None
            path = group_id_path(group.subscription_id, group.name)
            for begun in await tx.group_deletions():
                if begun.resource_path == path:
                    return begun
            precondition.check(group_tag(group), what=f"the resource group '{group.name}'")
            state = change(group.provisioning_state, Change.DELETE_ACCEPTED)
            await tx.put_group(replace(group, provisioning_state=state, revision=group.revision + 1))
            await tx.delete_tokens(group.subscription_id, group.name)
            operation = Operation(
                id=new_uuid7(),
                subscription_id=group.subscription_id,
                provider="Microsoft.Resources",
                location=group.location,
                resource_path=path,
                awaits=Awaits.GROUP_DELETION,
                principal_id=caller.principal_id,
                started_at=now,
                deadline_at=now + self._delivery_deadline,
            )
            await tx.add_operation(operation)
            return operation

        operation = await self._store.write(work)
        await uninterrupted(self._advance(operation))
        return operation

    async def advance(self) -> None:
        """Bring every deletion that is under way as far as it goes now."""
        under_way = await self._store.read(lambda tx: tx.group_deletions())
        for operation in under_way:
            await self._advance(operation)
        self._ordered = {operation.id: self._ordered.get(operation.id, set()) for operation in under_way}

    async def _advance(self, operation: Operation) -> None:
        after: _Address | None = ("", "", "")
        while after is not None:
            ordered = self._ordered.setdefault(operation.id, set())
            step = await self._store.write(
                partial(self._step, operation=operation, after=after, ordered=frozenset(ordered))
            )
            ordered |= step.opened
            self._tell(step)
            after = step.last
        await self._store.write(partial(self._finish, operation=operation))

    def _tell(self, step: _Step) -> None:
        """Say at once to the machines that are connected here what the others hear when they connect."""
        for machine_id, message in step.orders:
            session = self._sessions.live(machine_id)
            if session is not None:
                session.push(message)
        for machine_id in step.removed:
            session = self._sessions.live(machine_id)
            if session is not None:
                session.push(MachineDeleted())

    async def _step(self, tx: Transaction, *, operation: Operation, after: _Address, ordered: frozenset[UUID]) -> _Step:
        step, now = _Step(), self._clock.now()
        group_name = operation.resource_path.rpartition("/")[2]
        machines = await tx.list_machines(
            operation.subscription_id, resource_group=group_name, after=after, limit=_BATCH
        )
        for machine in machines:
            step.last = (machine.resource_group, machine.name, machine.kind.value)
            await _give_up(tx, machine, now=now)
            opened = {execution.id for execution in await tx.delivered_and_open(machine.id)}
            is_overdue = operation.deadline_at is not None and operation.deadline_at <= now
            for execution_id in sorted(opened - ordered):
                message = await order(tx, machine.id, execution_id, reason=CANCELED, now=now)
                step.orders.append((machine.id, message))
            step.opened |= opened
            is_awaited = any(given.execution_id in opened for given in await tx.list_cancels(machine.id))
            if is_overdue or not is_awaited:  # one that is away hears of it when it is back
                await remove_machine(tx, machine, now=now)
                step.removed.append(machine.id)
        return step

    async def _finish(self, tx: Transaction, *, operation: Operation) -> None:
        current = await tx.get_operation(operation.id)
        group_name = operation.resource_path.rpartition("/")[2]
        if current is None or current.ended_at is not None:
            return
        if await tx.list_machines(operation.subscription_id, resource_group=group_name, limit=1):
            return
        while sets := await tx.list_scale_sets(operation.subscription_id, resource_group=group_name, limit=_BATCH):
            for scale_set in sets:
                await tx.delete_scale_set(scale_set.subscription_id, scale_set.resource_group, scale_set.name)
        await tx.delete_group(operation.subscription_id, group_name)
        await end_operation(tx, current, SUCCEEDED, now=self._clock.now())


async def _give_up(tx: Transaction, machine: Machine, *, now: datetime) -> None:
    """Cancel what was never sent to a machine."""
    while waiting := await tx.undelivered(machine.id, limit=_BATCH):
        for execution in waiting:
            await preempt(tx, execution, now=now)
            await move(tx, execution, Event.CANCELED, at=now, now=now, message=_GONE)


async def _replace(tx: Transaction, current: ResourceGroup, request: GroupRequest) -> ResourceGroup:
    refuse_deleting(current)
    if request.location is not None and request.location.lower() != current.location.lower():
        text = (
            f"The resource group '{current.name}' is in location '{current.location}'; "
            f"it cannot be moved to '{request.location}'."
        )
        raise Conflict(text, target="location")
    group = replace(current, tags=request.tags, managed_by=request.managed_by, revision=current.revision + 1)
    await tx.put_group(group)
    return group

"""Machines as inventory: found, listed, tagged, deleted."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final
from uuid import UUID

from enjoin.arm.ids import below_group, machine_id_path
from enjoin.arm.tracked import TagsChange
from enjoin.control.sessions import Sessions
from enjoin.control.settlement import deleted_machine, end_operation, machine_topic, move, preempt
from enjoin.errors import NotFound
from enjoin.model.address import MachineAddress
from enjoin.model.execution import Event
from enjoin.model.machine import Machine, MachineKind
from enjoin.model.operation import SUCCEEDED
from enjoin.protocol.messages import MachineDeleted
from enjoin.store.base import Store, Transaction

_BATCH: Final = 100


async def find_machine(tx: Transaction, address: MachineAddress) -> Machine:
    """Return the machine at an address; raise NotFound in ARM's words."""
    machine = await tx.find_machine(address.subscription_id, address.resource_group, address.kind, address.name)
    if machine is None:
        text = (
            f"The Resource '{below_group(machine_id_path(address))}' under resource group "
            f"'{address.resource_group}' was not found."
        )
        raise NotFound(text)
    return machine


class Machines:
    """Use cases of the inventory."""

    def __init__(self, store: Store, sessions: Sessions) -> None:
        """Read through `store`; a deleted machine's session ends."""
        self._store = store
        self._sessions = sessions

    async def get(self, address: MachineAddress) -> Machine:
        """Return one machine; raise NotFound."""

        async def work(tx: Transaction) -> Machine:
            return await find_machine(tx, address)

        return await self._store.read(work)

    async def list(
        self,
        subscription_id: str,
        *,
        resource_group: str | None = None,
        kind: MachineKind | None = None,
        after: tuple[str, str, str] = ("", "", ""),
        limit: int | None = None,
    ) -> Sequence[Machine]:
        """Return at most `limit`, by group and name; `after` is group, name and kind of the page before's last."""

        async def work(tx: Transaction) -> Sequence[Machine]:
            return await tx.list_machines(
                subscription_id, resource_group=resource_group, kind=kind, after=after, limit=limit
            )

        return await self._store.read(work)

    async def change_tags(self, address: MachineAddress, change: TagsChange) -> Machine:
        """Change the tags of a machine and return it; raise NotFound, or what `change` raises."""

        async def work(tx: Transaction) -> Machine:
            found = await find_machine(tx, address)
            machine = await tx.get_machine_for_update(found.id)
            assert machine is not None
            machine = replace(machine, kind=found.kind, name=found.name, tags=change(machine.tags))
            await tx.put_machine(machine)
            return machine

        return await self._store.write(work)

    async def delete(self, address: MachineAddress) -> bool:
        """Remove a machine and all it holds; its agent is told to end what runs. False when it was not there."""

        async def work(tx: Transaction) -> Machine | None:
            machine = await tx.find_machine(address.subscription_id, address.resource_group, address.kind, address.name)
            if machine is not None:
                await remove_machine(tx, machine, now=self._sessions.now())
            return machine

        machine = await self._store.write(work)
        if machine is None:
            return False
        session = self._sessions.live(machine.id)
        if session is not None:
            session.push(MachineDeleted())
        return True


async def remove_machine(tx: Transaction, machine: Machine, *, now: datetime) -> None:
    """Remove a machine and all it holds, and keep what tells its agent so. The caller tells it when it is connected."""
    await _end_operations(tx, machine.id, now=now)
    await tx.put_setting(deleted_machine(machine.id), machine.identity_key.hex())
    await tx.delete_machine(machine.id)


async def _end_operations(tx: Transaction, machine_id: UUID, *, now: datetime) -> None:
    """End whatever waits for something of the machine: nothing of it will ever happen."""
    tx.wake(machine_topic(machine_id))
    for execution in await tx.delivered_and_open(machine_id):
        await preempt(tx, execution, now=now)
    while waiting := await tx.undelivered(machine_id, limit=_BATCH):
        for execution in waiting:
            await preempt(tx, execution, now=now)
            await move(tx, execution, Event.CANCELED, at=now, now=now)
    last_name = ""
    while commands := await tx.list_commands(machine_id, after_name=last_name, limit=_BATCH):
        for command in commands:
            for operation in await tx.open_deletions(command.incarnation_id):
                await end_operation(tx, operation, SUCCEEDED, now=now)
        last_name = commands[-1].name

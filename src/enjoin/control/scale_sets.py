"""Scale sets as inventory. A set comes into being when its first instance joins, and stays until it is deleted."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from enjoin.arm.ids import SCALE_SET_TYPE
from enjoin.arm.machine import address_of
from enjoin.arm.tracked import TagsChange
from enjoin.control.machines import Machines, find_machine
from enjoin.errors import NotFound
from enjoin.model.address import MachineAddress, ScaleSetAddress
from enjoin.model.machine import Instance, Machine, MachineKind
from enjoin.model.scale_set import ScaleSet, ScaleSetView
from enjoin.store.base import Store, Transaction

_BATCH: Final = 100


class ScaleSets:
    """Use cases of scale sets."""

    def __init__(self, store: Store, machines: Machines) -> None:
        """Read through `store`; the instances of a deleted set go as machines go."""
        self._store = store
        self._machines = machines

    async def get(self, address: ScaleSetAddress) -> ScaleSetView:
        """Return one; raise NotFound."""

        async def work(tx: Transaction) -> ScaleSetView:
            return await _view(tx, await _find(tx, address))

        return await self._store.read(work)

    async def list(
        self, subscription_id: str, *, resource_group: str | None, after: tuple[str, str], limit: int
    ) -> Sequence[ScaleSetView]:
        """Return at most `limit`, by group and name; `after` is group and name of the page before's last."""

        async def work(tx: Transaction) -> Sequence[ScaleSetView]:
            found = await tx.list_scale_sets(subscription_id, resource_group=resource_group, after=after, limit=limit)
            return [await _view(tx, scale_set) for scale_set in found]

        return await self._store.read(work)

    async def instances(self, address: ScaleSetAddress, *, after: int = -1, limit: int) -> Sequence[Machine]:
        """Return at most `limit` instances by number, with one above `after`; raise NotFound without such a set."""

        async def work(tx: Transaction) -> Sequence[Machine]:
            found = await _find(tx, address)
            return await tx.list_instances(
                found.subscription_id, found.resource_group, found.name, after=after, limit=limit
            )

        return await self._store.read(work)

    async def change_tags(self, address: ScaleSetAddress, change: TagsChange) -> ScaleSetView:
        """Change the tags of a set and return it; raise NotFound, or what `change` raises."""

        async def work(tx: Transaction) -> ScaleSetView:
            await _find(tx, address)
            found = await tx.find_scale_set_for_update(address.subscription_id, address.resource_group, address.name)
            assert found is not None
            changed = replace(found, tags=change(found.tags))
            await tx.put_scale_set(changed)
            return await _view(tx, changed)

        return await self._store.write(work)

    async def delete_instances(self, address: ScaleSetAddress, numbers: Sequence[int] | None) -> None:
        """Remove instances, None for all; raise NotFound, before any is removed, when one is not there."""

        async def look(tx: Transaction) -> Sequence[MachineAddress]:
            found = await _find(tx, address)
            return [address_of(await find_machine(tx, _instance_address(found, number))) for number in numbers or ()]

        if numbers is not None:
            for instance in await self._store.read(look):
                await self._machines.delete(instance)
            return
        while instances := await self.instances(address, limit=_BATCH):
            for machine in instances:
                await self._machines.delete(address_of(machine))

    async def delete(self, address: ScaleSetAddress) -> None:
        """Remove a set and its machines, whose agents are told to end what runs; raise NotFound."""

        async def finish(tx: Transaction) -> bool:
            found = await tx.find_scale_set_for_update(address.subscription_id, address.resource_group, address.name)
            if found is None:
                return True  # somebody else deleted it meanwhile
            key = (found.subscription_id, found.resource_group, found.name)
            if await tx.list_instances(*key, limit=1):
                return False  # one more joined
            await tx.delete_scale_set(*key)
            return True

        is_gone = False
        while not is_gone:
            await self.delete_instances(address, None)
            is_gone = await self._store.write(finish)


async def _find(tx: Transaction, address: ScaleSetAddress) -> ScaleSet:
    found = await tx.find_scale_set(address.subscription_id, address.resource_group, address.name)
    if found is None:
        text = (
            f"The Resource '{SCALE_SET_TYPE}/{address.name}' under resource group '{address.resource_group}' was not "
            "found."
        )
        raise NotFound(text)
    return found


async def _view(tx: Transaction, scale_set: ScaleSet) -> ScaleSetView:
    instances, connected = await tx.count_instances(scale_set.subscription_id, scale_set.resource_group, scale_set.name)
    return ScaleSetView(scale_set=scale_set, instances=instances, connected=connected)


def _instance_address(scale_set: ScaleSet, number: int) -> MachineAddress:
    return MachineAddress(
        subscription_id=scale_set.subscription_id,
        resource_group=scale_set.resource_group,
        kind=MachineKind.SCALE_SET_INSTANCE,
        name=Instance(scale_set=scale_set.name, number=number).name,
    )

"""All resources of a subscription or a group in one list."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from enjoin.arm.ids import COMMAND_TYPES, MACHINE_TYPES, SCALE_SET_TYPE
from enjoin.arm.resource import ResourceFilter
from enjoin.control.directory import find_group, find_subscription
from enjoin.model.command import RunCommand
from enjoin.model.machine import Machine, MachineKind
from enjoin.model.scale_set import ScaleSet
from enjoin.store.base import Store, Transaction

_MACHINES: Final = 100  # that one page looks at: a filter that few pass makes short pages, never long requests
_COMMANDS: Final = 100  # read at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One entry, and the machine that a run command belongs to."""

    resource: ScaleSet | Machine | RunCommand
    machine: Machine | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """The last one that a page looked at. Scale sets come first, then each machine with its run commands."""

    resource_group: str
    name: str
    kind: MachineKind | None  # None: a scale set
    command: str = ""  # of the machine; "" for the machine itself


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundPage:
    """Entries, and the mark after which the next page begins; None when there is none."""

    entries: Sequence[Found]
    end: Mark | None


class Resources:
    """Use cases of the list of everything."""

    def __init__(self, store: Store) -> None:
        """Read through `store`."""
        self._store = store

    async def list(
        self, subscription_id: str, group: str | None, wanted: ResourceFilter, *, after: Mark | None, limit: int
    ) -> FoundPage:
        """Return at most `limit` entries, by group, machine and run command; raise GroupNotFound."""

        async def work(tx: Transaction) -> FoundPage:
            subscription = await find_subscription(tx, subscription_id)
            if group is not None:
                await find_group(tx, subscription.id, group)
            within = wanted.resource_group if group is None else group.lower()
            if wanted.resource_group not in (None, within):
                return FoundPage(entries=[], end=None)
            return await _collect(tx, subscription.id, within, wanted, after=after, limit=limit)

        return await self._store.read(work)


async def _collect(
    tx: Transaction, subscription_id: str, group: str | None, wanted: ResourceFilter, *, after: Mark | None, limit: int
) -> FoundPage:
    entries: list[Found] = []
    end, start = after, ("", "", "")
    if after is None or after.kind is None:
        end, is_last = await _add_scale_sets(tx, entries, subscription_id, group, wanted, after=after, limit=limit)
        if not is_last:
            return FoundPage(entries=entries, end=end)
    else:
        start = (after.resource_group, after.name, after.kind.value)
        begun = await tx.find_machine(subscription_id, after.resource_group, after.kind, after.name)
        if begun is not None:
            end = await _add_commands(tx, entries, begun, wanted, after=after, limit=limit)
    machines = await tx.list_machines(subscription_id, resource_group=group, after=start, limit=_MACHINES)
    for machine in machines:
        if len(entries) >= limit:
            break
        end = Mark(resource_group=machine.resource_group, name=machine.name, kind=machine.kind)
        shown = _as_vm(machine)
        if wanted.admits_type(MACHINE_TYPES[shown.kind]) and wanted.admits(
            name=shown.name, location=shown.location, tags=shown.tags
        ):
            entries.append(Found(resource=shown))
        end = await _add_commands(tx, entries, machine, wanted, after=end, limit=limit)
    is_last = len(entries) < limit and len(machines) < _MACHINES
    return FoundPage(entries=entries, end=None if is_last else end)


def _as_vm(machine: Machine) -> Machine:
    """Return a scale-set instance as the VM that it is too; only as such it is one of the resources of its group."""
    if machine.instance is None:
        return machine
    return replace(machine, kind=MachineKind.VIRTUAL_MACHINE, name=machine.instance.vm_name)


async def _add_scale_sets(
    tx: Transaction,
    entries: list[Found],
    subscription_id: str,
    group: str | None,
    wanted: ResourceFilter,
    *,
    after: Mark | None,
    limit: int,
) -> tuple[Mark | None, bool]:
    """Add the scale sets that come after a mark; return the mark of the last one, and whether there are no more."""
    if not wanted.admits_type(SCALE_SET_TYPE):
        return None, True
    start = ("", "") if after is None else (after.resource_group, after.name)
    found = await tx.list_scale_sets(subscription_id, resource_group=group, after=start, limit=_MACHINES)
    end = after
    for scale_set in found:
        if len(entries) >= limit:
            return end, False
        end = Mark(resource_group=scale_set.resource_group, name=scale_set.name, kind=None)
        if wanted.admits(name=scale_set.name, location=scale_set.location, tags=scale_set.tags):
            entries.append(Found(resource=scale_set))
    return end, len(found) < _MACHINES and len(entries) < limit


async def _add_commands(
    tx: Transaction, entries: list[Found], machine: Machine, wanted: ResourceFilter, *, after: Mark, limit: int
) -> Mark:
    """Add the run commands of a machine that come after a mark; return the mark of the last one looked at."""
    shown = _as_vm(machine)
    if not wanted.admits_type(COMMAND_TYPES[shown.kind]):
        return after
    name = after.command
    commands = await tx.list_commands(machine.id, after_name=name, limit=_COMMANDS)
    while commands and len(entries) < limit:
        for command in commands:
            if len(entries) >= limit:
                break
            name = command.name
            if wanted.admits(name=f"{shown.name}/{name}", location=command.location, tags=command.tags):
                entries.append(Found(resource=command, machine=shown))
        commands = await tx.list_commands(machine.id, after_name=name, limit=_COMMANDS)
    return Mark(resource_group=after.resource_group, name=after.name, kind=after.kind, command=name)

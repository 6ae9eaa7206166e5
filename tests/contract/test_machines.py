"""Machines: found by identity and by address."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import pytest

from enjoin.errors import Conflict
from enjoin.model.machine import Facts, Machine, MachineKind
from enjoin.store.base import Store, Transaction
from tests.contract.values import (
    GROUP,
    NOON,
    SUBSCRIPTION,
    a_cancel,
    a_command,
    a_machine,
    a_sealed_value,
    a_spec,
    add,
    an_execution,
    an_operation,
    minutes,
)

VM, ARC = MachineKind.VIRTUAL_MACHINE, MachineKind.ARC


async def test_found_by_identity_and_address(store: Store) -> None:
    """
    A machine comes back with everything it was added with, by its id and by its path in any spelling.
    """
    machine = a_machine()
    await store.write(lambda tx: tx.add_machine(machine))
    assert await store.read(lambda tx: tx.get_machine(machine.id)) == machine
    assert await store.write(lambda tx: tx.get_machine_for_update(machine.id)) == machine
    found = await store.read(lambda tx: tx.find_machine(SUBSCRIPTION.lower(), GROUP.upper(), VM, "WEB1"))
    assert found == machine
    assert await store.read(lambda tx: tx.find_machine(SUBSCRIPTION, GROUP, ARC, "Web1")) is None
    assert await store.read(lambda tx: tx.find_machine(SUBSCRIPTION, "other", VM, "Web1")) is None


async def test_address_taken(store: Store) -> None:
    """
    A second machine of one kind and name in a group is a Conflict and changes nothing; another kind is another machine.
    """
    machine = a_machine("Web1")
    await store.write(lambda tx: tx.add_machine(machine))
    with pytest.raises(Conflict, match="web1"):
        await store.write(lambda tx: tx.add_machine(a_machine("web1")))
    other = a_machine("web1", kind=ARC)
    await store.write(lambda tx: tx.add_machine(other))
    assert await store.read(lambda tx: tx.list_machines(SUBSCRIPTION)) == [other, machine]


async def test_put_machine(store: Store) -> None:
    """
    Everything but identity and address is replaced.
    """
    machine = a_machine()
    await store.write(lambda tx: tx.add_machine(machine))
    changed = replace(
        machine,
        location="else",
        tags={},
        identity_key=b"1",
        sealing_key=b"2",
        sealing_key_id="3",
        epoch="4",
        journal_sequence=5,
        facts=Facts(os_version="12"),
        created_at=NOON + minutes(5),
        connected=False,
        session_epoch=6,
        status_changed_at=NOON + minutes(6),
        lease_expires_at=None,
    )
    await store.write(lambda tx: tx.put_machine(changed))
    assert await store.read(lambda tx: tx.get_machine(machine.id)) == changed


async def test_list_machines(store: Store) -> None:
    """
    Machines are listed by group and name without regard to case, filtered by group and kind.
    """
    machines = [
        a_machine("b", resource_group="g1"),
        a_machine("A", resource_group="G1", kind=ARC),
        a_machine("c", resource_group="f"),
        a_machine("d", subscription_id="other"),
    ]
    await add(store, *machines)

    async def names(resource_group: str | None, kind: MachineKind | None) -> list[str]:
        listed = await store.read(
            lambda tx: tx.list_machines(SUBSCRIPTION.lower(), resource_group=resource_group, kind=kind)
        )
        return [machine.name for machine in listed]

    assert await names(None, None) == ["c", "A", "b"]
    assert await names("g1", None) == ["A", "b"]
    assert await names("g1", VM) == ["b"]
    assert await names(None, ARC) == ["A"]
    assert await names("none", None) == []


async def test_list_machines_in_pages(store: Store) -> None:
    """
    A page goes on where the one before ended, in one group or in all, also between two kinds of one name.
    """
    machines = [a_machine("Web", resource_group=group, kind=kind) for group in ("a", "a-b", "B") for kind in (ARC, VM)]
    await add(store, *reversed(machines), a_machine("d", subscription_id="other"))

    async def pages(resource_group: str | None, kind: MachineKind | None, limit: int) -> list[Machine]:
        found: list[Machine] = []
        after = ("", "", "")
        while True:
            page = await store.read(partial(_page, resource_group=resource_group, kind=kind, after=after, limit=limit))
            if not page:
                return found
            assert len(page) <= limit
            found += page
            after = (page[-1].resource_group, page[-1].name, page[-1].kind)

    assert await pages(None, None, 1) == machines
    assert await pages(None, None, 4) == machines
    assert await pages(None, VM, 2) == machines[1::2]
    assert await pages("b", None, 1) == machines[4:]


async def _page(
    tx: Transaction,
    *,
    resource_group: str | None,
    kind: MachineKind | None,
    after: tuple[str, str, str],
    limit: int,
) -> Sequence[Machine]:
    return await tx.list_machines(SUBSCRIPTION, resource_group=resource_group, kind=kind, after=after, limit=limit)


async def test_connected_machines_and_leases(store: Store) -> None:
    """
    Those marked as connected are found at a start; expired leases come earliest first, at most as many as asked for.
    """
    here = a_machine("here", lease_expires_at=None)
    first = a_machine("first", connected=False, lease_expires_at=NOON)
    second = a_machine("second", connected=False, lease_expires_at=NOON + minutes(1))
    later = a_machine("later", connected=False, lease_expires_at=NOON + minutes(5))
    await add(store, later, second, here, first)
    assert await store.read(lambda tx: tx.connected_machines()) == [here]
    now = NOON + minutes(1)
    assert await store.read(lambda tx: tx.expired_leases(now=now, limit=9)) == [first.id, second.id]
    assert await store.read(lambda tx: tx.expired_leases(now=now, limit=1)) == [first.id]


async def test_delete_machine(store: Store) -> None:
    """
    A deleted machine takes everything of it along but operations, which a client may still poll; its name is free.
    """
    machine, other = a_machine("Web1"), a_machine("Web2")
    command = a_command(machine.id, spec=a_spec(protected=(a_sealed_value(),)))
    kept = a_command(other.id)
    execution = an_execution(machine_id=machine.id, incarnation_id=command.incarnation_id)
    operation = an_operation(incarnation_id=command.incarnation_id, execution_id=execution.id)

    async def fill(tx: Transaction) -> None:
        await tx.add_machine(machine)
        await tx.add_machine(other)
        await tx.add_command(command)
        await tx.add_command(kept)
        await tx.add_execution(execution)
        await tx.set_received(execution.id, "stdout", 3)
        await tx.add_output(execution.id, "stdout", 0, b"abc")
        await tx.add_operation(operation)
        await tx.put_cancel(a_cancel(machine_id=machine.id, execution_id=execution.id))

    await store.write(fill)
    assert await store.write(lambda tx: tx.delete_machine(machine.id))
    assert not await store.write(lambda tx: tx.delete_machine(machine.id))

    async def look(tx: Transaction) -> list[object]:
        return [
            await tx.get_machine(machine.id),
            await tx.find_machine(SUBSCRIPTION, GROUP, VM, "Web1"),
            await tx.get_command(command.incarnation_id),
            await tx.get_spec(command.incarnation_id, 1),
            await tx.get_execution(execution.id),
            (await tx.received(execution.id)) or None,
            (await tx.read_output(execution.id, "stdout", 0, 9)) or None,
            (await tx.list_cancels(machine.id)) or None,
        ]

    assert await store.read(look) == [None] * 8
    assert await store.read(lambda tx: tx.get_operation(operation.id)) == operation
    assert await store.read(lambda tx: tx.get_command(kept.incarnation_id)) == kept
    await store.write(lambda tx: tx.add_machine(a_machine("WEB1")))

"""Run commands, their specs and their sealed values."""

from dataclasses import replace
from uuid import uuid4

import pytest

from enjoin.errors import Conflict
from enjoin.model.provisioning import ProvisioningState
from enjoin.store.base import Store, Transaction
from tests.contract.values import (
    NOON,
    a_cancel,
    a_command,
    a_sealed_value,
    a_spec,
    add,
    an_execution,
    an_operation,
    minutes,
)


async def test_found_by_incarnation_and_name(store: Store) -> None:
    """
    A run command comes back with everything it was added with, its sealed values in their order.
    """
    sealed = tuple(a_sealed_value(name=name, field=f"protectedParameters[{name}]") for name in "ZMA")
    command = a_command(uuid4(), "Hello", spec=a_spec(protected=sealed))
    await store.write(lambda tx: tx.add_command(command))
    assert await store.read(lambda tx: tx.get_command(command.incarnation_id)) == command
    assert await store.read(lambda tx: tx.find_command(command.machine_id, "HELLO")) == command
    assert await store.write(lambda tx: tx.get_command_for_update(command.incarnation_id)) == command
    assert await store.write(lambda tx: tx.find_command_for_update(command.machine_id, "hello")) == command
    assert await store.read(lambda tx: tx.find_command(uuid4(), "hello")) is None
    assert await store.read(lambda tx: tx.get_command(uuid4())) is None


async def test_name_taken(store: Store) -> None:
    """
    A second command of that name on the machine, in any spelling, is a Conflict and changes nothing.
    """
    command = a_command(uuid4(), "Hello")
    await store.write(lambda tx: tx.add_command(command))
    with pytest.raises(Conflict, match="HELLO"):
        await store.write(lambda tx: tx.add_command(a_command(command.machine_id, "HELLO")))
    assert await store.read(lambda tx: tx.list_commands(command.machine_id)) == [command]


async def test_put_command(store: Store) -> None:
    """
    What can change is replaced; identity, name and creation stay. Each generation's spec is kept.
    """
    first = a_command(uuid4())
    await store.write(lambda tx: tx.add_command(first))
    second = replace(
        first,
        location="else",
        tags={},
        spec=a_spec(script="true", parameters=(), timeout_s=None),
        generation=2,
        execution_id=uuid4(),
        provisioning_state=ProvisioningState.UPDATING,
        modified_by="they",
        modified_at=NOON + minutes(7),
    )
    await store.write(lambda tx: tx.put_command(second))
    assert await store.read(lambda tx: tx.get_command(first.incarnation_id)) == second
    assert await store.read(lambda tx: tx.get_spec(first.incarnation_id, 1)) == first.spec
    assert await store.read(lambda tx: tx.get_spec(first.incarnation_id, 2)) == second.spec
    assert await store.read(lambda tx: tx.get_spec(first.incarnation_id, 3)) is None


async def test_change_of_state_keeps_the_spec(store: Store) -> None:
    """
    A command that was read and put with another state is otherwise what it was; also with its spec replaced in place.
    """
    command = a_command(uuid4(), spec=a_spec(protected=(a_sealed_value(),)))
    await store.write(lambda tx: tx.add_command(command))

    async def settle(tx: Transaction) -> None:
        read = await tx.get_command_for_update(command.incarnation_id)
        assert read is not None
        await tx.put_command(replace(read, provisioning_state=ProvisioningState.SUCCEEDED))

    await store.write(settle)
    settled = replace(command, provisioning_state=ProvisioningState.SUCCEEDED)
    assert await store.read(lambda tx: tx.get_command(command.incarnation_id)) == settled
    other = replace(settled, spec=a_spec(script="other"))
    await store.write(lambda tx: tx.put_command(other))
    assert await store.read(lambda tx: tx.get_command(command.incarnation_id)) == other


async def test_sealed_values_kept_and_replaced(store: Store) -> None:
    """
    A later generation keeps the sealed values it names; what it no longer names is gone, for earlier ones too (F27).
    """
    kept, dropped, added = (a_sealed_value(name=name) for name in ("KEPT", "DROPPED", "ADDED"))
    first = a_command(uuid4(), spec=a_spec(protected=(dropped, kept)))
    await store.write(lambda tx: tx.add_command(first))
    second = replace(first, generation=2, spec=a_spec(protected=(added, kept)))
    await store.write(lambda tx: tx.put_command(second))
    assert await store.read(lambda tx: tx.get_command(first.incarnation_id)) == second
    earlier = await store.read(lambda tx: tx.get_spec(first.incarnation_id, 1))
    assert earlier == replace(first.spec, protected=(kept,))
    third = replace(second, generation=3, spec=a_spec())
    await store.write(lambda tx: tx.put_command(third))
    earlier = await store.read(lambda tx: tx.get_spec(first.incarnation_id, 2))
    assert earlier == replace(first.spec, protected=())


async def test_list_commands_in_pages(store: Store) -> None:
    """
    Commands of one machine come by lower-cased name, a page at a time.
    """
    machine_id = uuid4()
    sealed = a_spec(protected=(a_sealed_value(),))
    for name in ("b", "C", "a", "D"):
        command = a_command(machine_id, name, spec=sealed if name == "C" else a_spec())
        await add(store, command)
    await store.write(lambda tx: tx.add_command(a_command(uuid4(), "other")))
    first = await store.read(lambda tx: tx.list_commands(machine_id, limit=3))
    assert [command.name for command in first] == ["a", "b", "C"]
    assert first[2].spec == sealed
    rest = await store.read(lambda tx: tx.list_commands(machine_id, after_name="c", limit=3))
    assert [command.name for command in rest] == ["D"]


async def test_delete_command(store: Store) -> None:
    """
    A deleted command takes its executions, output and secrets along; operations and cancels on their way stay (F3).
    """
    command = a_command(uuid4(), spec=a_spec(protected=(a_sealed_value(),)))
    execution = an_execution(machine_id=command.machine_id, incarnation_id=command.incarnation_id)
    operation = an_operation(incarnation_id=command.incarnation_id, execution_id=execution.id)
    cancel = a_cancel(machine_id=command.machine_id, execution_id=execution.id, reason="deleted", forget=True)

    async def fill(tx: Transaction) -> None:
        await tx.add_command(command)
        await tx.add_execution(execution)
        await tx.set_received(execution.id, "stdout", 3)
        await tx.add_output(execution.id, "stdout", 0, b"abc")
        await tx.add_operation(operation)
        await tx.put_cancel(cancel)

    await store.write(fill)
    await store.write(lambda tx: tx.delete_command(command.incarnation_id))

    async def look(tx: Transaction) -> list[object]:
        return [
            await tx.get_command(command.incarnation_id),
            await tx.find_command(command.machine_id, command.name),
            await tx.get_spec(command.incarnation_id, 1),
            await tx.get_execution(execution.id),
            (await tx.received(execution.id)) or None,
            (await tx.read_output(execution.id, "stdout", 0, 9)) or None,
        ]

    assert await store.read(look) == [None] * 6
    assert await store.read(lambda tx: tx.get_operation(operation.id)) == operation
    assert await store.read(lambda tx: tx.list_cancels(command.machine_id)) == [cancel]
    await store.write(lambda tx: tx.add_command(command))  # the same sealed value too: none of it was left

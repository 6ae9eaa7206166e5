"""What retention sees and removes."""

from datetime import timedelta
from uuid import UUID, uuid4

from enjoin.model.execution import Execution, ExecutionState
from enjoin.model.identity import new_uuid7
from enjoin.model.provisioning import ProvisioningState
from enjoin.store.base import Store, Transaction
from tests.contract.values import NOON, a_cancel, a_command, add, an_execution


async def generations(store: Store, count: int) -> list[Execution]:
    """Store a command with `count` ended executions, each with three bytes of output; return them, oldest first."""
    command = a_command(uuid4())
    executions = [
        an_execution(
            id=new_uuid7(),
            incarnation_id=command.incarnation_id,
            generation=number,
            state=ExecutionState.SUCCEEDED,
            ended_at=NOON + timedelta(minutes=number),
            supersedes=None,
        )
        for number in range(1, count + 1)
    ]
    newest = executions[-1]
    await add(
        store, a_command(uuid4(), incarnation_id=command.incarnation_id, execution_id=newest.id, generation=count)
    )
    await add(store, *executions)

    async def work(tx: Transaction) -> None:
        for execution in executions:
            await tx.add_output(execution.id, "stdout", 0, b"abc")
            await tx.set_received(execution.id, "stdout", 3)

    await store.write(work)
    return executions


async def test_past_executions(store: Store) -> None:
    """
    History is walked from the newest to the oldest, in bounded steps; the newest of each command is needed.
    """
    oldest, middle, newest = await generations(store, 3)
    first = await store.read(lambda tx: tx.past_executions(before=None, limit=2))
    assert [(past.id, past.is_needed) for past in first] == [(newest.id, True), (middle.id, False)]
    [last] = await store.read(lambda tx: tx.past_executions(before=first[-1].id, limit=2))
    assert (last.id, last.generation, last.newest_generation) == (oldest.id, 1, 3)
    assert (last.ended_at, last.stored_bytes, last.is_needed) == (oldest.ended_at, 3, False)
    assert await store.read(lambda tx: tx.past_executions(before=last.id, limit=2)) == []


async def test_needed(store: Store) -> None:
    """
    What is not over, what its machine is ordered to end, and all of a command that is being deleted stay.
    """

    async def needed() -> dict[UUID, bool]:
        past = await store.read(lambda tx: tx.past_executions(before=None, limit=99))
        return {one.id: one.is_needed for one in past}

    oldest, middle, newest = await generations(store, 3)
    assert await needed() == {oldest.id: False, middle.id: False, newest.id: True}
    await add(store, a_cancel(execution_id=oldest.id))
    assert (await needed())[oldest.id]
    running = an_execution(id=new_uuid7(), state=ExecutionState.RUNNING, ended_at=None)
    await add(store, running)
    assert (await needed())[running.id]
    command = a_command(uuid4(), execution_id=uuid4(), provisioning_state=ProvisioningState.DELETING)
    deleted = an_execution(id=new_uuid7(), incarnation_id=command.incarnation_id, state=ExecutionState.SUCCEEDED)
    await add(store, command, deleted)
    assert (await needed())[deleted.id]


async def test_output_is_dropped(store: Store) -> None:
    """
    Dropped output is gone, its record says when, and its files are named until they are gone too.
    """
    oldest, _ = await generations(store, 2)
    await store.write(lambda tx: tx.drop_output(oldest.id, at=NOON))
    assert await store.read(lambda tx: tx.received(oldest.id)) == {}
    assert await store.read(lambda tx: tx.read_output(oldest.id, "stdout", 0, 9)) == b""
    kept = await store.read(lambda tx: tx.get_execution(oldest.id))
    assert kept is not None
    assert kept.output_dropped_at == NOON
    assert await store.read(lambda tx: tx.output_removals(limit=9)) == [oldest.id]
    await store.write(lambda tx: tx.forget_output_removal(oldest.id))
    assert await store.read(lambda tx: tx.output_removals(limit=9)) == []


async def test_execution_is_dropped(store: Store) -> None:
    """
    A dropped execution takes its output and its spec along, and nothing of another generation.
    """
    oldest, newest = await generations(store, 2)
    await store.write(lambda tx: tx.drop_execution(oldest.id))
    assert await store.read(lambda tx: tx.get_execution(oldest.id)) is None
    assert await store.read(lambda tx: tx.received(oldest.id)) == {}
    assert await store.read(lambda tx: tx.get_execution(newest.id)) == newest
    assert await store.read(lambda tx: tx.get_spec(newest.incarnation_id, 2)) is not None
    assert await store.read(lambda tx: tx.output_removals(limit=9)) == [oldest.id]


async def test_deletion_names_files(store: Store) -> None:
    """
    A deleted command leaves word of the files of its executions.
    """
    executions = await generations(store, 2)
    await store.write(lambda tx: tx.delete_command(executions[0].incarnation_id))
    assert await store.read(lambda tx: tx.output_removals(limit=9)) == sorted(one.id for one in executions)

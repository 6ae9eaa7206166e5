"""Executions, what is due, output, cancels."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from itertools import pairwise
from uuid import uuid4

import pytest

from enjoin.model.execution import OPEN, TERMINAL, Execution, ExecutionState, Outcome
from enjoin.store.base import StatementFailed, Store, Transaction
from tests.contract.values import NOON, a_cancel, a_whole_execution, add, an_execution, minutes


async def test_whole_execution(store: Store) -> None:
    """
    An execution comes back with everything it was added with, by id and by generation (F47).
    """
    bare, whole = an_execution(), a_whole_execution()
    await add(store, bare, whole)
    assert await store.read(lambda tx: tx.get_execution(bare.id)) == bare
    assert await store.read(lambda tx: tx.get_execution(whole.id)) == whole
    assert await store.write(lambda tx: tx.get_execution_for_update(whole.id)) == whole
    assert await store.read(lambda tx: tx.find_execution(whole.incarnation_id, 1)) == whole
    assert await store.read(lambda tx: tx.get_execution(uuid4())) is None
    assert await store.read(lambda tx: tx.find_execution(uuid4(), 1)) is None


async def test_put_execution(store: Store) -> None:
    """
    Everything that can change is replaced, forth and back.
    """
    execution = an_execution()
    whole = replace(
        a_whole_execution(),
        id=execution.id,
        machine_id=execution.machine_id,
        incarnation_id=execution.incarnation_id,
        principal_id=execution.principal_id,
        correlation_id=execution.correlation_id,
        origin=execution.origin,
        client_request_id=execution.client_request_id,
        deadline_at=NOON + minutes(99),
    )
    await store.write(lambda tx: tx.add_execution(execution))
    for changed in (whole, execution):
        await put(store, changed)
        assert await store.read(lambda tx: tx.get_execution(execution.id)) == changed


async def put(store: Store, *executions: Execution) -> None:
    """Replace each in a transaction of its own."""

    async def work(execution: Execution, tx: Transaction) -> None:
        await tx.put_execution(execution)

    for execution in executions:
        await store.write(partial(work, execution))


async def test_one_execution_per_generation(store: Store) -> None:
    """
    A second execution of a generation is refused.
    """
    execution = an_execution()
    await store.write(lambda tx: tx.add_execution(execution))
    with pytest.raises(StatementFailed):
        await store.write(lambda tx: tx.add_execution(replace(an_execution(), incarnation_id=execution.incarnation_id)))


async def test_history(store: Store) -> None:
    """
    Executions of an incarnation are listed newest first, a page at a time (F47).
    """
    incarnation_id = uuid4()
    for generation in range(1, 6):
        execution = an_execution(incarnation_id=incarnation_id, generation=generation)
        await add(store, execution)
    await store.write(lambda tx: tx.add_execution(an_execution()))

    async def page(before: int | None) -> list[int]:
        listed = await store.read(lambda tx: tx.list_executions(incarnation_id, before_generation=before, limit=2))
        return [execution.generation for execution in listed]

    assert [await page(None), await page(4), await page(2)] == [[5, 4], [3, 2], [1]]


async def test_undelivered(store: Store) -> None:
    """
    What a machine was never given comes in the order of its making, and no more once it was delivered or is over.
    """
    machine_id = uuid4()
    waiting = [an_execution(machine_id=machine_id) for _ in range(3)]
    others = [
        an_execution(machine_id=machine_id, delivered_at=NOON),
        an_execution(machine_id=machine_id, state=ExecutionState.CANCELED, ended_at=NOON),
        an_execution(),
    ]
    await add(store, *others, *reversed(waiting))
    assert await store.write(lambda tx: tx.undelivered(machine_id, limit=9)) == waiting
    assert await store.write(lambda tx: tx.undelivered(machine_id, limit=2)) == waiting[:2]
    await store.write(lambda tx: tx.put_execution(replace(waiting[0], delivered_at=NOON)))
    assert await store.write(lambda tx: tx.undelivered(machine_id, limit=9)) == waiting[1:]


async def test_delivered_and_open(store: Store) -> None:
    """
    What a machine was given and has not ended is found, in every open state and in no terminal one.
    """
    machine_id = uuid4()
    given = {state: an_execution(machine_id=machine_id, delivered_at=NOON, state=state) for state in ExecutionState}
    await add(store, *given.values(), an_execution(machine_id=machine_id), an_execution(delivered_at=NOON))
    found = await store.read(lambda tx: tx.delivered_and_open(machine_id))
    assert {execution.state for execution in found} == OPEN
    assert [execution.id for execution in found] == sorted(given[state].id for state in OPEN)
    await put(store, *(replace(given[state], state=min(TERMINAL)) for state in OPEN))
    assert await store.read(lambda tx: tx.delivered_and_open(machine_id)) == []


async def test_overdue(store: Store) -> None:
    """
    Pending executions past their deadline come earliest first, delivered or not; those that run are not overdue.
    """
    late = an_execution(deadline_at=NOON + minutes(2))
    earlier = an_execution(deadline_at=NOON + minutes(1), delivered_at=NOON)
    running = an_execution(deadline_at=NOON, state=ExecutionState.RUNNING)
    future = an_execution(deadline_at=NOON + minutes(3))
    await add(store, future, late, running, earlier)
    now = NOON + minutes(2)
    assert await store.read(lambda tx: tx.overdue(now=now, limit=9)) == [earlier.id, late.id]
    assert await store.read(lambda tx: tx.overdue(now=now, limit=1)) == [earlier.id]


async def test_received(store: Store) -> None:
    """
    How much of each stream is durable is what was recorded last.
    """
    execution_id = uuid4()

    async def received() -> Mapping[str, int]:
        return await store.read(lambda tx: tx.received(execution_id))

    assert await received() == {}
    await store.write(lambda tx: tx.set_received(execution_id, "stdout", 5))
    await store.write(lambda tx: tx.set_received(execution_id, "stderr", 2**40))
    await store.write(lambda tx: tx.set_received(execution_id, "stdout", 9))
    assert await received() == {"stdout": 9, "stderr": 2**40}


async def test_output(store: Store) -> None:
    """
    Any part of the stored bytes can be read, whatever pieces they came in, each stream for itself.
    """
    execution_id = uuid4()
    whole = bytes(range(256))
    cuts = [0, 1, 7, 8, 100, 256]

    async def fill(tx: Transaction) -> None:
        for start, end in pairwise(cuts):
            await tx.add_output(execution_id, "stdout", start, whole[start:end])
        await tx.add_output(execution_id, "stderr", 0, b"other")

    await store.write(fill)

    async def compare(tx: Transaction) -> None:
        for offset in (0, 1, 5, 6, 7, 8, 99, 100, 101, 255, 256, 300):
            for limit_bytes in (0, 1, 2, 93, 256, 1000):
                read = await tx.read_output(execution_id, "stdout", offset, limit_bytes)
                assert read == whole[offset : offset + limit_bytes], (offset, limit_bytes)

    await store.read(compare)
    assert await store.read(lambda tx: tx.read_output(execution_id, "stderr", 1, 2)) == b"th"
    assert await store.read(lambda tx: tx.read_output(uuid4(), "stdout", 0, 9)) == b""


async def test_output_outcome_is_kept_apart(store: Store) -> None:
    """
    The tails that a machine reports are stored as they are, whatever bytes they hold.
    """
    execution = an_execution(outcome=Outcome(exit_code=0, stdout_tail=bytes(range(256)) * 16))
    await store.write(lambda tx: tx.add_execution(execution))
    assert await store.read(lambda tx: tx.get_execution(execution.id)) == execution


async def test_cancels(store: Store) -> None:
    """
    Cancels are repeated oldest first until the machine confirms each, once.
    """
    machine_id = uuid4()
    later = a_cancel(machine_id=machine_id, ordered_at=NOON + minutes(1))
    early = a_cancel(machine_id=machine_id)
    await add(store, later, early, a_cancel(machine_id=uuid4()))
    assert await store.read(lambda tx: tx.list_cancels(machine_id)) == [early, later]
    assert await store.write(lambda tx: tx.take_cancel(early.execution_id)) == early
    assert await store.write(lambda tx: tx.take_cancel(early.execution_id)) is None
    assert await store.read(lambda tx: tx.list_cancels(machine_id)) == [later]


async def test_deletion_replaces_a_cancel(store: Store) -> None:
    """
    A deletion takes the place of a cancel on its way, and a cancel never that of a deletion.
    """
    cancel = a_cancel()
    deletion = replace(cancel, reason="deleted", forget=True, ordered_at=NOON + minutes(1))
    await add(store, cancel, deletion, replace(cancel, ordered_at=NOON + minutes(2)))
    assert await store.read(lambda tx: tx.list_cancels(cancel.machine_id)) == [deletion]

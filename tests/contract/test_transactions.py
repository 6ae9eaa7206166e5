"""What a transaction promises: all or nothing, nobody else's failure, nothing told before the commit."""

import asyncio
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest

from enjoin.errors import Conflict, StoreUnavailable
from enjoin.store.base import StatementFailed, Store, Transaction
from tests.contract.backends import BACKENDS
from tests.contract.values import a_machine, add, an_execution
from tests.contract.waiting import waits


async def setting(store: Store, name: str) -> str | None:
    """Return a setting."""
    return await store.read(lambda tx: tx.get_setting(name))


async def test_result_after_commit(store: Store) -> None:
    """
    The result of the work is the caller's, and what it wrote is there for the next reader.
    """

    async def work(tx: Transaction) -> int:
        await tx.put_setting("a", "1")
        assert await tx.get_setting("a") == "1"
        return 42

    assert await store.write(work) == 42
    assert await setting(store, "a") == "1"


async def test_failure_undoes_all(store: Store) -> None:
    """
    Work that raises leaves nothing behind, and its caller gets the very error.
    """
    error = Conflict("no")

    async def work(tx: Transaction) -> None:
        await tx.put_setting("a", "1")
        raise error

    with pytest.raises(Conflict) as raised:
        await store.write(work)
    assert raised.value is error
    assert await setting(store, "a") is None


async def test_one_failing_among_many(store: Store) -> None:
    """
    Works that are committed together fail alone: the others keep their results and their rows.
    """

    async def one(number: int) -> int:
        async def work(tx: Transaction) -> int:
            await tx.put_setting(f"s{number}", "x")
            if number % 3 == 0:
                message = f"no {number}"
                raise Conflict(message)
            if number % 3 == 1:
                await tx.add_execution(execution)  # the first succeeds, the others are refused by the database
            return number

        return await store.write(work)

    execution = an_execution()
    outcomes = await asyncio.gather(*(one(number) for number in range(30)), return_exceptions=True)
    for number, outcome in enumerate(outcomes):
        if number % 3 == 0:
            assert isinstance(outcome, Conflict)
        elif number % 3 == 1 and number > 1:
            assert isinstance(outcome, StatementFailed)
        else:
            assert outcome == number
        stored = await setting(store, f"s{number}")
        assert (stored is not None) == (outcome == number), number


async def test_no_lost_update(store: Store) -> None:
    """
    A hundred concurrent read-modify-writes of one execution end at a hundred.
    """
    execution = an_execution()
    await add(store, execution)

    async def count(tx: Transaction) -> None:
        current = await tx.get_execution_for_update(execution.id)
        assert current is not None
        await tx.put_execution(replace(current, next_sequence=current.next_sequence + 1))

    await asyncio.gather(*(store.write(count) for _ in range(100)))
    counted = await store.read(lambda tx: tx.get_execution(execution.id))
    assert counted == replace(execution, next_sequence=100)


async def test_one_of_many_gets_the_name(store: Store) -> None:
    """
    Of fifty machines that enrol under one name at once, one is added and the others meet a Conflict.
    """
    outcomes = await asyncio.gather(*(add(store, a_machine("Web1")) for _ in range(50)), return_exceptions=True)
    assert sum(outcome is None for outcome in outcomes) == 1
    assert sum(isinstance(outcome, Conflict) for outcome in outcomes) == 49


async def test_foreign_await(store: Store) -> None:
    """
    Work that awaits anything but its transaction is refused with a sentence, and nothing of it happened.
    """

    async def work(tx: Transaction) -> None:
        await tx.put_setting("a", "1")
        await asyncio.sleep(0)

    with pytest.raises(RuntimeError, match="may await nothing but its transaction"):
        await store.write(work)
    with pytest.raises(RuntimeError, match="may await nothing but its transaction"):
        await store.read(lambda _: asyncio.sleep(0))
    assert await setting(store, "a") is None
    await store.write(lambda tx: tx.put_setting("a", "2"))
    assert await setting(store, "a") == "2"


async def test_failed_statement_fails_all(store: Store) -> None:
    """
    Once a statement was refused the transaction is lost, also when the work catches the error and goes on.
    """
    execution = an_execution()
    await add(store, execution)
    refused_again = False

    async def work(tx: Transaction) -> str:
        nonlocal refused_again
        await tx.put_setting("a", "1")
        with pytest.raises(StatementFailed):
            await tx.add_execution(execution)
        with pytest.raises(StatementFailed, match="rolled back"):
            await tx.get_setting("a")
        refused_again = True
        return "fine"

    with pytest.raises(StatementFailed):
        await store.write(work)
    assert refused_again
    assert await setting(store, "a") is None


async def test_transaction_is_over(store: Store) -> None:
    """
    A transaction that work has let escape is refused with a sentence.
    """

    async def escape(tx: Transaction) -> Transaction:
        return tx

    for escaped in (await store.write(escape), await store.read(escape)):
        with pytest.raises(RuntimeError, match="over"):
            await escaped.put_setting("a", "1")
    assert await setting(store, "a") is None


async def test_a_read_cannot_write(store: Store) -> None:
    """
    A read that writes fails and changes nothing; reads and writes go on.
    """
    with pytest.raises(StatementFailed, match="read"):
        await store.read(lambda tx: tx.put_setting("a", "1"))
    assert await setting(store, "a") is None
    await store.write(lambda tx: tx.put_setting("a", "2"))
    assert await setting(store, "a") == "2"


async def test_failing_read(store: Store) -> None:
    """
    A read that raises gives its caller the very error, and the next read is not harmed.
    """
    error = Conflict("no")

    async def work(tx: Transaction) -> None:
        await tx.get_setting("a")
        raise error

    for _ in range(3):
        with pytest.raises(Conflict) as raised:
            await store.read(work)
        assert raised.value is error
    assert await setting(store, "a") is None


async def test_cancelled_caller(store: Store) -> None:
    """
    A caller that is cancelled while its write is under way does not stop the commit.
    """
    task = asyncio.create_task(store.write(lambda tx: tx.put_setting("a", "1")))
    await asyncio.sleep(0)  # it runs up to its wait
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await store.write(lambda tx: tx.put_setting("b", "2"))
    assert await setting(store, "a") == "1"


async def test_cancelled_caller_of_failing_work(store: Store) -> None:
    """
    An error that nobody waits for any more is dropped quietly.
    """

    async def fail(tx: Transaction) -> None:
        await tx.put_setting("a", "1")
        message = "no"
        raise Conflict(message)

    task = asyncio.create_task(store.write(fail))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await store.write(lambda tx: tx.put_setting("b", "2"))
    assert await setting(store, "a") is None


async def test_close_finishes(backend: str, tmp_path: Path) -> None:
    """
    What was accepted before the close is there after the next open, answered; later calls are told.
    """
    store = BACKENDS[backend](tmp_path)
    await store.open()

    async def one(number: int) -> None:
        await store.write(lambda tx: tx.put_setting(f"s{number}", "x"))

    tasks = [asyncio.create_task(one(number)) for number in range(50)]
    await asyncio.sleep(0)
    await store.close()
    await asyncio.gather(*tasks)
    with pytest.raises(StoreUnavailable, match="not open"):
        await store.write(lambda tx: tx.put_setting("late", "x"))
    with pytest.raises(StoreUnavailable, match="not open"):
        await store.read(lambda tx: tx.get_setting("s1"))
    await store.close()  # twice is fine

    again = BACKENDS[backend](tmp_path)
    await again.open()
    try:
        assert [await setting(again, f"s{number}") for number in range(50)] == ["x"] * 50
        assert await setting(again, "late") is None
    finally:
        await again.close()


async def test_reopen(backend: str, tmp_path: Path) -> None:
    """
    A store that is opened again on what an earlier one wrote finds it, and writes on.
    """
    machine = a_machine()
    for round_number in range(3):
        store = BACKENDS[backend](tmp_path)
        await store.open()
        try:
            if round_number == 0:
                await add(store, machine)
            assert await store.read(lambda tx: tx.get_machine(machine.id)) == machine
            await add(store, an_execution(machine_id=machine.id))
            waiting = await store.write(lambda tx: tx.undelivered(machine.id, limit=9))
            assert len(waiting) == round_number + 1
        finally:
            await store.close()


# --- wake-ups ---------------------------------------------------------------------------------------------------------


async def test_woken_after_commit(store: Store) -> None:
    """
    Whoever is woken finds what the wake-up is about.
    """
    execution_id = uuid4()

    async def work(tx: Transaction) -> None:
        tx.wake("topic")
        await tx.set_received(execution_id, "stdout", 7)

    async def listen(entered: asyncio.Event) -> object:
        with store.subscribe("topic") as wakeup:
            entered.set()
            await wakeup.wait()
            return await store.read(lambda tx: tx.received(execution_id))

    events = [asyncio.Event() for _ in range(3)]
    listeners = [asyncio.create_task(listen(event)) for event in events]
    await asyncio.gather(*(event.wait() for event in events))
    await store.write(work)
    assert await asyncio.gather(*listeners) == [{"stdout": 7}] * 3


async def test_wake_before_wait_is_kept(store: Store) -> None:
    """
    What is woken between entering and waiting, and between two waits, is not lost; several wake-ups are one.
    """

    async def work(tx: Transaction) -> None:
        tx.wake("topic")
        tx.wake("topic")

    with store.subscribe("topic") as wakeup:
        for _ in range(3):
            await store.write(work)
            await store.write(work)
            await wakeup.wait()
            assert await waits(wakeup)


async def test_not_woken(store: Store) -> None:
    """
    Nobody is woken by work that was rolled back, by another topic, or by what was committed before.
    """

    async def fail(tx: Transaction) -> None:
        tx.wake("topic")
        await tx.put_setting("a", "1")
        message = "no"
        raise Conflict(message)

    async def other(tx: Transaction) -> None:
        tx.wake("other")

    async def same(tx: Transaction) -> None:
        tx.wake("topic")

    await store.write(same)
    with store.subscribe("topic") as wakeup:
        with pytest.raises(Conflict):
            await store.write(fail)
        await store.write(other)
        assert await waits(wakeup)
        await store.write(same)
        await wakeup.wait()

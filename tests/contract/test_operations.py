"""Operations, and the requests that must not start anything twice."""

from dataclasses import replace
from uuid import UUID, uuid4

from enjoin.model.operation import Awaits, OperationState
from enjoin.store.base import Store
from tests.contract.values import NOON, a_request, add, an_operation, minutes


async def test_operation(store: Store) -> None:
    """
    An operation comes back with everything it was added with; its state, error and end are replaced.
    """
    operation = an_operation(deadline_at=NOON + minutes(5))
    await store.write(lambda tx: tx.add_operation(operation))
    assert await store.read(lambda tx: tx.get_operation(operation.id)) == operation
    ended = replace(
        operation,
        state=OperationState.FAILED,
        error_code="Code",
        error_message="Message.",
        ended_at=NOON + minutes(1),
    )
    await store.write(lambda tx: tx.put_operation(ended))
    assert await store.read(lambda tx: tx.get_operation(operation.id)) == ended
    bare = an_operation(incarnation_id=None, execution_id=None, awaits=Awaits.NOTHING)
    await store.write(lambda tx: tx.add_operation(bare))
    assert await store.read(lambda tx: tx.get_operation(bare.id)) == bare
    assert await store.read(lambda tx: tx.get_operation(uuid4())) is None


async def test_open_operations(store: Store) -> None:
    """
    What waits for an execution is found by id: its start or its end, not its deletion, and nothing that is over.
    """
    execution_id = uuid4()
    waiting = [an_operation(execution_id=execution_id, awaits=awaits) for awaits in (Awaits.END, Awaits.START)]
    others = [
        an_operation(execution_id=execution_id, awaits=Awaits.DELETION),
        an_operation(execution_id=execution_id, state=OperationState.SUCCEEDED, ended_at=NOON),
        an_operation(),
    ]
    await add(store, *others, *reversed(waiting))
    assert await store.write(lambda tx: tx.open_operations(execution_id)) == waiting


async def test_deletions(store: Store) -> None:
    """
    Deletions in progress are found by incarnation, and by their deadline, earliest first.
    """
    incarnation_id = uuid4()
    late = an_operation(
        incarnation_id=incarnation_id, awaits=Awaits.DELETION, execution_id=None, deadline_at=NOON + minutes(2)
    )
    early = an_operation(incarnation_id=incarnation_id, awaits=Awaits.DELETION, deadline_at=NOON + minutes(1))
    others = [
        an_operation(incarnation_id=incarnation_id, deadline_at=NOON),
        an_operation(awaits=Awaits.DELETION, deadline_at=NOON, state=OperationState.SUCCEEDED, ended_at=NOON),
        an_operation(awaits=Awaits.DELETION, deadline_at=None),
    ]
    await add(store, *others, late, early)
    assert await store.write(lambda tx: tx.open_deletions(incarnation_id)) == [late, early]
    assert await store.write(lambda tx: tx.overdue_deletions(now=NOON + minutes(2), limit=9)) == [early, late]
    assert await store.write(lambda tx: tx.overdue_deletions(now=NOON + minutes(2), limit=1)) == [early]


async def test_forget_operations(store: Store) -> None:
    """
    Only ended operations are forgotten, the oldest first, at most as many as asked for.
    """
    ended = [an_operation(state=OperationState.SUCCEEDED, ended_at=NOON + minutes(minute)) for minute in (1, 2, 3)]
    going_on = an_operation()
    await add(store, *reversed(ended), going_on)
    before = NOON + minutes(3)
    assert await store.write(lambda tx: tx.forget_operations(before=before, limit=1)) == 1
    assert await store.read(lambda tx: tx.get_operation(ended[0].id)) is None
    assert await store.write(lambda tx: tx.forget_operations(before=before, limit=9)) == 1
    assert await store.write(lambda tx: tx.forget_operations(before=before, limit=9)) == 0
    assert await store.read(lambda tx: tx.get_operation(ended[2].id)) == ended[2]
    assert await store.read(lambda tx: tx.get_operation(going_on.id)) == going_on


async def test_requests(store: Store) -> None:
    """
    The newest accepted request under one key is what a repetition is compared with.
    """
    request = a_request()
    key = (request.principal_id, request.resource_key, request.client_request_id)
    assert await store.read(lambda tx: tx.find_request(*key)) is None
    newer = replace(request, body_sha256=b"other", operation_id=None, accepted_at=NOON + minutes(1))
    await add(store, request)
    assert await store.read(lambda tx: tx.find_request(*key)) == request
    await add(store, newer)
    assert await store.read(lambda tx: tx.find_request(*key)) == newer
    assert await store.read(lambda tx: tx.find_request(UUID(int=2), *key[1:])) is None
    assert await store.read(lambda tx: tx.find_request(key[0], "GET /", key[2])) is None
    assert await store.read(lambda tx: tx.find_request(*key[:2], "other")) is None


async def test_forget_requests(store: Store) -> None:
    """
    Requests accepted before an instant are forgotten, at most as many as asked for.
    """
    for minute in range(5):
        request = a_request(client_request_id=f"request-{minute}", accepted_at=NOON + minutes(minute))
        await add(store, request)
    before = NOON + minutes(3)
    counts = [await store.write(lambda tx: tx.forget_requests(before=before, limit=2)) for _ in range(3)]
    assert counts == [2, 1, 0]
    kept = await store.read(lambda tx: tx.find_request(UUID(int=1), a_request().resource_key, "request-3"))
    assert kept is not None

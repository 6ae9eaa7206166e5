"""Requests that a client sends again because it lost the answer: recognised, so that they start nothing."""

from datetime import datetime, timedelta
from typing import Final

from enjoin.model.address import Caller, Trace
from enjoin.model.operation import Operation
from enjoin.store.base import AcceptedRequest, Transaction

REPEAT_WINDOW: Final = timedelta(minutes=10)


async def find_repeated(tx: Transaction, caller: Caller, trace: Trace, *, now: datetime) -> Operation | None:
    """Return the operation of the accepted request that this one repeats: same caller, resource, id and body."""
    if trace.client_request_id is None:
        return None
    found = await tx.find_request(caller.principal_id, trace.resource_key, trace.client_request_id)
    if (
        found is None
        or found.operation_id is None
        or found.body_sha256 != trace.body_sha256
        or found.accepted_at < now - REPEAT_WINDOW
    ):
        return None
    return await tx.get_operation(found.operation_id)


async def remember(tx: Transaction, caller: Caller, trace: Trace, operation: Operation, *, now: datetime) -> None:
    """Keep what an accepted request led to, if its client named it."""
    if trace.client_request_id is not None:
        await tx.put_request(
            AcceptedRequest(
                principal_id=caller.principal_id,
                resource_key=trace.resource_key,
                client_request_id=trace.client_request_id,
                body_sha256=trace.body_sha256,
                operation_id=operation.id,
                accepted_at=now,
            )
        )

"""Operations, and the accepted requests that lead to them."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

from enjoin.model.operation import Operation
from enjoin.store.base import AcceptedRequest
from enjoin.store.rows import instant, instant_or_none, moment, operation_of, text_or_none, uuid_or_none
from enjoin.store.statements import Verbs

_OPERATION: Final = """SELECT id, subscription_id, provider, location, resource_path, awaits, incarnation_id,
execution_id, principal_id, state, error_code, error_message, started_at, ended_at, deadline_at
FROM operations WHERE """


class OperationVerbs(Verbs):
    """What a client polls."""

    __slots__ = ()

    async def add_operation(self, operation: Operation) -> None:
        """Insert."""
        await self._connection.rows(
            """INSERT INTO operations (id, subscription_id, provider, location, resource_path, awaits, incarnation_id,
            execution_id, principal_id, state, error_code, error_message, started_at, ended_at, deadline_at)
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)""",
            str(operation.id),
            operation.subscription_id,
            operation.provider,
            operation.location,
            operation.resource_path,
            operation.awaits.value,
            text_or_none(operation.incarnation_id),
            text_or_none(operation.execution_id),
            str(operation.principal_id),
            operation.state.value,
            operation.error_code,
            operation.error_message,
            instant(operation.started_at),
            instant_or_none(operation.ended_at),
            instant_or_none(operation.deadline_at),
        )

    async def get_operation(self, operation_id: UUID) -> Operation | None:
        """Return one, or None."""
        row = await self._connection.row(_OPERATION + "id = $1", str(operation_id))
        return None if row is None else operation_of(row)

    async def put_operation(self, operation: Operation) -> None:
        """Replace state, error and end."""
        await self._connection.rows(
            "UPDATE operations SET state = $2, error_code = $3, error_message = $4, ended_at = $5 WHERE id = $1",
            str(operation.id),
            operation.state.value,
            operation.error_code,
            operation.error_message,
            instant_or_none(operation.ended_at),
        )

    async def open_operations(self, execution_id: UUID) -> Sequence[Operation]:
        """Return those in progress that wait for this execution, locked, by id."""
        rows = await self._connection.rows(
            _OPERATION + "execution_id = $1 AND state = 'InProgress' AND awaits <> 'deletion' ORDER BY id FOR UPDATE",
            str(execution_id),
        )
        return [operation_of(row) for row in rows]

    async def open_deletions(self, incarnation_id: UUID) -> Sequence[Operation]:
        """Return the deletions in progress of this incarnation, locked, by id."""
        rows = await self._connection.rows(
            _OPERATION + "incarnation_id = $1 AND state = 'InProgress' AND awaits = 'deletion' ORDER BY id FOR UPDATE",
            str(incarnation_id),
        )
        return [operation_of(row) for row in rows]

    async def overdue_deletions(self, *, now: datetime, limit: int) -> Sequence[Operation]:
        """Return at most `limit` deletions in progress whose deadline_at is not after `now`, earliest first."""
        rows = await self._connection.rows(
            _OPERATION
            + "state = 'InProgress' AND awaits = 'deletion' AND deadline_at <= $1 ORDER BY deadline_at, id LIMIT $2",
            instant(now),
            limit,
        )
        return [operation_of(row) for row in rows]

    async def group_deletions(self) -> Sequence[Operation]:
        """Return the deletions of resource groups in progress, by id."""
        rows = await self._connection.rows(
            _OPERATION + "state = 'InProgress' AND awaits = 'group-deletion' ORDER BY id"
        )
        return [operation_of(row) for row in rows]

    async def forget_operations(self, *, before: datetime, limit: int) -> int:
        """Remove at most `limit` that ended before then; return how many."""
        rows = await self._connection.rows(
            """DELETE FROM operations WHERE id IN
            (SELECT id FROM operations WHERE ended_at < $1 ORDER BY ended_at, id LIMIT $2) RETURNING id""",
            instant(before),
            limit,
        )
        return len(rows)

    # --- repeated requests --------------------------------------------------------------------------------------------

    async def find_request(
        self, principal_id: UUID, resource_key: str, client_request_id: str
    ) -> AcceptedRequest | None:
        """Return the newest accepted request under that key, or None."""
        row = await self._connection.row(
            """SELECT body_sha256, operation_id, accepted_at FROM accepted_requests
            WHERE principal_id = $1 AND resource_key = $2 AND client_request_id = $3""",
            str(principal_id),
            resource_key,
            client_request_id,
        )
        if row is None:
            return None
        return AcceptedRequest(
            principal_id=principal_id,
            resource_key=resource_key,
            client_request_id=client_request_id,
            body_sha256=row[0],
            operation_id=uuid_or_none(row[1]),
            accepted_at=moment(row[2]),
        )

    async def put_request(self, request: AcceptedRequest) -> None:
        """Insert, or replace the one under the same key."""
        await self._connection.rows(
            """INSERT INTO accepted_requests
            (principal_id, resource_key, client_request_id, body_sha256, operation_id, accepted_at)
            VALUES ($1, $2, $3, $4, $5, $6)
            ON CONFLICT (principal_id, resource_key, client_request_id) DO UPDATE SET
            body_sha256 = excluded.body_sha256, operation_id = excluded.operation_id,
            accepted_at = excluded.accepted_at""",
            str(request.principal_id),
            request.resource_key,
            request.client_request_id,
            request.body_sha256,
            text_or_none(request.operation_id),
            instant(request.accepted_at),
        )

    async def forget_requests(self, *, before: datetime, limit: int) -> int:
        """Remove at most `limit` accepted before then; return how many."""
        rows = await self._connection.rows(
            """DELETE FROM accepted_requests WHERE (principal_id, resource_key, client_request_id) IN
            (SELECT principal_id, resource_key, client_request_id FROM accepted_requests
            WHERE accepted_at < $1 ORDER BY accepted_at LIMIT $2) RETURNING client_request_id""",
            instant(before),
            limit,
        )
        return len(rows)

"""Executions, their output, and the cancels on their way to a machine."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

from enjoin.model.execution import Execution
from enjoin.store.base import CancelOrder
from enjoin.store.rows import (
    Row,
    execution_of,
    instant,
    instant_or_none,
    json_of,
    moment,
    text_or_none,
)
from enjoin.store.statements import Verbs

_EXECUTION: Final = """SELECT id, machine_id, incarnation_id, generation, origin, principal_id, correlation_id,
client_request_id, created_at, deadline_at, state, message, next_sequence, start_number, supersedes, delivered_at,
delivered_epoch, delivered_sequence, started_at, ended_at, exit_code, signal, stdout_bytes, stderr_bytes, stdout_tail,
stderr_tail, outputs, output_place, output_dropped_at FROM executions WHERE """
_NO_GENERATION: Final = 2**62  # above any


def _order_of(row: Row) -> CancelOrder:
    return CancelOrder(
        machine_id=UUID(row[0]),
        execution_id=UUID(row[1]),
        reason=row[2],
        forget=bool(row[3]),
        ordered_at=moment(row[4]),
    )


class ExecutionVerbs(Verbs):
    """One run of a spec on one machine."""

    __slots__ = ()

    async def add_execution(self, execution: Execution) -> None:
        """Insert."""
        outcome = execution.outcome
        await self._connection.rows(
            """INSERT INTO executions (id, machine_id, incarnation_id, generation, origin, principal_id, correlation_id,
            client_request_id, created_at, deadline_at, state, is_open, message, next_sequence, start_number,
            supersedes, delivered_at, delivered_epoch, delivered_sequence, started_at, ended_at, exit_code, signal,
            stdout_bytes, stderr_bytes, stdout_tail, stderr_tail, outputs, output_place, output_dropped_at)
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22,
            $23, $24, $25, $26, $27, $28, $29, $30)""",
            str(execution.id),
            str(execution.machine_id),
            str(execution.incarnation_id),
            execution.generation,
            execution.origin.value,
            str(execution.principal_id),
            execution.correlation_id,
            execution.client_request_id,
            instant(execution.created_at),
            instant(execution.deadline_at),
            execution.state.value,
            int(not execution.is_terminal),
            execution.message,
            execution.next_sequence,
            execution.start_number,
            text_or_none(execution.supersedes),
            instant_or_none(execution.delivered_at),
            execution.delivered_epoch,
            execution.delivered_sequence,
            instant_or_none(execution.started_at),
            instant_or_none(execution.ended_at),
            outcome.exit_code,
            outcome.signal,
            outcome.stdout_bytes,
            outcome.stderr_bytes,
            outcome.stdout_tail,
            outcome.stderr_tail,
            json_of(execution.outputs),
            execution.output_place,
            instant_or_none(execution.output_dropped_at),
        )

    async def get_execution(self, execution_id: UUID) -> Execution | None:
        """Return one, or None."""
        row = await self._connection.row(_EXECUTION + "id = $1", str(execution_id))
        return None if row is None else execution_of(row)

    async def get_execution_for_update(self, execution_id: UUID) -> Execution | None:
        """Return one and lock its row."""
        row = await self._connection.row(_EXECUTION + "id = $1 FOR UPDATE", str(execution_id))
        return None if row is None else execution_of(row)

    async def put_execution(self, execution: Execution) -> None:
        """Replace everything that can change."""
        outcome = execution.outcome
        await self._connection.rows(
            """UPDATE executions SET deadline_at = $2, state = $3, is_open = $4, message = $5, next_sequence = $6,
            start_number = $7, supersedes = $8, delivered_at = $9, delivered_epoch = $10, delivered_sequence = $11,
            started_at = $12, ended_at = $13, exit_code = $14, signal = $15, stdout_bytes = $16, stderr_bytes = $17,
            stdout_tail = $18, stderr_tail = $19, outputs = $20, output_place = $21,
            output_dropped_at = $22 WHERE id = $1""",
            str(execution.id),
            instant(execution.deadline_at),
            execution.state.value,
            int(not execution.is_terminal),
            execution.message,
            execution.next_sequence,
            execution.start_number,
            text_or_none(execution.supersedes),
            instant_or_none(execution.delivered_at),
            execution.delivered_epoch,
            execution.delivered_sequence,
            instant_or_none(execution.started_at),
            instant_or_none(execution.ended_at),
            outcome.exit_code,
            outcome.signal,
            outcome.stdout_bytes,
            outcome.stderr_bytes,
            outcome.stdout_tail,
            outcome.stderr_tail,
            json_of(execution.outputs),
            execution.output_place,
            instant_or_none(execution.output_dropped_at),
        )

    async def count_open_executions(self) -> Mapping[str, int]:
        """Return how many executions are not over, by state; states with none may be missing."""
        row = await self._connection.row(
            """SELECT (SELECT COUNT(*) FROM executions WHERE state = 'Pending'),
            COALESCE(SUM(CASE state WHEN 'Running' THEN 1 ELSE 0 END), 0),
            COALESCE(SUM(CASE state WHEN 'Unknown' THEN 1 ELSE 0 END), 0)
            FROM executions WHERE is_open = 1 AND delivered_at IS NOT NULL"""
        )
        assert row is not None
        return dict(zip(("Pending", "Running", "Unknown"), row, strict=True))

    async def find_execution(self, incarnation_id: UUID, generation: int) -> Execution | None:
        """Return one by generation, or None."""
        row = await self._connection.row(
            _EXECUTION + "incarnation_id = $1 AND generation = $2", str(incarnation_id), generation
        )
        return None if row is None else execution_of(row)

    async def list_executions(
        self, incarnation_id: UUID, *, before_generation: int | None = None, limit: int = 100
    ) -> Sequence[Execution]:
        """Return at most `limit`, newest first, older than `before_generation`."""
        rows = await self._connection.rows(
            _EXECUTION + "incarnation_id = $1 AND generation < $2 ORDER BY generation DESC LIMIT $3",
            str(incarnation_id),
            _NO_GENERATION if before_generation is None else before_generation,
            limit,
        )
        return [execution_of(row) for row in rows]

    async def undelivered(self, machine_id: UUID, *, limit: int) -> Sequence[Execution]:
        """Return at most `limit` Pending executions that were never given to a channel, by id; skip locked."""
        rows = await self._connection.rows(
            _EXECUTION + "machine_id = $1 AND state = 'Pending' AND delivered_at IS NULL "
            "ORDER BY id LIMIT $2 FOR UPDATE SKIP LOCKED",
            str(machine_id),
            limit,
        )
        return [execution_of(row) for row in rows]

    async def delivered_and_open(self, machine_id: UUID) -> Sequence[Execution]:
        """Return those given to a channel and not terminal, by id."""
        rows = await self._connection.rows(
            _EXECUTION + "machine_id = $1 AND is_open = 1 AND delivered_at IS NOT NULL ORDER BY id", str(machine_id)
        )
        return [execution_of(row) for row in rows]

    async def overdue(self, *, now: datetime, limit: int) -> Sequence[UUID]:
        """Return at most `limit` Pending executions whose deadline_at is not after `now`, earliest first."""
        rows = await self._connection.rows(
            "SELECT id FROM executions WHERE state = 'Pending' AND deadline_at <= $1 ORDER BY deadline_at, id LIMIT $2",
            instant(now),
            limit,
        )
        return [UUID(row[0]) for row in rows]

    # --- output -------------------------------------------------------------------------------------------------------

    async def received(self, execution_id: UUID) -> Mapping[str, int]:
        """Return how many bytes of each stream are durable; a missing stream is 0."""
        rows = await self._connection.rows(
            "SELECT stream, received_bytes FROM received_output WHERE execution_id = $1", str(execution_id)
        )
        return {row[0]: row[1] for row in rows}

    async def set_received(self, execution_id: UUID, stream: str, received_bytes: int) -> None:
        """Record how many bytes of a stream are durable."""
        await self._connection.rows(
            """INSERT INTO received_output (execution_id, stream, received_bytes) VALUES ($1, $2, $3)
            ON CONFLICT (execution_id, stream) DO UPDATE SET received_bytes = excluded.received_bytes""",
            str(execution_id),
            stream,
            received_bytes,
        )

    async def add_output(self, execution_id: UUID, stream: str, offset: int, data: bytes) -> None:
        """Store bytes at an offset. The caller makes sure that offset is where the stored bytes end."""
        await self._connection.rows(
            "INSERT INTO output_pieces (execution_id, stream, first_byte, data) VALUES ($1, $2, $3, $4)",
            str(execution_id),
            stream,
            offset,
            data,
        )

    async def read_output(self, execution_id: UUID, stream: str, offset: int, limit_bytes: int) -> bytes:
        """Return at most `limit_bytes` of the stored bytes from `offset` on."""
        rows = await self._connection.rows(
            """SELECT first_byte, data FROM output_pieces WHERE execution_id = $1 AND stream = $2
            AND first_byte >= COALESCE((SELECT MAX(p.first_byte) FROM output_pieces p
            WHERE p.execution_id = $1 AND p.stream = $2 AND p.first_byte <= $3), 0)
            AND first_byte < $4 ORDER BY first_byte""",
            str(execution_id),
            stream,
            offset,
            offset + limit_bytes,
        )
        if not rows:
            return b""
        start = offset - int(rows[0][0])
        return b"".join(bytes(row[1]) for row in rows)[start : start + limit_bytes]

    # --- cancels ------------------------------------------------------------------------------------------------------

    async def put_cancel(self, order: CancelOrder) -> None:
        """Insert, or replace the one for the same execution (a deletion replaces a cancel, never the reverse)."""
        await self._connection.rows(
            """INSERT INTO cancel_orders (execution_id, machine_id, reason, forget, ordered_at)
            VALUES ($1, $2, $3, $4, $5)
            ON CONFLICT (execution_id) DO UPDATE
            SET reason = excluded.reason, forget = excluded.forget, ordered_at = excluded.ordered_at
            WHERE excluded.forget >= cancel_orders.forget""",
            str(order.execution_id),
            str(order.machine_id),
            order.reason,
            int(order.forget),
            instant(order.ordered_at),
        )

    async def list_cancels(self, machine_id: UUID) -> Sequence[CancelOrder]:
        """Return those the machine has not confirmed, oldest first."""
        rows = await self._connection.rows(
            """SELECT machine_id, execution_id, reason, forget, ordered_at FROM cancel_orders
            WHERE machine_id = $1 ORDER BY ordered_at, execution_id""",
            str(machine_id),
        )
        return [_order_of(row) for row in rows]

    async def take_cancel(self, execution_id: UUID) -> CancelOrder | None:
        """Remove and return the one for this execution: the machine confirmed it."""
        row = await self._connection.row(
            """DELETE FROM cancel_orders WHERE execution_id = $1
            RETURNING machine_id, execution_id, reason, forget, ordered_at""",
            str(execution_id),
        )
        return None if row is None else _order_of(row)

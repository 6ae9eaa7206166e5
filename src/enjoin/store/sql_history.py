"""What retention looks at and removes."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

from enjoin.store.history import PastExecution
from enjoin.store.rows import Row, instant, moment_or_none
from enjoin.store.statements import Verbs

_LAST: Final = "g"  # above every UUID
_PAST: Final = """SELECT e.id, e.generation, COALESCE(c.generation, e.generation), e.ended_at,
CASE WHEN e.is_open = 1 OR n.id = e.id OR (n.supersedes = e.id AND n.delivered_at IS NULL)
OR c.provisioning_state = 'Deleting'
OR EXISTS (SELECT 1 FROM cancel_orders o WHERE o.execution_id = e.id) THEN 1 ELSE 0 END,
COALESCE((SELECT SUM(r.received_bytes) FROM received_output r WHERE r.execution_id = e.id), 0)
FROM executions e LEFT JOIN run_commands c ON c.incarnation_id = e.incarnation_id
LEFT JOIN executions n ON n.id = c.execution_id
WHERE e.id < $1 ORDER BY e.id DESC LIMIT $2"""
_DROP_OUTPUT: Final = (
    """INSERT INTO output_removals (execution_id) SELECT execution_id FROM received_output
    WHERE execution_id = $1 ON CONFLICT DO NOTHING""",
    "DELETE FROM output_pieces WHERE execution_id = $1",
    "DELETE FROM received_output WHERE execution_id = $1",
)
_DROP_EXECUTION: Final = (
    *_DROP_OUTPUT,
    """DELETE FROM specs WHERE (incarnation_id, generation) IN
    (SELECT incarnation_id, generation FROM executions WHERE id = $1)""",
    "DELETE FROM executions WHERE id = $1",
)


def _past_of(row: Row) -> PastExecution:
    return PastExecution(
        id=UUID(row[0]),
        generation=row[1],
        newest_generation=row[2],
        ended_at=moment_or_none(row[3]),
        is_needed=bool(row[4]),
        stored_bytes=int(row[5]),
    )


class HistoryVerbs(Verbs):
    """How much of the past is kept."""

    __slots__ = ()

    async def past_executions(self, *, before: UUID | None, limit: int) -> Sequence[PastExecution]:
        """Return at most `limit`, newest first, that were accepted earlier than `before` (None: from the newest on)."""
        rows = await self._connection.rows(_PAST, _LAST if before is None else str(before), limit)
        return [_past_of(row) for row in rows]

    async def drop_output(self, execution_id: UUID, *, at: datetime) -> None:
        """Remove an execution's output and note when; its files are left to `output_removals`."""
        for statement in _DROP_OUTPUT:
            await self._connection.rows(statement, str(execution_id))
        await self._connection.rows(
            "UPDATE executions SET output_dropped_at = $2 WHERE id = $1", str(execution_id), instant(at)
        )

    async def drop_execution(self, execution_id: UUID) -> None:
        """Remove an execution, its output and what it was asked to run."""
        for statement in _DROP_EXECUTION:
            await self._connection.rows(statement, str(execution_id))

    async def output_removals(self, *, limit: int) -> Sequence[UUID]:
        """Return at most `limit` executions whose rows are gone and whose files may still be there."""
        rows = await self._connection.rows(
            "SELECT execution_id FROM output_removals ORDER BY execution_id LIMIT $1", limit
        )
        return [UUID(row[0]) for row in rows]

    async def forget_output_removal(self, execution_id: UUID) -> None:
        """Note that the files are gone."""
        await self._connection.rows("DELETE FROM output_removals WHERE execution_id = $1", str(execution_id))

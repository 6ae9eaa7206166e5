"""The part of the contract that bounds history: what is there, and how it goes."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class PastExecution:
    """One execution as retention looks at it."""

    id: UUID
    generation: int
    newest_generation: int  # of its run command
    ended_at: datetime | None  # None: not over
    is_needed: bool  # the newest of its command, or what an undelivered one replaces, or its end is awaited
    stored_bytes: int  # of its output that are kept here


class HistoryTransaction(Protocol):
    """The verbs of retention."""

    async def past_executions(self, *, before: UUID | None, limit: int) -> Sequence[PastExecution]:
        """Return at most `limit`, newest first, that were accepted earlier than `before` (None: from the newest on)."""
        ...

    async def drop_output(self, execution_id: UUID, *, at: datetime) -> None:
        """Remove an execution's output and note when; its files are left to `output_removals`."""
        ...

    async def drop_execution(self, execution_id: UUID) -> None:
        """Remove an execution, its output and what it was asked to run."""
        ...

    async def output_removals(self, *, limit: int) -> Sequence[UUID]:
        """Return at most `limit` executions whose rows are gone and whose files may still be there."""
        ...

    async def forget_output_removal(self, execution_id: UUID) -> None:
        """Note that the files are gone."""
        ...

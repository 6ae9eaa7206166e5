"""Retention: one walk through the past after the other, from the newest execution to the oldest, a batch at a time."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from enjoin.clock import Clock
from enjoin.control.output import Output
from enjoin.model.retention import Fate, Retention, fate
from enjoin.store.base import Store, Transaction
from enjoin.store.history import PastExecution

_BATCH: Final = 500  # executions looked at in one read
_REMOVALS: Final = 100  # executions that go in one transaction, and outputs whose files go in one sweep
_PAUSE_S: Final = 60.0  # between two walks


@dataclass(slots=True)
class _Walk:
    """How far the walk has come."""

    before: UUID | None = None  # the last one looked at
    output_bytes: int = 0  # of all that were looked at


class History:
    """Keeps history within its bounds. One sweep does a bounded piece of the work."""

    def __init__(self, store: Store, clock: Clock, output: Output, retention: Retention) -> None:
        """Remove what is beyond `retention`."""
        self._store = store
        self._clock = clock
        self._output = output
        self.retention = retention
        self._walk = _Walk()
        self._next_walk_s = 0.0

    async def sweep(self) -> None:
        """Look at the next batch of the past, and remove files whose rows are gone."""
        if self._clock.monotonic_s() >= self._next_walk_s:
            await self._go_on()
        await self._remove_files()

    async def _go_on(self) -> None:
        walk, now = self._walk, self._clock.now()
        batch = await self._store.read(lambda tx: tx.past_executions(before=walk.before, limit=_BATCH))
        doomed: list[tuple[UUID, Fate]] = []
        for past in batch:
            becomes = self._fate(past, walk, now=now)
            if becomes is not Fate.GONE:
                walk.output_bytes += 0 if becomes is Fate.WITHOUT_OUTPUT else past.stored_bytes
            if becomes is Fate.GONE or (becomes is Fate.WITHOUT_OUTPUT and past.stored_bytes):
                doomed.append((past.id, becomes))
            walk.before = past.id
        for at in range(0, len(doomed), _REMOVALS):
            await self._drop(doomed[at : at + _REMOVALS], now=now)
        if len(batch) < _BATCH:
            self._walk, self._next_walk_s = _Walk(), self._clock.monotonic_s() + _PAUSE_S

    def _fate(self, past: PastExecution, walk: _Walk, *, now: datetime) -> Fate:
        if past.is_needed or past.ended_at is None:
            return Fate.KEPT
        return fate(
            self.retention,
            ended_at=past.ended_at,
            newer_executions=past.newest_generation - past.generation,
            output_bytes=walk.output_bytes + past.stored_bytes,
            now=now,
        )

    async def _drop(self, doomed: list[tuple[UUID, Fate]], *, now: datetime) -> None:
        async def work(tx: Transaction) -> None:
            for execution_id, becomes in doomed:
                if becomes is Fate.GONE:
                    await tx.drop_execution(execution_id)
                else:
                    await tx.drop_output(execution_id, at=now)

        await self._store.write(work)

    async def _remove_files(self) -> None:
        """Remove the files of output that was dropped or deleted; who is reading one is told so."""
        waiting = await self._store.read(lambda tx: tx.output_removals(limit=_REMOVALS))
        if not waiting:
            return
        await self._output.remove_files(waiting)

        async def work(tx: Transaction) -> None:
            for execution_id in waiting:
                await tx.forget_output_removal(execution_id)

        await self._store.write(work)

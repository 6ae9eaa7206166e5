"""Whether this control plane can do its work now, and what can be counted by looking."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from enjoin.clock import Clock
from enjoin.control.metrics import MeteredStore
from enjoin.control.sessions import Sessions
from enjoin.errors import RunCommandError, StoreUnavailable
from enjoin.store.base import Transaction

FRESH_S: Final = 1.0  # anyone may ask: more often than this nothing is looked up anew
WRITE_WITHIN_S: Final = 5.0
PROBE: Final = "health.probe"  # the setting that is written to see whether one can


@dataclass(frozen=True, slots=True, kw_only=True)
class Gauges:
    """What there is at one moment."""

    agents: int  # connected to this process
    channel_messages: int  # made for machines and not yet written to their connections
    store_writes: int  # transactions that are not over
    executions: Mapping[str, int]  # by state, of those that are not over


class Health:
    """Looks, at most once in FRESH_S however often it is asked."""

    def __init__(self, store: MeteredStore, clock: Clock, sessions: Sessions, stopping: asyncio.Event) -> None:
        """Look at these."""
        self._store = store
        self._clock = clock
        self._sessions = sessions
        self._stopping = stopping
        self._looking = asyncio.Lock()  # whoever comes meanwhile takes the answer of the first
        self._probed_at_s: float | None = None
        self._trouble: str | None = None
        self._counted_at_s: float | None = None
        self._executions: Mapping[str, int] = {}

    async def require_ready(self) -> None:
        """Return when commands can be accepted; raise StoreUnavailable with the reason when not."""
        if self._stopping.is_set():
            text = "The control plane is stopping."
            raise StoreUnavailable(text)
        async with self._looking:
            if self._is_stale(self._probed_at_s):
                self._trouble = await self._probe()
                self._probed_at_s = self._clock.monotonic_s()
        if self._trouble is not None:
            raise StoreUnavailable(self._trouble)

    async def _probe(self) -> str | None:
        """Return why the database cannot be written, or None: it was just written."""

        async def work(tx: Transaction) -> None:
            await tx.put_setting(PROBE, self._clock.now().isoformat())

        try:
            async with asyncio.timeout(WRITE_WITHIN_S):
                await self._store.write(work)
        except TimeoutError:
            return f"The database did not take a write within {WRITE_WITHIN_S:g} s."
        except RunCommandError:  # its text names a path of this machine, which is nobody's business here
            return "The database cannot be written; the log of the control plane says why."
        return None

    async def gauges(self) -> Gauges:
        """Return what there is now; the executions may be FRESH_S old."""
        async with self._looking:
            if self._is_stale(self._counted_at_s):
                self._executions = await self._store.read(_count)
                self._counted_at_s = self._clock.monotonic_s()
        return Gauges(
            agents=self._sessions.count,
            channel_messages=self._sessions.queued,
            store_writes=self._store.waiting,
            executions=self._executions,
        )

    def _is_stale(self, looked_at_s: float | None) -> bool:
        return looked_at_s is None or self._clock.monotonic_s() - looked_at_s >= FRESH_S


async def _count(tx: Transaction) -> Mapping[str, int]:
    return await tx.count_open_executions()

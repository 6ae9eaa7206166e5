"""Time that stands still until a test moves it."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Final

NOON: Final = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)


class ManualClock:
    """A Clock. Both its clocks start at fixed values and move together, by `advance` alone."""

    def __init__(self, now: datetime = NOON) -> None:
        """Stand at `now`."""
        self._now = now
        self._monotonic_s = 0.0
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    def now(self) -> datetime:
        """Return the wall-clock time, in UTC."""
        return self._now

    def monotonic_s(self) -> float:
        """Return seconds since the clock was made."""
        return self._monotonic_s

    async def sleep(self, delay_s: float) -> None:
        """Return when the clock was moved by `delay_s` seconds; at once, but not before others ran, for none."""
        if delay_s <= 0:
            await asyncio.sleep(0)
            return
        due: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        sleeper = (self._monotonic_s + delay_s, due)
        self._sleepers.append(sleeper)
        try:
            await due
        finally:
            if sleeper in self._sleepers:
                self._sleepers.remove(sleeper)

    def advance(self, by: timedelta) -> None:
        """Move on and wake whose time has come, earliest first."""
        self._now += by
        self._monotonic_s += by.total_seconds()
        for due_s, due in sorted(self._sleepers, key=lambda sleeper: sleeper[0]):
            if due_s <= self._monotonic_s and not due.done():
                due.set_result(None)

    @property
    def sleeping(self) -> int:
        """How many sleep on this clock."""
        return len(self._sleepers)

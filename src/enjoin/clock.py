"""Time as the program reads it: wall clock for people, monotonic for durations. Injected, so that tests set it."""

import asyncio
import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """What code that depends on time is given."""

    def now(self) -> datetime:
        """Return the wall-clock time, in UTC. For people and for stored deadlines."""
        ...

    def monotonic_s(self) -> float:
        """Return seconds since some fixed instant, counting suspended time. For durations."""
        ...

    async def sleep(self, delay_s: float) -> None:
        """Return after `delay_s` seconds."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def now(self) -> datetime:
        """Return the wall-clock time, in UTC."""
        return datetime.now(UTC)

    def monotonic_s(self) -> float:
        """Return CLOCK_BOOTTIME: unlike CLOCK_MONOTONIC it counts the time a machine was suspended."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    async def sleep(self, delay_s: float) -> None:
        """Return after `delay_s` seconds."""
        await asyncio.sleep(delay_s)

"""Topics within one process: who waits for which, and how a commit wakes them."""

import asyncio
import threading
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Self


class LocalWakeup:
    """A place on a topic's list. It belongs to the event loop that entered it; one task waits on it at a time."""

    __slots__ = ("_event", "_topics", "loop", "topic")

    def __init__(self, topics: "Topics", topic: str) -> None:
        """Stand ready to enter the list of `topic`."""
        self._topics = topics
        self._event = asyncio.Event()
        self.topic = topic
        self.loop: asyncio.AbstractEventLoop | None = None

    def __enter__(self) -> Self:
        """Subscribe."""
        self.loop = asyncio.get_running_loop()
        self._topics.enter(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Unsubscribe."""
        self._topics.leave(self)

    async def wait(self) -> None:
        """Return when the topic was woken since the subscription began or since the last return."""
        await self._event.wait()
        self._event.clear()

    def wake(self) -> None:
        """End the wait. To be called on the loop that entered."""
        self._event.set()


class Topics:
    """Who is on which list. Used by the threads of event loops and by the one that commits."""

    def __init__(self) -> None:
        """Start with empty lists."""
        self._lock = threading.Lock()
        self._entered: dict[str, set[LocalWakeup]] = {}

    def enter(self, wakeup: LocalWakeup) -> None:
        """Put it on its list."""
        with self._lock:
            self._entered.setdefault(wakeup.topic, set()).add(wakeup)

    def leave(self, wakeup: LocalWakeup) -> None:
        """Take it off its list."""
        with self._lock:
            others = self._entered.get(wakeup.topic)
            if others is not None:
                others.discard(wakeup)
                if not others:
                    del self._entered[wakeup.topic]

    def waiting_for(self, topics: Iterable[str]) -> Mapping[asyncio.AbstractEventLoop, list[LocalWakeup]]:
        """Return everyone on the lists of `topics`, by the loop that must wake them."""
        found: dict[asyncio.AbstractEventLoop, list[LocalWakeup]] = {}
        with self._lock:
            for topic in topics:
                for wakeup in self._entered.get(topic, ()):
                    assert wakeup.loop is not None
                    found.setdefault(wakeup.loop, []).append(wakeup)
        return found

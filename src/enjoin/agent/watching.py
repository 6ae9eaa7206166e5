"""Notices when the files of running scripts grow, so that their output is sent while it is written."""

import asyncio
from collections.abc import Callable
from typing import Final
from uuid import UUID

from enjoin.agent.inotify import Inotify, Mask
from enjoin.agent.outbox import Outbox
from enjoin.agent.run import Run

POLL_S: Final = 0.5  # where the kernel grants no watch


class Watcher:
    """Touches the outbox's streams when their files grew. Used from one event loop."""

    def __init__(self, outbox: Outbox) -> None:
        """Watch nothing yet."""
        self._outbox = outbox
        self._inotify = Inotify()
        self._watches: dict[int, UUID] = {}
        self._polls: dict[UUID, asyncio.TimerHandle] = {}

    def watch(self, run: Run) -> None:
        """Begin with the files of `run`; without a watch left on this machine, look at them now and then."""
        try:
            run.watch = self._inotify.add(run.bundle.path, Mask.MODIFY)
        except OSError:  # fs.inotify.max_user_watches: the scripts of one machine must not depend on it
            self._poll(run.execution_id)
        else:
            self._watches[run.watch] = run.execution_id
        run.is_watched = True

    def unwatch(self, run: Run) -> None:
        """End it."""
        run.is_watched = False
        poll = self._polls.pop(run.execution_id, None)
        if poll is not None:
            poll.cancel()
        if run.watch is not None:
            self._watches.pop(run.watch, None)
            self._inotify.remove(run.watch)
            run.watch = None

    async def run(self) -> None:
        """Pass on which files grew, for ever."""
        while True:
            for event in await self._inotify.read():
                if event.wd in self._watches:
                    self._outbox.touch(self._watches[event.wd])
                elif event.mask & Mask.Q_OVERFLOW:
                    self._outbox.touch_all()

    def close(self) -> None:
        """Watch nothing any more."""
        for poll in self._polls.values():
            poll.cancel()
        self._polls.clear()
        self._inotify.close()

    def _poll(self, execution_id: UUID) -> None:
        look: Callable[[UUID], None] = self._poll
        self._outbox.touch(execution_id)
        self._polls[execution_id] = asyncio.get_running_loop().call_later(POLL_S, look, execution_id)

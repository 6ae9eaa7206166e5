"""One script that a shim owns, as the agent sees it."""

import asyncio
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from enjoin.agent.bundle import Bundle, Exit, Started


class NotStartedError(Exception):
    """The request to start a script was answered, and not with a start."""


class AlreadyClaimed(NotStartedError):
    """Another shim has, or had, the right to start it: adopt or examine the bundle."""


class CouldNotStart(NotStartedError):
    """It was never started, and `str` of this says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """Its shim died without an exit record. What could be found of the script was ended before this is answered."""

    was_alive: bool  # something was found; else the script may have ended before, unseen
    may_remain: bool  # there was no cgroup to tell, or something did not die


class Script:
    """One script under a shim. Made by Supervisor.launch or Supervisor.adopt."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        loop = asyncio.get_running_loop()
        self._started: asyncio.Future[Started] = loop.create_future()
        self._ended: asyncio.Future[Exit | Lost] = loop.create_future()
        self.request: bytes | None = None  # the spec, secrets and all, until it is answered
        self.attempts = 0
        self._pidfd = -1
        self._is_cancel_wanted = False

    async def started(self) -> Started:
        """Wait for the start. Raises AlreadyClaimed or CouldNotStart."""
        return await asyncio.shield(self._started)

    async def ended(self) -> Exit | Lost:
        """Wait for the end; its record is durable by then, unless the disk refuses it.

        Raises AlreadyClaimed, and CouldNotStart where not even that could be recorded.
        """
        return await asyncio.shield(self._ended)

    def cancel(self, reason: str) -> None:
        """Ask the shim to end the script's whole tree; `ended()` tells when that is done. Repeating it is harmless."""
        self._is_cancel_wanted = True
        self.bundle.request_cancel(reason)
        self._wake_shim()

    # Below: for Supervisor.

    @property
    def is_answered(self) -> bool:
        """Whether it is known who has the right to start it."""
        return self._started.done()

    def when_answered(self, call: Callable[[], None]) -> None:
        """Call `call` once, when that is known."""
        self._started.add_done_callback(lambda _: call())

    @property
    def pidfd(self) -> int:
        """Return the shim's, -1 while unknown."""
        return self._pidfd

    @property
    def has_ended(self) -> bool:
        """Whether nothing more can happen to it."""
        return self._ended.done()

    def hear(self, message: dict[str, Any], descriptors: list[int]) -> None:
        """Take in what the shim said on the control socket."""
        what = message.pop("is")
        if what == "started":
            self.settle_started(Started(**message), *descriptors)
        elif what == "claimed":
            self.fail(AlreadyClaimed(f"execution {self.bundle.execution_id} was started before"))
        else:
            self.settle_ended(Exit(**message))

    def settle_started(self, started: Started, pidfd: int = -1) -> None:
        """Record the start and the shim's pidfd, which is owned from now on."""
        self.close()
        self.request, self._pidfd = None, pidfd
        if not self._started.done():
            self._started.set_result(started)
        if self._is_cancel_wanted:  # asked for while nobody knew whom to wake
            self._wake_shim()

    def settle_ended(self, end: Exit | Lost) -> None:
        """Record the end."""
        if not self._started.done():
            not_started = isinstance(end, Exit) and end.reason == "could_not_start"
            reason = end.message if isinstance(end, Exit) and not_started else "it was canceled before it started"
            self._fail(self._started, CouldNotStart(reason))
        if not self._ended.done():
            self._ended.set_result(end)
        self.close()

    def fail(self, error: NotStartedError) -> None:
        """Record that this request started nothing."""
        self._fail(self._started, error)
        self._fail(self._ended, error)
        self.close()

    @staticmethod
    def _fail(future: "asyncio.Future[Any]", error: Exception) -> None:
        if not future.done():
            future.set_exception(error)
            future.exception()  # seen: whoever does not ask is not to be warned

    def _wake_shim(self) -> None:
        if self._pidfd >= 0:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGUSR1)

    def close(self) -> None:
        """Let go of the shim; harmless when repeated."""
        self.request = None
        descriptor, self._pidfd = self._pidfd, -1
        if descriptor >= 0:
            os.close(descriptor)

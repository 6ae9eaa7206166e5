"""The two streams of an execution, from the control plane to two descriptors, byte for byte and as they come."""

import os
import queue
import select
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from enjoin.cli.client import BROKEN, FIRST_DELAY_S, LONGEST_DELAY_S, Client
from enjoin.cli.failure import Failure, UnreachableFailure
from enjoin.cli.wire import Wire

STREAMS: Final = {"stdout": "outputBytes", "stderr": "errorBytes"}  # stream -> the field that holds its whole size
TERMINAL: Final = frozenset({"Succeeded", "Failed", "TimedOut", "Canceled"})
UNKNOWN: Final = "Unknown"
PATIENCE_S: Final = 120.0  # with a control plane that goes away while a script runs: the script goes on
ARREARS_S: Final = 60.0  # for output that has not arrived although the script is over


class OutputMissing(Failure):
    """The script is over; part of its output is not here."""

    code = "OutputMissing"


class ReaderGone(Exception):
    """Nobody reads the descriptor any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionPath:
    """Where an execution is asked about."""

    command: str  # URL path of the run command
    generation: int

    def get(self, here: Client) -> dict[str, Any]:
        """Return its properties as they are now."""
        properties: dict[str, Any] = here.get(str(self))["properties"]
        return properties

    def __str__(self) -> str:
        return f"{self.command}/executions/{self.generation}"


class Follower(threading.Thread):
    """Copies one stream to a descriptor until the stream is complete, across interruptions of the connection.

    When it is over it puts itself into `over`; `problem` says why it ended early.
    """

    def __init__(
        self, here: Client, execution: ExecutionPath, stream: str, descriptor: int, *, over: "queue.Queue[Follower]"
    ) -> None:
        super().__init__(name=f"enjoin-{stream}", daemon=True)
        self.stream = stream
        self.problem: Exception | None = None
        self._here = here
        self._execution = execution
        self._descriptor = descriptor
        self._over = over
        self.offset = 0  # bytes copied so far
        self._wire: Wire | None = None
        self._stopped = threading.Event()

    def run(self) -> None:
        """Follow, and tell how it ended."""
        try:
            self._follow()
        except (Failure, ReaderGone, OSError) as error:
            self.problem = error
        finally:
            self._over.put(self)

    def stop(self) -> None:
        """Make it end soon; what it was writing stays written."""
        self._stopped.set()
        if self._wire is not None:
            self._wire.cut()

    def _follow(self) -> None:
        silent_since, delay_s = time.monotonic(), FIRST_DELAY_S
        while not self._stopped.is_set():
            offset, reason = self.offset, self._read_on()
            if self._stopped.is_set() or (reason is None and self._is_complete()):
                return
            now = time.monotonic()
            if self.offset > offset or reason is None:
                silent_since, delay_s = now, FIRST_DELAY_S
            elif now - silent_since > self._here.patience_s:
                message = f"the control plane at {self._here.connection.endpoint} went away: {reason}"
                raise UnreachableFailure(message)
            self._stopped.wait(delay_s)
            delay_s = min(delay_s * 2, LONGEST_DELAY_S)

    def _read_on(self) -> str | None:
        """Copy until the control plane ends the stream, and return None, or why the connection broke."""
        query = {"stream": self.stream, "offset": str(self.offset), "follow": "true"}
        with self._here.stream(f"{self._execution}/output", **query) as (wire, pieces):
            self._wire = wire
            while True:
                try:
                    piece = next(pieces, b"")
                except BROKEN as error:
                    return str(error) or type(error).__name__
                if not piece:
                    return None
                write_all(self._descriptor, piece)
                self.offset += len(piece)

    def _is_complete(self) -> bool:
        """Whether the end was the stream's own, and not that of a control plane that is going down."""
        properties = self._execution.get(self._here)
        state = properties["executionState"]
        return state == UNKNOWN or (state in TERMINAL and self.offset >= int(properties[STREAMS[self.stream]]))


class Following:
    """Both streams of an execution, or one of them, being copied at the same time."""

    def __init__(self, here: Client, execution: ExecutionPath, descriptors: Mapping[str, int]) -> None:
        """Begin; `descriptors` says where each stream goes."""
        self._here = here
        self._execution = execution
        self._over: queue.Queue[Follower] = queue.Queue()
        self._running = [
            Follower(here, execution, stream, descriptor, over=self._over) for stream, descriptor in descriptors.items()
        ]
        for follower in self._running:
            follower.start()

    def wait(self) -> None:
        """Return when all is copied; raise what stopped a stream early. May be called again after an interruption."""
        copied_bytes = -1
        while self._running:
            try:
                ended = self._over.get(timeout=ARREARS_S)
            except queue.Empty:
                before, copied_bytes = copied_bytes, sum(follower.offset for follower in self._running)
                if copied_bytes == before:
                    self._give_up_arrears()
                continue
            self._running.remove(ended)
            if ended.problem is not None:
                self.stop()
                raise ended.problem

    def _give_up_arrears(self) -> None:
        """Stop when the script is over and its machine keeps the rest of the output to itself."""
        properties = self._execution.get(self._here)
        if properties["executionState"] not in TERMINAL:
            return
        missing = {f.stream: int(properties[STREAMS[f.stream]]) - f.offset for f in self._running}
        self.stop()
        what = " and ".join(f"{count} bytes of {stream}" for stream, count in missing.items())
        message = f"the script is over and {what} are still on the machine; `enjoin logs` shows them when they are here"
        raise OutputMissing(message)

    def stop(self) -> None:
        """Make the rest end soon."""
        for follower in self._running:
            follower.stop()


def descriptors(streams: tuple[str, ...] = ("stdout", "stderr")) -> dict[str, int]:
    """Return where this process writes each of `streams`, with nothing of our own left in a buffer before it."""
    sys.stdout.flush()
    sys.stderr.flush()
    return {stream: {"stdout": 1, "stderr": 2}[stream] for stream in streams}


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of `data` at once, unbuffered; raise ReaderGone when nobody reads any more."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:  # someone made our terminal non-blocking
            select.select([], [descriptor], [])
        except BrokenPipeError:
            raise ReaderGone from None

"""What the control plane counts about itself. It holds no name of a resource and no secret: anyone may read it.

Counters and histograms live as long as the process; what can be looked up when somebody asks is not counted at all.
docs/reference/metrics.md says what each one means; a test compares the two.
"""

import time
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Final, TypeVar

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics

from enjoin.model.execution import Execution, ExecutionState
from enjoin.store.base import Store, Transaction, Wakeup

T = TypeVar("T")

disable_created_metrics()  # type: ignore[no-untyped-call]  # a series more for each, of no use to anyone here
REGISTRY: Final = CollectorRegistry(auto_describe=True)
_WRITE_BUCKETS_S: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
_DISPATCH_BUCKETS_S: Final = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60, 600, 5400)

EXECUTIONS: Final = Counter(
    "enjoin_executions",
    "Executions that entered a state since the control plane started.",
    ["state"],
    registry=REGISTRY,
)
DISPATCH: Final = Histogram(
    "enjoin_dispatch_seconds",
    "From the acceptance of an execution to the start of its script.",
    buckets=_DISPATCH_BUCKETS_S,
    registry=REGISTRY,
)
STORE_WRITES: Final = Histogram(
    "enjoin_store_write_seconds",
    "Transactions that write: waiting for their turn, running, and being made durable.",
    buckets=_WRITE_BUCKETS_S,
    registry=REGISTRY,
)
STORE_FAILURES: Final = Counter(
    "enjoin_store_write_failures",
    "Transactions that write and were not committed, refusals of what was asked included.",
    registry=REGISTRY,
)
OUTPUT_BYTES: Final = Counter(
    "enjoin_output_received_bytes",
    "Bytes of output received from machines, each once.",
    registry=REGISTRY,
)
REQUESTS: Final = Counter(
    "enjoin_http_requests",
    "Answered requests by route and status.",
    ["method", "route", "status"],
    registry=REGISTRY,
)
CHANNELS_REFUSED: Final = Counter(
    "enjoin_channels_refused",
    "Connections to the channel of agents that said something else than the protocol allows.",
    registry=REGISTRY,
)
_STATES: Final = {state: EXECUTIONS.labels(state=state.value) for state in ExecutionState}  # looked up once
_notes: ContextVar[list[Callable[[], None]] | None] = ContextVar("notes of the transaction", default=None)


def after_commit(note: Callable[[], None]) -> None:
    """Call `note` once the transaction that is running is durable; never if it is undone or run again.

    Only a transaction of a MeteredStore keeps notes; elsewhere nothing is counted.
    """
    notes = _notes.get()
    if notes is not None:
        notes.append(note)


def accepted(_: Execution) -> None:
    """Count an execution that a request made."""
    after_commit(_STATES[ExecutionState.PENDING].inc)


def moved(before: Execution, now: Execution) -> None:
    """Count a change of an execution's state, and how long it waited for its start."""
    if now.state is not before.state:
        after_commit(_STATES[now.state].inc)
    if before.started_at is None and now.started_at is not None:
        waited_s = max((now.started_at - now.created_at).total_seconds(), 0.0)
        after_commit(lambda: DISPATCH.observe(waited_s))


def received(size_bytes: int) -> None:
    """Count bytes of output that were not here before."""
    after_commit(lambda: OUTPUT_BYTES.inc(size_bytes))


class MeteredStore:
    """A `Store` whose writes are timed and whose transactions keep notes for after their commit."""

    def __init__(self, store: Store) -> None:
        """Work on `store`."""
        self._store = store
        self.waiting = 0  # writes that are neither durable nor refused yet

    async def open(self) -> None:
        """Open it."""
        await self._store.open()

    async def close(self) -> None:
        """Close it."""
        await self._store.close()

    async def write(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        """Run `work` in a transaction and return its result after the commit; raise what it raised."""
        notes: list[Callable[[], None]] = []

        async def noted(tx: Transaction) -> T:
            notes.clear()  # of a run that was undone
            token = _notes.set(notes)
            try:
                return await work(tx)
            finally:
                _notes.reset(token)

        began_s = time.perf_counter()
        self.waiting += 1
        try:
            result = await self._store.write(noted)
        except Exception:
            STORE_FAILURES.inc()
            raise
        finally:
            self.waiting -= 1
        STORE_WRITES.observe(time.perf_counter() - began_s)
        for note in notes:
            note()
        return result

    async def read(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        """Run `work`, which must not write, on a consistent snapshot."""
        return await self._store.read(work)

    def subscribe(self, topic: str) -> Wakeup:
        """Return a subscription to a topic, not yet entered."""
        return self._store.subscribe(topic)

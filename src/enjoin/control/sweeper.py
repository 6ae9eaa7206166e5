"""What nobody's message brings about: deadlines, leases, silence, and what is old."""

from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Final

import structlog

from enjoin.clock import Clock
from enjoin.control.cancels import CANCELED, handed_over, order
from enjoin.control.groups import Groups
from enjoin.control.history import History
from enjoin.control.sessions import Sessions
from enjoin.control.settlement import finish_deletion, machine_topic, move
from enjoin.errors import StoreUnavailable
from enjoin.model.execution import Event, ExecutionState
from enjoin.store.base import Store, Transaction

log = structlog.get_logger(__name__)
PERIOD_S: Final = 1.0
BATCH: Final = 200
KEEP_REQUESTS: Final = timedelta(minutes=15)
KEEP_OPERATIONS: Final = timedelta(days=7)

_UNDELIVERED: Final = "The machine did not connect within the delivery deadline; the command was never sent to it."
_UNACKNOWLEDGED: Final = (
    "The command was handed to the machine, which did not acknowledge it within the delivery deadline; "
    "whether it ran is not known until the machine is back."
)
_LEASE: Final = (
    "The connection to the machine was lost while the script ran; its outcome is not known until it is back."
)


class Sweeper:
    """Runs for the life of the server."""

    def __init__(self, store: Store, clock: Clock, sessions: Sessions, groups: Groups, history: History) -> None:
        """Read and write through `store`."""
        self._store = store
        self._clock = clock
        self._sessions = sessions
        self._parts = (
            self._end_silent,
            partial(store.write, self._overdue),
            partial(store.write, self._leases),
            partial(store.write, self._deletions),
            groups.advance,
            history.sweep,
            self._forget,
        )

    async def run(self) -> None:
        """Sweep for ever. What fails is tried again, and keeps nothing else from being done."""
        while True:
            await self._clock.sleep(PERIOD_S)
            for part in self._parts:
                try:
                    await part()
                except StoreUnavailable as error:
                    log.warning("sweep_postponed", reason=str(error))
                except Exception:  # a mistake of ours must not let every deadline pass unseen
                    log.exception("sweep_failed")

    async def sweep(self) -> None:
        """Do all that is due now."""
        for part in self._parts:
            await part()

    async def _end_silent(self) -> None:
        self._sessions.end_silent()

    async def _forget(self) -> None:
        now = self._clock.now()
        await self._store.write(lambda tx: tx.forget_requests(before=now - KEEP_REQUESTS, limit=BATCH))
        await self._store.write(lambda tx: tx.forget_operations(before=now - KEEP_OPERATIONS, limit=BATCH))

    async def _overdue(self, tx: Transaction) -> None:
        now = self._clock.now()
        for execution_id in await tx.overdue(now=now, limit=BATCH):
            execution = await tx.get_execution_for_update(execution_id)
            if execution is None or execution.state is not ExecutionState.PENDING:
                continue
            if execution.delivered_at is None:
                await move(tx, execution, Event.UNDELIVERED, at=now, now=now, message=_UNDELIVERED)
            else:
                await move(tx, execution, Event.MACHINE_LOST, at=now, now=now, message=_UNACKNOWLEDGED)
            # Also what an update was to replace: its author asked for its end, and nobody else will.
            for other in await handed_over(tx, execution):
                await order(tx, other.machine_id, other.id, reason=CANCELED, now=now)
                tx.wake(machine_topic(other.machine_id))

    async def _leases(self, tx: Transaction) -> None:
        now = self._clock.now()
        for machine_id in await tx.expired_leases(now=now, limit=BATCH):
            machine = await tx.get_machine_for_update(machine_id)
            if machine is None or machine.lease_expires_at is None or machine.lease_expires_at > now:
                continue
            await tx.put_machine(replace(machine, lease_expires_at=None))
            tx.wake(machine_topic(machine_id))  # readers of its output wait for it no longer
            for execution in await tx.delivered_and_open(machine_id):
                if execution.state is ExecutionState.RUNNING:
                    await move(tx, execution, Event.MACHINE_LOST, at=now, now=now, message=_LEASE)

    async def _deletions(self, tx: Transaction) -> None:
        now = self._clock.now()
        for operation in await tx.overdue_deletions(now=now, limit=BATCH):
            if operation.incarnation_id is not None:
                await finish_deletion(tx, operation.incarnation_id, now=now)

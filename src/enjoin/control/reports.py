"""What machines say, applied: the way an execution moves forward."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from uuid import UUID

import structlog

from enjoin.clock import Clock
from enjoin.control.output import Output
from enjoin.control.sessions import Session
from enjoin.control.settlement import finish_deletion, machine_topic, move, output_topic
from enjoin.errors import IllegalTransition
from enjoin.model.command import TAIL_BYTES
from enjoin.model.execution import Execution, ExecutionState, Outcome
from enjoin.protocol.messages import Ack, CancelDone, NotHeld, OutputChunk, StatusReport, ToServer
from enjoin.store.base import Store, Transaction

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Batch:
    session: Session
    messages: Sequence[ToServer]
    now: datetime


class Reports:
    """Applies frames of agents, each in one transaction, and says what is durable now."""

    def __init__(self, store: Store, clock: Clock, output: Output) -> None:
        """Write through `store`; give output to `output`."""
        self._store = store
        self._clock = clock
        self._output = output

    async def apply(self, session: Session, messages: Sequence[ToServer]) -> Ack:
        """Apply messages in order and return what the agent need not send again. Twice is as good as once.

        What a machine says about another machine's execution is acknowledged and ignored.
        """
        chunks = await self._own_chunks(session, messages)
        await self._output.spill(chunks)
        batch = _Batch(session, messages, self._clock.now())

        async def work(tx: Transaction) -> Ack:
            reports = []
            for message in batch.messages:
                if isinstance(message, StatusReport):
                    await self._record(tx, batch, message)
                    reports.append((message.execution_id, message.sequence))
                elif isinstance(message, NotHeld):
                    await _not_held(tx, batch, message)
            outputs = await self._output.receive(tx, chunks)
            for message in batch.messages:
                if isinstance(message, CancelDone):
                    await _cancel_done(tx, batch, message)
            return Ack(reports=reports, outputs=outputs)

        return await self._store.write(work)

    async def _own_chunks(self, session: Session, messages: Sequence[ToServer]) -> list[OutputChunk]:
        chunks = [message for message in messages if isinstance(message, OutputChunk)]
        if not chunks:
            return chunks

        async def work(tx: Transaction) -> set[UUID]:
            own = set()
            for execution_id in {chunk.execution_id for chunk in chunks}:
                execution = await tx.get_execution(execution_id)
                if execution is not None and execution.machine_id == session.machine_id:
                    own.add(execution_id)
            return own

        own = await self._store.read(work)
        return [chunk for chunk in chunks if chunk.execution_id in own]

    async def _record(self, tx: Transaction, batch: _Batch, report: StatusReport) -> None:
        current = await tx.get_execution_for_update(report.execution_id)
        if current is None or current.machine_id != batch.session.machine_id:
            log.warning("report_ignored", execution=str(report.execution_id), machine=str(batch.session.machine_id))
            return
        if report.sequence < current.next_sequence or current.is_terminal:
            return  # a resend: already settled
        batch.session.journal_sequence = max(batch.session.journal_sequence, report.journal_sequence)
        at = batch.now - timedelta(seconds=max(report.ago_s, 0.0))
        ran = timedelta(seconds=report.ran_s) if report.ran_s is not None else None
        try:
            await move(
                tx,
                current,
                report.event,
                at=at,
                now=batch.now,
                message=report.message,
                started_at=at - ran if ran is not None else None,
                outcome=_outcome(current, report),
                next_sequence=report.sequence + 1,
            )
        except IllegalTransition as error:
            log.warning("report_refused", execution=str(report.execution_id), reason=str(error))


def _outcome(current: Execution, report: StatusReport) -> Outcome:
    return replace(
        current.outcome,
        exit_code=report.exit_code,
        signal=report.signal,
        stdout_bytes=max(report.stdout_bytes, 0),
        stderr_bytes=max(report.stderr_bytes, 0),
        stdout_tail=report.stdout_tail[-TAIL_BYTES:],
        stderr_tail=report.stderr_tail[-TAIL_BYTES:],
    )


async def _not_held(tx: Transaction, batch: _Batch, message: NotHeld) -> None:
    """Hand an assignment over again: its machine, whose memory is whole, never accepted it."""
    execution = await tx.get_execution_for_update(message.execution_id)
    if (
        execution is not None
        and execution.machine_id == batch.session.machine_id
        and execution.state is ExecutionState.PENDING
        and execution.delivered_epoch == batch.session.state_epoch
        and message.journal_sequence >= execution.delivered_sequence
    ):
        await tx.put_execution(replace(execution, delivered_at=None, delivered_epoch=None, delivered_sequence=0))
        tx.wake(machine_topic(execution.machine_id))


async def _cancel_done(tx: Transaction, batch: _Batch, message: CancelDone) -> None:
    execution = await tx.get_execution(message.execution_id)
    if execution is not None and execution.machine_id != batch.session.machine_id:
        return
    order = await tx.take_cancel(message.execution_id)
    if order is None or execution is None:
        return
    tx.wake(output_topic(execution.id))
    if order.reason == "deleted":
        await finish_deletion(tx, execution.incarnation_id, now=batch.now)

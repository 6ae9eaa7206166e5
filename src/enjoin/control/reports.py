"""What machines say, applied: the way an execution moves forward."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Final
from uuid import UUID

import structlog

from enjoin.clock import Clock
from enjoin.control import metrics
from enjoin.control.assignments import REPLACED
from enjoin.control.cancels import confirm, is_ordered
from enjoin.control.output import Output, without_gaps
from enjoin.control.sessions import REINSTALLED, Session
from enjoin.control.settlement import machine_topic, move
from enjoin.errors import ChannelError, IllegalTransition
from enjoin.model.command import TAIL_BYTES
from enjoin.model.execution import Event, Execution, ExecutionState, Outcome
from enjoin.protocol.messages import (
    MAX_CHUNK_BYTES,
    STREAMS,
    Ack,
    CancelDone,
    NotHeld,
    OutputChunk,
    StatusReport,
    ToServer,
)
from enjoin.store.base import Store, Transaction

log = structlog.get_logger(__name__)
MAX_MESSAGE_CHARACTERS: Final = 4096
_MOST: Final = 2**62  # what a database keeps, with room to count on
_LONGEST_S: Final = 100 * 366 * 86400.0
_BEFORE_HELD: Final = "Canceled before the machine had it."


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

        What a machine says about an execution that is not its own, or that was deleted, is acknowledged and ignored.
        Raises ChannelError for what no agent can mean.
        """
        for message in messages:
            _check(message)
        chunks, ignored = await self._sort_chunks(session, messages)
        await self._output.spill(chunks)
        batch = _Batch(session, messages, self._clock.now())
        denials = [message.execution_id for message in messages if isinstance(message, NotHeld)]
        answers = frozenset(execution_id for execution_id in denials if session.is_answer(execution_id))

        async def work(tx: Transaction) -> Ack:
            reports = []
            for message in batch.messages:
                if isinstance(message, StatusReport):
                    await self._record(tx, batch, message)
                    reports.append((message.execution_id, message.sequence))
                elif isinstance(message, NotHeld) and message.execution_id in answers:
                    await _not_held(tx, batch, message)
            outputs = await self._output.receive(tx, chunks)
            for message in batch.messages:
                if isinstance(message, CancelDone):
                    await confirm(
                        tx, session.machine_id, message.execution_id, now=batch.now, may_remain=message.may_remain
                    )
            return Ack(reports=reports, outputs=[*outputs, *ignored])

        return await self._store.write(work)

    async def _sort_chunks(
        self, session: Session, messages: Sequence[ToServer]
    ) -> tuple[Sequence[OutputChunk], list[tuple[UUID, str, int]]]:
        """Return the chunks to take, and how far the streams of executions that are not this machine's are ignored."""
        chunks = [message for message in messages if isinstance(message, OutputChunk)]
        if not chunks:
            return [], []

        async def work(tx: Transaction) -> dict[UUID, Mapping[str, int]]:
            own = {}
            for execution_id in {chunk.execution_id for chunk in chunks}:
                execution = await tx.get_execution(execution_id)
                if execution is not None and execution.machine_id == session.machine_id:
                    own[execution_id] = await tx.received(execution_id)
            return own

        received = await self._store.read(work)
        taken = without_gaps([chunk for chunk in chunks if chunk.execution_id in received], received=received)
        ignored = {
            (chunk.execution_id, chunk.stream): chunk.offset + len(chunk.data)
            for chunk in chunks
            if chunk.execution_id not in received
        }
        return taken, [(execution_id, stream, end) for (execution_id, stream), end in ignored.items()]

    async def _record(self, tx: Transaction, batch: _Batch, report: StatusReport) -> None:
        current = await tx.get_execution_for_update(report.execution_id)
        if current is None or current.machine_id != batch.session.machine_id:
            log.warning("report_ignored", execution=str(report.execution_id), machine=str(batch.session.machine_id))
            return
        if report.sequence < current.next_sequence or current.is_terminal:
            return  # a resend: already settled
        batch.session.journal_sequence = max(batch.session.journal_sequence, report.journal_sequence)
        event, message = report.event, report.message[:MAX_MESSAGE_CHARACTERS]
        if event is Event.NEVER_HELD and not _is_proven(batch, current, report.journal_sequence):
            if current.state is ExecutionState.UNKNOWN:
                return
            event, message = Event.MACHINE_LOST, REINSTALLED
        at = max(batch.now - _duration(report.ago_s), current.created_at)  # whatever the machine's clock says
        ran = _duration(report.ran_s) if report.ran_s is not None else None
        try:
            moved = await move(
                tx,
                current,
                event,
                at=at,
                now=batch.now,
                message=message,
                started_at=at - ran if ran is not None else None,
                outcome=_outcome(current, report),
                next_sequence=report.sequence + 1,
            )
        except IllegalTransition as error:
            log.warning("report_refused", execution=str(report.execution_id), reason=str(error))
            return
        metrics.after_commit(partial(_write_line, moved, report))


def _is_proven(batch: _Batch, execution: Execution, journal_sequence: int) -> bool:
    """Whether a machine that says it never had an execution has the memory that would know."""
    return (
        not execution.was_started
        and execution.delivered_epoch == batch.session.state_epoch
        and journal_sequence >= execution.delivered_sequence
    )


def _write_line(moved: Execution, report: StatusReport) -> None:
    """Log what a machine reported, under the name of the request that caused it; ends are for every day's log."""
    write = log.info if moved.is_terminal else log.debug
    write(
        "report",
        correlation_id=moved.correlation_id,
        execution=str(moved.id),
        machine=str(moved.machine_id),
        generation=moved.generation,
        reported=report.event.value,
        state=moved.state.value,
        exit_code=report.exit_code,
        signal=report.signal,
    )


def _check(message: ToServer) -> None:
    """Raise ChannelError for numbers and names that no agent can mean and no database can keep."""
    match message:
        case StatusReport():
            numbers = (message.sequence, message.journal_sequence, message.stdout_bytes, message.stderr_bytes)
            codes = (message.exit_code or 0, message.signal or 0)
            is_sane = all(0 <= number <= _MOST for number in numbers) and all(abs(code) <= _MOST for code in codes)
        case OutputChunk():
            is_sane = (
                message.stream in STREAMS and 0 <= message.offset <= _MOST and len(message.data) <= MAX_CHUNK_BYTES
            )
        case NotHeld():
            is_sane = 0 <= message.journal_sequence <= _MOST
        case _:
            return
    if not is_sane:
        text = f"a {type(message).__name__} with a value out of range, for execution {message.execution_id}"
        raise ChannelError(text)


def _duration(seconds: float) -> timedelta:
    """Return what the machine's clock measured, within what a date can be moved by; nonsense counts as nothing."""
    return timedelta(seconds=min(max(seconds, 0.0), _LONGEST_S)) if math.isfinite(seconds) else timedelta()


def _outcome(current: Execution, report: StatusReport) -> Outcome:
    return replace(
        current.outcome,
        exit_code=report.exit_code,
        signal=report.signal,
        stdout_bytes=report.stdout_bytes,
        stderr_bytes=report.stderr_bytes,
        stdout_tail=report.stdout_tail[-TAIL_BYTES:],
        stderr_tail=report.stderr_tail[-TAIL_BYTES:],
    )


async def _not_held(tx: Transaction, batch: _Batch, message: NotHeld) -> None:
    """Hand an assignment over again if its machine's memory is whole: it never accepted it. Else it is Unknown."""
    execution = await tx.get_execution_for_update(message.execution_id)
    if execution is None or execution.machine_id != batch.session.machine_id or execution.is_terminal:
        return
    if execution.state is ExecutionState.UNKNOWN:
        return  # nothing new
    now = batch.now
    if not _is_proven(batch, execution, message.journal_sequence):  # its memory was lost
        await move(tx, execution, Event.MACHINE_LOST, at=now, now=now, message=REINSTALLED)
        return
    command = await tx.get_command(execution.incarnation_id)
    if command is None or command.execution_id != execution.id:
        await move(tx, execution, Event.CANCELED, at=now, now=now, message=REPLACED)
    elif await is_ordered(tx, execution):
        await move(tx, execution, Event.CANCELED, at=now, now=now, message=_BEFORE_HELD)
    else:
        await tx.put_execution(replace(execution, delivered_at=None, delivered_epoch=None, delivered_sequence=0))
        tx.wake(machine_topic(execution.machine_id))

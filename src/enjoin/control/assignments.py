"""What a machine is to do next, marked as handed over before a byte of it is written to a channel."""

import asyncio
import hashlib
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final, TypeVar

from enjoin.clock import Clock
from enjoin.control.sessions import Session
from enjoin.control.settlement import move
from enjoin.model.command import RunCommand
from enjoin.model.execution import Event, Execution
from enjoin.protocol.messages import Assignment, Cancel, SealedField, ToAgent
from enjoin.store.base import Store, Transaction

BATCH: Final = 32  # assignments marked in one transaction
REPLACED: Final = "Replaced before the machine had it."
_HANDED_OVER: Final = "Waiting for the machine to start it."

T = TypeVar("T")


async def uninterrupted(work: Coroutine[Any, Any, T]) -> T:
    """Return what `work` returns; a caller that is cancelled leaves it to run to its end.

    Between a commit and the message that it calls for nothing may come: what was marked as handed over and never
    left would be asked about only at the machine's next connection.
    """
    return await asyncio.shield(asyncio.ensure_future(work))


class Assignments:
    """Takes work for a session out of the store."""

    def __init__(self, store: Store, clock: Clock) -> None:
        """Read and mark through `store`."""
        self._store = store
        self._clock = clock

    async def take(self, session: Session) -> tuple[Sequence[ToAgent], bool]:
        """Return cancels not yet confirmed and at most BATCH new assignments, and whether there may be more.

        From here on the assignments are marked as handed over and never sent again on a guess: a lost
        one is asked about (`Question`). A caller that is cancelled meanwhile loses none: they go where `push` of an
        ended session sends them.
        """
        taking = asyncio.ensure_future(self._store.write(partial(self._take, session=session)))
        try:
            return await asyncio.shield(taking)
        except asyncio.CancelledError:
            taking.add_done_callback(partial(_push_anyway, session))
            raise

    async def _take(self, tx: Transaction, session: Session) -> tuple[Sequence[ToAgent], bool]:
        now = self._clock.now()
        messages: list[ToAgent] = [
            Cancel(execution_id=order.execution_id, reason=order.reason, forget=order.forget)
            for order in await tx.list_cancels(session.machine_id)
        ]
        waiting = await tx.undelivered(session.machine_id, limit=BATCH)
        for execution in waiting:
            command = await tx.get_command(execution.incarnation_id)
            if command is not None and command.execution_id == execution.id:
                handed = self.hand_over(execution, session)
                await tx.put_execution(handed)
                messages.append(build_assignment(command, handed))
            else:
                await move(tx, execution, Event.CANCELED, at=now, now=now, message=REPLACED)
        return messages, len(waiting) == BATCH

    def hand_over(self, execution: Execution, session: Session) -> Execution:
        """Return `execution` marked as given to the session's machine."""
        return replace(
            execution,
            message=_HANDED_OVER,
            delivered_at=self._clock.now(),
            delivered_epoch=session.state_epoch,
            delivered_sequence=session.journal_sequence,
        )


def _push_anyway(session: Session, taking: "asyncio.Future[tuple[Sequence[ToAgent], bool]]") -> None:
    if not taking.cancelled() and taking.exception() is None:
        messages, _ = taking.result()
        session.push(*messages)


def build_assignment(command: RunCommand, execution: Execution) -> Assignment:
    """Return the one self-contained value that says what the machine is to run."""
    spec = command.spec
    return Assignment(
        execution_id=execution.id,
        machine_id=execution.machine_id,
        incarnation_id=command.incarnation_id,
        command=command.name,
        generation=execution.generation,
        start_number=execution.start_number,
        script=spec.script,
        parameters=[(parameter.name, parameter.value) for parameter in spec.parameters],
        protected=[
            SealedField(
                name=value.name,
                field=value.field,
                seal_id=value.id,
                key_id=value.key_id,
                ciphertext=value.ciphertext,
                sha256=hashlib.sha256(value.ciphertext).digest(),
            )
            for value in spec.protected
        ],
        timeout_s=spec.limit_s,
        supersedes=execution.supersedes,
        request_id=execution.correlation_id,
    )

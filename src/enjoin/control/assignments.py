"""What a machine is to do next, marked as handed over before a byte of it is written to a channel."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from enjoin.clock import Clock
from enjoin.control.sessions import Session
from enjoin.model.command import RunCommand
from enjoin.model.execution import Execution
from enjoin.protocol.messages import Assignment, Cancel, SealedField, ToAgent
from enjoin.store.base import Store, Transaction

BATCH: Final = 32  # assignments marked in one transaction


class Assignments:
    """Takes work for a session out of the store."""

    def __init__(self, store: Store, clock: Clock) -> None:
        """Read and mark through `store`."""
        self._store = store
        self._clock = clock

    async def take(self, session: Session) -> tuple[Sequence[ToAgent], bool]:
        """Return cancels not yet confirmed and at most BATCH new assignments, and whether there may be more.

        From here on the assignments are marked as handed over and never sent again on a guess: a lost
        one is asked about (`Question`).
        """

        async def work(tx: Transaction) -> tuple[Sequence[ToAgent], bool]:
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
            return messages, len(waiting) == BATCH

        return await self._store.write(work)

    def hand_over(self, execution: Execution, session: Session) -> Execution:
        """Return `execution` marked as given to the session's machine."""
        return replace(
            execution,
            delivered_at=self._clock.now(),
            delivered_epoch=session.state_epoch,
            delivered_sequence=session.journal_sequence,
        )


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

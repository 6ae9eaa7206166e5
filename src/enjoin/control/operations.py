"""Operations as clients wait for them: looked up, or held until they end."""

import asyncio
from typing import Final
from uuid import UUID

from enjoin.clock import Clock
from enjoin.control.settlement import operation_topic
from enjoin.errors import NotFound
from enjoin.model.operation import Operation, OperationState
from enjoin.store.base import Store, Transaction

HOLD_S: Final = 20.0  # well below every client's and proxy's read timeout


class Operations:
    """Use cases of polling."""

    def __init__(self, store: Store, clock: Clock, stopping: asyncio.Event) -> None:
        """Let go of every held poll when `stopping` is set."""
        self._store = store
        self._clock = clock
        self._stopping = stopping

    async def get(self, subscription_id: str, operation_id: UUID) -> Operation:
        """Return an operation as it stands; raise NotFound."""

        async def work(tx: Transaction) -> Operation | None:
            return await tx.get_operation(operation_id)

        operation = await self._store.read(work)
        if operation is None or operation.subscription_id.lower() != subscription_id.lower():
            text = f"The operation '{operation_id}' was not found."
            raise NotFound(text)
        return operation

    async def hold(self, subscription_id: str, operation_id: UUID) -> Operation:
        """Return an operation when it has ended, or as it stands after HOLD_S or when the server stops.

        Clients poll at once after the first answer, and sleep a second or more after an unfinished one: holding that
        poll makes them as fast as the script.
        """
        with self._store.subscribe(operation_topic(operation_id)) as wakeup:
            operation = await self.get(subscription_id, operation_id)
            if operation.state is not OperationState.IN_PROGRESS or self._stopping.is_set():
                return operation
            woken = asyncio.ensure_future(wakeup.wait())
            others = [asyncio.ensure_future(self._stopping.wait()), asyncio.ensure_future(self._clock.sleep(HOLD_S))]
            try:
                while operation.state is OperationState.IN_PROGRESS:
                    done, _ = await asyncio.wait([woken, *others], return_when=asyncio.FIRST_COMPLETED)
                    if woken not in done:
                        break
                    woken = asyncio.ensure_future(wakeup.wait())
                    operation = await self.get(subscription_id, operation_id)
            finally:
                for task in (woken, *others):
                    task.cancel()
            return operation

"""Whether somebody still waits, told without the clock."""

import asyncio

from enjoin.store.base import Wakeup


async def waits(wakeup: Wakeup) -> bool:
    """Return whether a wait is not over after the loop has run everything that was ready."""
    task = asyncio.create_task(_wait(wakeup))
    for _ in range(5):
        await asyncio.sleep(0)
    waiting = not task.done()
    task.cancel()
    return waiting


async def _wait(wakeup: Wakeup) -> None:
    await wakeup.wait()

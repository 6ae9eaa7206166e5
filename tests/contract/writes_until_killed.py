"""A process that writes without end and prints the number of each write after it was acknowledged.

usage: python -m tests.contract.writes_until_killed BACKEND DIRECTORY WRITERS
"""

import asyncio
import sys
from functools import partial
from itertools import count
from pathlib import Path

from enjoin.store.base import Store, Transaction
from tests.contract.backends import BACKENDS


async def _put(name: str, tx: Transaction) -> None:
    await tx.put_setting(name, "x")


async def write_on(store: Store, numbers: "count[int]") -> None:
    """Write the next number, then say so, for ever."""
    for number in numbers:
        await store.write(partial(_put, f"s{number}"))
        sys.stdout.write(f"{number}\n")
        sys.stdout.flush()


async def main(backend: str, directory: Path, writers: int) -> None:
    """Open, write, never close."""
    store = BACKENDS[backend](directory)
    await store.open()
    numbers = count()
    await asyncio.gather(*(write_on(store, numbers) for _ in range(writers)))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])))

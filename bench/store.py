"""What a durable write and a read cost: SQLite in WAL mode under `synchronous=FULL`, on a real file system.

A pair is what accepting a command is to the database: one insert (an execution) and one update of it, in one
transaction. The floor, in the same run, is four bytes appended to a file and synced, one by one.
"""

import asyncio
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import uvloop

from bench.fleet import file_system
from enjoin.model.execution import Execution
from enjoin.model.identity import new_uuid7
from enjoin.store.base import Store, Transaction
from enjoin.store.sqlite import SQLiteStore

WAITERS = (1, 16, 128)
PAIRS = {1: 2_000, 16: 10_000, 128: 20_000}
READS = 5_000


def main() -> dict[str, Any]:
    """Run and print; return the figures."""
    with tempfile.TemporaryDirectory(prefix="enjoin-bench-", dir=os.environ.get("ENJOIN_BENCH_DIR")) as place:
        directory = Path(place)
        figures: dict[str, Any] = {"file_system": file_system(directory), "floor": floor(directory)}
        figures |= uvloop.run(_measure(directory))
        figures["floor_after"] = floor(directory)
    print(f"the store ({figures['file_system']}, synchronous=FULL, one process)")
    for name, value in figures.items():
        print(f"  {name:28} {value}")
    return figures


def floor(directory: Path, syncs: int = 500) -> dict[str, float]:
    """Return what the disk takes to make a few bytes durable."""
    samples = []
    descriptor = os.open(directory / "floor", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for _ in range(syncs):
        begun = time.perf_counter()
        os.write(descriptor, b"line")
        os.fdatasync(descriptor)
        samples.append(time.perf_counter() - begun)
    os.close(descriptor)
    return percentiles(samples)


def percentiles(samples_s: list[float]) -> dict[str, float]:
    """Return p50 and p99 in milliseconds."""
    ordered = sorted(samples_s)
    return {
        "p50_ms": round(ordered[len(ordered) // 2] * 1000, 3),
        "p99_ms": round(ordered[len(ordered) * 99 // 100] * 1000, 3),
    }


async def _measure(directory: Path) -> dict[str, Any]:
    store = SQLiteStore(directory / "enjoin.db")
    await store.open()
    figures: dict[str, Any] = {}
    for waiters in WAITERS:
        samples: list[float] = []
        numbers = iter(range(PAIRS[waiters]))
        begun = time.perf_counter()
        await asyncio.gather(*(_write_pairs(store, numbers, samples) for _ in range(waiters)))
        took_s = time.perf_counter() - begun
        figures[f"{waiters}_waiters"] = {"pairs_per_s": round(PAIRS[waiters] / took_s), **percentiles(samples)}
    figures |= await _reads(store)
    await store.close()
    return figures


def _an_execution() -> Execution:
    now = datetime.now(UTC)
    return Execution(
        id=new_uuid7(),
        machine_id=uuid4(),
        incarnation_id=uuid4(),
        generation=1,
        principal_id=uuid4(),
        correlation_id="00000000-0000-0000-0000-000000000000",
        created_at=now,
        deadline_at=now + timedelta(minutes=90),
    )


async def _write_pairs(store: Store, numbers: Iterator[int], samples: list[float]) -> None:
    for _ in numbers:
        execution = _an_execution()
        delivered = replace(execution, delivered_at=execution.created_at)
        begun = time.perf_counter()
        await store.write(partial(_pair, execution, delivered))
        samples.append(time.perf_counter() - begun)


async def _pair(execution: Execution, delivered: Execution, tx: Transaction) -> None:
    await tx.add_execution(execution)
    await tx.put_execution(delivered)


async def _reads(store: SQLiteStore) -> dict[str, Any]:
    """Compare reads on the thread of the loop with reads that hop to another thread, quiet and while it writes."""
    execution = _an_execution()
    await store.write(lambda tx: tx.add_execution(execution))
    figures: dict[str, Any] = {}
    for name, reading in (("on_the_loop", store.read), ("in_a_thread", partial(_read_in_a_thread, store))):
        figures[f"read_{name}"] = await _time_reads(reading, execution.id)
        stop = asyncio.Event()
        background = [asyncio.create_task(_write_until(store, stop)) for _ in range(16)]
        figures[f"read_{name}_while_writing"] = await _time_reads(reading, execution.id)
        stop.set()
        await asyncio.gather(*background)
    return figures


async def _time_reads(reading: Any, execution_id: UUID) -> dict[str, float]:  # noqa: ANN401 - two shapes of one call
    samples = []
    for _ in range(READS):
        begun = time.perf_counter()
        await reading(lambda tx: tx.get_execution(execution_id))
        samples.append(time.perf_counter() - begun)
        await asyncio.sleep(0)
    return percentiles(samples)


async def _read_in_a_thread(store: SQLiteStore, work: Any) -> object:  # noqa: ANN401 - work of any result
    return await asyncio.get_running_loop().run_in_executor(None, _drive, store.read(work))


def _drive(coroutine: Any) -> object:  # noqa: ANN401 - a coroutine of any result
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError


async def _write_until(store: Store, stop: asyncio.Event) -> None:
    for _ in count():
        if stop.is_set():
            return
        execution = _an_execution()
        await store.write(partial(_pair, execution, execution))


if __name__ == "__main__":
    main()

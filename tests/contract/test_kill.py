"""A process that is killed loses nothing that it acknowledged."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from enjoin.store.base import Store
from tests.contract.backends import BACKENDS
from tests.tools import REPOSITORY


def start(backend: str, directory: Path, *, writers: int, crash_point: str = "") -> subprocess.Popen[str]:
    """Start a process that writes without end."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.contract.writes_until_killed", backend, str(directory), str(writers)],
        cwd=REPOSITORY,
        env={**os.environ, "ENJOIN_CRASH_POINT": crash_point},
        stdout=subprocess.PIPE,
        text=True,
    )


async def stored(backend: str, directory: Path, count: int) -> set[int]:
    """Return which of the first `count` writes are there."""
    store: Store = BACKENDS[backend](directory)
    await store.open()

    async def has(number: int) -> bool:
        return await store.read(lambda tx: tx.get_setting(f"s{number}")) is not None

    try:
        return {number for number in range(count) if await has(number)}
    finally:
        await store.close()


@pytest.mark.parametrize("writers", [1, 16])
async def test_killed_while_writing(backend: str, tmp_path: Path, writers: int) -> None:
    """
    After kill -9 in the middle of writing, every acknowledged write is there, and the file opens at once.
    """
    with start(backend, tmp_path, writers=writers) as process:
        assert process.stdout is not None
        acknowledged = [await asyncio.to_thread(process.stdout.readline) for _ in range(300)]
        process.send_signal(signal.SIGKILL)
        acknowledged += (await asyncio.to_thread(process.stdout.read)).splitlines(keepends=True)
    told = {int(line) for line in acknowledged if line.endswith("\n")}
    assert len(told) >= 300
    assert told <= await stored(backend, tmp_path, max(told) + 1)


@pytest.mark.parametrize(("crash_point", "there"), [("store.commit.before", set()), ("store.commit.after", {0})])
async def test_killed_at_the_commit(backend: str, tmp_path: Path, crash_point: str, there: set[int]) -> None:
    """
    Killed just before the commit nothing of the write is there; just after it all is, though nobody was told.
    """
    with start(backend, tmp_path, writers=1, crash_point=crash_point) as process:
        out, _ = await asyncio.to_thread(process.communicate)
    assert (process.returncode, out) == (-signal.SIGKILL, "")
    assert await stored(backend, tmp_path, 3) == there

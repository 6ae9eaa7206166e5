"""SQLite when the disk is full, and when many threads are about."""

import asyncio
import os
import shutil
import sqlite3
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from enjoin.errors import Conflict, StoreUnavailable
from enjoin.store.base import Store, Transaction
from enjoin.store.sqlite import SQLiteStore
from enjoin.store.sqlite_session import Session
from enjoin.store.sqlite_writer import Writer
from enjoin.store.wakeups import Topics
from tests.contract.waiting import waits


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SQLiteStore]:
    """Return an empty store, open."""
    opened = SQLiteStore(tmp_path / "enjoin.db")
    await opened.open()
    yield opened
    await opened.close()


def writer_of(store: SQLiteStore) -> sqlite3.Connection:
    """Return the connection that writes."""
    writer = store._writer  # noqa: SLF001 - a full disk is made on this connection
    assert writer is not None
    return writer._connection  # noqa: SLF001


def fill(store: SQLiteStore, *, spare_pages: int) -> None:
    """Let the database grow by that many pages and no more, as on a full disk."""
    connection = writer_of(store)
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages + spare_pages}")


def empty(store: SQLiteStore) -> None:
    """Give the space back."""
    writer_of(store).execute("PRAGMA max_page_count = 1000000")


async def put(name: str, size_bytes: int, tx: Transaction) -> str:
    """Store a setting of that size."""
    tx.wake(name)
    await tx.put_setting(name, "x" * size_bytes)
    return name


async def there(store: Store, *names: str) -> list[str]:
    """Return those of `names` that are stored."""

    async def work(tx: Transaction) -> list[str]:
        return [name for name in names if await tx.get_setting(name) is not None]

    return await store.read(work)


@asynccontextmanager
async def held(store: SQLiteStore) -> AsyncIterator[None]:
    """Keep the thread that writes busy meanwhile; what is written is committed together afterwards."""
    started, go_on = threading.Event(), threading.Event()

    async def hold(_: Transaction) -> None:
        started.set()
        assert go_on.wait(30)

    holding = asyncio.create_task(store.write(hold))
    await asyncio.to_thread(started.wait, 30)
    try:
        yield
    finally:
        go_on.set()
    await holding


async def test_full_disk(store: SQLiteStore) -> None:
    """
    On a full disk a write says so and nothing of it happened; once there is space, writes work again (F57).
    """
    await store.write(partial(put, "before", 10))
    fill(store, spare_pages=0)
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="full"):
            await store.write(partial(put, "large", 100_000))
    assert await there(store, "before", "large") == ["before"]
    empty(store)
    assert await store.write(partial(put, "large", 100_000)) == "large"
    assert await there(store, "before", "large") == ["before", "large"]


async def test_full_disk_among_many(store: SQLiteStore) -> None:
    """
    Those in a group that fit are written although one of them does not; each is told its own outcome, and only those
    that are written wake anybody.
    """
    names = [f"s{number}" for number in range(20)]
    fill(store, spare_pages=2)
    with store.subscribe("s10") as large, store.subscribe("s11") as small:
        writes = [store.write(partial(put, name, 1_000_000 if name == "s10" else 10)) for name in names]
        outcomes = await asyncio.gather(*writes, return_exceptions=True)
        await small.wait()
        assert await waits(large)
    assert isinstance(outcomes[10], StoreUnavailable)
    others = [name for name in names if name != "s10"]
    assert [outcome for outcome in outcomes if isinstance(outcome, str)] == others
    assert await there(store, *names) == others


async def test_rerun_forgets_the_first_round(store: SQLiteStore) -> None:
    """
    An outcome that rested on what was rolled back with the group is not given: each member is run again.
    """
    seen: list[str | None] = []

    async def look(tx: Transaction) -> str | None:
        seen.append(await tx.get_setting("large"))
        return seen[-1]

    async def large_and_small(tx: Transaction) -> None:
        await tx.put_setting("large", "seen")
        await tx.put_setting("huge", "x" * 1_000_000)

    fill(store, spare_pages=2)
    async with held(store):
        rest = [
            asyncio.create_task(store.write(partial(put, "large", 10))),
            asyncio.create_task(store.write(look)),
            asyncio.create_task(store.write(large_and_small)),
            asyncio.create_task(store.write(lambda tx: tx.get_setting("huge"))),
        ]
        await asyncio.sleep(0)
    outcomes = await asyncio.gather(*rest, return_exceptions=True)
    assert isinstance(outcomes[2], StoreUnavailable)
    assert outcomes[1] == "x" * 10
    assert outcomes[3] is None
    assert len(seen) == 2  # once in the group that was lost, once alone
    assert await there(store, "large", "huge") == ["large"]


async def test_full_disk_that_work_hides(store: SQLiteStore) -> None:
    """
    Work that catches the error of a full disk, or raises another for it, is answered StoreUnavailable all the same.
    """
    fill(store, spare_pages=0)

    async def hide(tx: Transaction) -> str:
        try:
            await tx.put_setting("a", "x" * 100_000)
        except StoreUnavailable:
            return "hidden"
        return "written"

    async def disguise(tx: Transaction) -> None:
        try:
            await tx.put_setting("a", "x" * 100_000)
        except StoreUnavailable as error:
            raise KeyError from error

    with pytest.raises(StoreUnavailable):
        await store.write(hide)
    with pytest.raises(StoreUnavailable):
        await store.write(disguise)
    assert await there(store, "a") == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 1 MiB, or skip where mounting is not allowed."""
    directory = tmp_path / "disk"
    directory.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(directory)]
    mounted = subprocess.run(command, check=False, capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"mount is not allowed here: {mounted.stderr.strip()}")
    try:
        yield directory
    finally:
        subprocess.run(["umount", str(directory)], check=True)


def fill_disk(ballast: Path) -> None:
    """Write until nothing fits any more."""
    descriptor = os.open(ballast, os.O_WRONLY | os.O_CREAT)
    try:
        with suppress(OSError):
            while True:
                os.write(descriptor, bytes(4096))
    finally:
        os.close(descriptor)


def make_read_only(mount: Path) -> None:
    """Let nobody write there any more."""
    subprocess.run(["mount", "-o", "remount,ro", str(mount)], check=True)


@pytest.mark.requires("root")
async def test_really_full_disk(small_disk: Path) -> None:
    """
    On a file system without a byte left, writes say so, reads go on, and with space again writes work.
    """
    store = SQLiteStore(small_disk / "enjoin.db")
    await store.open()
    ballast = small_disk / "ballast"
    try:
        await store.write(partial(put, "before", 10))
        fill_disk(ballast)
        with pytest.raises(StoreUnavailable):
            await store.write(partial(put, "large", 300_000))
        assert await there(store, "before", "large") == ["before"]
        ballast.unlink()
        await store.write(partial(put, "after", 3000))
        assert await there(store, "before", "after") == ["before", "after"]
    finally:
        await store.close()
    copy = small_disk.parent / "copy.db"
    shutil.copy(small_disk / "enjoin.db", copy)
    connection = sqlite3.connect(copy)
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()


@pytest.mark.requires("root")
async def test_read_only_disk(small_disk: Path) -> None:
    """
    A file system that is read-only is refused with a sentence.
    """
    store = SQLiteStore(small_disk / "enjoin.db")
    await store.open()
    await store.close()
    make_read_only(small_disk)
    with pytest.raises(StoreUnavailable, match=r"enjoin\.db cannot be opened"):
        await SQLiteStore(small_disk / "enjoin.db").open()


async def test_nothing_is_told_before_the_commit(store: SQLiteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    While the commit has not happened nobody is answered and nobody woken, also when the work is long done.
    """
    reached, go_on = threading.Event(), threading.Event()

    def crash_point(name: str) -> None:
        if name == "store.commit.before":
            reached.set()
            assert go_on.wait(30)

    monkeypatch.setattr("enjoin.store.sqlite_writer.crash_point", crash_point)
    with store.subscribe("a") as wakeup:
        write = asyncio.create_task(store.write(partial(put, "a", 1)))
        woken = asyncio.create_task(wakeup.wait())
        await asyncio.to_thread(reached.wait, 30)
        for _ in range(5):
            await asyncio.sleep(0)
        assert not write.done()
        assert not woken.done()
        assert await there(store, "a") == []
        go_on.set()
        assert await write == "a"
        await woken


async def test_one_commit_for_a_group(store: SQLiteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    What waits while a commit is under way is committed together.
    """
    commits: list[str] = []
    async with held(store):
        monkeypatch.setattr("enjoin.store.sqlite_writer.crash_point", commits.append)
        rest = [asyncio.create_task(store.write(partial(put, f"s{number}", 1))) for number in range(50)]
        await asyncio.sleep(0)
    await asyncio.gather(*rest)
    assert commits == ["store.commit.before", "store.commit.after"]


async def test_cancelled_caller_in_a_group(store: SQLiteStore) -> None:
    """
    A caller that no longer waits does not keep the answers from those that were committed with it.
    """
    async with held(store):
        cancelled = asyncio.create_task(store.write(partial(put, "a", 1)))
        other = asyncio.create_task(store.write(partial(put, "b", 1)))
        await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.sleep(0)
    assert await other == "b"
    assert cancelled.cancelled()
    assert await there(store, "a", "b") == ["a", "b"]


async def test_close_meets_a_group(store: SQLiteStore) -> None:
    """
    A close that comes while a group is gathered ends the thread after that group.
    """
    writer = store._writer  # noqa: SLF001
    assert writer is not None
    async with held(store):
        write = asyncio.create_task(store.write(partial(put, "a", 1)))
        await asyncio.sleep(0)
        closing = asyncio.create_task(asyncio.to_thread(writer.close))
        await asyncio.to_thread(until_closed, writer)
        with pytest.raises(StoreUnavailable, match="closed"):
            await writer.write(partial(put, "late", 1))
    assert await write == "a"
    await closing


def until_closed(writer: Writer) -> None:
    """Return when the end is in the queue."""
    for _ in range(30_000):
        with writer._lock:  # noqa: SLF001
            if writer._closed:  # noqa: SLF001
                return
        time.sleep(0.001)
    raise TimeoutError


async def test_failure_in_the_second_round_wakes_nobody(store: SQLiteStore) -> None:
    """
    Work that was done, then undone with its group, and that fails when it is run again, wakes nobody.
    """
    rounds = 0

    async def once(tx: Transaction) -> None:
        nonlocal rounds
        rounds += 1
        tx.wake("once")
        await tx.put_setting("once", "x")
        if rounds > 1:
            message = "no more"
            raise Conflict(message)

    fill(store, spare_pages=0)
    with store.subscribe("once") as wakeup:
        async with held(store):
            first = asyncio.create_task(store.write(once))
            large = asyncio.create_task(store.write(partial(put, "large", 1_000_000)))
            await asyncio.sleep(0)
        outcomes = await asyncio.gather(first, large, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [Conflict, StoreUnavailable]
        assert await waits(wakeup)
    assert rounds == 2
    assert await there(store, "once", "large") == []


class BrokenCursor:
    """A disk that fails a statement without ending the transaction."""

    def execute(self, *_: object) -> sqlite3.Cursor:
        """Fail as a read error does."""
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR_READ
        raise error


def test_disguised_fault() -> None:
    """
    Work that answers a fault of the disk with an error of its own does not hide it from the client, who may retry.
    """

    async def disguise(tx: Transaction) -> None:
        try:
            await tx.get_setting("a")
        except StoreUnavailable as error:
            raise KeyError from error

    session = Session(BrokenCursor())  # type: ignore[arg-type]
    with pytest.raises(StoreUnavailable, match="disk I/O error"):
        session.drive(disguise)


async def test_snapshot(store: SQLiteStore) -> None:
    """
    One read sees one state, whatever is committed meanwhile by another thread's event loop.
    """
    await store.write(partial(put, "a", 1))

    async def change(tx: Transaction) -> None:
        await tx.put_setting("a", "changed")
        await tx.put_setting("b", "new")

    async def look(tx: Transaction) -> list[str | None]:
        first = await tx.get_setting("a")
        other = threading.Thread(target=lambda: asyncio.run(store.write(change)))
        other.start()
        other.join()
        return [first, await tx.get_setting("a"), await tx.get_setting("b")]

    assert await store.read(look) == ["x", "x", None]
    assert await store.read(lambda tx: tx.get_setting("a")) == "changed"


async def test_two_loops(store: SQLiteStore) -> None:
    """
    Callers and subscribers on another thread's event loop are answered and woken there.
    """

    async def elsewhere(entered: threading.Event) -> list[str]:
        with store.subscribe("a") as wakeup:
            entered.set()
            await wakeup.wait()
        await store.write(partial(put, "b", 1))
        return await there(store, "a", "b")

    entered = threading.Event()
    other = asyncio.create_task(asyncio.to_thread(lambda: asyncio.run(elsewhere(entered))))
    await asyncio.to_thread(entered.wait, 30)
    await store.write(partial(put, "a", 1))
    assert await other == ["a", "b"]


async def test_caller_whose_loop_is_gone(store: SQLiteStore) -> None:
    """
    A loop that was closed while its write was under way does not stop the thread.
    """
    started, go_on = threading.Event(), threading.Event()

    async def hold(_: Transaction) -> None:
        started.set()
        assert go_on.wait(30)

    def leave() -> None:
        loop = asyncio.new_event_loop()
        task = loop.create_task(store.write(hold))
        loop.run_until_complete(asyncio.sleep(0))
        assert started.wait(30)
        task.cancel()
        loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
        loop.close()

    await asyncio.to_thread(leave)
    go_on.set()
    assert await store.write(partial(put, "a", 1)) == "a"


async def test_work_that_is_no_coroutine(store: SQLiteStore) -> None:
    """
    Work that fails before it begins, or exits the program, gives its caller that error and harms nobody.
    """

    def broken(_: Transaction) -> asyncio.Future[None]:
        message = "broken"
        raise KeyError(message)

    async def leave(_: Transaction) -> None:
        raise SystemExit(3)

    with pytest.raises(KeyError, match="broken"):
        await store.write(broken)
    with pytest.raises(SystemExit):
        await store.write(leave)
    assert await store.write(partial(put, "a", 1)) == "a"


async def test_lists_are_left(tmp_path: Path) -> None:
    """
    A topic that nobody is subscribed to costs nothing.
    """
    topics = Topics()
    store = SQLiteStore(tmp_path / "enjoin.db")
    with store.subscribe("a"):
        pass
    assert topics.waiting_for(["a"]) == {}
    assert store._topics._entered == {}  # noqa: SLF001

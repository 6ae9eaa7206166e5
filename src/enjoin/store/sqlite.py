"""The embedded database: one file, one process, one thread that writes. It holds no query."""

import asyncio
import fcntl
import os
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, TypeVar

from enjoin.clock import Clock, SystemClock
from enjoin.crashpoints import crash_point
from enjoin.errors import StoreUnavailable
from enjoin.store.base import Transaction
from enjoin.store.rows import instant
from enjoin.store.schema import CREATE_HISTORY, READ_VERSION, RECORD_VERSION, pending
from enjoin.store.sqlite_session import Session, explained
from enjoin.store.sqlite_writer import Writer
from enjoin.store.statements import SQLITE
from enjoin.store.wakeups import LocalWakeup, Topics

T = TypeVar("T")

OLDEST_SQLITE: Final = (3, 35, 0)  # the first with RETURNING
_BUSY_MS: Final = 5_000  # how long to wait for a lock: of a backup, or of another reader's recovery
_STATEMENTS: Final = 512  # kept prepared on each connection: all there are
_JOURNAL_LIMIT_BYTES: Final = 64 * 1024 * 1024  # what a burst leaves of the write-ahead log
_WRITER_CACHE_KIB: Final = 32 * 1024
_READER_CACHE_KIB: Final = 16 * 1024


class SQLiteStore:
    """A `Store` in one SQLite file.

    Writes go to one thread, which commits them in groups (sqlite_writer.py). Reads run where they are called, on the
    thread of the event loop, each on a snapshot of its own: see docs/adr/0002-reads-on-the-loop.md. A second process is
    refused at `open`, because nobody here would hear of what it writes.
    """

    def __init__(self, path: Path, *, clock: Clock | None = None) -> None:
        """Name the file; nothing is opened yet."""
        self._path = path
        self._clock = SystemClock() if clock is None else clock
        self._topics = Topics()
        self._writer: Writer | None = None
        self._readers: list[sqlite3.Connection] = []  # those that no read uses now
        self._lock_file: int | None = None

    async def open(self) -> None:
        """Create the file or migrate its schema, and get ready; raise StoreUnavailable if it cannot be used."""
        await asyncio.to_thread(self._open)

    async def close(self) -> None:
        """Finish what was accepted, and let go."""
        await asyncio.to_thread(self._close)

    async def write(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        """Run `work` in a transaction and return its result after the commit; raise what it raised."""
        if self._writer is None:
            raise StoreUnavailable(self._not_open())
        return await self._writer.write(work)

    async def read(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        """Run `work`, which must not write, on a consistent snapshot."""
        if self._writer is None:
            raise StoreUnavailable(self._not_open())
        try:
            connection = self._readers.pop()
        except IndexError:
            connection = self._reader()
        try:
            return _read(connection, work)
        finally:
            self._readers.append(connection)

    def subscribe(self, topic: str) -> LocalWakeup:
        """Return a subscription to a topic, not yet entered."""
        return LocalWakeup(self._topics, topic)

    # --- opening and closing ------------------------------------------------------------------------------------------

    def _open(self) -> None:
        if sqlite3.sqlite_version_info < OLDEST_SQLITE:
            wanted = ".".join(map(str, OLDEST_SQLITE))
            message = f"This Python brings SQLite {sqlite3.sqlite_version}; Enjoin needs {wanted} or later."
            raise StoreUnavailable(message)
        self._lock_file = self._take_lock()
        try:
            _create(self._path)
            connection = self._connect(cache_kib=_WRITER_CACHE_KIB)
            try:
                self._prepare(connection)
            except BaseException:
                connection.close()
                raise
        except BaseException as error:
            self._release_lock()
            if isinstance(error, sqlite3.Error | OSError):
                message = f"The database {self._path} cannot be opened: {error}"
                raise StoreUnavailable(message) from error
            raise
        self._writer = Writer(connection, self._topics)

    def _close(self) -> None:
        writer, self._writer = self._writer, None
        while self._readers:  # first, so that the writer is the last and folds the log into the file
            self._readers.pop().close()
        if writer is not None:
            writer.close()
        self._release_lock()

    def _take_lock(self) -> int:
        """Keep other processes out. A lock of its own: closing any descriptor of the database would drop SQLite's."""
        path = self._path.with_name(self._path.name + ".lock")
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            message = f"The database {self._path} cannot be opened: {error}"
            raise StoreUnavailable(message) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            message = f"The database {self._path} is in use by another process; stop that one first."
            raise StoreUnavailable(message) from error
        return descriptor

    def _release_lock(self) -> None:
        if self._lock_file is not None:
            os.close(self._lock_file)
            self._lock_file = None

    def _connect(self, *, cache_kib: int) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path,
            timeout=_BUSY_MS / 1000,
            isolation_level=None,  # BEGIN and COMMIT are ours
            check_same_thread=False,  # a connection has one user at a time, not one thread
            cached_statements=_STATEMENTS,
        )
        connection.execute(f"PRAGMA cache_size = -{cache_kib:d}")
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        if mode != "wal":
            message = f"The database {self._path} cannot have a write-ahead log here (its journal mode is {mode!r})."
            raise StoreUnavailable(message)
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA journal_size_limit = {_JOURNAL_LIMIT_BYTES:d}")
        connection.execute("BEGIN IMMEDIATE")
        try:
            connection.execute(SQLITE.spell(CREATE_HISTORY))
            version = int(connection.execute(SQLITE.spell(READ_VERSION)).fetchone()[0])
            for step in pending(version, place=str(self._path)):
                for statement in step.statements:
                    connection.execute(SQLITE.spell(statement))
                applied = (step.version, step.name, instant(self._clock.now()))
                connection.execute(SQLITE.spell(RECORD_VERSION), applied)
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        crash_point("store.migrate.before")
        connection.execute("COMMIT")
        crash_point("store.migrate.after")

    def _reader(self) -> sqlite3.Connection:
        try:
            connection = self._connect(cache_kib=_READER_CACHE_KIB)
            connection.execute("PRAGMA query_only = ON")
        except sqlite3.Error as error:
            raise explained(error) from error
        return connection

    def _not_open(self) -> str:
        return f"The database {self._path} is not open; nothing was changed."


def _read(connection: sqlite3.Connection, work: Callable[[Transaction], Awaitable[T]]) -> T:
    """Run `work` on a snapshot that the first statement takes and the end lets go."""
    cursor = connection.cursor()
    try:
        cursor.execute("BEGIN DEFERRED")
        try:
            return Session(cursor, reading=True).drive(work)
        finally:
            if connection.in_transaction:
                cursor.execute("COMMIT")
    except sqlite3.Error as error:
        raise explained(error) from error


def _create(path: Path) -> None:
    """Make the file, readable by its owner only; what SQLite puts beside it takes after it."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return
    os.close(descriptor)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        crash_point("store.create.before")
        os.fsync(directory)  # the name must survive a power cut too
        crash_point("store.create.after")
    finally:
        os.close(directory)

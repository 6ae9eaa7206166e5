"""One piece of work on one SQLite connection: its statements, its wake-ups, and how its coroutine is driven."""

import sqlite3
from collections.abc import Awaitable, Callable, Generator, Sequence
from typing import Any, Final, TypeVar

from enjoin.errors import StoreUnavailable
from enjoin.store.base import StatementFailed, Transaction
from enjoin.store.rows import Row, Value
from enjoin.store.sql import SqlTransaction
from enjoin.store.statements import SQLITE

T = TypeVar("T")

# The faults of a disk or of another process: what was asked for is right, and may succeed later.
_UNAVAILABLE: Final = frozenset(
    {
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_PERM,
    }
)


def explained(error: sqlite3.Error, *, reading: bool = False) -> StoreUnavailable | StatementFailed:
    """Return the error that callers see: a state of the database, or a defect of Enjoin."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF  # the rest refines it
    if code == sqlite3.SQLITE_READONLY and reading:
        return StatementFailed("A read tried to write; only `store.write` may.")
    if code in _UNAVAILABLE:
        return StoreUnavailable(f"The database cannot be used now ({error}). Nothing was changed; try again later.")
    return StatementFailed(f"The database refused a statement: {error}")


class Session:
    """What `work` speaks through. It serves one transaction and refuses afterwards."""

    __slots__ = ("_cursor", "_ended", "_reading", "failure", "topics")

    def __init__(self, cursor: sqlite3.Cursor, *, reading: bool = False) -> None:
        """Speak through `cursor`."""
        self._cursor = cursor
        self._reading = reading
        self._ended = False
        self.failure: StoreUnavailable | StatementFailed | None = None
        self.topics: set[str] = set()

    async def rows(self, statement: str, *values: Value) -> Sequence[Row]:
        """Run it and return its rows."""
        if self.failure is not None or self._ended:
            self._refuse()
        try:
            return self._cursor.execute(SQLITE.spell(statement), values).fetchall()
        except sqlite3.Error as error:
            self.failure = explained(error, reading=self._reading)
            raise self.failure from error

    async def row(self, statement: str, *values: Value) -> Row | None:
        """Run it and return its first row, or None."""
        found = await self.rows(statement, *values)
        return found[0] if found else None

    def wake(self, topic: str) -> None:
        """Wake the subscribers of `topic` after the commit."""
        self.topics.add(topic)

    def drive(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        """Run `work` to its end, here and now, and return its result.

        Nothing it may await ever suspends; what does is foreign to the transaction and is refused. A statement that
        failed fails the whole, even when `work` caught its error: any other database would refuse to commit.
        """
        try:
            result = _run(work(SqlTransaction(self)).__await__())
        except BaseException as error:
            if isinstance(self.failure, StoreUnavailable) and error is not self.failure:
                raise self.failure from error
            raise
        finally:
            self._ended = True
        if self.failure is not None:
            raise self.failure
        return result

    def _refuse(self) -> None:
        if self._ended:
            message = "The transaction is over; a Transaction is good only until the work that it was given to returns."
            raise RuntimeError(message)
        message = "An earlier statement of this transaction failed, so it can only be rolled back."
        raise StatementFailed(message) from self.failure


def _run(coroutine: Generator[Any, Any, T]) -> T:
    try:
        awaited = coroutine.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    coroutine.close()
    message = f"The work given to the store awaited {awaited!r}; it may await nothing but its transaction."
    raise RuntimeError(message)

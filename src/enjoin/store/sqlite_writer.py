"""Group commit: one thread runs every write, as many in one transaction as are waiting, with one fsync for all."""

import asyncio
import sqlite3
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, Final, Generic, TypeVar

from enjoin.crashpoints import crash_point
from enjoin.errors import StoreUnavailable
from enjoin.store.base import Transaction
from enjoin.store.sqlite_session import Session, explained
from enjoin.store.wakeups import LocalWakeup, Topics

T = TypeVar("T")

MAX_GROUP: Final = 128  # works in one transaction: the first to come must not wait for a thousand others


class _Waiting(Generic[T]):
    """One call of `write`: its work, and where its outcome goes."""

    __slots__ = ("error", "future", "loop", "result", "topics", "work")

    def __init__(self, work: Callable[[Transaction], Awaitable[T]], loop: asyncio.AbstractEventLoop) -> None:
        self.work = work
        self.loop = loop
        self.future: asyncio.Future[T] = loop.create_future()
        self.result: T
        self.error: BaseException | None = None
        self.topics: set[str] = set()

    def fail(self, error: BaseException) -> None:
        """Nothing of it happened, because of `error`."""
        self.error = error
        self.topics = set()

    def answer(self) -> None:
        """Hand the outcome to the caller, who may have stopped waiting."""
        if self.future.cancelled():
            return
        if self.error is None:
            self.future.set_result(self.result)
        else:
            self.future.set_exception(self.error)


class Writer:
    """The one thread that writes to a SQLite database. Takes over the connection."""

    def __init__(self, connection: sqlite3.Connection, topics: Topics) -> None:
        """Start the thread."""
        self._connection = connection
        self._cursor = connection.cursor()
        self._topics = topics
        self._queue: SimpleQueue[_Waiting[Any] | None] = SimpleQueue()
        self._lock = threading.Lock()  # nothing is queued behind the end
        self._closed = False  # nothing more is accepted
        self._ended = False  # the thread has met the end of the queue
        # A daemon: a program that fails before it closes its store ends all the same, as if it had been killed.
        self._thread = threading.Thread(target=self._serve, name="enjoin-store-writer", daemon=True)
        self._thread.start()

    async def write(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        """Run `work` in a transaction and return its result after the commit."""
        waiting = _Waiting(work, asyncio.get_running_loop())
        with self._lock:
            if self._closed:
                message = "The database is closed; nothing was changed."
                raise StoreUnavailable(message)
            self._queue.put(waiting)
        # A caller that is cancelled cancels this future alone: the thread goes on and commits.
        return await waiting.future

    def close(self) -> None:
        """Finish what was accepted, and close the connection. Blocks."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        self._thread.join()

    def _serve(self) -> None:
        while not self._ended and (first := self._queue.get()) is not None:
            group = [first]
            undone = self._transact(group, join=True)
            if undone is None:
                self._answer(group)
            elif len(group) == 1:
                first.fail(undone)
                self._answer(group)
            else:
                # The database gave up all of the group for one member's sake (a full disk does). Nobody was told
                # anything, so each is run again in a transaction of its own; an outcome of the first round counts for
                # nothing, because it may have rested on what another member had written.
                for member in group:
                    undone = self._transact([member], join=False)
                    if undone is not None:
                        member.fail(undone)
                    self._answer([member])
        self._connection.close()

    def _transact(self, group: list[_Waiting[Any]], *, join: bool) -> Exception | None:
        """Run all of `group`, joined by whoever is waiting, and commit; return what undid all of it, if anything."""
        try:
            self._cursor.execute("BEGIN IMMEDIATE")
            for member in group:  # which grows meanwhile
                self._run(member, first=member is group[0])
                if join and len(group) < MAX_GROUP:
                    self._take_waiting(group)
            crash_point("store.commit.before")
            self._cursor.execute("COMMIT")
            crash_point("store.commit.after")
        except Exception as error:  # noqa: BLE001 - this thread must outlive everything
            if self._connection.in_transaction:
                with suppress(sqlite3.Error):  # then the next BEGIN says so
                    self._cursor.execute("ROLLBACK")
            return explained(error) if isinstance(error, sqlite3.Error) else error
        return None

    def _run(self, member: _Waiting[Any], *, first: bool) -> None:
        """Run one work so that its failure is its own; raise if the transaction around it is lost.

        The first needs no savepoint: there is nothing in the transaction that its failure could harm.
        """
        session = Session(self._cursor)
        if not first:
            self._cursor.execute("SAVEPOINT work")
        try:
            member.result, member.topics, member.error = session.drive(member.work), session.topics, None
        except BaseException as error:  # noqa: BLE001 - whatever it raised is its caller's, also a SystemExit
            if not self._connection.in_transaction:
                lost = session.failure.__cause__ if session.failure is not None else None
                raise (lost if isinstance(lost, sqlite3.Error) else error) from None
            member.fail(error)
            self._cursor.execute("ROLLBACK" if first else "ROLLBACK TO work")
            if first:
                self._cursor.execute("BEGIN IMMEDIATE")
        if not first:
            self._cursor.execute("RELEASE work")

    def _take_waiting(self, group: list[_Waiting[Any]]) -> None:
        """Let the next one in the queue join, if there is one."""
        try:
            following = self._queue.get_nowait()
        except Empty:
            return
        if following is None:
            self._ended = True
        else:
            group.append(following)

    def _answer(self, group: list[_Waiting[Any]]) -> None:
        """Let outcomes and wake-ups go, with one call into each event loop."""
        topics = {topic for member in group for topic in member.topics}
        wakeups = self._topics.waiting_for(topics) if topics else {}
        answers: dict[asyncio.AbstractEventLoop, list[_Waiting[Any]]] = {}
        for member in group:
            answers.setdefault(member.loop, []).append(member)
        for loop in answers.keys() | wakeups.keys():
            try:
                loop.call_soon_threadsafe(_deliver, answers.get(loop, ()), wakeups.get(loop, ()))
            except RuntimeError:
                continue  # that loop is closed: nobody waits there any more


def _deliver(answers: Sequence[_Waiting[Any]], wakeups: Sequence[LocalWakeup]) -> None:
    for member in answers:
        member.answer()
    for wakeup in wakeups:
        wakeup.wake()

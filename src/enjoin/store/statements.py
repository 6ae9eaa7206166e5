"""What the queries stand on: a connection that runs one statement, and how the databases differ."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from enjoin.store.rows import Row, Value

_PLACEHOLDER: Final = re.compile(r"\$(\d+)")
_SKIP_LOCKED: Final = re.compile(r"\s+FOR UPDATE SKIP LOCKED\b")
_ROW_LOCK: Final = re.compile(r"\s+FOR UPDATE(?: OF \w+)?\b")


class Connection(Protocol):
    """One transaction's way to the database. Statements are constants in PostgreSQL's spelling."""

    async def rows(self, statement: str, *values: Value) -> Sequence[Row]:
        """Run it and return its rows; raise StatementFailed or StoreUnavailable, after which nothing else runs."""
        ...

    async def row(self, statement: str, *values: Value) -> Row | None:
        """Run it and return its first row, or None."""
        ...

    def wake(self, topic: str) -> None:
        """Wake the subscribers of `topic` after the commit."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """What a database wants written differently from PostgreSQL."""

    placeholder: str  # before the number of a value
    row_lock: str | None  # None: as written
    skip_locked: str | None
    _spelled: dict[str, str] = field(default_factory=dict, repr=False, compare=False)

    def spell(self, statement: str) -> str:
        """Return `statement` as this database writes it; each is translated once."""
        try:
            return self._spelled[statement]
        except KeyError:
            text = statement if self.skip_locked is None else _SKIP_LOCKED.sub(self.skip_locked, statement)
            text = text if self.row_lock is None else _ROW_LOCK.sub(self.row_lock, text)
            return self._spelled.setdefault(statement, _PLACEHOLDER.sub(rf"{self.placeholder}\1", text))


SQLITE: Final = Dialect(placeholder="?", row_lock="", skip_locked="")  # one writer: nothing to lock, nothing to skip


class Verbs:
    """The base of the verbs of each resource."""

    __slots__ = ("_connection",)

    def __init__(self, connection: Connection) -> None:
        """Speak through `connection`."""
        self._connection = connection

"""The schema as numbered steps that only go forward. The files in `migrations/` serve every database."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final

from enjoin.errors import StoreUnavailable

# Which steps a database has had. Not a step itself, because it must be there to know that none was applied.
CREATE_HISTORY: Final = (
    "CREATE TABLE IF NOT EXISTS schema_history "
    "(version BIGINT NOT NULL PRIMARY KEY, name TEXT NOT NULL, applied_at BIGINT NOT NULL)"
)
READ_VERSION: Final = "SELECT COALESCE(MAX(version), 0) FROM schema_history"
RECORD_VERSION: Final = "INSERT INTO schema_history (version, name, applied_at) VALUES ($1, $2, $3)"

_FILE_NAME: Final = re.compile(r"(?P<version>\d{4})_(?P<name>\w+)\.sql")
_STATEMENT_END: Final = re.compile(r";[ \t]*(?:--[^\n]*)?\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """One step: all of it is applied in a transaction, or nothing."""

    version: int  # 1, 2, ... without a gap
    name: str
    statements: tuple[str, ...]


@cache
def migrations() -> tuple[Migration, ...]:
    """Return every step this release knows, in order."""
    found = []
    for entry in (files("enjoin.store") / "migrations").iterdir():
        match = _FILE_NAME.fullmatch(entry.name)
        if match:
            statements = _statements(entry.read_text(encoding="utf-8"))
            found.append(Migration(version=int(match["version"]), name=match["name"], statements=statements))
    found.sort(key=lambda step: step.version)
    assert [step.version for step in found] == list(range(1, len(found) + 1)), "migration numbers have a gap"
    return tuple(found)


def pending(version: int, *, place: str) -> Sequence[Migration]:
    """Return the steps that a database at `version` still lacks; raise StoreUnavailable if it is ahead of us."""
    known = migrations()
    if version > len(known):
        message = (
            f"The database {place} has schema version {version}; this release of Enjoin knows versions up to "
            f"{len(known)}. Start the release that wrote it, or a newer one."
        )
        raise StoreUnavailable(message)
    return known[version:]


def _statements(text: str) -> tuple[str, ...]:
    """Cut at each semicolon that ends a line, and drop what is only comment."""
    pieces = (piece.strip() for piece in _STATEMENT_END.split(text + "\n"))
    return tuple(piece for piece in pieces if re.sub(r"--[^\n]*", "", piece).strip())

"""Opening a SQLite file: made durably, migrated, refused with a clear sentence."""

import os
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from enjoin.errors import StoreUnavailable
from enjoin.store.schema import migrations, pending
from enjoin.store.sqlite import SQLiteStore
from tests.contract.test_kill import start, stored
from tests.tools import REPOSITORY


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("step", ["create", "migrate"])
async def test_killed_at_the_first_start(tmp_path: Path, step: str, moment: str) -> None:
    """
    Killed while the database is made, the next start makes it whole.
    """
    with start("sqlite", tmp_path, writers=1, crash_point=f"store.{step}.{moment}") as process:
        out, _ = process.communicate()
    assert (process.returncode, out) == (-9, "")
    assert await stored("sqlite", tmp_path, 3) == set()


def modes(directory: Path) -> dict[str, int]:
    """Return the permissions of what lies in `directory`, by name."""
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()}


async def test_files_are_the_owners(tmp_path: Path) -> None:
    """
    The database and what lies beside it can be read by its owner only, whatever the umask allows.
    """
    before = os.umask(0o000)
    try:
        store = SQLiteStore(tmp_path / "enjoin.db")
        await store.open()
        await store.write(lambda tx: tx.put_setting("a", "1"))
        found = modes(tmp_path)
        await store.close()
    finally:
        os.umask(before)
    assert found == dict.fromkeys(["enjoin.db", "enjoin.db-wal", "enjoin.db-shm", "enjoin.db.lock"], 0o600)


async def test_close_leaves_one_file(tmp_path: Path) -> None:
    """
    After a close the write-ahead log is folded into the file, which alone can be copied.
    """
    store = SQLiteStore(tmp_path / "enjoin.db")
    await store.open()
    await store.write(lambda tx: tx.put_setting("a", "1"))
    await store.read(lambda tx: tx.get_setting("a"))
    await store.close()
    assert modes(tmp_path).keys() == {"enjoin.db", "enjoin.db.lock"}


async def test_newer_schema(tmp_path: Path) -> None:
    """
    A database that a newer release has migrated is refused, and left as it is.
    """
    path = tmp_path / "enjoin.db"
    store = SQLiteStore(path)
    await store.open()
    await store.close()
    connection = sqlite3.connect(path)
    connection.execute("INSERT INTO schema_history VALUES (999, 'future', 0)")
    connection.commit()
    connection.close()
    newer = SQLiteStore(path)
    with pytest.raises(StoreUnavailable, match="has schema version 999; this release of Enjoin knows versions up to"):
        await newer.open()
    await newer.close()


def test_pending() -> None:
    """
    A database gets the steps it lacks, in order, and none twice.
    """
    assert [step.version for step in pending(0, place="x")] == [step.version for step in migrations()]
    assert pending(len(migrations()), place="x") == ()
    assert all(step.statements for step in migrations())


async def test_history_is_recorded(tmp_path: Path) -> None:
    """
    Each step is applied once, however often the database is opened.
    """
    path = tmp_path / "enjoin.db"
    for _ in range(2):
        store = SQLiteStore(path)
        await store.open()
        await store.close()
    connection = sqlite3.connect(path)
    rows = connection.execute("SELECT version, name FROM schema_history ORDER BY version").fetchall()
    connection.close()
    assert rows == [(step.version, step.name) for step in migrations()]


def test_migrations_serve_both_databases() -> None:
    """
    The files use only what SQLite and PostgreSQL both understand: three types, no engine's own clauses.
    """
    for step in migrations():
        for statement in step.statements:
            words = statement.upper().split()
            for word in ("INTEGER", "BLOB", "REAL", "BOOLEAN", "SERIAL", "AUTOINCREMENT", "PRAGMA", "ROWID", "STRICT"):
                assert word not in words, f"{step.name}: {word}"


async def test_second_process(tmp_path: Path) -> None:
    """
    A second process on the same file is refused with a sentence, and is let in once the first is gone.
    """
    path = tmp_path / "enjoin.db"
    store = SQLiteStore(path)
    await store.open()
    program = (
        "import asyncio, pathlib, sys\n"
        "from enjoin.store.sqlite import SQLiteStore\n"
        "async def main():\n"
        "    store = SQLiteStore(pathlib.Path(sys.argv[1]))\n"
        "    try:\n"
        "        await store.open()\n"
        "    except Exception as error:\n"
        "        return print(type(error).__name__, error)\n"
        "    await store.close()\n"
        "    print('opened')\n"
        "asyncio.run(main())\n"
    )
    command = [sys.executable, "-c", program, str(path)]

    def second() -> str:
        return subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout

    refused = second()
    assert refused.startswith("StoreUnavailable")
    assert "in use by another process" in refused
    await store.write(lambda tx: tx.put_setting("a", "1"))  # the first is not disturbed
    await store.close()
    assert second() == "opened\n"


async def test_not_a_database(tmp_path: Path) -> None:
    """
    A file that is no database is refused with its name, and left as it is.
    """
    path = tmp_path / "enjoin.db"
    path.write_bytes(b"something else entirely" * 100)
    with pytest.raises(StoreUnavailable, match=r"enjoin\.db cannot be opened"):
        await SQLiteStore(path).open()
    assert path.read_bytes().startswith(b"something else")


async def test_no_directory(tmp_path: Path) -> None:
    """
    A directory that is not there is named.
    """
    with pytest.raises(StoreUnavailable, match="missing"):
        await SQLiteStore(tmp_path / "missing" / "enjoin.db").open()


async def test_failed_open_can_be_repeated(tmp_path: Path) -> None:
    """
    A store that could not be opened holds nothing back: once the cause is gone it opens.
    """
    path = tmp_path / "enjoin.db"
    path.write_bytes(b"something else entirely" * 100)
    store = SQLiteStore(path)
    with pytest.raises(StoreUnavailable):
        await store.open()
    path.unlink()
    await store.open()
    await store.close()


def test_program_that_forgets_to_close(tmp_path: Path) -> None:
    """
    A program that fails before it closes its store ends with its error, and does not hang.
    """
    program = (
        "import asyncio, pathlib, sys\n"
        "from enjoin.store.sqlite import SQLiteStore\n"
        "async def main():\n"
        "    store = SQLiteStore(pathlib.Path(sys.argv[1]))\n"
        "    await store.open()\n"
        "    await store.write(lambda tx: tx.put_setting('a', '1'))\n"
        "    sys.exit(7)\n"
        "asyncio.run(main())\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "enjoin.db")]
    assert subprocess.run(command, cwd=REPOSITORY, check=False, timeout=60).returncode == 7

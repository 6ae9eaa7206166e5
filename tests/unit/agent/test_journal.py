"""The agent's journal: what it answered for is there after a crash, at whatever byte that came."""

import asyncio
import errno
import os
from collections.abc import Callable
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from enjoin.agent import journal as module
from enjoin.agent.journal import Accepted, Ended, Journal, Record, Settled
from enjoin.model.execution import Event
from enjoin.protocol.messages import Assignment, StatusReport

PWrite = Callable[[int, memoryview | bytes, int], int]


def assignment(script: str = "true") -> Assignment:
    """Something to run, under an id of its own."""
    return Assignment(
        execution_id=uuid4(),
        machine_id=uuid4(),
        incarnation_id=uuid4(),
        command="c1",
        generation=1,
        script=script,
    )


def report(execution_id: UUID, tail: bytes = b"") -> StatusReport:
    """The last report of an execution."""
    return StatusReport(
        execution_id=execution_id,
        sequence=7,
        journal_sequence=3,
        event=Event.EXITED_ZERO,
        exit_code=0,
        stdout_tail=tail,
    )


async def written(path: Path, *records: Record) -> tuple[int, int]:
    """Write `records`, and return the journal's sequence and starts."""
    journal = Journal(path)
    for record in records:
        await journal.append(record)
    await journal.close()
    return journal.sequence, journal.starts


async def test_everything_is_read_back(tmp_path: Path) -> None:
    """
    Accepted, ended and settled executions are known after a restart; sequence and starts only grow.
    """
    waiting, ended, settled = assignment(), assignment(), assignment()
    path = tmp_path / "journal"
    first = await written(
        path,
        Accepted(waiting, "boot"),
        Accepted(ended, "boot"),
        Ended(report(ended.execution_id, b"tail")),
        Accepted(settled, "boot"),
        Ended(report(settled.execution_id)),
        Settled(settled.execution_id),
    )
    assert first == (7, 1)
    journal = Journal(path)
    assert (journal.sequence, journal.starts) == (8, 2)
    assert journal.entries[waiting.execution_id].assignment == waiting
    assert journal.entries[waiting.execution_id].boot_id == "boot"
    assert journal.entries[ended.execution_id].report == report(ended.execution_id, b"tail")
    assert not journal.entries[ended.execution_id].settled
    assert journal.entries[settled.execution_id].settled
    assert (path.stat().st_mode & 0o777) == 0o600
    await journal.close()


async def test_torn_at_every_byte(tmp_path: Path) -> None:
    """
    A crash at any byte of a write loses that record at most, and the journal goes on behind what is whole.
    """
    path = tmp_path / "journal"
    kept, torn = assignment(), assignment()
    await written(path, Accepted(kept, "boot"))
    whole = path.read_bytes()
    await written(path, Accepted(torn, "boot"))
    full = path.read_bytes()
    for size in range(len(whole), len(full)):
        path.write_bytes(full[:size])
        journal = Journal(path)
        assert kept.execution_id in journal.entries
        assert torn.execution_id not in journal.entries
        if size % 16:
            await journal.close()
            continue
        later = assignment()
        await journal.append(Accepted(later, "boot"))
        await journal.close()
        again = Journal(path)
        assert again.entries.keys() == {kept.execution_id, later.execution_id}
        assert again.starts == journal.starts + 1
        await again.close()


async def test_garbage_is_cut_off(tmp_path: Path) -> None:
    """
    Bytes whose checksum does not fit end the journal there; what came before is kept.
    """
    path = tmp_path / "journal"
    kept, broken = assignment(), assignment()
    await written(path, Accepted(kept, "boot"), Accepted(broken, "boot"))
    data = bytearray(path.read_bytes())
    data[-1] ^= 0xFF
    path.write_bytes(bytes(data) + os.urandom(100))
    journal = Journal(path)
    assert journal.entries.keys() == {kept.execution_id}
    await journal.close()
    assert await written(path) == (journal.sequence + 1, journal.starts + 1)


async def test_durable_before_it_resolves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    `append` returns after the kernel was asked to make the record durable, never before.
    """
    path = tmp_path / "journal"
    journal = Journal(path)
    synced: list[bytes] = []
    real = os.fdatasync

    def fdatasync(descriptor: int) -> None:
        real(descriptor)
        synced.append(path.read_bytes())

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    one, two = assignment(), assignment()
    await asyncio.gather(journal.append(Accepted(one, "boot")), journal.append(Accepted(two, "boot")))
    assert synced[-1] == path.read_bytes()
    assert journal.entries.keys() == {one.execution_id, two.execution_id}
    assert len(synced) == 1  # both in one group
    await journal.close()


async def test_later_records_wait_for_company(tmp_path: Path) -> None:
    """
    What nobody waits for is written with the next record that somebody does, in order, and at the end at the latest.
    """
    path = tmp_path / "journal"
    journal = Journal(path)
    accepted = assignment()
    await journal.append(Accepted(accepted, "boot"))
    size = path.stat().st_size
    journal.append_later(Ended(report(accepted.execution_id)))
    assert path.stat().st_size == size
    await journal.append_all([Settled(accepted.execution_id), Settled(uuid4())])
    await journal.append_all([])
    last = assignment()
    journal.append_later(Accepted(last, "boot"))
    await journal.close()
    again = Journal(path)
    assert again.entries[accepted.execution_id].settled
    assert again.entries[last.execution_id].assignment == last
    assert again.sequence == journal.sequence + 1
    await again.close()


def names(directory: Path) -> list[str]:
    """What lies in a directory."""
    return [path.name for path in directory.iterdir()]


def full_disk(real: PWrite, room_bytes: int) -> PWrite:
    """A pwrite on a disk that has `room_bytes` left."""
    left = room_bytes

    def pwrite(descriptor: int, data: memoryview | bytes, offset: int) -> int:
        nonlocal left
        piece = bytes(data)[:left]
        if not piece:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        left -= len(piece)
        return real(descriptor, piece, offset)

    return pwrite


@pytest.mark.parametrize("room_bytes", [0, 1, 9, 40])
async def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room_bytes: int) -> None:
    """
    A record that does not fit is refused with an error and leaves the journal as it was; later ones are whole.
    """
    path = tmp_path / "journal"
    journal = Journal(path)
    kept, refused, later = assignment(), assignment(), assignment()
    await journal.append(Accepted(kept, "boot"))
    before, sequence = path.read_bytes(), journal.sequence
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full_disk(os.pwrite, room_bytes))
        with pytest.raises(OSError, match="No space left"):
            await journal.append(Accepted(refused, "boot"))
    assert path.read_bytes() == before
    assert journal.sequence == sequence
    assert refused.execution_id not in journal.entries
    await journal.append(Accepted(later, "boot"))
    await journal.close()
    again = Journal(path)
    assert again.entries.keys() == {kept.execution_id, later.execution_id}
    await again.close()


async def test_disk_that_cannot_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    When the disk refuses to make a group durable, each of those who wait hears of it, and nothing of it is kept.
    """
    path = tmp_path / "journal"
    journal = Journal(path)
    before = path.read_bytes()

    def fdatasync(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fdatasync)
        both = [journal.append(Accepted(assignment(), "boot")) for _ in range(2)]
        errors = await asyncio.gather(*both, return_exceptions=True)
    assert [type(error) for error in errors] == [OSError, OSError]
    assert path.read_bytes() == before
    assert journal.entries == {}
    await journal.append(Accepted(assignment(), "boot"))
    await journal.close()


async def fill(journal: Journal, count: int) -> list[Assignment]:
    """Run `count` executions with a long script to their end."""
    done = [assignment("x" * 10_000) for _ in range(count)]
    for one in done:
        await journal.append(Accepted(one, "boot"))
        await journal.append(Ended(report(one.execution_id, b"t" * 4096)))
        await journal.append(Settled(one.execution_id))
    return done


async def test_compaction_at_a_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A long journal is written anew with all that is still needed, and remembers every id.
    """
    monkeypatch.setattr(module, "COMPACT_ABOVE_BYTES", 50_000)
    path = tmp_path / "journal"
    journal = Journal(path)
    done = await fill(journal, 5)
    waiting, ended = assignment("wait"), assignment("end")
    await journal.append(Accepted(waiting, "boot"))
    await journal.append(Accepted(ended, "boot"))
    await journal.append(Ended(report(ended.execution_id, b"tail")))
    await journal.close()
    long_bytes = path.stat().st_size
    again = Journal(path)
    assert path.stat().st_size < long_bytes / 5
    assert again.starts == 2
    assert again.sequence > journal.sequence
    await again.append(Accepted(assignment(), "boot"))
    await again.close()
    third = Journal(path)
    assert (third.sequence, third.starts) == (again.sequence + 1, 3)
    assert third.entries[waiting.execution_id].assignment == waiting
    assert third.entries[ended.execution_id].report == report(ended.execution_id, b"tail")
    assert all(third.entries[one.execution_id].settled for one in done)
    assert len(third.entries) == len(done) + 3
    assert names(tmp_path) == ["journal"]
    await third.close()


async def test_compaction_while_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    An agent that never restarts keeps its journal short too, and loses no record that comes meanwhile.
    """
    monkeypatch.setattr(module, "COMPACT_RUNNING_ABOVE_BYTES", 50_000)
    path = tmp_path / "journal"
    journal = Journal(path)
    done = await fill(journal, 40)
    some = [assignment("y" * 2000) for _ in range(60)]
    await asyncio.gather(*(journal.append(Accepted(one, "boot")) for one in some))
    assert path.stat().st_size < 300_000
    await journal.close()
    again = Journal(path)
    assert {one.execution_id for one in (*done, *some)} == again.entries.keys()
    assert all(again.entries[one.execution_id].assignment == one for one in some)
    assert (again.sequence, again.starts) == (journal.sequence + 1, 2)
    await again.close()


async def test_compaction_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A journal that cannot be written anew is used as it is.
    """
    path = tmp_path / "journal"
    journal = Journal(path)
    done = await fill(journal, 5)
    await journal.close()
    monkeypatch.setattr(module, "COMPACT_ABOVE_BYTES", 50_000)

    def fsync(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    real = os.fsync
    monkeypatch.setattr(module, "sync_directory", lambda *_, **__: None)
    monkeypatch.setattr(os, "fsync", fsync)
    again = Journal(path)
    monkeypatch.setattr(os, "fsync", real)
    assert again.entries.keys() == {one.execution_id for one in done}
    assert names(tmp_path) == ["journal"]
    await again.append(Accepted(assignment(), "boot"))
    await again.close()
    assert (await written(path))[0] > again.sequence


async def test_oldest_ids_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Of settled executions the newest ids are remembered, and every one that is not settled.
    """
    monkeypatch.setattr(module, "COMPACT_ABOVE_BYTES", 1)
    monkeypatch.setattr(module, "REMEMBER", 3)
    path = tmp_path / "journal"
    journal = Journal(path)
    waiting = assignment()
    await journal.append(Accepted(waiting, "boot"))
    done = await fill(journal, 8)
    await journal.close()
    again = Journal(path)
    assert again.entries.keys() == {waiting.execution_id, *(one.execution_id for one in done[-3:])}
    await again.close()

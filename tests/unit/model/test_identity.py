"""Identifiers that sort by the time they were made."""

import threading
import time
from uuid import RFC_4122, UUID

import pytest

from enjoin.model.identity import new_uuid7


def test_form() -> None:
    """
    Version 7 and the RFC's variant; the first 48 bits are the milliseconds of its making.
    """
    before_ms = time.time_ns() // 1_000_000
    made = new_uuid7()
    assert (made.version, made.variant) == (7, RFC_4122)
    assert before_ms <= made.int >> 80 <= time.time_ns() // 1_000_000 + 1


def test_later_sorts_later() -> None:
    """
    Many in one millisecond still sort in the order in which they were made, as numbers and as text.
    """
    made = [new_uuid7() for _ in range(20_000)]
    assert made == sorted(made)
    assert [str(one) for one in made] == sorted(map(str, made))
    assert len(set(made)) == len(made)


def test_clock_that_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A wall clock that is set back does not make a later one sort earlier.
    """
    first = new_uuid7()
    monkeypatch.setattr(time, "time_ns", lambda: 0)
    assert new_uuid7() > first


def test_threads() -> None:
    """
    No two threads get the same, and each sees its own grow.
    """
    found: list[list[UUID]] = [[] for _ in range(4)]

    def make(own: list[UUID]) -> None:
        own.extend(new_uuid7() for _ in range(2000))

    threads = [threading.Thread(target=make, args=(own,)) for own in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(own == sorted(own) for own in found)
    assert len({one for own in found for one in own}) == 8000

"""Output in parts, output that is gone, and what history says of itself."""

import pytest

from enjoin.model.execution import Event
from tests.unit.api.plane import NOON, Plane

TEXT = b"0123456789"


@pytest.fixture
async def written(plane: Plane) -> Plane:
    """A run command whose script wrote ten bytes."""
    session = await plane.connect(await plane.machine())
    await plane.put()
    execution_id = await plane.execution_id()
    await plane.output(session, execution_id, TEXT)
    facts = {"exit_code": 0, "stdout_bytes": len(TEXT), "stdout_tail": TEXT}
    await plane.report(session, execution_id, Event.STARTED, Event.EXITED_ZERO, **facts)
    return plane


@pytest.mark.parametrize(
    ("header", "status", "data", "content_range"),
    [
        ("bytes=0-3", 206, b"0123", "bytes 0-3/10"),
        ("bytes=7-", 206, b"789", "bytes 7-9/10"),
        ("bytes=-2", 206, b"89", "bytes 8-9/10"),
        ("bytes=-99", 206, TEXT, "bytes 0-9/10"),
        ("bytes=8-99", 206, b"89", "bytes 8-9/10"),
        ("Bytes=9-9", 206, b"9", "bytes 9-9/10"),
        ("bytes=0-1,3-4", 200, TEXT, None),
        ("bytes=5-4", 200, TEXT, None),
        ("lines=1-2", 200, TEXT, None),
        ("bytes=-", 200, TEXT, None),
        ("", 200, TEXT, None),
    ],
)
async def test_ranges(written: Plane, header: str, status: int, data: bytes, content_range: str | None) -> None:
    """
    A range is answered with 206 and just its bytes; what is no range, or several, with all (RFC 9110).
    """
    answer = await written.ask("GET", f"{written.path('c1')}/executions/1/output", headers={"Range": header})
    assert (answer.status_code, answer.content) == (status, data)
    assert answer.headers.get("Content-Range") == content_range
    assert answer.headers["Accept-Ranges"] == "bytes"
    assert answer.headers["Content-Length"] == str(len(data))


@pytest.mark.parametrize("header", ["bytes=10-", "bytes=10-20", "bytes=-0"])
async def test_range_that_is_not_there(written: Plane, header: str) -> None:
    """
    A range beyond the end is 416 with the envelope, which says how long the stream is.
    """
    answer = await written.ask("GET", f"{written.path('c1')}/executions/1/output", headers={"Range": header})
    assert (answer.status_code, answer.json()["error"]["code"]) == (416, "InvalidRange")
    assert "10 bytes" in answer.json()["error"]["message"]


async def test_offset(written: Plane) -> None:
    """
    `offset` begins later, whether the stream is followed or not.
    """
    path = f"{written.path('c1')}/executions/1/output"
    for query in ({"offset": "4"}, {"offset": "4", "follow": "true"}):
        assert (await written.ask("GET", path, query=query)).content == TEXT[4:]


async def test_output_that_was_dropped(written: Plane) -> None:
    """
    Output that retention removed is 410 with a sentence; its execution says since when.
    """
    execution_id = await written.execution_id()
    await written.services.store.write(lambda tx: tx.drop_output(execution_id, at=NOON))
    path = f"{written.path('c1')}/executions/1"
    shown = (await written.ask("GET", path)).json()["properties"]
    assert shown["outputDroppedTime"] == NOON.isoformat()
    for query in ({}, {"follow": "true"}):
        answer = await written.ask("GET", f"{path}/output", query=query)
        assert (answer.status_code, answer.json()["error"]["code"]) == (410, "OutputExpired")


async def test_retention_is_visible(written: Plane) -> None:
    """
    The list of executions says how far back it can reach.
    """
    listed = (await written.ask("GET", f"{written.path('c1')}/executions")).json()
    assert listed["retention"] == {"days": 90.0, "executions": 1000, "outputBytes": 50 * 2**30}
    assert len(listed["value"]) == 1

"""What the agent has to say: reports before output, each until it is acknowledged, output from where the server is."""

from collections.abc import Iterator
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from enjoin.agent import outbox as module
from enjoin.agent.outbox import BATCH_BYTES, WINDOW_BYTES, Outbox
from enjoin.model.execution import Event
from enjoin.protocol.codec import encode
from enjoin.protocol.messages import MAX_CHUNK_BYTES, Ack, Heartbeat, OutputChunk, StatusReport, ToServer
from tests.unit.agent.machine import undated

ONE, TWO = uuid4(), uuid4()


@pytest.fixture
def outbox() -> Iterator[Outbox]:
    """An outbox on a connection that has just been made."""
    made = Outbox()
    yield made
    for execution_id, _ in list(made.streams):
        made.drop(execution_id)


def follow(outbox: Outbox, directory: Path, execution_id: UUID, *, stdout: bytes = b"", stderr: bytes = b"") -> Path:
    """Send the output of an execution; return its directory."""
    bundle = directory / str(execution_id)
    bundle.mkdir()
    (bundle / "stdout").write_bytes(stdout)
    (bundle / "stderr").write_bytes(stderr)
    outbox.follow(execution_id, bundle)
    return bundle


def everything(outbox: Outbox) -> list[ToServer]:
    """Take until there is no more."""
    taken: list[ToServer] = []
    more = True
    while more:
        messages, more = outbox.take()
        encode(messages)  # each is a frame
        taken += [undated(message) for message in messages]
    return taken


def output(messages: list[ToServer], execution_id: UUID, stream: str = "stdout") -> bytes:
    """The bytes of a stream in `messages`, which must fit together."""
    data = b""
    first: int | None = None
    for message in messages:
        if isinstance(message, OutputChunk) and (message.execution_id, message.stream) == (execution_id, stream):
            first = message.offset if first is None else first
            assert message.offset == first + len(data)
            data += message.data
    return data


def report(execution_id: UUID, sequence: int, tail: bytes = b"") -> StatusReport:
    """A report."""
    return StatusReport(
        execution_id=execution_id, sequence=sequence, journal_sequence=1, event=Event.STARTED, stdout_tail=tail
    )


def test_how_long_ago(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A report says, each time it is sent, how long ago it happened: a machine that was away must not move its ends.
    """
    times = iter([100.0, 101.5, 160.0])
    monkeypatch.setattr(module, "now_s", lambda: next(times))
    outbox.report(report(ONE, 1))
    assert [message.ago_s for message in outbox.take()[0] if isinstance(message, StatusReport)] == [1.5]
    outbox.reconnected()
    assert [message.ago_s for message in outbox.take()[0] if isinstance(message, StatusReport)] == [60.0]


def test_reports_until_acknowledged(outbox: Outbox) -> None:
    """
    A report is said once on a connection, and on each new one until it is acknowledged, in order.
    """
    first, second = report(ONE, 1), report(TWO, 2)
    outbox.report(first)
    outbox.report(second)
    outbox.say(Heartbeat(running=1))
    assert everything(outbox) == [first, second, Heartbeat(running=1)]
    assert everything(outbox) == []
    outbox.reconnected()
    assert everything(outbox) == [first, second]  # a heartbeat was for its connection
    outbox.acknowledge(Ack(reports=[(ONE, 1), (TWO, 99)]))
    outbox.reconnected()
    assert everything(outbox) == [second]
    outbox.acknowledge(Ack(reports=[(TWO, 2), (TWO, 2)]))
    outbox.reconnected()
    assert everything(outbox) == []


def test_reports_before_output(outbox: Outbox, tmp_path: Path) -> None:
    """
    What is to be said does not wait for output that was there before.
    """
    follow(outbox, tmp_path, ONE, stdout=b"x" * 3 * MAX_CHUNK_BYTES)
    messages, more = outbox.take()
    assert more
    assert [type(message) for message in messages] == [OutputChunk]
    outbox.report(report(ONE, 1))
    messages, _ = outbox.take()
    assert isinstance(messages[0], StatusReport)


def test_output_from_the_acknowledged_offset(outbox: Outbox, tmp_path: Path) -> None:
    """
    A new connection begins where the server's word ends; within one nothing is sent twice.
    """
    bundle = follow(outbox, tmp_path, ONE, stdout=b"0123456789")
    assert output(everything(outbox), ONE) == b"0123456789"
    outbox.touch(ONE)
    assert everything(outbox) == []
    outbox.acknowledge(Ack(outputs=[(ONE, "stdout", 4), (TWO, "stdout", 4), (ONE, "else", 1)]))
    assert everything(outbox) == []
    outbox.reconnected()
    again = everything(outbox)
    assert again == [OutputChunk(execution_id=ONE, stream="stdout", offset=4, data=b"456789")]
    with (bundle / "stdout").open("ab") as file:
        file.write(b"abc")
    assert everything(outbox) == []
    outbox.touch_all()
    assert everything(outbox) == [OutputChunk(execution_id=ONE, stream="stdout", offset=10, data=b"abc")]


def test_server_that_lost_some(outbox: Outbox, tmp_path: Path) -> None:
    """
    A server that was restored from a copy has less than it once said: it gets it again, once.
    """
    follow(outbox, tmp_path, ONE, stdout=b"0123456789")
    everything(outbox)
    outbox.acknowledge(Ack(outputs=[(ONE, "stdout", 8)]))
    outbox.acknowledge(Ack(outputs=[(ONE, "stdout", 3)]))
    outbox.acknowledge(Ack(outputs=[(ONE, "stdout", 3)]))
    assert output(everything(outbox), ONE) == b"3456789"
    assert everything(outbox) == []


def test_window(outbox: Outbox, tmp_path: Path) -> None:
    """
    At most WINDOW_BYTES of a stream are on their way; an acknowledgement makes room for as much.
    """
    size = 2 * WINDOW_BYTES + 1000
    follow(outbox, tmp_path, ONE, stdout=bytes(size))
    assert len(output(everything(outbox), ONE)) == WINDOW_BYTES
    outbox.ready.clear()
    outbox.acknowledge(Ack(outputs=[(ONE, "stdout", MAX_CHUNK_BYTES)]))
    assert outbox.ready.is_set()
    assert len(output(everything(outbox), ONE)) == MAX_CHUNK_BYTES
    outbox.acknowledge(Ack(outputs=[(ONE, "stdout", WINDOW_BYTES + MAX_CHUNK_BYTES)]))
    assert len(output(everything(outbox), ONE)) == size - WINDOW_BYTES - MAX_CHUNK_BYTES


def test_fairness(outbox: Outbox, tmp_path: Path) -> None:
    """
    A script that writes without end does not keep another's line waiting: streams take turns.
    """
    follow(outbox, tmp_path, ONE, stdout=bytes(WINDOW_BYTES), stderr=bytes(WINDOW_BYTES))
    follow(outbox, tmp_path, TWO, stdout=b"a line\n")
    frames = [outbox.take()[0] for _ in range(4)]
    assert any(output(list(frame), TWO) for frame in frames)
    for frame in frames:
        assert sum(len(message.data) for message in frame if isinstance(message, OutputChunk)) < 2 * MAX_CHUNK_BYTES


def test_after_a_long_absence(outbox: Outbox, tmp_path: Path) -> None:
    """
    However many reports wait, each frame is one that the server takes, none is lost, and output comes after them.
    """
    reports = [report(uuid4(), sequence, bytes(4096)) for sequence in range(5000)]
    for one in reports:
        outbox.report(one)
    follow(outbox, tmp_path, ONE, stdout=b"behind")
    outbox.reconnected()
    messages, more = outbox.take()
    assert more
    assert len(encode(messages)) < 2 * BATCH_BYTES
    rest = everything(outbox)
    assert [undated(message) for message in [*messages, *rest][:5000]] == reports
    assert output(rest, ONE) == b"behind"


def test_complete(outbox: Outbox, tmp_path: Path) -> None:
    """
    A stream is complete when the server has what the script wrote, which is known at its end.
    """
    bundle = follow(outbox, tmp_path, ONE, stdout=b"12345")
    stream = outbox.streams[ONE, "stdout"]
    everything(outbox)
    outbox.acknowledge(Ack(outputs=[(ONE, "stdout", 5)]))
    before = stream.is_complete
    stream.whole = 5
    assert (before, stream.is_complete) == (False, True)
    with (bundle / "stdout").open("ab") as file:
        file.write(b"what a process that was left behind writes later")
    outbox.touch(ONE)
    assert everything(outbox) == []
    outbox.drop(ONE)
    outbox.touch(ONE)
    assert everything(outbox) == []


def test_files_that_cannot_be_read(outbox: Outbox, tmp_path: Path) -> None:
    """
    A file that is not there, or was made a link, sends nothing and stops nobody else.
    """
    (tmp_path / "secret").write_bytes(b"not ours")
    bundle = follow(outbox, tmp_path, ONE, stderr=b"fine")
    (bundle / "stdout").unlink()
    assert output(everything(outbox), ONE, "stderr") == b"fine"
    (bundle / "stdout").symlink_to(tmp_path / "secret")
    follow(outbox, tmp_path, TWO, stdout=b"other")
    outbox.touch_all()
    assert everything(outbox) == [OutputChunk(execution_id=TWO, stream="stdout", offset=0, data=b"other")]

"""Reports applied twice, late, out of order, or not at all sensible."""

import itertools
import math
from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

import pytest

from enjoin.errors import ChannelError
from enjoin.model.execution import Event, ExecutionState
from enjoin.model.machine import LEASE
from enjoin.model.operation import OperationState
from enjoin.protocol.messages import Ack, Heartbeat, NotHeld, OutputChunk, StatusReport, ToServer
from enjoin.testing import Cluster, FakeAgent


async def pending(cluster: Cluster) -> tuple[FakeAgent, UUID]:
    """A machine that was given a command and says nothing by itself."""
    agent = await cluster.join()
    accepted = await cluster.put("m1/c1")
    assert agent.session is not None
    agent.session.outbox.clear()
    return agent, accepted.view.execution.id


async def apply(cluster: Cluster, agent: FakeAgent, *messages: ToServer) -> Ack:
    """Let the server apply `messages` of `agent`."""
    assert agent.session is not None
    return await cluster.plane.reports.apply(agent.session, messages)


def report(execution_id: UUID, sequence: int, event: Event, exit_code: int | None = None) -> StatusReport:
    """A report of the machine."""
    return StatusReport(
        execution_id=execution_id, sequence=sequence, journal_sequence=5, event=event, exit_code=exit_code
    )


async def test_twice(cluster: Cluster) -> None:
    """
    A report that is applied twice is acknowledged twice and changes nothing the second time.
    """
    agent, execution_id = await pending(cluster)
    started = report(execution_id, 10, Event.STARTED)
    ended = report(execution_id, 11, Event.EXITED_NONZERO, 3)
    for messages in ((started,), (started,), (started, ended), (ended, started)):
        ack = await apply(cluster, agent, *messages)
        assert ack.reports == [(message.execution_id, message.sequence) for message in messages]
    view = await cluster.show("m1/c1")
    assert (view.execution.state, view.execution.outcome.exit_code) == (ExecutionState.FAILED, 3)
    assert view.execution.next_sequence == 12


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
async def test_any_order(cluster: Cluster, order: Sequence[int]) -> None:
    """
    Whatever order reports arrive in, the end is the end.
    """
    agent, execution_id = await pending(cluster)
    reports = [
        report(execution_id, 10, Event.STARTED),
        report(execution_id, 11, Event.READOPTED),
        report(execution_id, 12, Event.EXITED_ZERO, 0),
    ]
    for position in order:
        await apply(cluster, agent, reports[position])
    view = await cluster.show("m1/c1")
    assert (view.execution.state, view.execution.outcome.exit_code) == (ExecutionState.SUCCEEDED, 0)


@pytest.mark.parametrize("late", list(Event))
async def test_after_the_end(cluster: Cluster, late: Event) -> None:
    """
    Whatever comes after a terminal state is acknowledged and ignored; execution and operation stay as they are.
    """
    agent, execution_id = await pending(cluster)
    await apply(cluster, agent, report(execution_id, 1, Event.STARTED), report(execution_id, 2, Event.SIGNALED, -1))
    before = (await cluster.show("m1/c1")).execution
    ack = await apply(cluster, agent, report(execution_id, 99, late, 0))
    assert ack.reports == [(execution_id, 99)]
    assert (await cluster.show("m1/c1")).execution == before
    assert before.state is ExecutionState.FAILED


async def test_resend_after_the_lease(cluster: Cluster) -> None:
    """
    A report from before the silence says nothing about now: Unknown stays until the machine says something new.
    """
    agent, execution_id = await pending(cluster)
    started = report(execution_id, 10, Event.STARTED)
    await apply(cluster, agent, started)
    await cluster.disconnect(agent)
    await cluster.sweep(LEASE)
    agent.journal_sequence = started.journal_sequence
    await cluster.connect(agent)
    await apply(cluster, agent, started)
    assert (await cluster.show("m1/c1")).execution.state is ExecutionState.UNKNOWN
    await apply(cluster, agent, report(execution_id, 11, Event.READOPTED))
    assert (await cluster.show("m1/c1")).execution.state is ExecutionState.RUNNING


async def test_event_that_does_not_apply(cluster: Cluster) -> None:
    """
    An event that the state does not know is acknowledged, so that it is not repeated for ever, and changes nothing.
    """
    agent, execution_id = await pending(cluster)
    await apply(cluster, agent, report(execution_id, 1, Event.STARTED))
    ack = await apply(cluster, agent, report(execution_id, 2, Event.UNDELIVERED))
    assert ack.reports == [(execution_id, 2)]
    assert (await cluster.show("m1/c1")).execution.state is ExecutionState.RUNNING


async def test_deleted_execution(cluster: Cluster) -> None:
    """
    Reports and output of what no longer exists are acknowledged, so that the machine lets go of them.
    """
    agent, execution_id = await pending(cluster)
    await cluster.plane.machines.delete(cluster.machine_address("m1"))
    chunk = OutputChunk(execution_id=execution_id, stream="stdout", offset=4, data=b"late")
    ack = await apply(cluster, agent, report(execution_id, 1, Event.STARTED), chunk)
    assert ack == Ack(reports=[(execution_id, 1)], outputs=[(execution_id, "stdout", 8)])


async def test_refused_by_the_machine(cluster: Cluster) -> None:
    """
    What local policy refuses is Failed and not run, and so is its operation (F89).
    """
    agent, execution_id = await pending(cluster)
    accepted = (await cluster.show("m1/c1")).command
    await apply(cluster, agent, report(execution_id, 1, Event.REFUSED))
    assert (await cluster.show("m1/c1")).execution.state is ExecutionState.FAILED
    assert accepted.execution_id == execution_id
    assert (await cluster.show("m1/c1")).command.provisioning_state.value == "Failed"


async def test_nobody_saw_the_end(cluster: Cluster) -> None:
    """
    OUTCOME_UNKNOWN is Unknown with the output that there was, and the operation says so.
    """
    agent, execution_id = await pending(cluster)
    operations = await cluster.plane.store.read(lambda tx: tx.open_operations(execution_id))
    await apply(cluster, agent, report(execution_id, 1, Event.STARTED), report(execution_id, 2, Event.OUTCOME_UNKNOWN))
    assert (await cluster.show("m1/c1")).execution.state is ExecutionState.UNKNOWN
    operation = await cluster.operation(operations[0])
    assert (operation.state, operation.error_code) == (OperationState.FAILED, "ExecutionStateUnknown")


@pytest.mark.parametrize("ago_s", [-5.0, 0.0, 2.5, 1e300, math.inf, -math.inf, math.nan])
async def test_clock_of_the_machine(cluster: Cluster, ago_s: float) -> None:
    """
    Durations of the machine date what happened; nonsense does no harm.
    """
    agent, execution_id = await pending(cluster)
    cluster.clock.advance(timedelta(seconds=10))
    started = StatusReport(
        execution_id=execution_id, sequence=1, journal_sequence=5, event=Event.EXITED_ZERO, ago_s=ago_s, ran_s=1.0
    )
    await apply(cluster, agent, started)
    execution = (await cluster.show("m1/c1")).execution
    assert execution.ended_at is not None
    assert execution.started_at is not None
    assert execution.ended_at <= cluster.clock.now()
    if ago_s == 2.5:
        assert (cluster.clock.now() - execution.ended_at).total_seconds() == 2.5
        assert (execution.ended_at - execution.started_at).total_seconds() == 1.0


_ID = UUID(int=1)


@pytest.mark.parametrize(
    "message",
    [
        StatusReport(execution_id=_ID, sequence=2**63, journal_sequence=0, event=Event.STARTED),
        StatusReport(execution_id=_ID, sequence=-1, journal_sequence=0, event=Event.STARTED),
        StatusReport(execution_id=_ID, sequence=0, journal_sequence=2**64 - 1, event=Event.STARTED),
        StatusReport(execution_id=_ID, sequence=0, journal_sequence=0, event=Event.EXITED_ZERO, stdout_bytes=-1),
        StatusReport(execution_id=_ID, sequence=0, journal_sequence=0, event=Event.EXITED_ZERO, exit_code=2**63),
        NotHeld(execution_id=_ID, journal_sequence=-1),
        OutputChunk(execution_id=_ID, stream="../../etc/passwd", offset=0, data=b"x"),
        OutputChunk(execution_id=_ID, stream="stdout", offset=-1, data=b"x"),
        OutputChunk(execution_id=_ID, stream="stdout", offset=2**63, data=b"x"),
        OutputChunk(execution_id=_ID, stream="stdout", offset=0, data=bytes(256 * 1024 + 1)),
    ],
)
async def test_what_no_agent_can_mean(cluster: Cluster, message: ToServer) -> None:
    """
    Numbers that no database keeps, other streams and chunks over the limit are refused as a protocol error.
    """
    agent = await cluster.join()
    with pytest.raises(ChannelError, match="out of range"):
        await apply(cluster, agent, message)
    await apply(cluster, agent, Heartbeat(running=0))


async def test_long_message(cluster: Cluster) -> None:
    """
    A message of any length is kept, cut to what a view can show.
    """
    agent, execution_id = await pending(cluster)
    long = StatusReport(
        execution_id=execution_id, sequence=1, journal_sequence=1, event=Event.NOT_PREPARED, message="é" * 1_000_000
    )
    await apply(cluster, agent, long)
    assert len((await cluster.show("m1/c1")).execution.message) == 4096

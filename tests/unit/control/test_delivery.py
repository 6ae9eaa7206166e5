"""From an accepted PUT to a script that was started once: delivery, deadlines, leases, lost connections."""

import asyncio
from datetime import timedelta

import pytest

from enjoin.control.commands import DELIVERY_DEADLINE
from enjoin.model.execution import Event, ExecutionState
from enjoin.model.machine import HEARTBEAT, LEASE, LOST_AFTER
from enjoin.model.operation import OperationState
from enjoin.model.provisioning import ProvisioningState
from enjoin.protocol.messages import Assignment, NotHeld, Question, StatusReport
from enjoin.testing import Cluster

PAST_DEADLINE = DELIVERY_DEADLINE + timedelta(seconds=1)
PAST_LEASE = LEASE + timedelta(seconds=1)


async def test_put_to_a_connected_machine(cluster: Cluster) -> None:
    """
    A PUT is handed over at once, started once, and its operation ends with the script (F19, F66, F68).
    """
    agent = await cluster.join()
    accepted = await cluster.put("m1/c1", "echo hello")
    assert accepted.created
    assert accepted.view.execution.state is ExecutionState.PENDING
    assert accepted.view.command.provisioning_state is ProvisioningState.CREATING
    await cluster.exchange()
    execution_id = accepted.view.execution.id
    assert agent.started == {execution_id: 1}
    assert (await cluster.show("m1/c1")).execution.state is ExecutionState.RUNNING
    assert (await cluster.operation(accepted.operation)).state is OperationState.IN_PROGRESS
    agent.write(execution_id, b"hello\n")
    agent.exit(execution_id)
    await cluster.exchange()
    view = await cluster.show("m1/c1")
    assert view.execution.state is ExecutionState.SUCCEEDED
    assert view.execution.outcome.exit_code == 0
    assert view.execution.ended_at is not None
    assert view.tails["stdout"] == b"hello\n"
    assert view.command.provisioning_state is ProvisioningState.SUCCEEDED
    assert (await cluster.operation(accepted.operation)).state is OperationState.SUCCEEDED
    assert agent.held[execution_id].is_settled


async def test_delivered_once(cluster: Cluster) -> None:
    """
    What was handed over is never written to a channel a second time on a guess, however often work is fetched.
    """
    agent = await cluster.join()
    await cluster.put("m1/c1")
    assert agent.session is not None
    sent = [m for m in agent.session.outbox if isinstance(m, Assignment)]
    assert len(sent) == 1
    for _ in range(3):
        messages, more = await cluster.plane.assignments.take(agent.session)
        assert messages == []
        assert not more


async def test_put_to_an_absent_machine(cluster: Cluster) -> None:
    """
    A command for a machine that is away waits as Pending, says why, and runs when the machine connects.
    """
    agent = await cluster.join(connect=False)
    accepted = await cluster.put("m1/c1")
    execution = accepted.view.execution
    assert execution.state is ExecutionState.PENDING
    assert "not connected" in execution.message
    assert execution.delivered_at is None
    await cluster.sweep(DELIVERY_DEADLINE - timedelta(seconds=1))
    await cluster.connect(agent)
    await cluster.exchange()
    assert agent.started == {execution.id: 1}
    assert (await cluster.show("m1/c1")).execution.state is ExecutionState.RUNNING


async def test_more_waiting_than_one_transaction_takes(cluster: Cluster) -> None:
    """
    A machine that comes back gets everything that waited, each once, oldest first.
    """
    agent = await cluster.join(connect=False)
    ids = [(await cluster.put(f"m1/c{number}")).view.execution.id for number in range(70)]
    await cluster.connect(agent)
    await cluster.exchange()
    assert list(agent.started) == ids
    assert set(agent.started.values()) == {1}


async def test_deadline_before_delivery(cluster: Cluster) -> None:
    """
    Never written to a channel by the deadline: Failed, never started, and the operation fails.
    """
    agent = await cluster.join(connect=False)
    accepted = await cluster.put("m1/c1")
    await cluster.sweep(PAST_DEADLINE)
    view = await cluster.show("m1/c1")
    assert view.execution.state is ExecutionState.FAILED
    assert "never sent" in view.execution.message
    assert view.command.provisioning_state is ProvisioningState.FAILED
    operation = await cluster.operation(accepted.operation)
    assert (operation.state, operation.error_code) == (OperationState.FAILED, "RunCommandNotRun")
    await cluster.connect(agent)
    await cluster.exchange()
    assert not agent.started


async def test_deadline_after_delivery(cluster: Cluster) -> None:
    """
    Written and never acknowledged by the deadline: Unknown, a cancel is queued, the operation fails for good.
    """
    agent = await cluster.join()
    accepted = await cluster.put("m1/c1")
    await cluster.disconnect(agent)
    await cluster.sweep(PAST_DEADLINE)
    view = await cluster.show("m1/c1")
    assert view.execution.state is ExecutionState.UNKNOWN
    assert view.command.provisioning_state is ProvisioningState.FAILED
    operation = await cluster.operation(accepted.operation)
    assert (operation.state, operation.error_code) == (OperationState.FAILED, "ExecutionStateUnknown")
    await cluster.connect(agent)
    await cluster.exchange()
    assert not agent.started
    assert (await cluster.show("m1/c1")).execution.state is ExecutionState.CANCELED
    assert await cluster.operation(accepted.operation) == operation


async def test_unknown_is_corrected(cluster: Cluster) -> None:
    """
    A machine that comes back corrects an Unknown execution and its view, never the operation that was answered.
    """
    agent = await cluster.join()
    accepted = await cluster.put("m1/c1")
    execution_id = accepted.view.execution.id
    assert agent.session is not None
    agent.handle(agent.session.outbox.popleft())  # it arrived; no word of that came back
    await cluster.disconnect(agent)
    agent.write(execution_id, b"done\n")
    agent.exit(execution_id, 7)
    await cluster.sweep(PAST_DEADLINE)
    answered = await cluster.operation(accepted.operation)
    assert answered.error_code == "ExecutionStateUnknown"
    await cluster.connect(agent)
    await cluster.exchange()
    view = await cluster.show("m1/c1")
    assert view.execution.state is ExecutionState.FAILED
    assert view.execution.outcome.exit_code == 7
    assert view.tails["stdout"] == b"done\n"
    assert await cluster.operation(accepted.operation) == answered
    assert agent.started == {execution_id: 1}


async def test_deadline_of_a_connected_machine(cluster: Cluster) -> None:
    """
    A connected machine that does not acknowledge by the deadline is told to cancel at once, not at its next connection.
    """
    agent = await cluster.join()
    await cluster.put("m1/c1")
    assert agent.session is not None
    agent.session.outbox.clear()  # written, and lost on the machine
    with cluster.plane.store.subscribe(f"machine:{agent.machine_id}") as wakeup:
        await cluster.sweep(PAST_DEADLINE)
        async with asyncio.timeout(10):
            await wakeup.wait()
    await cluster.exchange()
    assert not agent.started
    assert (await cluster.show("m1/c1")).execution.state is ExecutionState.CANCELED


async def test_lease_runs_out(cluster: Cluster) -> None:
    """
    Running -> lost connection -> Unknown when the lease ran out -> re-adopted -> Running -> its real end.
    """
    agent = await cluster.join()
    accepted = await cluster.put("m1/c1")
    execution_id = accepted.view.execution.id
    await cluster.exchange()
    await cluster.disconnect(agent)
    machine = await cluster.plane.machines.get(cluster.machine_address("m1"))
    assert not machine.connected  # a closed connection is known at once
    await cluster.sweep(LEASE - timedelta(seconds=1))
    assert (await cluster.show("m1/c1")).execution.state is ExecutionState.RUNNING
    await cluster.sweep(timedelta(seconds=2))
    assert (await cluster.show("m1/c1")).execution.state is ExecutionState.UNKNOWN
    operation = await cluster.operation(accepted.operation)
    assert operation.error_code == "ExecutionStateUnknown"
    await cluster.connect(agent)
    await cluster.exchange()
    assert (await cluster.show("m1/c1")).execution.state is ExecutionState.RUNNING
    agent.exit(execution_id, 3)
    await cluster.exchange()
    view = await cluster.show("m1/c1")
    assert (view.execution.state, view.execution.outcome.exit_code) == (ExecutionState.FAILED, 3)
    assert await cluster.operation(accepted.operation) == operation
    assert agent.started == {execution_id: 1}


async def test_short_absence(cluster: Cluster) -> None:
    """
    A machine that is back within its lease changes nothing for what runs there.
    """
    agent = await cluster.join()
    accepted = await cluster.put("m1/c1")
    await cluster.exchange()
    await cluster.disconnect(agent)
    await cluster.sweep(LEASE - timedelta(seconds=1))
    await cluster.connect(agent)
    await cluster.exchange()
    await cluster.sweep(LEASE)
    assert (await cluster.show("m1/c1")).execution.state is ExecutionState.RUNNING
    assert (await cluster.operation(accepted.operation)).state is OperationState.IN_PROGRESS


async def test_silence(cluster: Cluster) -> None:
    """
    An open connection on which nothing was heard for LOST_AFTER is ended.
    """
    agent = await cluster.join()
    assert agent.session is not None
    agent.is_silent = True
    await cluster.sweep(LOST_AFTER)
    assert not agent.session.ended.is_set()
    await cluster.sweep(timedelta(seconds=1))
    assert agent.session.ended.is_set()


async def test_server_restart(cluster: Cluster) -> None:
    """
    After a restart of the control plane every machine has two heartbeats to come back before its lease is over.
    """
    agent = await cluster.join()
    await cluster.put("m1/c1")
    await cluster.exchange()
    cluster.clock.advance(timedelta(hours=5))  # however long the server was down
    await cluster.restart()
    await cluster.sweep(2 * HEARTBEAT - timedelta(seconds=1))
    assert (await cluster.show("m1/c1")).execution.state is ExecutionState.RUNNING
    await cluster.sweep(timedelta(seconds=1))
    assert (await cluster.show("m1/c1")).execution.state is ExecutionState.UNKNOWN
    await cluster.connect(agent)
    await cluster.exchange()
    assert (await cluster.show("m1/c1")).execution.state is ExecutionState.RUNNING


async def test_server_restart_during_a_lease(cluster: Cluster) -> None:
    """
    A lease that ran out while the server was down is renewed too: the machine had nobody to come back to.
    """
    agent = await cluster.join()
    await cluster.put("m1/c1")
    await cluster.exchange()
    await cluster.disconnect(agent)
    cluster.clock.advance(timedelta(hours=5))
    await cluster.restart()
    await cluster.sweep(2 * HEARTBEAT - timedelta(seconds=1))
    assert (await cluster.show("m1/c1")).execution.state is ExecutionState.RUNNING


async def test_server_restart_after_the_commit(cluster: Cluster) -> None:
    """
    An assignment that was committed and never left the server is asked about, and then delivered, once.
    """
    agent = await cluster.join()
    accepted = await cluster.put("m1/c1")
    await cluster.restart()
    await cluster.connect(agent)
    await cluster.exchange()
    assert agent.started == {accepted.view.execution.id: 1}


async def test_lost_on_the_wire(cluster: Cluster) -> None:
    """
    Written to a connection that broke: the next one only asks; NotHeld of a machine whose memory is whole redelivers.
    """
    agent = await cluster.join()
    accepted = await cluster.put("m1/c1")
    assert agent.session is not None
    agent.session.outbox.clear()
    await cluster.disconnect(agent)
    agent.restart()
    await cluster.connect(agent)
    assert agent.session is not None
    assert [type(message) for message in agent.session.outbox] == [Question]
    assert (await cluster.plane.assignments.take(agent.session))[0] == []
    await cluster.exchange()
    assert agent.started == {accepted.view.execution.id: 1}


async def test_answer_was_lost(cluster: Cluster) -> None:
    """
    The machine ran it and every answer was lost: asked, it says so, and does not run it again.
    """
    agent = await cluster.join()
    accepted = await cluster.put("m1/c1")
    execution_id = accepted.view.execution.id
    assert agent.session is not None
    agent.handle(agent.session.outbox.popleft())
    agent.exit(execution_id)
    agent.restart()
    await cluster.connect(agent)
    await cluster.exchange()
    assert agent.started == {execution_id: 1}
    assert (await cluster.show("m1/c1")).execution.state is ExecutionState.SUCCEEDED


@pytest.mark.parametrize("is_running", [False, True])
async def test_reinstalled_machine(cluster: Cluster, *, is_running: bool) -> None:
    """
    A new state directory: what was handed over to the old one is Unknown, and is never sent again.
    """
    agent = await cluster.join()
    accepted = await cluster.put("m1/c1")
    assert agent.session is not None
    if is_running:
        await cluster.exchange()
    else:
        agent.session.outbox.clear()
    await cluster.disconnect(agent)
    agent.reinstall()
    await cluster.connect(agent)
    await cluster.exchange()
    assert (await cluster.show("m1/c1")).execution.state is ExecutionState.UNKNOWN
    assert agent.started[accepted.view.execution.id] == int(is_running)
    assert (await cluster.operation(accepted.operation)).error_code == "ExecutionStateUnknown"
    await cluster.put("m1/c1")
    await cluster.exchange()
    assert agent.started[accepted.view.execution.id] == int(is_running)
    assert (await cluster.show("m1/c1")).execution.state is ExecutionState.RUNNING


async def test_restored_machine(cluster: Cluster) -> None:
    """
    A journal whose sequence went back was restored from a copy: open executions are Unknown, never sent again.
    """
    agent = await cluster.join()
    copy = agent.snapshot()
    for number in range(3):
        accepted = await cluster.put(f"m1/c{number}")
        await cluster.exchange()
        agent.exit(accepted.view.execution.id)
        await cluster.exchange()
    running = await cluster.put("m1/running")
    lost = await cluster.put("m1/lost")
    assert agent.session is not None
    agent.handle(agent.session.outbox.popleft())  # the first of the two
    agent.session.outbox.clear()
    await cluster.exchange()
    await cluster.disconnect(agent)
    agent.restore(copy)
    await cluster.connect(agent)
    await cluster.exchange()
    assert (await cluster.show("m1/running")).execution.state is ExecutionState.UNKNOWN
    assert (await cluster.show("m1/lost")).execution.state is ExecutionState.UNKNOWN
    assert agent.started[running.view.execution.id] == 1
    assert agent.started[lost.view.execution.id] == 0


async def test_restored_machine_that_still_holds_it(cluster: Cluster) -> None:
    """
    What a restored machine does remember it reports, although its reports are numbered lower than before.
    """
    agent = await cluster.join()
    accepted = await cluster.put("m1/c1")
    await cluster.exchange()
    copy = agent.snapshot()
    for _ in range(5):
        agent.restart()
        await cluster.connect(agent)
        await cluster.exchange()
    await cluster.disconnect(agent)
    agent.restore(copy)
    await cluster.connect(agent)
    await cluster.exchange()
    view = await cluster.show("m1/c1")
    assert (view.execution.state, view.execution.outcome.exit_code) == (ExecutionState.FAILED, -1)
    assert agent.started == {accepted.view.execution.id: 1}


async def test_running_and_not_held(cluster: Cluster) -> None:
    """
    A machine that does not know what it was seen to run lost its memory: Unknown, not Running for ever.
    """
    agent = await cluster.join()
    accepted = await cluster.put("m1/c1")
    await cluster.exchange()
    del agent.held[accepted.view.execution.id]
    await cluster.disconnect(agent)
    await cluster.connect(agent)
    await cluster.exchange()
    assert (await cluster.show("m1/c1")).execution.state is ExecutionState.UNKNOWN


async def test_not_held_without_a_question(cluster: Cluster) -> None:
    """
    A NotHeld that answers no question of this connection proves nothing: the assignment is on its way.
    """
    agent = await cluster.join()
    accepted = await cluster.put("m1/c1")
    agent.say(NotHeld(execution_id=accepted.view.execution.id, journal_sequence=agent.journal_sequence))
    assert agent.session is not None
    await cluster.plane.reports.apply(agent.session, agent.take())
    execution = (await cluster.show("m1/c1")).execution
    assert execution.delivered_at is not None
    await cluster.cancel("m1/c1")
    await cluster.exchange()
    assert (await cluster.show("m1/c1")).execution.state is ExecutionState.CANCELED
    assert not agent.running


async def test_not_held_of_an_earlier_journal(cluster: Cluster) -> None:
    """
    NotHeld whose journal sequence is below that of the hand-over proves a loss: Unknown, never sent again.
    """
    agent = await cluster.join()
    accepted = await cluster.put("m1/c1")
    execution_id = accepted.view.execution.id
    await cluster.disconnect(agent)
    await cluster.connect(agent)
    assert agent.session is not None
    report = NotHeld(execution_id=execution_id, journal_sequence=0)
    await cluster.plane.reports.apply(agent.session, [report])
    assert (await cluster.show("m1/c1")).execution.state is ExecutionState.UNKNOWN
    assert agent.started[execution_id] == 0


async def test_two_connections(cluster: Cluster) -> None:
    """
    The later connection of a machine wins; what was given to the earlier one is asked about, and not lost.
    """
    agent = await cluster.join()
    earlier = agent.session
    assert earlier is not None
    accepted = await cluster.put("m1/c1")
    await cluster.connect(agent)
    assert earlier.ended.is_set()
    assert cluster.plane.sessions.live(agent.machine_id) is agent.session
    await cluster.plane.sessions.close(earlier)  # the end of the earlier one says nothing about the machine
    assert (await cluster.plane.machines.get(cluster.machine_address("m1"))).connected
    await cluster.exchange()
    assert agent.started == {accepted.view.execution.id: 1}


async def test_fetched_by_a_dying_connection(cluster: Cluster) -> None:
    """
    Work that was fetched for a connection while another took over is asked about on that other one.
    """
    agent = await cluster.join(connect=False)
    accepted = await cluster.put("m1/c1")
    await cluster.connect(agent)
    earlier = agent.session
    assert earlier is not None
    fetched = await cluster.plane.assignments.take(earlier)
    await cluster.connect(agent)
    assert agent.session is not None
    agent.session.outbox.clear()  # as if its transaction had come before
    agent.session._asked.clear()  # noqa: SLF001 - the same
    earlier.push(*fetched[0])
    assert list(agent.session.outbox) == [Question(execution_id=accepted.view.execution.id)]
    await cluster.exchange()
    assert agent.started == {accepted.view.execution.id: 1}


async def test_fetching_is_cancelled(cluster: Cluster) -> None:
    """
    A channel that ends while its fetch is being committed loses no assignment: it is asked about.
    """
    agent = await cluster.join(connect=False)
    accepted = await cluster.put("m1/c1")
    await cluster.connect(agent)
    earlier = agent.session
    assert earlier is not None
    fetch = asyncio.create_task(cluster.plane.assignments.take(earlier))
    await asyncio.sleep(0)  # it is with the writer
    fetch.cancel()
    await asyncio.gather(fetch, return_exceptions=True)
    await cluster.connect(agent)
    await cluster.exchange()
    assert agent.started == {accepted.view.execution.id: 1}


async def test_client_goes_away_during_a_put(cluster: Cluster) -> None:
    """
    A PUT whose client hangs up while it is committed is delivered to the connected machine all the same.
    """
    agent = await cluster.join()
    put = asyncio.create_task(cluster.put("m1/c1"))
    while cluster.plane.store._writer._queue.empty() and not put.done():  # type: ignore[attr-defined]  # noqa: ASYNC110, SLF001
        await asyncio.sleep(0)
    put.cancel()
    await asyncio.gather(put, return_exceptions=True)
    await cluster.plane.store.write(_nothing)  # what was queued before is committed and answered
    await asyncio.sleep(0)
    await cluster.exchange()
    assert len(agent.started) == 1


async def _nothing(_: object) -> None:
    pass


async def test_another_machines_execution(cluster: Cluster) -> None:
    """
    What a machine says about another machine's execution is acknowledged and changes nothing.
    """
    agent, stranger = await cluster.join("m1"), await cluster.join("m2")
    accepted = await cluster.put("m1/c1")
    execution_id = accepted.view.execution.id
    await cluster.exchange(agent)
    before = (await cluster.show("m1/c1")).execution
    lie = StatusReport(execution_id=execution_id, sequence=2**40, journal_sequence=1, event=Event.EXITED_ZERO)
    stranger.say(lie)
    assert stranger.session is not None
    ack = await cluster.plane.reports.apply(stranger.session, stranger.take())
    assert ack.reports == [(execution_id, 2**40)]
    assert (await cluster.show("m1/c1")).execution == before

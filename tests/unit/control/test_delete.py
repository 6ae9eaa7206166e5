"""Cancel and delete: what runs ends, and is known to have ended before it is said."""

from datetime import timedelta

import pytest

from enjoin.control.commands import DELIVERY_DEADLINE
from enjoin.errors import Conflict, NotFound, ParentNotFound
from enjoin.model.execution import ExecutionState
from enjoin.model.operation import OperationState
from enjoin.model.provisioning import ProvisioningState
from enjoin.protocol.messages import CancelDone
from enjoin.testing import Cluster

PAST_DEADLINE = DELIVERY_DEADLINE + timedelta(seconds=1)


async def test_delete_of_a_running_command(cluster: Cluster) -> None:
    """
    Delete answers at once, shows Deleting, and succeeds when the machine confirmed the end (F25).
    """
    agent = await cluster.join()
    accepted = await cluster.put("m1/c1")
    await cluster.exchange()
    operation = await cluster.delete("m1/c1")
    assert operation is not None
    assert operation.state is OperationState.IN_PROGRESS
    assert (await cluster.show("m1/c1")).command.provisioning_state is ProvisioningState.DELETING
    assert (await cluster.operation(accepted.operation)).error_code == "OperationPreempted"
    with pytest.raises(Conflict):
        await cluster.put("m1/c1")
    again = await cluster.delete("m1/c1")
    assert again is not None
    assert again.id == operation.id
    await cluster.exchange()
    assert agent.running == []
    assert (await cluster.operation(operation)).state is OperationState.SUCCEEDED
    with pytest.raises(NotFound):
        await cluster.show("m1/c1")
    assert agent.held[accepted.view.execution.id].is_settled
    assert await cluster.delete("m1/c1") is None


async def test_delete_of_an_ended_command(cluster: Cluster) -> None:
    """
    The machine is told to forget an ended command, and deletion ends with its word.
    """
    agent = await cluster.join()
    accepted = await cluster.put("m1/c1")
    await cluster.exchange()
    agent.exit(accepted.view.execution.id)
    await cluster.exchange()
    operation = await cluster.delete("m1/c1")
    assert operation is not None
    await cluster.exchange()
    assert (await cluster.operation(operation)).state is OperationState.SUCCEEDED
    assert (await cluster.operation(accepted.operation)).state is OperationState.SUCCEEDED


async def test_delete_of_an_ended_command_of_an_absent_machine(cluster: Cluster) -> None:
    """
    Nothing of it can run, so nobody waits; the machine forgets it when it is back.
    """
    agent = await cluster.join()
    accepted = await cluster.put("m1/c1")
    await cluster.exchange()
    agent.exit(accepted.view.execution.id)
    await cluster.exchange()
    await cluster.disconnect(agent)
    operation = await cluster.delete("m1/c1")
    assert operation is not None
    assert operation.state is OperationState.SUCCEEDED
    with pytest.raises(NotFound):
        await cluster.show("m1/c1")
    await cluster.connect(agent)
    assert agent.session is not None
    messages, _ = await cluster.plane.assignments.take(agent.session)
    assert len(messages) == 1
    await cluster.exchange()
    assert (await cluster.plane.assignments.take(agent.session))[0] == []


async def test_delete_before_delivery(cluster: Cluster) -> None:
    """
    What the machine never had is gone at once and never starts.
    """
    agent = await cluster.join(connect=False)
    accepted = await cluster.put("m1/c1")
    operation = await cluster.delete("m1/c1")
    assert operation is not None
    assert operation.state is OperationState.SUCCEEDED
    assert (await cluster.operation(accepted.operation)).state is OperationState.CANCELED
    await cluster.connect(agent)
    await cluster.exchange()
    assert not agent.started


async def test_delete_on_an_absent_machine(cluster: Cluster) -> None:
    """
    The operation ends at the delivery deadline; the tombstone stays, and is repeated until the machine confirms.
    """
    agent = await cluster.join()
    await cluster.put("m1/c1")
    await cluster.exchange()
    await cluster.disconnect(agent)
    operation = await cluster.delete("m1/c1")
    assert operation is not None
    await cluster.sweep(DELIVERY_DEADLINE - timedelta(seconds=1))
    assert (await cluster.operation(operation)).state is OperationState.IN_PROGRESS
    await cluster.sweep(timedelta(seconds=1))
    assert (await cluster.operation(operation)).state is OperationState.SUCCEEDED
    with pytest.raises(NotFound):
        await cluster.show("m1/c1")
    assert len(agent.running) == 1
    for _ in range(2):
        await cluster.connect(agent)
        assert agent.session is not None
        messages, _ = await cluster.plane.assignments.take(agent.session)  # and lost on the way
        assert len(messages) == 1
        await cluster.disconnect(agent)
    await cluster.connect(agent)
    await cluster.exchange()
    assert agent.running == []
    assert agent.session is not None
    assert (await cluster.plane.assignments.take(agent.session))[0] == []


async def test_delete_and_create_again(cluster: Cluster) -> None:
    """
    A name that was deleted runs again when it is created again (agent-semantics 73).
    """
    agent = await cluster.join()
    first = await cluster.put("m1/c1", "echo same")
    await cluster.exchange()
    agent.exit(first.view.execution.id)
    await cluster.exchange()
    await cluster.delete("m1/c1")
    await cluster.exchange()
    second = await cluster.put("m1/c1", "echo same")
    assert second.created
    assert second.view.command.generation == 1
    assert second.view.command.incarnation_id != first.view.command.incarnation_id
    await cluster.exchange()
    assert agent.started == {first.view.execution.id: 1, second.view.execution.id: 1}
    assert (await cluster.show("m1/c1")).execution.state is ExecutionState.RUNNING


async def test_tombstone_and_a_late_assignment(cluster: Cluster) -> None:
    """
    Deleted after it was written and lost: the machine is told to end it, and never starts it.
    """
    agent = await cluster.join()
    await cluster.put("m1/c1")
    assert agent.session is not None
    agent.session.outbox.clear()
    operation = await cluster.delete("m1/c1")
    assert operation is not None
    agent.session.outbox.clear()
    await cluster.connect(agent)
    await cluster.exchange()
    assert not agent.started
    assert (await cluster.operation(operation)).state is OperationState.SUCCEEDED


async def test_delete_with_an_update_on_its_way(cluster: Cluster) -> None:
    """
    An update that was lost does not hide the script that it was to replace: deletion ends that too, and waits for it.
    """
    agent = await cluster.join()
    first = await cluster.put("m1/c1", "one")
    await cluster.exchange()
    await cluster.put("m1/c1", "two")
    assert agent.session is not None
    agent.session.outbox.clear()
    await cluster.disconnect(agent)
    operation = await cluster.delete("m1/c1")
    assert operation is not None
    assert operation.state is OperationState.IN_PROGRESS
    await cluster.connect(agent)
    assert agent.session is not None
    second_id = (await cluster.show("m1/c1")).execution.id
    await cluster.plane.reports.apply(agent.session, [CancelDone(execution_id=second_id)])
    assert (await cluster.operation(operation)).state is OperationState.IN_PROGRESS
    await cluster.exchange()
    assert agent.running == []
    assert agent.started == {first.view.execution.id: 1}
    assert (await cluster.operation(operation)).state is OperationState.SUCCEEDED


async def test_delete_with_an_update_that_waits(cluster: Cluster) -> None:
    """
    The update never left, so it is over; what it was to replace runs on an absent machine, so deletion waits.
    """
    agent = await cluster.join()
    await cluster.put("m1/c1", "one")
    await cluster.exchange()
    await cluster.disconnect(agent)
    await cluster.put("m1/c1", "two")
    await cluster.cancel("m1/c1")
    operation = await cluster.delete("m1/c1")
    assert operation is not None
    assert operation.state is OperationState.IN_PROGRESS
    await cluster.connect(agent)
    await cluster.exchange()
    assert agent.running == []
    assert (await cluster.operation(operation)).state is OperationState.SUCCEEDED


async def test_confirmation_by_another_machine(cluster: Cluster) -> None:
    """
    Only the machine that was ordered to end an execution can confirm it.
    """
    agent, stranger = await cluster.join("m1"), await cluster.join("m2")
    accepted = await cluster.put("m1/c1")
    await cluster.exchange()
    operation = await cluster.delete("m1/c1")
    assert operation is not None
    assert stranger.session is not None
    confirmation = CancelDone(execution_id=accepted.view.execution.id)
    await cluster.plane.reports.apply(stranger.session, [confirmation])
    assert (await cluster.operation(operation)).state is OperationState.IN_PROGRESS
    await cluster.exchange()
    assert agent.running == []
    assert (await cluster.operation(operation)).state is OperationState.SUCCEEDED


async def test_cancel(cluster: Cluster) -> None:
    """
    Cancel ends the script, keeps the command, and is harmless when repeated.
    """
    agent = await cluster.join()
    accepted = await cluster.put("m1/c1")
    await cluster.exchange()
    agent.write(accepted.view.execution.id, b"so far")
    assert (await cluster.cancel("m1/c1")).state is ExecutionState.RUNNING
    await cluster.cancel("m1/c1")
    await cluster.exchange()
    view = await cluster.show("m1/c1")
    assert view.execution.state is ExecutionState.CANCELED
    assert view.tails["stdout"] == b"so far"
    assert (await cluster.operation(accepted.operation)).state is OperationState.SUCCEEDED
    assert await cluster.cancel("m1/c1") == view.execution
    assert agent.session is not None
    assert not agent.session.outbox
    with pytest.raises(NotFound):
        await cluster.cancel("m1/none")


async def test_cancel_before_delivery(cluster: Cluster) -> None:
    """
    What the machine never had is Canceled here and now.
    """
    agent = await cluster.join(connect=False)
    await cluster.put("m1/c1")
    assert (await cluster.cancel("m1/c1")).state is ExecutionState.CANCELED
    await cluster.connect(agent)
    await cluster.exchange()
    assert not agent.started


async def test_cancel_reaches_an_absent_machine(cluster: Cluster) -> None:
    """
    A cancel waits for its machine, and ends the script when that is back.
    """
    agent = await cluster.join()
    await cluster.put("m1/c1")
    await cluster.exchange()
    await cluster.disconnect(agent)
    await cluster.cancel("m1/c1")
    await cluster.connect(agent)
    await cluster.exchange()
    assert agent.running == []
    assert (await cluster.show("m1/c1")).execution.state is ExecutionState.CANCELED


async def test_cancel_with_an_update_on_its_way(cluster: Cluster) -> None:
    """
    Cancel ends whatever runs of the command, also what a lost update did not replace.
    """
    agent = await cluster.join()
    await cluster.put("m1/c1", "one")
    await cluster.exchange()
    await cluster.put("m1/c1", "two")
    assert agent.session is not None
    agent.session.outbox.clear()
    await cluster.cancel("m1/c1")
    await cluster.connect(agent)
    await cluster.exchange()
    assert agent.running == []
    assert (await cluster.show("m1/c1")).execution.state is ExecutionState.CANCELED


async def test_deleted_machine(cluster: Cluster) -> None:
    """
    Deleting a machine ends every operation on it, tells its agent, and leaves nothing behind.
    """
    agent = await cluster.join()
    operations = [(await cluster.put("m1/running")).operation]
    await cluster.exchange()
    await cluster.put("m1/deleting")
    await cluster.exchange()
    deletion = await cluster.delete("m1/deleting")
    assert deletion is not None
    await cluster.disconnect(agent)
    operations.append((await cluster.put("m1/waiting")).operation)
    await cluster.connect(agent)
    assert await cluster.plane.machines.delete(cluster.machine_address("m1"))
    for operation in operations:
        assert (await cluster.operation(operation)).state is OperationState.CANCELED
    assert (await cluster.operation(deletion)).state is OperationState.SUCCEEDED
    await cluster.exchange()
    assert agent.is_deleted
    assert agent.running == []
    assert not await cluster.plane.machines.delete(cluster.machine_address("m1"))
    with pytest.raises(ParentNotFound):
        await cluster.put("m1/c1")

"""A resource group is deleted with all that is in it, after what runs there has ended."""

import asyncio
from datetime import timedelta

import pytest

from enjoin.arm.group import GroupRequest
from enjoin.control.commands import DELIVERY_DEADLINE
from enjoin.errors import EnrolmentRefused, GroupBeingDeleted, GroupNotFound, NotFound, PreconditionFailed
from enjoin.model.entity_tag import Precondition
from enjoin.model.execution import Event, ExecutionState
from enjoin.model.operation import Operation, OperationState
from enjoin.model.provisioning import ProvisioningState
from enjoin.protocol.messages import CancelDone, StatusReport
from enjoin.testing import Cluster, FakeAgent


async def delete(cluster: Cluster, **more: Precondition) -> Operation:
    """Delete the default group."""
    here = cluster.installation
    return await cluster.plane.groups.delete(cluster.caller, here.subscription_id, here.resource_group, **more)


async def state(cluster: Cluster) -> ProvisioningState | None:
    """Return the default group's state; None when it is gone."""
    try:
        found = await cluster.plane.directory.group(
            cluster.installation.subscription_id, cluster.installation.resource_group
        )
    except GroupNotFound:
        return None
    return found.provisioning_state


async def three_running(cluster: Cluster) -> list[FakeAgent]:
    """Return three machines, each running a script."""
    agents = [await cluster.join(name) for name in ("m1", "m2", "m3")]
    for agent in agents:
        await cluster.put(f"{agent.name}/c1", "sleep infinity")
    await cluster.exchange()
    assert [len(agent.running) for agent in agents] == [1, 1, 1]
    return agents


async def test_running_scripts_end_first(cluster: Cluster) -> None:
    """
    Every machine ends what runs, then hears that it is deleted; the operation succeeds when all are gone.
    """
    agents = await three_running(cluster)
    operation = await delete(cluster)
    assert operation.state is OperationState.IN_PROGRESS
    await cluster.exchange(*agents[:2])
    await cluster.sweep()
    assert (await cluster.operation(operation)).state is OperationState.IN_PROGRESS
    assert await state(cluster) is ProvisioningState.DELETING
    with pytest.raises(NotFound):
        await cluster.show("m1/c1")
    assert not agents[2].is_deleted
    await cluster.exchange()
    await cluster.sweep()
    assert (await cluster.operation(operation)).state is OperationState.SUCCEEDED
    assert await state(cluster) is None
    await cluster.exchange()
    assert [(agent.running, agent.is_deleted) for agent in agents] == [([], True)] * 3


async def test_nothing_comes_in(cluster: Cluster) -> None:
    """
    While a group goes away no run command, token, machine or change of the group itself is taken.
    """
    await three_running(cluster)
    token = await cluster.token()
    await delete(cluster)
    here = cluster.installation
    request = GroupRequest(location=None, tags={}, managed_by=None)
    for put in (
        cluster.put("m1/c2"),
        cluster.put("m1/c1", "other"),
        cluster.token(),
        cluster.plane.groups.put(here.subscription_id, here.resource_group, request),
        cluster.plane.groups.patch(here.subscription_id, here.resource_group, lambda _: request),
    ):
        with pytest.raises(GroupBeingDeleted):
            await put
    with pytest.raises(EnrolmentRefused):
        await cluster.plane.enrolment.enrol(cluster.enrolment_request(FakeAgent("m4"), token))


async def test_empty_group_goes_at_once(cluster: Cluster) -> None:
    """
    A group without machines, or with machines that run nothing, is gone when DELETE answers.
    """
    idle, away = await cluster.join("idle"), await cluster.join("away", connect=False)
    await cluster.put("away/c1")
    operation = await delete(cluster)
    assert (await cluster.operation(operation)).state is OperationState.SUCCEEDED
    assert await state(cluster) is None
    await cluster.exchange()
    assert idle.is_deleted
    assert away.started == {}
    with pytest.raises(GroupNotFound):
        await delete(cluster)


async def test_deleted_twice(cluster: Cluster) -> None:
    """
    A second DELETE is the first one's operation.
    """
    await three_running(cluster)
    first, second = await asyncio.gather(delete(cluster), delete(cluster))
    assert first.id == second.id


async def test_across_a_restart(cluster: Cluster) -> None:
    """
    The deletion goes on in the next process, from the database alone.
    """
    agents = await three_running(cluster)
    operation = await delete(cluster)
    await cluster.restart()
    await cluster.sweep()
    assert (await cluster.operation(operation)).state is OperationState.IN_PROGRESS
    for agent in agents:
        await cluster.connect(agent)
    await cluster.exchange()
    await cluster.sweep()
    assert (await cluster.operation(operation)).state is OperationState.SUCCEEDED
    assert await state(cluster) is None


async def test_machine_that_is_away(cluster: Cluster) -> None:
    """
    A machine that is away with a script running holds the group until the delivery deadline, then keeps a tombstone.
    """
    agents = await three_running(cluster)
    await cluster.disconnect(agents[0])
    operation = await delete(cluster)
    await cluster.exchange()
    await cluster.sweep()
    assert (await cluster.operation(operation)).state is OperationState.IN_PROGRESS
    await cluster.sweep(DELIVERY_DEADLINE + timedelta(seconds=1))
    assert (await cluster.operation(operation)).state is OperationState.SUCCEEDED
    assert await state(cluster) is None
    tombstone = await cluster.plane.store.read(lambda tx: tx.get_setting(f"machine.deleted.{agents[0].machine_id}"))
    assert tombstone is not None


async def test_machine_that_cannot_tell(cluster: Cluster) -> None:
    """
    A machine that confirms the end and does not know how a script ended is not asked for ever.
    """
    agent = await cluster.join()
    await cluster.put("m1/c1")
    await cluster.exchange()
    assert agent.session is not None
    execution = (await cluster.show("m1/c1")).execution
    unknown = StatusReport(
        execution_id=execution.id,
        sequence=execution.next_sequence,
        journal_sequence=agent.journal_sequence,
        event=Event.OUTCOME_UNKNOWN,
    )
    await cluster.plane.reports.apply(agent.session, [unknown])
    operation = await delete(cluster)
    assert (await cluster.show("m1/c1")).execution.state is ExecutionState.UNKNOWN
    await cluster.plane.reports.apply(agent.session, [CancelDone(execution_id=execution.id)])
    await cluster.sweep()
    assert (await cluster.operation(operation)).state is OperationState.SUCCEEDED


async def test_condition(cluster: Cluster) -> None:
    """
    A DELETE whose If-Match does not hold deletes nothing.
    """
    with pytest.raises(PreconditionFailed):
        await delete(cluster, precondition=Precondition(if_match=frozenset({"other.Succeeded"})))
    assert await state(cluster) is ProvisioningState.SUCCEEDED

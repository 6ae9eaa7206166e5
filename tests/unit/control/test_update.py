"""Update replaces: the earlier script ends before the later one starts, however much of it the machine saw."""

import asyncio
from datetime import timedelta

from enjoin.control.commands import DELIVERY_DEADLINE
from enjoin.model.execution import Execution, ExecutionState
from enjoin.model.operation import OperationState
from enjoin.model.provisioning import ProvisioningState
from enjoin.testing import Cluster, FakeAgent


async def running(cluster: Cluster, agent: FakeAgent, path: str = "m1/c1") -> Execution:
    """Put a command and see it run."""
    accepted = await cluster.put(path, "sleep infinity")
    await cluster.exchange(agent)
    assert agent.held[accepted.view.execution.id].is_running
    return accepted.view.execution


async def test_update_ends_what_runs(cluster: Cluster) -> None:
    """
    An update stops the running script, then runs the new one; the first operation was preempted (F20).
    """
    agent = await cluster.join()
    first = await cluster.put("m1/c1", "one")
    await cluster.exchange()
    second = await cluster.put("m1/c1", "two")
    assert not second.created
    assert second.view.command.generation == 2
    assert second.view.command.provisioning_state is ProvisioningState.UPDATING
    await cluster.exchange()
    assert agent.running == [second.view.execution.id]
    assert (await cluster.execution("m1/c1", 1)).state is ExecutionState.CANCELED
    ended = await cluster.operation(first.operation)
    assert (ended.state, ended.error_code) == (OperationState.CANCELED, "OperationPreempted")
    agent.exit(second.view.execution.id)
    await cluster.exchange()
    assert (await cluster.operation(second.operation)).state is OperationState.SUCCEEDED
    assert (await cluster.show("m1/c1")).command.provisioning_state is ProvisioningState.SUCCEEDED
    assert await cluster.operation(first.operation) == ended


async def test_update_on_an_absent_machine(cluster: Cluster) -> None:
    """
    The machine that was away ends the old script when it hears of the new one, and not before.
    """
    agent = await cluster.join()
    first = await running(cluster, agent)
    await cluster.disconnect(agent)
    second = await cluster.put("m1/c1", "two")
    assert second.view.execution.supersedes == first.id
    assert (await cluster.execution("m1/c1", 1)).state is ExecutionState.RUNNING
    await cluster.connect(agent)
    await cluster.exchange()
    assert agent.running == [second.view.execution.id]
    assert (await cluster.execution("m1/c1", 1)).state is ExecutionState.CANCELED


async def test_chain_of_updates(cluster: Cluster) -> None:
    """
    Generation 1 runs, 2 is replaced before it was sent, 3 supersedes 1: 2 never starts.
    """
    agent = await cluster.join()
    first = await running(cluster, agent)
    await cluster.disconnect(agent)
    second = await cluster.put("m1/c1", "two")
    third = await cluster.put("m1/c1", "three")
    assert (await cluster.execution("m1/c1", 2)).state is ExecutionState.CANCELED
    assert (await cluster.operation(second.operation)).error_code == "OperationPreempted"
    assert third.view.execution.supersedes == first.id
    await cluster.connect(agent)
    await cluster.exchange()
    assert agent.started == {first.id: 1, third.view.execution.id: 1}
    assert agent.running == [third.view.execution.id]


async def test_lost_update_in_a_chain(cluster: Cluster) -> None:
    """
    Generation 1 runs, 2 was written and lost, 3 supersedes 2: when 3 starts, 1 has ended, and 2 never starts.
    """
    agent = await cluster.join()
    first = await running(cluster, agent)
    second = await cluster.put("m1/c1", "two")
    assert agent.session is not None
    agent.session.outbox.clear()
    third = await cluster.put("m1/c1", "three")
    agent.session.outbox.clear()
    await cluster.connect(agent)
    await cluster.exchange()
    assert agent.started == {first.id: 1, third.view.execution.id: 1}
    assert agent.running == [third.view.execution.id]
    assert (await cluster.execution("m1/c1", 1)).state is ExecutionState.CANCELED
    assert (await cluster.execution("m1/c1", 2)).state is ExecutionState.CANCELED
    assert (await cluster.operation(second.operation)).error_code == "OperationPreempted"


async def test_many_stale_generations(cluster: Cluster) -> None:
    """
    Updates that were written, lost and replaced are not sent again, and do not keep the channel busy.
    """
    agent = await cluster.join()
    for number in range(40):
        await cluster.put("m1/c1", f"echo {number}")
    assert agent.session is not None
    agent.session.outbox.clear()
    await cluster.connect(agent)
    async with asyncio.timeout(20):
        await cluster.exchange()
    assert len(agent.started) == 1
    assert len(agent.running) == 1
    states = {(await cluster.execution("m1/c1", generation)).state for generation in range(1, 40)}
    assert states == {ExecutionState.CANCELED}


async def test_undelivered_update(cluster: Cluster) -> None:
    """
    An update that never reached its machine still ends what it was to replace, when the machine is back.
    """
    agent = await cluster.join()
    first = await running(cluster, agent)
    await cluster.disconnect(agent)
    await cluster.put("m1/c1", "two")
    await cluster.sweep(DELIVERY_DEADLINE + timedelta(seconds=1))
    assert (await cluster.show("m1/c1")).execution.state is ExecutionState.FAILED
    await cluster.connect(agent)
    await cluster.exchange()
    assert agent.running == []
    assert agent.started == {first.id: 1}
    assert (await cluster.execution("m1/c1", 1)).state is ExecutionState.CANCELED


async def test_async_execution(cluster: Cluster) -> None:
    """
    With asyncExecution the operation and the provisioning end when the script has started (F31).
    """
    agent = await cluster.join()
    accepted = await cluster.put("m1/c1", async_execution=True)
    await cluster.exchange()
    assert (await cluster.operation(accepted.operation)).state is OperationState.SUCCEEDED
    view = await cluster.show("m1/c1")
    assert view.command.provisioning_state is ProvisioningState.SUCCEEDED
    assert view.execution.state is ExecutionState.RUNNING
    agent.exit(accepted.view.execution.id, 5)
    await cluster.exchange()
    view = await cluster.show("m1/c1")
    assert (view.execution.state, view.execution.outcome.exit_code) == (ExecutionState.FAILED, 5)
    assert view.command.provisioning_state is ProvisioningState.SUCCEEDED


async def test_failure_is_the_scripts_own(cluster: Cluster) -> None:
    """
    A script that fails leaves operation and provisioning Succeeded, unless its author said otherwise (F67, F69).
    """
    agent = await cluster.join()
    for path, treat_failure in (("m1/default", False), ("m1/treated", True)):
        accepted = await cluster.put(path, treat_failure=treat_failure)
        await cluster.exchange()
        agent.exit(accepted.view.execution.id, 12)
        await cluster.exchange()
        view = await cluster.show(path)
        assert (view.execution.state, view.execution.outcome.exit_code) == (ExecutionState.FAILED, 12)
        operation = await cluster.operation(accepted.operation)
        if treat_failure:
            assert view.command.provisioning_state is ProvisioningState.FAILED
            assert (operation.state, operation.error_code) == (OperationState.FAILED, "RunCommandExecutionFailed")
        else:
            assert view.command.provisioning_state is ProvisioningState.SUCCEEDED
            assert operation.state is OperationState.SUCCEEDED


async def test_timeout(cluster: Cluster) -> None:
    """
    A script that reaches its timeout is TimedOut with exit code -1 (F56).
    """
    agent = await cluster.join()
    accepted = await cluster.put("m1/c1", timeout_s=5)
    await cluster.exchange()
    held = agent.held[accepted.view.execution.id].assignment
    assert held is not None
    assert held.timeout_s == 5
    agent.time_out(accepted.view.execution.id)
    await cluster.exchange()
    view = await cluster.show("m1/c1")
    assert (view.execution.state, view.execution.outcome.exit_code) == (ExecutionState.TIMED_OUT, -1)


async def test_concurrent_puts(cluster: Cluster) -> None:
    """
    Of many PUTs of one new name at the same time one creates, all are accepted, and one script is left running.
    """
    agent = await cluster.join()
    accepted = await asyncio.gather(*(cluster.put("m1/c1", f"echo {number}") for number in range(20)))
    assert [one.created for one in accepted].count(True) == 1
    assert sorted(one.view.command.generation for one in accepted) == list(range(1, 21))
    assert len({one.view.command.incarnation_id for one in accepted}) == 1
    await cluster.exchange()
    newest = await cluster.show("m1/c1")
    assert newest.command.generation == 20
    assert agent.running == [newest.execution.id]


async def test_parallel_commands(cluster: Cluster) -> None:
    """
    Commands of different names run side by side on one machine, each with its own outcome (F58).
    """
    agent = await cluster.join()
    first, second = await running(cluster, agent, "m1/foo"), await running(cluster, agent, "m1/myfoo")
    agent.write(second.id, b"second")
    agent.exit(first.id)
    await cluster.exchange()
    assert agent.running == [second.id]
    assert (await cluster.show("m1/foo")).execution.state is ExecutionState.SUCCEEDED
    assert (await cluster.show("m1/MYFOO")).tails["stdout"] == b"second"

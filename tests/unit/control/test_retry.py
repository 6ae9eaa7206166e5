"""Clients send a request again when its answer was lost: that starts nothing."""

import asyncio
from datetime import timedelta
from uuid import uuid4

import pytest

from enjoin.errors import Conflict
from enjoin.model.address import Caller
from enjoin.model.execution import ExecutionState
from enjoin.testing import Cluster

REQUEST = "6f1d2c62-7c5e-4b41-9d6b-6b6a1a3f9c10"


async def test_repeated_put(cluster: Cluster) -> None:
    """
    The same principal, resource, client request id and body within ten minutes: same operation, nothing starts.
    """
    agent = await cluster.join()
    first = await cluster.put("m1/c1", "echo", request_id=REQUEST)
    await cluster.exchange()
    again = await cluster.put("m1/c1", "echo", request_id=REQUEST)
    assert again.operation.id == first.operation.id
    assert again.created
    assert again.view.execution.state is ExecutionState.RUNNING  # as it stands now
    agent.exit(first.view.execution.id)
    await cluster.exchange()
    cluster.clock.advance(timedelta(minutes=10))
    late = await cluster.put("m1/c1", "echo", request_id=REQUEST)
    assert late.operation == await cluster.operation(first.operation)
    assert late.view.execution.state is ExecutionState.SUCCEEDED
    assert agent.started == {first.view.execution.id: 1}
    assert (await cluster.show("m1/c1")).command.generation == 1


async def test_at_the_same_time(cluster: Cluster) -> None:
    """
    Repetitions that overtake each other start one execution.
    """
    agent = await cluster.join()
    answers = await asyncio.gather(*(cluster.put("m1/c1", "echo", request_id=REQUEST) for _ in range(10)))
    assert len({answer.operation.id for answer in answers}) == 1
    await cluster.exchange()
    assert len(agent.started) == 1


async def test_after_a_server_restart(cluster: Cluster) -> None:
    """
    The repetition is recognised by a server that was restarted meanwhile.
    """
    agent = await cluster.join()
    first = await cluster.put("m1/c1", "echo", request_id=REQUEST)
    await cluster.restart()
    again = await cluster.put("m1/c1", "echo", request_id=REQUEST)
    assert again.operation.id == first.operation.id
    await cluster.connect(agent)
    await cluster.exchange()
    assert agent.started == {first.view.execution.id: 1}


@pytest.mark.parametrize("what", ["body", "time", "caller", "resource", "request id", "no request id"])
async def test_not_a_repetition(cluster: Cluster, what: str) -> None:
    """
    Another body, caller, resource or request id, none at all, or more than ten minutes: it runs.
    """
    agent = await cluster.join()
    request_id = None if what == "no request id" else REQUEST
    await cluster.put("m1/c1", "echo", request_id=request_id)
    await cluster.exchange()
    if what == "time":
        await cluster.sweep(timedelta(minutes=10, seconds=1))
    await cluster.put(
        "m1/c2" if what == "resource" else "m1/c1",
        "echo other" if what == "body" else "echo",
        request_id=str(uuid4()) if what == "request id" else request_id,
        caller=Caller(principal_id=uuid4(), client_id="other", name="other") if what == "caller" else None,
    )
    await cluster.exchange()
    assert len(agent.started) == 2


async def test_deleted_meanwhile(cluster: Cluster) -> None:
    """
    A repetition never brings back what was deleted after the request was accepted.
    """
    agent = await cluster.join()
    await cluster.put("m1/c1", "echo", request_id=REQUEST)
    await cluster.exchange()
    await cluster.delete("m1/c1")
    await cluster.exchange()
    with pytest.raises(Conflict, match="deleted since"):
        await cluster.put("m1/c1", "echo", request_id=REQUEST)
    await cluster.put("m1/c1", "echo")  # another's
    with pytest.raises(Conflict, match="deleted since"):
        await cluster.put("m1/c1", "echo", request_id=REQUEST)
    await cluster.exchange()
    assert len(agent.started) == 2


async def test_requests_are_forgotten(cluster: Cluster) -> None:
    """
    What is remembered of requests goes when it can no longer matter.
    """
    await cluster.join()
    await cluster.put("m1/c1", "echo", request_id=REQUEST)
    await cluster.sweep(timedelta(minutes=16))
    found = await cluster.plane.store.read(
        lambda tx: tx.find_request(cluster.caller.principal_id, "put m1/c1", REQUEST)
    )
    assert found is None

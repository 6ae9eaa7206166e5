"""Protected values: sealed before they are stored, kept or cleared by an update, opened by their machine alone."""

import asyncio
from pathlib import Path

import pytest

from enjoin.errors import Conflict
from enjoin.model.command import Parameter, Secret
from enjoin.protocol.messages import Assignment
from enjoin.protocol.sealing import SealBroken, seal_info, unseal
from enjoin.testing import Cluster, FakeAgent

CANARY = "canary-7b9f1e55d2"


def opened(agent: FakeAgent, assignment: Assignment) -> list[tuple[str, str]]:
    """What the machine reads of the protected values."""
    values = []
    for sealed in assignment.protected:
        info = seal_info(
            machine_id=assignment.machine_id,
            key_id=sealed.key_id,
            incarnation_id=assignment.incarnation_id,
            field=sealed.field,
            seal_id=sealed.seal_id,
        )
        values.append((sealed.name, unseal(sealed.ciphertext, private_key=agent.sealing_key, info=info).decode()))
    return values


async def received(cluster: Cluster, agent: FakeAgent, path: str = "m1/c1") -> Assignment:
    """The assignment of the newest generation, as the machine got it."""
    await cluster.exchange()
    execution_id = (await cluster.show(path)).execution.id
    assignment = agent.held[execution_id].assignment
    assert assignment is not None
    return assignment


async def test_values_reach_the_machine(cluster: Cluster) -> None:
    """
    Protected values arrive as they were sent, in order, beside the public ones (F43, F48).
    """
    agent = await cluster.join()
    secrets = [Secret(name="token", value=CANARY), Secret(name="", value=""), Secret(name="", value="a b; $(id) 'ö")]
    await cluster.put("m1/c1", parameters=[Parameter(name="a", value="1")], protected=secrets)
    assignment = await received(cluster, agent)
    assert assignment.parameters == [("a", "1")]
    assert opened(agent, assignment) == [(secret.name, secret.value) for secret in secrets]
    other = FakeAgent("m2")
    with pytest.raises(SealBroken):
        opened(other, assignment)


async def test_kept_and_cleared(cluster: Cluster) -> None:
    """
    Absent keeps, an empty list clears, new values replace; what is replaced is no longer stored.
    """
    agent = await cluster.join()
    await cluster.put("m1/c1", protected=[Secret(name="p", value="one")])
    first = await received(cluster, agent)
    await cluster.put("m1/c1")
    kept = await received(cluster, agent)
    assert opened(agent, kept) == [("p", "one")]
    assert kept.protected == first.protected  # the same ciphertext: nobody here could open it
    assert kept.execution_id != first.execution_id
    await cluster.put("m1/c1", protected=[Secret(name="p", value="two")])
    assert opened(agent, await received(cluster, agent)) == [("p", "two")]
    await cluster.put("m1/c1", protected=[])
    assert opened(agent, await received(cluster, agent)) == []
    await cluster.put("m1/c1")
    assert opened(agent, await received(cluster, agent)) == []


async def test_new_incarnation(cluster: Cluster) -> None:
    """
    A command that was deleted and created again keeps nothing.
    """
    agent = await cluster.join()
    await cluster.put("m1/c1", protected=[Secret(name="p", value="one")])
    await cluster.exchange()
    await cluster.delete("m1/c1")
    await cluster.exchange()
    await cluster.put("m1/c1")
    assert opened(agent, await received(cluster, agent)) == []


async def test_puts_that_race(cluster: Cluster) -> None:
    """
    Secrets that were sealed while the command was created, deleted or replaced by others open on the machine.
    """
    agent = await cluster.join()
    puts = [cluster.put("m1/c1", protected=[Secret(name="p", value=f"v{number}")]) for number in range(8)]
    await asyncio.gather(*puts, cluster.delete("m1/c1"), return_exceptions=True)
    try:
        await cluster.put("m1/c1", protected=[Secret(name="p", value="last")])
    except Conflict:  # the deletion waits for the machine
        await cluster.exchange()
        await cluster.put("m1/c1", protected=[Secret(name="p", value="last")])
    assert opened(agent, await received(cluster, agent)) == [("p", "last")]
    for held in agent.held.values():
        if held.assignment is not None:
            assert len(opened(agent, held.assignment)) == 1


def files_below(directory: Path) -> dict[str, bytes]:
    """Every file with its content."""
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


async def test_nothing_in_clear_at_rest(cluster: Cluster) -> None:
    """
    The database, its write-ahead log and every other file of the control plane hold no protected value.
    """
    agent = await cluster.join()
    secrets = [Secret(name="p", value=CANARY), Secret(name="", value=CANARY * 300)]
    await cluster.put("m1/c1", "echo public", parameters=[Parameter(name="a", value="visible")], protected=secrets)
    await cluster.exchange()
    await cluster.put("m1/c1", "echo public")
    await cluster.exchange()
    agent.exit((await cluster.show("m1/c1")).execution.id)
    await cluster.exchange()
    live = files_below(cluster.directory)
    await cluster.restart()
    for files in (live, files_below(cluster.directory)):
        assert b"visible" in b"".join(files.values())  # what is public is found, so the search finds
        assert [name for name, data in files.items() if CANARY.encode() in data] == []
    assert CANARY not in repr(secrets)
    assert CANARY not in repr(await cluster.show("m1/c1"))

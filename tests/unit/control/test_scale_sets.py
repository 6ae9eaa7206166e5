"""Machines that join as instances of a scale set."""

from collections.abc import Sequence

import pytest

from enjoin.control.scale_sets import ScaleSets
from enjoin.errors import Conflict, InvalidField, NotFound
from enjoin.model.address import ScaleSetAddress
from enjoin.model.execution import ExecutionState
from enjoin.model.machine import Instance, MachineKind
from enjoin.testing.agent import FakeAgent
from enjoin.testing.cluster import Cluster

INSTANCE = MachineKind.SCALE_SET_INSTANCE


def set_address(cluster: Cluster, name: str) -> ScaleSetAddress:
    """Return the address of a set."""
    group = cluster.machine_address("")
    return ScaleSetAddress(subscription_id=group.subscription_id, resource_group=group.resource_group, name=name)


async def test_the_first_instance_makes_the_set(cluster: Cluster) -> None:
    """
    The set is made with its first instance, in the group's location; later ones find it in any spelling (F11).
    """
    await cluster.join("Web/0", kind=INSTANCE)
    enrolled = await cluster.enrol(FakeAgent("WEB/12"), kind=INSTANCE)
    assert enrolled.machine.instance == Instance(scale_set="Web", number=12)
    assert enrolled.machine.name == "Web/12"
    view = await cluster.plane.scale_sets.get(set_address(cluster, "web"))
    assert (view.scale_set.name, view.scale_set.location) == ("Web", cluster.installation.location)
    assert (view.instances, view.connected) == (2, 1)


async def test_a_script_on_an_instance(cluster: Cluster) -> None:
    """
    What is put under one id of an instance runs once, and its end is seen under the other (F11).
    """
    agent = await cluster.join("web/0", kind=INSTANCE)
    await cluster.put("web/0/c1", "echo hello")
    await cluster.exchange()
    [execution_id] = agent.running
    agent.write(execution_id, b"hello\n")
    agent.exit(execution_id)
    await cluster.exchange()
    view = await cluster.show("web_0/c1")
    assert (view.execution.id, view.execution.state) == (execution_id, ExecutionState.SUCCEEDED)
    assert await cluster.output("web_0/c1") == b"hello\n"


@pytest.mark.parametrize(
    "name", ["web", "web/", "/0", "web/00", "web/-1", "web/a", "web/1/2", "web/1234567890", "w b/0"]
)
async def test_names_refused(cluster: Cluster, name: str) -> None:
    """
    An instance is named SET/ID, the ID decimal; what is refused makes no set.
    """
    with pytest.raises(InvalidField):
        await cluster.enrol(FakeAgent(name), kind=INSTANCE)
    with pytest.raises(NotFound):
        await cluster.plane.scale_sets.get(set_address(cluster, "web"))


async def test_taken(cluster: Cluster) -> None:
    """
    An instance that is there, or a VM with its other name, is not joined over; with `replace` the instance is.
    """
    first = await cluster.enrol(FakeAgent("web/0"), kind=INSTANCE)
    await cluster.enrol(FakeAgent("web_1"))
    for name in ("WEB/0", "web/1"):
        with pytest.raises(Conflict):
            await cluster.enrol(FakeAgent(name), kind=INSTANCE)
    with pytest.raises(Conflict):
        await cluster.enrol(FakeAgent("web_0"))
    again = await cluster.enrol(FakeAgent("web/0"), kind=INSTANCE, replace=True)
    assert (again.machine.id, again.machine.instance) == (first.machine.id, first.machine.instance)


async def test_a_set_is_deleted_under_its_agents(cluster: Cluster) -> None:
    """
    The agents of a deleted set are told, as those of a deleted machine are.
    """
    agents = [await cluster.join(f"web/{number}", kind=INSTANCE) for number in range(2)]
    other = await cluster.join("web_7")
    await cluster.plane.scale_sets.delete(set_address(cluster, "web"))
    await cluster.exchange()
    assert [agent.is_deleted for agent in (*agents, other)] == [True, True, False]
    with pytest.raises(NotFound):
        await cluster.plane.scale_sets.delete(set_address(cluster, "web"))


async def test_one_more_joins_while_its_set_is_deleted(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    An instance that joins when the others are gone already goes too: no machine is left in a set that is not there.
    """
    await cluster.enrol(FakeAgent("web/0"), kind=INSTANCE)
    delete, late = ScaleSets.delete_instances, [FakeAgent("web/1")]

    async def delete_then_join(self: ScaleSets, address: ScaleSetAddress, numbers: Sequence[int] | None) -> None:
        await delete(self, address, numbers)
        if late:
            await cluster.enrol(late.pop(), kind=INSTANCE)

    monkeypatch.setattr(ScaleSets, "delete_instances", delete_then_join)
    await cluster.plane.scale_sets.delete(set_address(cluster, "web"))
    for kind, name in ((INSTANCE, "web/1"), (MachineKind.VIRTUAL_MACHINE, "web_1")):
        with pytest.raises(NotFound):
            await cluster.plane.machines.get(cluster.machine_address(name, kind))

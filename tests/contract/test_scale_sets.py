"""Scale sets, and the machines that are their instances."""

from dataclasses import replace

import pytest

from enjoin.errors import Conflict
from enjoin.model.machine import MachineKind
from enjoin.model.scale_set import ScaleSet
from enjoin.store.base import Store, Transaction
from tests.contract.values import GROUP, SUBSCRIPTION, a_group, a_machine, a_scale_set, add, an_instance

VM, INSTANCE = MachineKind.VIRTUAL_MACHINE, MachineKind.SCALE_SET_INSTANCE


async def make(store: Store, *scale_sets: ScaleSet) -> None:
    """Make these sets."""

    async def work(tx: Transaction) -> None:
        for scale_set in scale_sets:
            await tx.make_scale_set(scale_set)

    await store.write(work)


async def test_life_of_a_scale_set(store: Store) -> None:
    """
    A set is made once under a name, found in any spelling, changed, and gone when deleted.
    """
    first, second = a_scale_set("Web"), a_scale_set("WEB")
    assert await store.write(lambda tx: tx.make_scale_set(first)) == first
    assert await store.write(lambda tx: tx.make_scale_set(second)) == first
    changed = replace(first, location="else", tags={"a": "b"})
    await store.write(lambda tx: tx.put_scale_set(changed))
    key = (SUBSCRIPTION.lower(), GROUP.upper(), "wEB")
    assert await store.read(lambda tx: tx.find_scale_set(*key)) == changed
    assert await store.write(lambda tx: tx.find_scale_set_for_update(*key)) == changed
    await store.write(lambda tx: tx.delete_scale_set(*key))
    assert await store.read(lambda tx: tx.find_scale_set(*key)) is None


async def test_list_scale_sets(store: Store) -> None:
    """
    Sets are listed by group and name without regard to case, a page at a time.
    """
    wanted = [a_scale_set(name, resource_group=group) for group, name in (("A", "z"), ("b", "C"), ("B", "d"))]
    await make(store, *reversed(wanted), a_scale_set("x", subscription_id="other"))
    assert await store.read(lambda tx: tx.list_scale_sets(SUBSCRIPTION, limit=9)) == wanted
    assert await store.read(lambda tx: tx.list_scale_sets(SUBSCRIPTION, limit=1)) == wanted[:1]
    assert await store.read(lambda tx: tx.list_scale_sets(SUBSCRIPTION, after=("a", "Z"), limit=9)) == wanted[1:]
    found = await store.read(lambda tx: tx.list_scale_sets(SUBSCRIPTION, resource_group="b", limit=9))
    assert found == wanted[1:]
    found = await store.read(lambda tx: tx.list_scale_sets(SUBSCRIPTION, resource_group="b", after=("b", "c"), limit=9))
    assert found == wanted[2:]


async def test_two_addresses(store: Store) -> None:
    """
    An instance is found as SET/ID and as the VM SET_ID, and shows under which it was looked up (F11).
    """
    instance = an_instance("Web/10")
    await store.write(lambda tx: tx.add_machine(instance))
    assert await store.read(lambda tx: tx.get_machine(instance.id)) == instance
    assert await store.read(lambda tx: tx.find_machine(SUBSCRIPTION, GROUP, INSTANCE, "web/10")) == instance
    as_vm = replace(instance, kind=VM, name="Web_10")
    assert await store.read(lambda tx: tx.find_machine(SUBSCRIPTION, GROUP, VM, "web_10")) == as_vm
    assert await store.read(lambda tx: tx.list_machines(SUBSCRIPTION)) == [instance]
    assert await store.read(lambda tx: tx.list_machines(SUBSCRIPTION, resource_group=GROUP)) == [instance]
    assert await store.read(lambda tx: tx.list_machines(SUBSCRIPTION, kind=VM)) == [as_vm]
    assert await store.write(lambda tx: tx.delete_machine(instance.id))
    assert await store.read(lambda tx: tx.find_machine(SUBSCRIPTION, GROUP, VM, "web_10")) is None
    await store.write(lambda tx: tx.add_machine(a_machine("web_10")))


async def test_either_address_taken(store: Store) -> None:
    """
    An instance whose name as VM is taken is a Conflict and leaves nothing; so is a VM with the name of an instance.
    """
    await add(store, a_machine("web_1"), an_instance("web/2"))
    with pytest.raises(Conflict, match="web_1"):
        await store.write(lambda tx: tx.add_machine(an_instance("web/1")))
    assert await store.read(lambda tx: tx.find_machine(SUBSCRIPTION, GROUP, INSTANCE, "web/1")) is None
    with pytest.raises(Conflict, match="WEB_2"):
        await store.write(lambda tx: tx.add_machine(a_machine("WEB_2")))


async def test_list_instances(store: Store) -> None:
    """
    Instances come by number, not as texts are sorted, a page at a time, and only those of the set.
    """
    instances = [an_instance(f"web/{number}", connected=number > 2) for number in (0, 2, 10)]
    await add(store, *reversed(instances), an_instance("web-b/1"), an_instance("web/1", resource_group="other"))
    key = (SUBSCRIPTION, GROUP.upper(), "WEB")
    assert await store.read(lambda tx: tx.list_instances(*key, limit=9)) == instances
    assert await store.read(lambda tx: tx.list_instances(*key, limit=2)) == instances[:2]
    assert await store.read(lambda tx: tx.list_instances(*key, after=2, limit=2)) == instances[2:]
    assert await store.read(lambda tx: tx.count_instances(*key)) == (3, 1)
    assert await store.read(lambda tx: tx.count_instances(SUBSCRIPTION, GROUP, "none")) == (0, 0)


async def test_a_deleted_group_takes_its_scale_sets(store: Store) -> None:
    """
    Scale sets go with their group, and with no other.
    """
    await add(store, a_group())
    await make(store, a_scale_set(), a_scale_set(resource_group="other"))
    assert await store.write(lambda tx: tx.delete_group(SUBSCRIPTION, GROUP.upper()))
    assert [
        found.resource_group for found in await store.read(lambda tx: tx.list_scale_sets(SUBSCRIPTION, limit=9))
    ] == ["other"]

"""Settings, subscriptions, groups, principals, tokens."""

import asyncio
from dataclasses import replace

import pytest

from enjoin.errors import Conflict
from enjoin.model.directory import EnrolmentToken, PrincipalRole, Subscription
from enjoin.store.base import Store
from tests.contract.values import GROUP, NOON, SUBSCRIPTION, a_group, a_principal, a_token, add, minutes


async def test_settings(store: Store) -> None:
    """
    A setting is what was put last; one that was never put is None.
    """
    assert await store.read(lambda tx: tx.get_setting("tenant")) is None
    await store.write(lambda tx: tx.put_setting("tenant", "first"))
    await store.write(lambda tx: tx.put_setting("tenant", "second"))
    assert await store.read(lambda tx: tx.get_setting("tenant")) == "second"


async def test_subscriptions(store: Store) -> None:
    """
    Subscriptions are listed oldest first, and one is the same in any spelling.
    """
    later = Subscription(id="bb", display_name="Later", created_at=NOON + minutes(1))
    early = Subscription(id="CC", display_name="Early", created_at=NOON)
    await add(store, later, early, replace(early, id="cc", display_name="Renamed"))
    assert await store.read(lambda tx: tx.list_subscriptions()) == [
        replace(early, id="cc", display_name="Renamed"),
        later,
    ]


async def test_groups(store: Store) -> None:
    """
    A group is found in any spelling, keeps its first one and its creation time, and goes when it is deleted.
    """
    group = a_group()
    assert await store.write(lambda tx: tx.put_group(group))
    again = replace(group, name=GROUP.upper(), location="else", tags={}, managed_by=None, created_at=NOON + minutes(9))
    assert not await store.write(lambda tx: tx.put_group(again))
    found = await store.read(lambda tx: tx.get_group(SUBSCRIPTION.lower(), GROUP.lower()))
    assert found == replace(group, location="else", tags={}, managed_by=None)
    assert await store.read(lambda tx: tx.get_group("other", GROUP)) is None
    assert await store.write(lambda tx: tx.delete_group(SUBSCRIPTION, GROUP.upper()))
    assert not await store.write(lambda tx: tx.delete_group(SUBSCRIPTION, GROUP))
    assert await store.read(lambda tx: tx.get_group(SUBSCRIPTION, GROUP)) is None


async def test_groups_are_listed_by_name(store: Store) -> None:
    """
    Groups of one subscription come in the order of their lower-cased names.
    """
    for name in ("b", "C", "a"):
        await add(store, a_group(name=name))
    await store.write(lambda tx: tx.put_group(a_group(subscription_id="other")))
    listed = await store.read(lambda tx: tx.list_groups(SUBSCRIPTION.lower()))
    assert [group.name for group in listed] == ["a", "b", "C"]


async def test_principals(store: Store) -> None:
    """
    A principal is found by both of its ids with everything it was added with; deletion takes its secret along.
    """
    admin = a_principal("Zoe")
    guest = a_principal("adam", role=PrincipalRole.NONE, enabled=False, version=7)
    await store.write(lambda tx: tx.add_principal(admin))
    await store.write(lambda tx: tx.add_principal(guest))
    await store.write(lambda tx: tx.set_secret(guest.id, b"\x00secret"))
    assert await store.read(lambda tx: tx.get_principal(guest.id)) == guest
    assert await store.read(lambda tx: tx.find_principal(admin.client_id)) == admin
    assert await store.read(lambda tx: tx.find_principal("nobody")) is None
    assert await store.read(lambda tx: tx.list_principals()) == [guest, admin]
    assert await store.write(lambda tx: tx.delete_principal(guest.id))
    assert not await store.write(lambda tx: tx.delete_principal(guest.id))
    assert await store.read(lambda tx: tx.get_principal(guest.id)) is None
    assert await store.read(lambda tx: tx.secret_hashes(guest.id)) == []


async def test_principal_taken(store: Store) -> None:
    """
    A name (in any spelling) or a client id that is taken is a Conflict, and the work that met it may go on.
    """
    first = a_principal("Zoe")
    await store.write(lambda tx: tx.add_principal(first))
    for second in (a_principal("zoe"), a_principal("other", client_id=first.client_id)):
        with pytest.raises(Conflict, match="exists"):
            await add(store, second)
    assert await store.read(lambda tx: tx.list_principals()) == [first]


async def test_secrets(store: Store) -> None:
    """
    A new secret revokes the one before.
    """
    admin = a_principal("Zoe")
    await store.write(lambda tx: tx.set_secret(admin.id, b"first"))
    await store.write(lambda tx: tx.set_secret(admin.id, b"second"))
    assert await store.read(lambda tx: tx.secret_hashes(admin.id)) == [b"second"]


async def test_token_use(store: Store) -> None:
    """
    A token is taken as often as it has uses, not when it has expired, and never when it is unknown (F14).
    """
    token = a_token(uses_left=1)
    await store.write(lambda tx: tx.add_token(token))
    assert await store.write(lambda tx: tx.use_token(token.hash, now=token.expires_at)) is None
    assert await store.write(lambda tx: tx.use_token(b"unknown", now=NOON)) is None
    assert await store.write(lambda tx: tx.use_token(token.hash, now=NOON)) == replace(token, uses_left=0)
    assert await store.write(lambda tx: tx.use_token(token.hash, now=NOON)) is None


async def test_token_race(store: Store) -> None:
    """
    Fifty callers at once share three uses: three get one, and each a different one.
    """
    token = a_token(uses_left=3)
    await store.write(lambda tx: tx.add_token(token))

    async def use() -> EnrolmentToken | None:
        return await store.write(lambda tx: tx.use_token(token.hash, now=NOON))

    taken = [used for used in await asyncio.gather(*(use() for _ in range(50))) if used is not None]
    assert sorted(used.uses_left for used in taken) == [0, 1, 2]

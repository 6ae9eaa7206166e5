"""Subscriptions, resource groups and enrolment tokens."""

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from enjoin.clock import Clock
from enjoin.control.lookups import refuse_deleting
from enjoin.errors import GroupNotFound, InvalidField, SubscriptionNotFound
from enjoin.model.address import Caller
from enjoin.model.directory import EnrolmentToken, ResourceGroup, Subscription
from enjoin.model.identity import new_uuid7
from enjoin.model.operation import Awaits, Operation, OperationState
from enjoin.store.base import Store, Transaction

MAX_GROUP_NAME_CHARACTERS: Final = 90
MAX_USES: Final = 1_000_000
MAX_TOKEN_LIFE: Final = timedelta(days=3650)
TOKEN_BYTES: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class NewToken:
    """An enrolment token, shown once."""

    text: str
    expires_at: datetime
    uses: int


class Directory:
    """Use cases of what holds machines."""

    def __init__(self, store: Store, clock: Clock) -> None:
        """Read and write through `store`."""
        self._store = store
        self._clock = clock

    async def subscriptions(self) -> Sequence[Subscription]:
        """Return all subscriptions, oldest first."""

        async def work(tx: Transaction) -> Sequence[Subscription]:
            return await tx.list_subscriptions()

        return await self._store.read(work)

    async def subscription(self, subscription_id: str) -> Subscription:
        """Return one; raise SubscriptionNotFound."""

        async def work(tx: Transaction) -> Subscription:
            return await find_subscription(tx, subscription_id)

        return await self._store.read(work)

    async def groups(self, subscription_id: str) -> Sequence[ResourceGroup]:
        """Return the groups of a subscription, by name; raise SubscriptionNotFound."""

        async def work(tx: Transaction) -> Sequence[ResourceGroup]:
            return await tx.list_groups((await find_subscription(tx, subscription_id)).id)

        return await self._store.read(work)

    async def group(self, subscription_id: str, name: str) -> ResourceGroup:
        """Return one group; raise GroupNotFound or SubscriptionNotFound."""

        async def work(tx: Transaction) -> ResourceGroup:
            return await find_group(tx, subscription_id, name)

        return await self._store.read(work)

    async def locations(self, subscription_id: str) -> Sequence[str]:
        """Return where the groups and machines of a subscription are, by name."""

        async def work(tx: Transaction) -> Sequence[str]:
            found = await find_subscription(tx, subscription_id)
            groups = await tx.list_groups(found.id)
            return sorted({group.location for group in groups})

        return await self._store.read(work)

    async def record_deletion(
        self, caller: Caller, *, subscription_id: str, location: str, resource_path: str, provider: str
    ) -> Operation:
        """Return an operation, already over, for a deletion that was done at once."""
        operation = _done(
            caller,
            subscription_id=subscription_id,
            location=location,
            resource_path=resource_path,
            provider=provider,
            now=self._clock.now(),
        )

        async def work(tx: Transaction) -> None:
            await tx.add_operation(operation)

        await self._store.write(work)
        return operation

    async def new_token(
        self, caller: Caller, subscription_id: str, group_name: str, *, uses: int, life: timedelta
    ) -> NewToken:
        """Return a token that lets `uses` machines join a group within `life`; only its hash is kept."""
        if not 1 <= uses <= MAX_USES:
            text = f"The uses of an enrolment token are 1 to {MAX_USES}, not {uses}."
            raise InvalidField(text, target="uses")
        if not timedelta(seconds=1) <= life <= MAX_TOKEN_LIFE:
            longest_s = int(MAX_TOKEN_LIFE.total_seconds())
            text = f"An enrolment token is good for 1 to {longest_s} seconds, not {life.total_seconds():.0f}."
            raise InvalidField(text, target="expiresInSeconds")
        now = self._clock.now()
        text = secrets.token_urlsafe(TOKEN_BYTES)

        async def work(tx: Transaction) -> NewToken:
            group = await find_group(tx, subscription_id, group_name)
            refuse_deleting(group)
            token = EnrolmentToken(
                hash=hashlib.sha256(text.encode()).digest(),
                subscription_id=group.subscription_id,
                resource_group=group.name,
                uses_left=uses,
                expires_at=now + life,
                created_by=caller.principal_id,
                created_at=now,
            )
            await tx.add_token(token)
            return NewToken(text=text, expires_at=token.expires_at, uses=uses)

        return await self._store.write(work)


async def find_subscription(tx: Transaction, subscription_id: str) -> Subscription:
    """Return a subscription; raise SubscriptionNotFound."""
    for subscription in await tx.list_subscriptions():
        if subscription.id.lower() == subscription_id.lower():
            return subscription
    text = f"The subscription '{subscription_id}' could not be found."
    raise SubscriptionNotFound(text)


async def find_group(tx: Transaction, subscription_id: str, name: str) -> ResourceGroup:
    """Return a group; raise GroupNotFound or SubscriptionNotFound."""
    subscription = await find_subscription(tx, subscription_id)
    group = await tx.get_group(subscription.id, name)
    if group is None:
        text = f"Resource group '{name}' could not be found."
        raise GroupNotFound(text)
    return group


def _done(
    caller: Caller, *, subscription_id: str, location: str, resource_path: str, provider: str, now: datetime
) -> Operation:
    return Operation(
        id=new_uuid7(),
        subscription_id=subscription_id,
        provider=provider,
        location=location,
        resource_path=resource_path,
        awaits=Awaits.NOTHING,
        principal_id=caller.principal_id,
        state=OperationState.SUCCEEDED,
        started_at=now,
        ended_at=now,
    )


def check_group_name(name: str) -> None:
    """Raise InvalidField for a name that no group can have."""
    allowed = all(character.isalnum() or character in "-_.()" for character in name)
    if not allowed or len(name) > MAX_GROUP_NAME_CHARACTERS or name.endswith("."):
        text = (
            f"'{name[:100]}' cannot be a resource group's name; allowed are 1 to {MAX_GROUP_NAME_CHARACTERS} letters, "
            "digits, '-', '_', '.', '(' and ')', not ending with '.'."
        )
        raise InvalidField(text, target="resourceGroupName")

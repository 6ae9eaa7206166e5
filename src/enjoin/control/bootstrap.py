"""What a control plane makes of an empty database: tenant, subscription, resource group, administrator."""

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID, uuid4

from enjoin.clock import Clock
from enjoin.model.directory import Principal, PrincipalRole, ResourceGroup, Subscription
from enjoin.store.base import Store, Transaction

RESOURCE_GROUP: Final = "enjoin"
LOCATION: Final = "local"
ADMINISTRATOR: Final = "administrator"
_TENANT: Final = "tenant"
_ADMINISTRATOR_ID: Final = "administrator"
SECRET_BYTES: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """Who this control plane is."""

    tenant_id: str
    subscription_id: str
    resource_group: str
    location: str
    administrator: Principal


async def bootstrap(store: Store, clock: Clock) -> Installation:
    """Return the installation in `store`, making what is missing."""
    now = clock.now()

    async def work(tx: Transaction) -> Installation:
        tenant_id = await tx.get_setting(_TENANT)
        if tenant_id is None:
            tenant_id = str(uuid4())
            await tx.put_setting(_TENANT, tenant_id)
        subscriptions = await tx.list_subscriptions()
        subscription = subscriptions[0] if subscriptions else await _subscription(tx, now)
        administrator = await _administrator(tx, now)
        return Installation(
            tenant_id=tenant_id,
            subscription_id=subscription.id,
            resource_group=RESOURCE_GROUP,
            location=LOCATION,
            administrator=administrator,
        )

    return await store.write(work)


async def _subscription(tx: Transaction, now: datetime) -> Subscription:
    subscription = Subscription(id=str(uuid4()), display_name="Enjoin", created_at=now)
    await tx.put_subscription(subscription)
    await tx.put_group(
        ResourceGroup(subscription_id=subscription.id, name=RESOURCE_GROUP, location=LOCATION, created_at=now)
    )
    return subscription


async def _administrator(tx: Transaction, now: datetime) -> Principal:
    """Return the principal that the connection file is for; its name alone, which anyone may get, proves nothing."""
    administrator_id = await tx.get_setting(_ADMINISTRATOR_ID)
    known = await tx.get_principal(UUID(administrator_id)) if administrator_id else None
    if known is not None:
        return known
    taken = {principal.name for principal in await tx.list_principals()}
    name = ADMINISTRATOR if ADMINISTRATOR not in taken else f"{ADMINISTRATOR}-{uuid4().hex[:8]}"
    principal = Principal(
        id=uuid4(),
        client_id=str(uuid4()),
        name=name,
        role=PrincipalRole.ADMINISTRATOR,
        created_at=now,
    )
    await tx.add_principal(principal)
    await tx.put_setting(_ADMINISTRATOR_ID, str(principal.id))
    return principal


async def administrator_secret(store: Store, administrator: Principal, *, kept: str | None) -> str:
    """Return the administrator's secret: `kept` if it is still good, else a new one, which revokes the old."""

    async def good(tx: Transaction) -> bool:
        if kept is None:
            return False
        return hashlib.sha256(kept.encode()).digest() in await tx.secret_hashes(administrator.id)

    if kept is not None and await store.read(good):
        return kept
    secret = secrets.token_urlsafe(SECRET_BYTES)

    async def work(tx: Transaction) -> None:
        await tx.set_secret(administrator.id, hashlib.sha256(secret.encode()).digest())

    await store.write(work)
    return secret

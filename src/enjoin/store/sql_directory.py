"""Settings, subscriptions, resource groups, principals and enrolment tokens."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

from enjoin.errors import Conflict
from enjoin.model.directory import EnrolmentToken, Principal, PrincipalRole, ResourceGroup, Subscription
from enjoin.model.provisioning import ProvisioningState
from enjoin.store.rows import Row, instant, json_of, moment, strings
from enjoin.store.statements import Verbs

_GROUP: Final = """SELECT subscription_id, name, location, tags, managed_by, created_at, revision, provisioning_state
FROM resource_groups"""
_PRINCIPAL: Final = "SELECT id, client_id, name, role, enabled, version, created_at FROM principals"


def _group_of(row: Row) -> ResourceGroup:
    return ResourceGroup(
        subscription_id=row[0],
        name=row[1],
        location=row[2],
        tags=strings(row[3]),
        managed_by=row[4],
        created_at=moment(row[5]),
        revision=row[6],
        provisioning_state=ProvisioningState(row[7]),
    )


def _principal_of(row: Row) -> Principal:
    return Principal(
        id=UUID(row[0]),
        client_id=row[1],
        name=row[2],
        role=PrincipalRole(row[3]),
        enabled=bool(row[4]),
        version=row[5],
        created_at=moment(row[6]),
    )


class DirectoryVerbs(Verbs):
    """Who may, and where."""

    __slots__ = ()

    async def get_setting(self, name: str) -> str | None:
        """Return a setting, or None."""
        row = await self._connection.row("SELECT value FROM settings WHERE name = $1", name)
        return None if row is None else str(row[0])

    async def put_setting(self, name: str, value: str) -> None:
        """Insert or replace a setting."""
        await self._connection.rows(
            """INSERT INTO settings (name, value) VALUES ($1, $2)
            ON CONFLICT (name) DO UPDATE SET value = excluded.value""",
            name,
            value,
        )

    # --- subscriptions and resource groups ----------------------------------------------------------------------------

    async def put_subscription(self, subscription: Subscription) -> None:
        """Insert or replace."""
        await self._connection.rows(
            """INSERT INTO subscriptions (subscription_key, id, display_name, created_at) VALUES ($1, $2, $3, $4)
            ON CONFLICT (subscription_key) DO UPDATE
            SET id = excluded.id, display_name = excluded.display_name, created_at = excluded.created_at""",
            subscription.id.lower(),
            subscription.id,
            subscription.display_name,
            instant(subscription.created_at),
        )

    async def list_subscriptions(self) -> Sequence[Subscription]:
        """Return all, oldest first."""
        rows = await self._connection.rows(
            "SELECT id, display_name, created_at FROM subscriptions ORDER BY created_at, subscription_key"
        )
        return [Subscription(id=row[0], display_name=row[1], created_at=moment(row[2])) for row in rows]

    async def get_group(self, subscription_id: str, name: str) -> ResourceGroup | None:
        """Return one group, or None."""
        row = await self._connection.row(
            _GROUP + " WHERE subscription_key = $1 AND name_key = $2", subscription_id.lower(), name.lower()
        )
        return None if row is None else _group_of(row)

    async def list_groups(self, subscription_id: str) -> Sequence[ResourceGroup]:
        """Return all, by name."""
        rows = await self._connection.rows(
            _GROUP + " WHERE subscription_key = $1 ORDER BY name_key", subscription_id.lower()
        )
        return [_group_of(row) for row in rows]

    async def put_group(self, group: ResourceGroup) -> bool:
        """Insert or replace; return whether it is new. A replacement keeps the first spelling and creation time."""
        key = (group.subscription_id.lower(), group.name.lower())
        new = await self._connection.row(
            """INSERT INTO resource_groups
            (subscription_key, name_key, subscription_id, name, location, tags, managed_by, created_at, revision,
            provisioning_state)
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
            ON CONFLICT (subscription_key, name_key) DO NOTHING RETURNING name_key""",
            *key,
            group.subscription_id,
            group.name,
            group.location,
            json_of(group.tags),
            group.managed_by,
            instant(group.created_at),
            group.revision,
            group.provisioning_state.value,
        )
        if new is None:
            await self._connection.rows(
                """UPDATE resource_groups SET location = $3, tags = $4, managed_by = $5, revision = $6,
                provisioning_state = $7
                WHERE subscription_key = $1 AND name_key = $2""",
                *key,
                group.location,
                json_of(group.tags),
                group.managed_by,
                group.revision,
                group.provisioning_state.value,
            )
        return new is not None

    async def delete_group(self, subscription_id: str, name: str) -> bool:
        """Remove it and its scale sets; return whether it was there. The caller made sure that no machine is in it."""
        await self._connection.rows(
            "DELETE FROM scale_sets WHERE subscription_key = $1 AND group_key = $2",
            subscription_id.lower(),
            name.lower(),
        )
        row = await self._connection.row(
            "DELETE FROM resource_groups WHERE subscription_key = $1 AND name_key = $2 RETURNING name_key",
            subscription_id.lower(),
            name.lower(),
        )
        return row is not None

    async def get_group_for_update(self, subscription_id: str, name: str) -> ResourceGroup | None:
        """Return one group and lock its row."""
        row = await self._connection.row(
            _GROUP + " WHERE subscription_key = $1 AND name_key = $2 FOR UPDATE", subscription_id.lower(), name.lower()
        )
        return None if row is None else _group_of(row)

    # --- principals ---------------------------------------------------------------------------------------------------

    async def add_principal(self, principal: Principal) -> None:
        """Insert; raise Conflict when the name or the client id is taken."""
        row = await self._connection.row(
            """INSERT INTO principals (id, client_id, name_key, name, role, enabled, version, created_at)
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING RETURNING id""",
            str(principal.id),
            principal.client_id,
            principal.name.lower(),
            principal.name,
            principal.role.value,
            int(principal.enabled),
            principal.version,
            instant(principal.created_at),
        )
        if row is None:
            message = f"A principal with the name {principal.name!r} or that client id exists; choose another name."
            raise Conflict(message)

    async def get_principal(self, principal_id: UUID) -> Principal | None:
        """Return one by its object id, or None."""
        row = await self._connection.row(_PRINCIPAL + " WHERE id = $1", str(principal_id))
        return None if row is None else _principal_of(row)

    async def find_principal(self, client_id: str) -> Principal | None:
        """Return one by its client id, or None."""
        row = await self._connection.row(_PRINCIPAL + " WHERE client_id = $1", client_id)
        return None if row is None else _principal_of(row)

    async def list_principals(self) -> Sequence[Principal]:
        """Return all, by name."""
        return [_principal_of(row) for row in await self._connection.rows(_PRINCIPAL + " ORDER BY name_key")]

    async def delete_principal(self, principal_id: UUID) -> bool:
        """Remove it and its secrets; return whether it was there."""
        await self._connection.rows("DELETE FROM principal_secrets WHERE principal_id = $1", str(principal_id))
        row = await self._connection.row("DELETE FROM principals WHERE id = $1 RETURNING id", str(principal_id))
        return row is not None

    async def set_secret(self, principal_id: UUID, secret_sha256: bytes) -> None:
        """Make this the principal's only secret, revoking any other."""
        await self._connection.rows("DELETE FROM principal_secrets WHERE principal_id = $1", str(principal_id))
        await self._connection.rows(
            "INSERT INTO principal_secrets (principal_id, secret_sha256) VALUES ($1, $2)",
            str(principal_id),
            secret_sha256,
        )

    async def secret_hashes(self, principal_id: UUID) -> Sequence[bytes]:
        """Return the SHA-256 of each valid secret."""
        rows = await self._connection.rows(
            "SELECT secret_sha256 FROM principal_secrets WHERE principal_id = $1", str(principal_id)
        )
        return [bytes(row[0]) for row in rows]

    # --- enrolment tokens ---------------------------------------------------------------------------------------------

    async def add_token(self, token: EnrolmentToken) -> None:
        """Insert."""
        await self._connection.rows(
            """INSERT INTO enrolment_tokens
            (token_sha256, subscription_id, resource_group, uses_left, expires_at, created_by, created_at)
            VALUES ($1, $2, $3, $4, $5, $6, $7)""",
            token.hash,
            token.subscription_id,
            token.resource_group,
            token.uses_left,
            instant(token.expires_at),
            str(token.created_by),
            instant(token.created_at),
        )

    async def delete_tokens(self, subscription_id: str, resource_group: str) -> None:
        """Remove those for a group, spelled as the group is."""
        await self._connection.rows(
            "DELETE FROM enrolment_tokens WHERE subscription_id = $1 AND resource_group = $2",
            subscription_id,
            resource_group,
        )

    async def use_token(self, token_sha256: bytes, *, now: datetime) -> EnrolmentToken | None:
        """Take one use; None when unknown, expired at `now`, or used up. Two callers never take the same use."""
        row = await self._connection.row(
            """UPDATE enrolment_tokens SET uses_left = uses_left - 1
            WHERE token_sha256 = $1 AND uses_left > 0 AND expires_at > $2
            RETURNING token_sha256, subscription_id, resource_group, uses_left, expires_at, created_by, created_at""",
            token_sha256,
            instant(now),
        )
        if row is None:
            return None
        return EnrolmentToken(
            hash=row[0],
            subscription_id=row[1],
            resource_group=row[2],
            uses_left=row[3],
            expires_at=moment(row[4]),
            created_by=UUID(row[5]),
            created_at=moment(row[6]),
        )

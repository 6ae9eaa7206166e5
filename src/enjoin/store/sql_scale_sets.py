"""Scale sets, and the machines that are their instances."""

from collections.abc import Sequence
from typing import Final
from uuid import UUID

from enjoin.model.machine import Machine
from enjoin.model.scale_set import ScaleSet
from enjoin.store.rows import Row, instant, json_of, machine_of, moment, strings
from enjoin.store.sql_machines import BY_ADDRESS
from enjoin.store.statements import Verbs

_SELECT: Final = "SELECT id, subscription_id, resource_group, name, location, tags, created_at FROM scale_sets WHERE "
_BY_NAME: Final = _SELECT + "subscription_key = $1 AND group_key = $2 AND name_key = $3"
_COUNTS: Final = """SELECT COUNT(*), COALESCE(SUM(m.connected), 0)
FROM machine_addresses a JOIN machines m ON m.id = a.machine_id WHERE """
_INSTANCES: Final = "a.kind = 'vmss' AND a.subscription_key = $1 AND a.group_key = $2 AND a.scale_set_key = $3"


def _scale_set_of(row: Row) -> ScaleSet:
    return ScaleSet(
        id=UUID(row[0]),
        subscription_id=row[1],
        resource_group=row[2],
        name=row[3],
        location=row[4],
        tags=strings(row[5]),
        created_at=moment(row[6]),
    )


def _key(subscription_id: str, resource_group: str, name: str) -> tuple[str, str, str]:
    return subscription_id.lower(), resource_group.lower(), name.lower()


class ScaleSetVerbs(Verbs):
    """Names under which machines are counted."""

    __slots__ = ()

    async def make_scale_set(self, scale_set: ScaleSet) -> ScaleSet:
        """Insert it unless its name is taken; return the one that has the name now."""
        await self._connection.rows(
            """INSERT INTO scale_sets (subscription_key, group_key, name_key, id, subscription_id, resource_group,
            name, location, tags, created_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
            ON CONFLICT (subscription_key, group_key, name_key) DO NOTHING""",
            *_key(scale_set.subscription_id, scale_set.resource_group, scale_set.name),
            str(scale_set.id),
            scale_set.subscription_id,
            scale_set.resource_group,
            scale_set.name,
            scale_set.location,
            json_of(scale_set.tags),
            instant(scale_set.created_at),
        )
        found = await self.find_scale_set_for_update(
            scale_set.subscription_id, scale_set.resource_group, scale_set.name
        )
        assert found is not None
        return found

    async def find_scale_set(self, subscription_id: str, resource_group: str, name: str) -> ScaleSet | None:
        """Return one, or None."""
        row = await self._connection.row(_BY_NAME, *_key(subscription_id, resource_group, name))
        return None if row is None else _scale_set_of(row)

    async def find_scale_set_for_update(self, subscription_id: str, resource_group: str, name: str) -> ScaleSet | None:
        """Return one and lock its row."""
        row = await self._connection.row(_BY_NAME + " FOR UPDATE", *_key(subscription_id, resource_group, name))
        return None if row is None else _scale_set_of(row)

    async def list_scale_sets(
        self, subscription_id: str, *, resource_group: str | None = None, after: tuple[str, str] = ("", ""), limit: int
    ) -> Sequence[ScaleSet]:
        """Return at most `limit`, by group and name; `after` is group and name of the last one on the page before."""
        group_key, name_key = (part.lower() for part in after)
        if resource_group is None:
            rows = await self._connection.rows(
                _SELECT
                + "subscription_key = $1 AND (group_key, name_key) > ($2, $3) ORDER BY group_key, name_key LIMIT $4",
                subscription_id.lower(),
                group_key,
                name_key,
                limit,
            )
        else:
            rows = await self._connection.rows(
                _SELECT + "subscription_key = $1 AND group_key = $2 AND name_key > $3 ORDER BY name_key LIMIT $4",
                subscription_id.lower(),
                resource_group.lower(),
                name_key,
                limit,
            )
        return [_scale_set_of(row) for row in rows]

    async def put_scale_set(self, scale_set: ScaleSet) -> None:
        """Replace location and tags."""
        await self._connection.rows(
            """UPDATE scale_sets SET location = $4, tags = $5
            WHERE subscription_key = $1 AND group_key = $2 AND name_key = $3""",
            *_key(scale_set.subscription_id, scale_set.resource_group, scale_set.name),
            scale_set.location,
            json_of(scale_set.tags),
        )

    async def delete_scale_set(self, subscription_id: str, resource_group: str, name: str) -> None:
        """Remove it. The caller has made sure that it has no instance."""
        await self._connection.rows(
            "DELETE FROM scale_sets WHERE subscription_key = $1 AND group_key = $2 AND name_key = $3",
            *_key(subscription_id, resource_group, name),
        )

    async def list_instances(
        self, subscription_id: str, resource_group: str, scale_set: str, *, after: int = -1, limit: int
    ) -> Sequence[Machine]:
        """Return at most `limit` instances, as such, by number, with one above `after`."""
        rows = await self._connection.rows(
            BY_ADDRESS + _INSTANCES + " AND a.instance_number > $4 ORDER BY a.instance_number LIMIT $5",
            *_key(subscription_id, resource_group, scale_set),
            after,
            limit,
        )
        return [machine_of(row) for row in rows]

    async def count_instances(self, subscription_id: str, resource_group: str, scale_set: str) -> tuple[int, int]:
        """Return how many instances there are, and how many of them are connected."""
        row = await self._connection.row(
            _COUNTS + _INSTANCES,
            *_key(subscription_id, resource_group, scale_set),
        )
        assert row is not None
        return int(row[0]), int(row[1])

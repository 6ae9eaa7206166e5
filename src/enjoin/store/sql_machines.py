"""Machines: identity, address, connection and lease."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

from enjoin.errors import Conflict
from enjoin.model.machine import Machine, MachineKind
from enjoin.store.rows import instant, instant_or_none, json_of, machine_of
from enjoin.store.statements import Verbs

_SELECT: Final = """SELECT m.id, a.subscription_id, a.resource_group, a.kind, a.name, m.location, m.tags,
m.identity_key, m.sealing_key, m.sealing_key_id, m.epoch, m.journal_sequence, m.facts, m.created_at, m.connected,
m.session_epoch, m.status_changed_at, m.lease_expires_at, a.instance_number """
_BY_ID: Final = (
    _SELECT + "FROM machines m JOIN machine_addresses a ON a.machine_id = m.id AND a.position = 0 WHERE m.id = $1"
)
_NO_LIMIT: Final = 2**62  # rows: more than there ever are
BY_ADDRESS: Final = _SELECT + "FROM machine_addresses a JOIN machines m ON m.id = a.machine_id WHERE "

# What goes with a machine, children first: each is found through the commands of the machine.
_BELONGINGS: Final = (
    """INSERT INTO output_removals (execution_id) SELECT r.execution_id FROM run_commands c
    JOIN executions e ON e.incarnation_id = c.incarnation_id JOIN received_output r ON r.execution_id = e.id
    WHERE c.machine_id = $1 ON CONFLICT DO NOTHING""",
    """DELETE FROM output_pieces WHERE execution_id IN (SELECT e.id FROM run_commands c
    JOIN executions e ON e.incarnation_id = c.incarnation_id WHERE c.machine_id = $1)""",
    """DELETE FROM received_output WHERE execution_id IN (SELECT e.id FROM run_commands c
    JOIN executions e ON e.incarnation_id = c.incarnation_id WHERE c.machine_id = $1)""",
    """DELETE FROM executions WHERE incarnation_id IN
    (SELECT incarnation_id FROM run_commands WHERE machine_id = $1)""",
    """DELETE FROM specs WHERE incarnation_id IN
    (SELECT incarnation_id FROM run_commands WHERE machine_id = $1)""",
    """DELETE FROM sealed_values WHERE incarnation_id IN
    (SELECT incarnation_id FROM run_commands WHERE machine_id = $1)""",
    "DELETE FROM run_commands WHERE machine_id = $1",
    "DELETE FROM cancel_orders WHERE machine_id = $1",
    "DELETE FROM machine_addresses WHERE machine_id = $1",
)


class MachineVerbs(Verbs):
    """What can run a script."""

    __slots__ = ()

    async def add_machine(self, machine: Machine) -> None:
        """Insert; raise Conflict when group, kind and name are taken. An instance is findable as a VM too."""
        await self._add_address(machine, machine.kind, machine.name, position=0)
        if machine.instance is not None:
            await self._add_address(machine, MachineKind.VIRTUAL_MACHINE, machine.instance.vm_name, position=1)
        await self._connection.rows(
            """INSERT INTO machines (id, location, tags, identity_key, sealing_key, sealing_key_id, epoch,
            journal_sequence, facts, created_at, connected, session_epoch, status_changed_at, lease_expires_at)
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)""",
            str(machine.id),
            machine.location,
            json_of(machine.tags),
            machine.identity_key,
            machine.sealing_key,
            machine.sealing_key_id,
            machine.epoch,
            machine.journal_sequence,
            json_of(machine.facts),
            instant(machine.created_at),
            int(machine.connected),
            machine.session_epoch,
            instant(machine.status_changed_at),
            instant_or_none(machine.lease_expires_at),
        )

    async def _add_address(self, machine: Machine, kind: MachineKind, name: str, *, position: int) -> None:
        instance = machine.instance
        row = await self._connection.row(
            """INSERT INTO machine_addresses (subscription_key, group_key, name_key, kind, machine_id, position,
            subscription_id, resource_group, name, scale_set_key, instance_number)
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
            ON CONFLICT (subscription_key, group_key, name_key, kind) DO NOTHING RETURNING machine_id""",
            machine.subscription_id.lower(),
            machine.resource_group.lower(),
            name.lower(),
            kind.value,
            str(machine.id),
            position,
            machine.subscription_id,
            machine.resource_group,
            name,
            "" if instance is None else instance.scale_set.lower(),
            None if instance is None else instance.number,
        )
        if row is None:
            message = f"The resource group {machine.resource_group!r} already has a machine named {name!r}."
            raise Conflict(message)

    async def get_machine(self, machine_id: UUID) -> Machine | None:
        """Return one by identity, or None."""
        row = await self._connection.row(_BY_ID, str(machine_id))
        return None if row is None else machine_of(row)

    async def get_machine_for_update(self, machine_id: UUID) -> Machine | None:
        """Return one and lock its row."""
        row = await self._connection.row(_BY_ID + " FOR UPDATE OF m", str(machine_id))
        return None if row is None else machine_of(row)

    async def find_machine(
        self, subscription_id: str, resource_group: str, kind: MachineKind, name: str
    ) -> Machine | None:
        """Return one by address, or None."""
        row = await self._connection.row(
            BY_ADDRESS + "a.subscription_key = $1 AND a.group_key = $2 AND a.name_key = $3 AND a.kind = $4",
            subscription_id.lower(),
            resource_group.lower(),
            name.lower(),
            kind.value,
        )
        return None if row is None else machine_of(row)

    async def list_machines(
        self,
        subscription_id: str,
        *,
        resource_group: str | None = None,
        kind: MachineKind | None = None,
        after: tuple[str, str, str] = ("", "", ""),
        limit: int | None = None,
    ) -> Sequence[Machine]:
        """Return at most `limit` of those that match, by lower-cased group and name, then kind.

        `after` is group, name and kind of the last one on the page before. Without `kind` each machine is there once,
        under the address that it enrolled under; a scale-set instance is also one of the VMs.
        """
        wanted = "" if kind is None else kind.value
        group_key, name_key, after_kind = (part.lower() for part in after)
        most = _NO_LIMIT if limit is None else limit
        if resource_group is None:
            rows = await self._connection.rows(
                BY_ADDRESS
                + "a.subscription_key = $1 AND (a.kind = $2 OR ($2 = '' AND a.position = 0)) "
                + "AND (a.group_key, a.name_key, a.kind) > ($3, $4, $5) "
                + "ORDER BY a.group_key, a.name_key, a.kind LIMIT $6",
                subscription_id.lower(),
                wanted,
                group_key,
                name_key,
                after_kind,
                most,
            )
        else:
            rows = await self._connection.rows(
                BY_ADDRESS
                + "a.subscription_key = $1 AND a.group_key = $2 AND (a.kind = $3 OR ($3 = '' AND a.position = 0)) "
                + "AND (a.name_key, a.kind) > ($4, $5) ORDER BY a.name_key, a.kind LIMIT $6",
                subscription_id.lower(),
                resource_group.lower(),
                wanted,
                name_key,
                after_kind,
                most,
            )
        return [machine_of(row) for row in rows]

    async def put_machine(self, machine: Machine) -> None:
        """Replace everything of an existing machine but its id and address."""
        await self._connection.rows(
            """UPDATE machines SET location = $2, tags = $3, identity_key = $4, sealing_key = $5, sealing_key_id = $6,
            epoch = $7, journal_sequence = $8, facts = $9, created_at = $10, connected = $11, session_epoch = $12,
            status_changed_at = $13, lease_expires_at = $14 WHERE id = $1""",
            str(machine.id),
            machine.location,
            json_of(machine.tags),
            machine.identity_key,
            machine.sealing_key,
            machine.sealing_key_id,
            machine.epoch,
            machine.journal_sequence,
            json_of(machine.facts),
            instant(machine.created_at),
            int(machine.connected),
            machine.session_epoch,
            instant(machine.status_changed_at),
            instant_or_none(machine.lease_expires_at),
        )

    async def delete_machine(self, machine_id: UUID) -> bool:
        """Remove it and all that belongs to it but operations; return whether it was there."""
        for statement in _BELONGINGS:
            await self._connection.rows(statement, str(machine_id))
        row = await self._connection.row("DELETE FROM machines WHERE id = $1 RETURNING id", str(machine_id))
        return row is not None

    async def connected_machines(self) -> Sequence[Machine]:
        """Return those marked as connected: at a start, the ones whose lease must be set."""
        rows = await self._connection.rows(
            _SELECT
            + "FROM machines m JOIN machine_addresses a ON a.machine_id = m.id AND a.position = 0 "
            + "WHERE m.connected = 1 ORDER BY m.id"
        )
        return [machine_of(row) for row in rows]

    async def expired_leases(self, *, now: datetime, limit: int) -> Sequence[UUID]:
        """Return at most `limit` machines whose lease_expires_at is not after `now`, earliest first."""
        rows = await self._connection.rows(
            "SELECT id FROM machines WHERE lease_expires_at <= $1 ORDER BY lease_expires_at, id LIMIT $2",
            instant(now),
            limit,
        )
        return [UUID(row[0]) for row in rows]

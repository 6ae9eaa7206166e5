"""Run commands, the specs of their generations, and their sealed values."""

from collections.abc import Sequence
from typing import Final
from uuid import UUID

from enjoin.errors import Conflict
from enjoin.model.command import CommandSpec, RunCommand
from enjoin.store.rows import (
    Row,
    command_of,
    instant,
    json_of,
    sealed_ids,
    sealed_value_of,
    spec_of,
    spec_text,
)
from enjoin.store.statements import Connection, Verbs

_COMMAND: Final = """SELECT c.incarnation_id, c.machine_id, c.name, c.location, c.tags, c.generation, c.execution_id,
c.provisioning_state, c.created_by, c.created_at, c.modified_by, c.modified_at, c.revision, s.spec
FROM run_commands c JOIN specs s ON s.incarnation_id = c.incarnation_id AND s.generation = c.generation WHERE """
_BY_ID: Final = _COMMAND + "c.incarnation_id = $1"
_BY_NAME: Final = _COMMAND + "c.machine_id = $1 AND c.name_key = $2"
_LOCK: Final = " FOR UPDATE OF c"

# What goes with a command, children first.
_BELONGINGS: Final = (
    """INSERT INTO output_removals (execution_id) SELECT r.execution_id FROM executions e
    JOIN received_output r ON r.execution_id = e.id WHERE e.incarnation_id = $1 ON CONFLICT DO NOTHING""",
    "DELETE FROM output_pieces WHERE execution_id IN (SELECT id FROM executions WHERE incarnation_id = $1)",
    "DELETE FROM received_output WHERE execution_id IN (SELECT id FROM executions WHERE incarnation_id = $1)",
    "DELETE FROM executions WHERE incarnation_id = $1",
    "DELETE FROM sealed_values WHERE incarnation_id = $1",
    "DELETE FROM specs WHERE incarnation_id = $1",
    "DELETE FROM run_commands WHERE incarnation_id = $1",
)


class CommandVerbs(Verbs):
    """What to run."""

    __slots__ = ("_stored",)

    def __init__(self, connection: Connection) -> None:
        """Speak through `connection`."""
        super().__init__(connection)
        # Which specs this transaction knows to be stored, so that a change of state does not write a script again.
        self._stored: dict[tuple[UUID, int], CommandSpec] = {}

    async def get_command(self, incarnation_id: UUID) -> RunCommand | None:
        """Return one by incarnation, or None."""
        return await self._command(await self._connection.row(_BY_ID, str(incarnation_id)))

    async def get_command_for_update(self, incarnation_id: UUID) -> RunCommand | None:
        """Return one by incarnation and lock its row."""
        return await self._command(await self._connection.row(_BY_ID + _LOCK, str(incarnation_id)))

    async def find_command(self, machine_id: UUID, name: str) -> RunCommand | None:
        """Return one by name, or None."""
        return await self._command(await self._connection.row(_BY_NAME, str(machine_id), name.lower()))

    async def find_command_for_update(self, machine_id: UUID, name: str) -> RunCommand | None:
        """Return one by name and lock its row."""
        return await self._command(await self._connection.row(_BY_NAME + _LOCK, str(machine_id), name.lower()))

    async def list_commands(self, machine_id: UUID, *, after_name: str = "", limit: int = 100) -> Sequence[RunCommand]:
        """Return at most `limit`, by lower-cased name, after `after_name`."""
        rows = await self._connection.rows(
            _COMMAND + "c.machine_id = $1 AND c.name_key > $2 ORDER BY c.name_key LIMIT $3",
            str(machine_id),
            after_name.lower(),
            limit,
        )
        commands = [await self._command(row) for row in rows]
        return [command for command in commands if command is not None]

    async def add_command(self, command: RunCommand) -> None:
        """Insert; raise Conflict when machine and name are taken."""
        row = await self._connection.row(
            """INSERT INTO run_commands (incarnation_id, machine_id, name_key, name, location, tags, generation,
            execution_id, provisioning_state, created_by, created_at, modified_by, modified_at, revision)
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
            ON CONFLICT (machine_id, name_key) DO NOTHING RETURNING incarnation_id""",
            str(command.incarnation_id),
            str(command.machine_id),
            command.name.lower(),
            command.name,
            command.location,
            json_of(command.tags),
            command.generation,
            str(command.execution_id),
            command.provisioning_state.value,
            command.created_by,
            instant(command.created_at),
            command.modified_by,
            instant(command.modified_at),
            command.revision,
        )
        if row is None:
            message = f"The machine already has a run command named {command.name!r}."
            raise Conflict(message)
        await self._put_spec(command, kept=set())

    async def put_command(self, command: RunCommand) -> None:
        """Replace everything that can change: tags, location, spec, generation, execution, state, modified."""
        await self._connection.rows(
            """UPDATE run_commands SET location = $2, tags = $3, generation = $4, execution_id = $5,
            provisioning_state = $6, modified_by = $7, modified_at = $8, revision = $9 WHERE incarnation_id = $1""",
            str(command.incarnation_id),
            command.location,
            json_of(command.tags),
            command.generation,
            str(command.execution_id),
            command.provisioning_state.value,
            command.modified_by,
            instant(command.modified_at),
            command.revision,
        )
        if self._stored.get((command.incarnation_id, command.generation)) is command.spec:
            return
        rows = await self._connection.rows(
            "SELECT id FROM sealed_values WHERE incarnation_id = $1", str(command.incarnation_id)
        )
        kept = {UUID(row[0]) for row in rows}
        for replaced in kept - {value.id for value in command.spec.protected}:
            await self._connection.rows("DELETE FROM sealed_values WHERE id = $1", str(replaced))
        await self._put_spec(command, kept=kept)

    async def get_spec(self, incarnation_id: UUID, generation: int) -> CommandSpec | None:
        """Return what a generation was asked to run, with those of its sealed values that are still kept; or None."""
        row = await self._connection.row(
            "SELECT spec FROM specs WHERE incarnation_id = $1 AND generation = $2", str(incarnation_id), generation
        )
        return None if row is None else await self._spec(str(incarnation_id), row[0])

    async def delete_command(self, incarnation_id: UUID) -> None:
        """Remove it, its sealed values, its executions and their output; operations and cancels stay."""
        for statement in _BELONGINGS:
            await self._connection.rows(statement, str(incarnation_id))

    async def _command(self, row: Row | None) -> RunCommand | None:
        if row is None:
            return None
        command = command_of(row, await self._spec(row[0], row[13]))
        self._stored[command.incarnation_id, command.generation] = command.spec
        return command

    async def _spec(self, incarnation_id: str, text: str) -> CommandSpec:
        if not sealed_ids(text):
            return spec_of(text, {})
        rows = await self._connection.rows(
            "SELECT id, name, field, key_id, ciphertext FROM sealed_values WHERE incarnation_id = $1", incarnation_id
        )
        return spec_of(text, {value.id: value for value in map(sealed_value_of, rows)})

    async def _put_spec(self, command: RunCommand, *, kept: set[UUID]) -> None:
        await self._connection.rows(
            """INSERT INTO specs (incarnation_id, generation, spec) VALUES ($1, $2, $3)
            ON CONFLICT (incarnation_id, generation) DO UPDATE SET spec = excluded.spec""",
            str(command.incarnation_id),
            command.generation,
            spec_text(command.spec),
        )
        for value in command.spec.protected:
            if value.id not in kept:
                await self._connection.rows(
                    """INSERT INTO sealed_values (id, incarnation_id, name, field, key_id, ciphertext)
                    VALUES ($1, $2, $3, $4, $5, $6)""",
                    str(value.id),
                    str(command.incarnation_id),
                    value.name,
                    value.field,
                    value.key_id,
                    value.ciphertext,
                )
        self._stored[command.incarnation_id, command.generation] = command.spec

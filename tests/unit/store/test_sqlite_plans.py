"""The work of one command is a bounded number of indexed statements: nobody walks through a table."""

import inspect
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Final
from uuid import uuid4

import pytest

from enjoin.model.directory import Subscription
from enjoin.model.machine import MachineKind
from enjoin.store.base import Transaction
from enjoin.store.rows import Row, Value
from enjoin.store.sqlite import SQLiteStore
from enjoin.store.sqlite_session import Session
from enjoin.store.statements import SQLITE
from tests.contract.values import (
    GROUP,
    NOON,
    SUBSCRIPTION,
    a_cancel,
    a_command,
    a_group,
    a_machine,
    a_principal,
    a_request,
    a_scale_set,
    a_sealed_value,
    a_spec,
    a_token,
    an_execution,
    an_operation,
)

# A walk that is the answer, with the reason.
WHOLE_ON_PURPOSE: Final[Mapping[str, str]] = {
    "SCAN subscriptions": "all of a tenant's subscriptions: a handful",
    "SCAN principals USING INDEX": "all principals, by name, for an operator",
    "SCAN operations USING INDEX operations_group": "a partial index: the deletions of groups that are under way",
    "SCAN output_removals USING": "what is to be removed, in batches",
    "SCAN executions USING INDEX executions_overdue": "a count of what waits, at most once a second",
    "SCAN executions USING INDEX executions_delivered": "a count of what is not over, at most once a second",
    "SCAN m USING INDEX machines_connected": "a partial index: it holds exactly those that are asked for",
}
# Small enough to be sorted: the rows of one answer.
SORTED_ON_PURPOSE: Final = frozenset({"list_subscriptions"})

MACHINE, COMMAND = a_machine(), a_command(uuid4(), spec=a_spec(protected=(a_sealed_value(),)))
EXECUTION, OPERATION = an_execution(incarnation_id=COMMAND.incarnation_id), an_operation()
SCALE_SET = a_scale_set()
PRINCIPAL, TOKEN, REQUEST, CANCEL = a_principal("me"), a_token(), a_request(), a_cancel()
ANY = uuid4()

# Each verb once, in an order in which each finds something.
TOUR: Final[Sequence[tuple[str, Callable[[Transaction], Awaitable[object]]]]] = [
    ("put_setting", lambda tx: tx.put_setting("a", "1")),
    ("get_setting", lambda tx: tx.get_setting("a")),
    (
        "put_subscription",
        lambda tx: tx.put_subscription(Subscription(id=SUBSCRIPTION, display_name="S", created_at=NOON)),
    ),
    ("list_subscriptions", lambda tx: tx.list_subscriptions()),
    ("put_group", lambda tx: tx.put_group(a_group())),
    ("put_group", lambda tx: tx.put_group(a_group())),
    ("get_group", lambda tx: tx.get_group(SUBSCRIPTION, GROUP)),
    ("list_groups", lambda tx: tx.list_groups(SUBSCRIPTION)),
    ("get_group_for_update", lambda tx: tx.get_group_for_update(SUBSCRIPTION, GROUP)),
    ("delete_group", lambda tx: tx.delete_group(SUBSCRIPTION, GROUP)),
    ("add_principal", lambda tx: tx.add_principal(PRINCIPAL)),
    ("get_principal", lambda tx: tx.get_principal(PRINCIPAL.id)),
    ("find_principal", lambda tx: tx.find_principal(PRINCIPAL.client_id)),
    ("list_principals", lambda tx: tx.list_principals()),
    ("set_secret", lambda tx: tx.set_secret(PRINCIPAL.id, b"secret")),
    ("secret_hashes", lambda tx: tx.secret_hashes(PRINCIPAL.id)),
    ("delete_principal", lambda tx: tx.delete_principal(PRINCIPAL.id)),
    ("add_token", lambda tx: tx.add_token(TOKEN)),
    ("use_token", lambda tx: tx.use_token(TOKEN.hash, now=NOON)),
    ("delete_tokens", lambda tx: tx.delete_tokens(SUBSCRIPTION, GROUP)),
    ("add_machine", lambda tx: tx.add_machine(MACHINE)),
    ("get_machine", lambda tx: tx.get_machine(MACHINE.id)),
    ("get_machine_for_update", lambda tx: tx.get_machine_for_update(MACHINE.id)),
    ("find_machine", lambda tx: tx.find_machine(SUBSCRIPTION, GROUP, MachineKind.VIRTUAL_MACHINE, "web1")),
    ("list_machines", lambda tx: tx.list_machines(SUBSCRIPTION)),
    ("list_machines", lambda tx: tx.list_machines(SUBSCRIPTION, resource_group=GROUP, kind=MachineKind.ARC)),
    ("put_machine", lambda tx: tx.put_machine(MACHINE)),
    ("connected_machines", lambda tx: tx.connected_machines()),
    ("expired_leases", lambda tx: tx.expired_leases(now=NOON, limit=9)),
    ("make_scale_set", lambda tx: tx.make_scale_set(SCALE_SET)),
    ("find_scale_set", lambda tx: tx.find_scale_set(SUBSCRIPTION, GROUP, "web")),
    ("find_scale_set_for_update", lambda tx: tx.find_scale_set_for_update(SUBSCRIPTION, GROUP, "web")),
    ("list_scale_sets", lambda tx: tx.list_scale_sets(SUBSCRIPTION, limit=9)),
    ("list_scale_sets", lambda tx: tx.list_scale_sets(SUBSCRIPTION, resource_group=GROUP, limit=9)),
    ("put_scale_set", lambda tx: tx.put_scale_set(SCALE_SET)),
    ("list_instances", lambda tx: tx.list_instances(SUBSCRIPTION, GROUP, "web", limit=9)),
    ("count_instances", lambda tx: tx.count_instances(SUBSCRIPTION, GROUP, "web")),
    ("delete_scale_set", lambda tx: tx.delete_scale_set(SUBSCRIPTION, GROUP, "web")),
    ("add_command", lambda tx: tx.add_command(COMMAND)),
    ("get_command", lambda tx: tx.get_command(COMMAND.incarnation_id)),
    ("get_command_for_update", lambda tx: tx.get_command_for_update(COMMAND.incarnation_id)),
    ("find_command", lambda tx: tx.find_command(COMMAND.machine_id, COMMAND.name)),
    ("find_command_for_update", lambda tx: tx.find_command_for_update(COMMAND.machine_id, COMMAND.name)),
    ("list_commands", lambda tx: tx.list_commands(COMMAND.machine_id)),
    ("put_command", lambda tx: tx.put_command(a_command(ANY, incarnation_id=COMMAND.incarnation_id))),
    ("get_spec", lambda tx: tx.get_spec(COMMAND.incarnation_id, 1)),
    ("add_execution", lambda tx: tx.add_execution(EXECUTION)),
    ("get_execution", lambda tx: tx.get_execution(EXECUTION.id)),
    ("get_execution_for_update", lambda tx: tx.get_execution_for_update(EXECUTION.id)),
    ("put_execution", lambda tx: tx.put_execution(EXECUTION)),
    ("count_open_executions", lambda tx: tx.count_open_executions()),
    ("find_execution", lambda tx: tx.find_execution(COMMAND.incarnation_id, 1)),
    ("list_executions", lambda tx: tx.list_executions(COMMAND.incarnation_id)),
    ("undelivered", lambda tx: tx.undelivered(EXECUTION.machine_id, limit=9)),
    ("delivered_and_open", lambda tx: tx.delivered_and_open(EXECUTION.machine_id)),
    ("overdue", lambda tx: tx.overdue(now=NOON, limit=9)),
    ("set_received", lambda tx: tx.set_received(EXECUTION.id, "stdout", 3)),
    ("received", lambda tx: tx.received(EXECUTION.id)),
    ("add_output", lambda tx: tx.add_output(EXECUTION.id, "stdout", 0, b"abc")),
    ("read_output", lambda tx: tx.read_output(EXECUTION.id, "stdout", 1, 9)),
    ("past_executions", lambda tx: tx.past_executions(before=None, limit=9)),
    ("drop_output", lambda tx: tx.drop_output(EXECUTION.id, at=NOON)),
    ("output_removals", lambda tx: tx.output_removals(limit=9)),
    ("forget_output_removal", lambda tx: tx.forget_output_removal(EXECUTION.id)),
    ("drop_execution", lambda tx: tx.drop_execution(ANY)),
    ("add_operation", lambda tx: tx.add_operation(OPERATION)),
    ("get_operation", lambda tx: tx.get_operation(OPERATION.id)),
    ("put_operation", lambda tx: tx.put_operation(OPERATION)),
    ("open_operations", lambda tx: tx.open_operations(EXECUTION.id)),
    ("open_deletions", lambda tx: tx.open_deletions(COMMAND.incarnation_id)),
    ("overdue_deletions", lambda tx: tx.overdue_deletions(now=NOON, limit=9)),
    ("group_deletions", lambda tx: tx.group_deletions()),
    ("forget_operations", lambda tx: tx.forget_operations(before=NOON, limit=9)),
    ("put_request", lambda tx: tx.put_request(REQUEST)),
    ("find_request", lambda tx: tx.find_request(REQUEST.principal_id, REQUEST.resource_key, "request-1")),
    ("forget_requests", lambda tx: tx.forget_requests(before=NOON, limit=9)),
    ("put_cancel", lambda tx: tx.put_cancel(CANCEL)),
    ("list_cancels", lambda tx: tx.list_cancels(CANCEL.machine_id)),
    ("take_cancel", lambda tx: tx.take_cancel(CANCEL.execution_id)),
    ("delete_command", lambda tx: tx.delete_command(COMMAND.incarnation_id)),
    ("delete_machine", lambda tx: tx.delete_machine(MACHINE.id)),
]


@pytest.fixture
async def statements(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[dict[str, list[str]]]:
    """Take the tour and return what each verb ran."""
    ran: list[str] = []
    rows = Session.rows

    async def spy(self: Session, statement: str, *values: Value) -> Sequence[Row]:
        ran.append(SQLITE.spell(statement))
        return await rows(self, statement, *values)

    monkeypatch.setattr(Session, "rows", spy)
    store = SQLiteStore(tmp_path / "enjoin.db")
    await store.open()
    found: dict[str, list[str]] = {}
    for verb, work in TOUR:
        await store.write(work)
        found.setdefault(verb, []).extend(ran)
        ran.clear()
    yield found
    await store.close()


def test_tour_is_complete() -> None:
    """
    The tour takes every verb of the contract, so that a new one is not forgotten.
    """
    verbs = {name for name, member in inspect.getmembers(Transaction, inspect.iscoroutinefunction)}
    assert {verb for verb, _ in TOUR} == verbs


async def test_no_table_is_walked(statements: dict[str, list[str]], tmp_path: Path) -> None:
    """
    Every statement of every verb finds its rows by an index and needs no sorting of more than its answer.
    """
    connection = sqlite3.connect(tmp_path / "enjoin.db")
    walked = []
    for verb, texts in statements.items():
        for text in texts:
            count = max((number for number in range(1, 40) if f"?{number}" in text), default=0)
            plan = connection.execute(f"EXPLAIN QUERY PLAN {text}", [None] * count).fetchall()
            for step in (row[3] for row in plan):
                scans = step.startswith("SCAN") and not step.startswith(tuple(WHOLE_ON_PURPOSE))
                sorts = "TEMP B-TREE" in step and verb not in SORTED_ON_PURPOSE
                if scans or sorts:
                    walked.append(f"{verb}: {step}: {text}")
    connection.close()
    assert walked == []


async def test_one_statement(statements: dict[str, list[str]]) -> None:
    """
    What happens for every command is one statement a verb; the others take a bounded few.
    """
    few = {
        "put_group": 3,  # in two calls: the first inserts, the second finds it there and updates
        "list_machines": 2,  # two calls
        "set_secret": 2,
        "delete_principal": 2,
        "add_machine": 2,  # identity and address
        "list_scale_sets": 2,  # two calls
        "make_scale_set": 2,  # inserts, and looks who has the name now
        "delete_group": 2,  # and its scale sets
        "delete_machine": 10,
        "add_command": 3,  # and its spec, and one for each sealed value
        "get_command": 2,  # and its sealed values, if it has any
        "get_command_for_update": 2,
        "find_command": 2,
        "find_command_for_update": 2,
        "list_commands": 2,
        "put_command": 4,  # a new spec: which values are kept, one for each that goes, the spec
        "delete_command": 7,
        "drop_output": 4,
        "drop_execution": 5,
    }
    counts = {verb: len(texts) for verb, texts in statements.items()}
    assert counts == {verb: few.get(verb, 1) for verb in counts}

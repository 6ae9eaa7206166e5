"""The whole life cycle under every order of requests, losses, crashes and time that Hypothesis finds."""

import asyncio
import tempfile
from collections import Counter
from collections.abc import Coroutine
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID, uuid4

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from enjoin.control.commands import DELIVERY_DEADLINE
from enjoin.errors import Conflict, NotFound
from enjoin.model.execution import Execution, ExecutionState
from enjoin.model.machine import LEASE
from enjoin.model.operation import Awaits, Operation, OperationState
from enjoin.testing import Cluster, FakeAgent, Snapshot

T = TypeVar("T")
S = ExecutionState
TROUBLE = st.sampled_from(
    [
        *("server dies", "server dies", "agent dies", "agent dies", "agent dies", "machine reboots"),
        *("machine is made anew", "disk is copied", "disk is copied", "disk is restored"),
    ]
)
AWAY_S = st.sampled_from([0, 0, 1, 200, 5500])
NAMES = st.sampled_from(["one", "one", "two"])


class LifeCycle(RuleBasedStateMachine):
    """One server, one machine, two commands, and a small memory of what was promised."""

    def __init__(self) -> None:
        """Start the server and let a machine join."""
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.events = asyncio.new_event_loop()
        self.cluster = Cluster(Path(self.directory.name))
        self.run(self.cluster.__aenter__())
        self.agent: FakeAgent = self.run(self.cluster.join(connect=False))
        self.written: dict[UUID, bytes] = {}  # by every script, whatever became of it
        self.operations: dict[UUID, Operation] = {}  # as last seen
        self.executions: dict[UUID, Execution] = {}  # as last seen
        self.requests: dict[str, tuple[str, str, UUID]] = {}  # by name: script, request id, operation of the last PUT
        self.copy: Snapshot | None = None
        self.started_at_copy: Counter[UUID] = Counter()
        self.excused: set[UUID] = set()  # nobody can tell that a machine was restored to just before it accepted these
        self.sequences_may_fall = False

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run to its end."""
        return self.events.run_until_complete(work)

    @initialize()
    def connected(self) -> None:
        """Begin with a machine that is there, and runs a script."""
        self.run(self.cluster.connect(self.agent))
        self.put("one", async_execution=False, treat_failure=False, settle=True)

    # --- requests -----------------------------------------------------------------------------------------------------

    @rule(name=NAMES, async_execution=st.booleans(), treat_failure=st.booleans(), settle=st.booleans())
    def put(self, name: str, *, async_execution: bool, treat_failure: bool, settle: bool) -> None:
        """Create or update."""
        script, request_id = uuid4().hex, str(uuid4())
        work = self.cluster.put(
            f"m1/{name}", script, request_id=request_id, async_execution=async_execution, treat_failure=treat_failure
        )
        try:
            accepted = self.run(work)
        except Conflict:
            assert self.is_being_deleted(name)
            return
        assert accepted.view.execution.id not in self.executions
        assert accepted.operation.state is OperationState.IN_PROGRESS
        self.operations[accepted.operation.id] = accepted.operation
        self.executions[accepted.view.execution.id] = accepted.view.execution
        if not async_execution and not treat_failure:
            self.requests[name] = (script, request_id, accepted.operation.id)
        if settle and self.agent.session is not None:
            self.exchange(acknowledge=True, chunk_bytes=1000)

    @precondition(lambda self: self.agent.session)
    @rule(noticed=st.booleans(), away_s=AWAY_S, then=st.sampled_from(["", "cancel", "delete", "put"]))
    def put_and_lose(self, *, noticed: bool, away_s: int, then: str) -> None:
        """Update on a connection that breaks before the machine heard of it; go on before it is back."""
        self.put("one", async_execution=False, treat_failure=False, settle=False)
        self.break_connection(arrived=False, answered=False, noticed=noticed, away_s=away_s)
        if then == "put":
            self.put("one", async_execution=False, treat_failure=False, settle=False)
        elif then:
            self.end("one", is_deletion=then == "delete")

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def put_again(self, data: st.DataObject) -> None:
        """Repeat an accepted PUT whose answer was lost."""
        name = data.draw(st.sampled_from(sorted(self.requests)))
        script, request_id, operation_id = self.requests[name]
        age = self.cluster.clock.now() - self.operations[operation_id].started_at
        if age > timedelta(minutes=10):
            return
        try:
            accepted = self.run(self.cluster.put(f"m1/{name}", script, request_id=request_id))
        except Conflict:
            return  # deleted since
        assert accepted.operation.id == operation_id

    @rule(name=NAMES, is_deletion=st.booleans())
    def end(self, name: str, *, is_deletion: bool) -> None:
        """Cancel or delete."""
        if is_deletion:
            operation = self.run(self.cluster.delete(f"m1/{name}"))
            if operation is not None:
                self.operations[operation.id] = operation
            return
        try:
            self.run(self.cluster.cancel(f"m1/{name}"))
        except NotFound:
            assert not self.exists(name)

    # --- the machine and the way to it --------------------------------------------------------------------------------

    @rule(settle=st.booleans())
    def connect(self, *, settle: bool) -> None:
        """Connect, perhaps while an earlier connection stands."""
        self.run(self.cluster.connect(self.agent))
        if settle:
            self.exchange(acknowledge=True, chunk_bytes=1000)

    @precondition(lambda self: self.agent.session)
    @rule(arrived=st.booleans(), answered=st.booleans(), noticed=st.booleans(), away_s=AWAY_S)
    def break_connection(self, *, arrived: bool, answered: bool, noticed: bool, away_s: int) -> None:
        """Lose the connection with whatever was on it, in one direction or both; the server sees it now or later."""
        session = self.agent.session
        assert session is not None
        messages, _ = self.run(self.cluster.plane.assignments.take(session))
        session.push(*messages)
        if arrived:
            for message in session.outbox:
                self.agent.handle(message)
        if answered:
            self.run(self.cluster.plane.reports.apply(session, self.agent.take()))  # and its acknowledgement is lost
        if noticed:
            self.run(self.cluster.disconnect(self.agent))
        else:
            self.agent.session = None
        if away_s:
            self.time_passes(away_s)

    @precondition(lambda self: self.agent.session)
    @rule(acknowledge=st.booleans(), chunk_bytes=st.sampled_from([1, 7, 1000]))
    def exchange(self, *, acknowledge: bool, chunk_bytes: int) -> None:
        """Carry messages until all is said; then server and machine agree on what runs."""
        self.run(self.cluster.exchange(acknowledge=acknowledge, chunk_bytes=chunk_bytes))
        self.look()
        seen = {key for key, execution in self.executions.items() if execution.state is S.RUNNING}
        assert seen == set(self.agent.running)
        assert not any(execution.state is S.PENDING for execution in self.executions.values())

    @rule(kind=TROUBLE)
    def trouble(self, kind: str) -> None:
        """A process dies, or a disk is replaced."""
        match kind:
            case "server dies":
                self.run(self.cluster.restart())
            case "agent dies":
                self.agent.restart()
            case "machine reboots":
                self.agent.reboot()
            case "machine is made anew":
                self.agent.reinstall()
                self.copy, self.sequences_may_fall = None, True
            case "disk is copied":
                self.copy, self.started_at_copy = self.agent.snapshot(), Counter(self.agent.started)
            case _:
                self.restore_disk()

    def restore_disk(self) -> None:
        """Put an old copy back."""
        if self.copy is None:
            return
        self.look()
        for key in self.agent.started - self.started_at_copy:
            if key in self.executions and self.executions[key].state is S.PENDING:
                self.excused.add(key)
        self.agent.restore(self.copy)
        self.sequences_may_fall = True

    @precondition(lambda self: self.agent.running)
    @rule(data=st.data(), text=st.binary(min_size=1, max_size=20), exit_code=st.sampled_from([None, 0, 1, 255]))
    def script(self, data: st.DataObject, text: bytes, exit_code: int | None) -> None:
        """A script writes, and perhaps ends."""
        execution_id = data.draw(st.sampled_from(sorted(self.agent.running)))
        self.agent.write(execution_id, text)
        self.written[execution_id] = self.agent.held[execution_id].output["stdout"]
        if exit_code is not None:
            self.agent.exit(execution_id, exit_code)

    # --- time and the server ------------------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([0, 1, 100, 181, 3000, 5401]))
    def time_passes(self, seconds: int) -> None:
        """Let time pass and the server do what is due."""
        was_away = self.cluster.plane.sessions.count == 0
        self.run(self.cluster.sweep(timedelta(seconds=seconds)))
        self.look()
        if was_away and seconds > LEASE.total_seconds():
            assert not any(execution.state is S.RUNNING for execution in self.executions.values())
        now = self.cluster.clock.now()
        for operation in self.operations.values():
            if operation.state is not OperationState.IN_PROGRESS:
                continue
            if operation.awaits is Awaits.DELETION:
                assert operation.deadline_at is not None
                assert operation.deadline_at > now
            else:
                assert operation.execution_id is not None
                execution = self.executions[operation.execution_id]
                assert execution.state is S.RUNNING or execution.deadline_at > now

    # --- what must hold -----------------------------------------------------------------------------------------------

    @invariant()
    def started_at_most_once(self) -> None:
        """No script was started twice."""
        assert [key for key, count in self.agent.started.items() if count > 1 and key not in self.excused] == []

    @invariant()
    def one_at_a_time(self) -> None:
        """No two executions of one command run at the same time."""
        commands = Counter(
            held.assignment.incarnation_id
            for held in self.agent.held.values()
            if held.is_running and held.assignment is not None
        )
        assert max(commands.values(), default=0) <= 1

    @invariant()
    def look(self) -> None:
        """What was answered stays: terminal executions and ended operations never change; numbers never fall."""

        async def work(tx: Any) -> tuple[list[Execution | None], list[Operation | None]]:  # noqa: ANN401 - a Transaction
            executions = [await tx.get_execution(key) for key in self.executions]
            return executions, [await tx.get_operation(key) for key in self.operations]

        executions, operations = self.run(self.cluster.plane.store.read(work))
        for execution in executions:
            if execution is None:
                continue  # its command was deleted
            before = self.executions[execution.id]
            assert execution == before or not before.is_terminal
            assert execution.next_sequence >= before.next_sequence or self.sequences_may_fall
            self.executions[execution.id] = execution
        for key in [key for key, found in zip(self.executions, executions, strict=True) if found is None]:
            del self.executions[key]
        for operation in operations:
            assert operation is not None
            before_it = self.operations[operation.id]
            assert operation == before_it or before_it.state is OperationState.IN_PROGRESS
            self.operations[operation.id] = operation
        self.sequences_may_fall = self.sequences_may_fall and self.agent.session is None

    def exists(self, name: str) -> bool:
        """Whether the command is there."""
        try:
            self.run(self.cluster.show(f"m1/{name}"))
        except NotFound:
            return False
        return True

    def is_being_deleted(self, name: str) -> bool:
        """Whether its deletion waits for the machine."""
        return self.run(self.cluster.show(f"m1/{name}")).command.provisioning_state.value == "Deleting"

    def teardown(self) -> None:
        """At the end the machine comes back and its scripts end: then everything has ended, and nothing was lost."""
        try:
            self.come_to_an_end()
        finally:
            self.run(self.cluster.__aexit__(None, None, None))
            self.run(self.events.shutdown_default_executor())
            self.events.close()
            self.directory.cleanup()

    def come_to_an_end(self) -> None:
        """Bring everything to its end, and compare."""
        self.run(self.cluster.connect(self.agent))
        self.run(self.cluster.exchange())
        for execution_id in list(self.agent.running):
            self.agent.exit(execution_id)
        self.run(self.cluster.exchange())
        self.run(self.cluster.sweep(DELIVERY_DEADLINE + timedelta(seconds=1)))
        self.look()
        assert all(operation.state is not OperationState.IN_PROGRESS for operation in self.operations.values())
        assert all(held.is_settled for held in self.agent.held.values())
        for execution_id, execution in self.executions.items():
            assert execution.is_terminal or execution.state is S.UNKNOWN
            if execution.is_terminal and execution.outcome.stdout_bytes:
                assert self.run(self.read(execution)) == self.written[execution_id]

    async def read(self, execution: Execution) -> bytes:
        """Follow what is here of an execution's output to its end."""
        pieces = [data async for data in self.cluster.plane.output.follow(execution.id, "stdout", offset=0)]
        return b"".join(pieces)


TestLifeCycle = LifeCycle.TestCase
# One example is a whole history: fewer of them than of other properties.
TestLifeCycle.settings = settings(stateful_step_count=40, max_examples=max(settings().max_examples // 5, 80))

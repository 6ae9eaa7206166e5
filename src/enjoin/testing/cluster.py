"""A control plane in this process, on a real database, with machines that are doubles."""

import asyncio
import base64
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from uuid import UUID, uuid4

from msgspec.structs import replace as replaced

from enjoin.control.accepted import Accepted
from enjoin.control.assignments import Assignments
from enjoin.control.bootstrap import Installation, bootstrap
from enjoin.control.commands import DELIVERY_DEADLINE, Commands
from enjoin.control.directory import Directory
from enjoin.control.enrolment import Enrolled, Enrolment
from enjoin.control.groups import Groups
from enjoin.control.history import History
from enjoin.control.machines import Machines
from enjoin.control.operations import Operations
from enjoin.control.output import Output
from enjoin.control.reports import Reports
from enjoin.control.scale_sets import ScaleSets
from enjoin.control.sessions import Session, Sessions
from enjoin.control.sweeper import Sweeper
from enjoin.model.address import Caller, CommandAddress, MachineAddress, Trace
from enjoin.model.command import CommandRequest, CommandView, Parameter, Secret
from enjoin.model.execution import Execution
from enjoin.model.machine import HEARTBEAT, MachineKind
from enjoin.model.operation import Operation
from enjoin.model.retention import Retention
from enjoin.protocol.codec import decode_to_agent, decode_to_server, encode
from enjoin.protocol.enrolment import EnrolmentRequest, proof_content
from enjoin.protocol.messages import MAX_CHUNK_BYTES, Ack, ToAgent
from enjoin.store.base import Store
from enjoin.store.sqlite import SQLiteStore
from enjoin.testing.agent import FakeAgent
from enjoin.testing.clock import ManualClock

SERVER_NAME: Final = "enjoin:test"
TOKEN_LIFE: Final = timedelta(hours=24)


@dataclass(frozen=True, kw_only=True)
class ControlPlane:
    """The objects of one server process."""

    store: Store
    sessions: Sessions
    assignments: Assignments
    output: Output
    reports: Reports
    commands: Commands
    machines: Machines
    scale_sets: ScaleSets
    operations: Operations
    enrolment: Enrolment
    directory: Directory
    groups: Groups
    sweeper: Sweeper
    stopping: asyncio.Event


class Cluster:
    """A server and its machines. Nothing moves by itself: `exchange` carries messages, the clock is a ManualClock."""

    def __init__(
        self,
        directory: Path,
        *,
        delivery_deadline: timedelta = DELIVERY_DEADLINE,
        retention: Retention | None = None,
    ) -> None:
        """Keep everything below `directory`."""
        self.directory = directory
        self.clock = ManualClock()
        self.agents: dict[str, FakeAgent] = {}
        self.installation: Installation
        self.plane: ControlPlane
        self.caller = Caller(principal_id=uuid4(), client_id="tester", name="tester")
        self._opened: list[Session] = []  # and not closed
        self._delivery_deadline = delivery_deadline
        self._retention = retention or Retention()

    async def __aenter__(self) -> Self:
        """Start the server."""
        await self._start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the server."""
        await self.plane.store.close()

    async def _start(self) -> None:
        clock, store = self.clock, SQLiteStore(self.directory / "enjoin.db", clock=self.clock)
        await store.open()
        self.installation = await bootstrap(store, clock)
        sessions, assignments = Sessions(store, clock), Assignments(store, clock)
        output, stopping = Output(store, self.directory / "output"), asyncio.Event()
        groups = Groups(store, clock, sessions, delivery_deadline=self._delivery_deadline)
        machines = Machines(store, sessions)
        self.plane = ControlPlane(
            store=store,
            sessions=sessions,
            assignments=assignments,
            output=output,
            reports=Reports(store, clock, output),
            commands=Commands(store, clock, sessions, assignments, output, delivery_deadline=self._delivery_deadline),
            machines=machines,
            scale_sets=ScaleSets(store, machines),
            operations=Operations(store, clock, stopping),
            enrolment=Enrolment(store, clock, sessions, server_name=SERVER_NAME),
            directory=Directory(store, clock),
            groups=groups,
            sweeper=Sweeper(store, clock, sessions, groups, History(store, clock, output, self._retention)),
            stopping=stopping,
        )
        await sessions.take_over(lease=2 * HEARTBEAT)

    async def restart(self) -> None:
        """Kill the server and start another on the same database; no session is closed in an orderly way."""
        await self.plane.store.close()
        self._opened.clear()
        for agent in self.agents.values():
            agent.session = None
        await self._start()

    async def sweep(self, after: timedelta = timedelta()) -> None:
        """Let time pass, in which connected machines send their heartbeats, then let the server do what is due."""
        self.clock.advance(after)
        for agent in self.agents.values():
            if agent.session is not None and not agent.is_silent:
                agent.session.heard_at_s = self.clock.monotonic_s()
        await self.plane.sweeper.sweep()
        for session in [session for session in self._opened if session.ended.is_set()]:
            self._opened.remove(session)
            await self.plane.sessions.close(session)  # as its channel does when it is told to end

    # --- machines -----------------------------------------------------------------------------------------------------

    async def token(self, *, uses: int = 1, life: timedelta = TOKEN_LIFE) -> str:
        """Return an enrolment token for the default group."""
        made = await self.plane.directory.new_token(
            self.caller,
            self.installation.subscription_id,
            self.installation.resource_group,
            uses=uses,
            life=life,
        )
        return made.text

    def enrolment_request(
        self, agent: FakeAgent, token: str, *, kind: str = "vm", replace: bool = False
    ) -> EnrolmentRequest:
        """Return what `agent` asks, signed."""
        unsigned = EnrolmentRequest(
            token=token,
            name=agent.name,
            kind=kind,
            identity_key=base64.b64encode(agent.signing_key.public_key().public_bytes_raw()).decode(),
            sealing_key=base64.b64encode(agent.sealing_key.public_key().public_bytes_raw()).decode(),
            epoch=agent.epoch,
            replace=replace,
            proof="",
        )
        return sign(unsigned, agent)

    async def enrol(
        self, agent: FakeAgent, *, kind: MachineKind = MachineKind.VIRTUAL_MACHINE, replace: bool = False
    ) -> Enrolled:
        """Make `agent` a machine of the cluster."""
        request = self.enrolment_request(agent, await self.token(), kind=kind, replace=replace)
        enrolled = await self.plane.enrolment.enrol(request)
        agent.machine_id = enrolled.machine.id
        self.agents[agent.name] = agent
        return enrolled

    async def join(
        self, name: str = "m1", *, kind: MachineKind = MachineKind.VIRTUAL_MACHINE, connect: bool = True
    ) -> FakeAgent:
        """Return a new machine, connected unless told otherwise; the name of a scale-set instance is SET/ID."""
        agent = FakeAgent(name)
        await self.enrol(agent, kind=kind)
        if connect:
            await self.connect(agent)
        return agent

    async def connect(self, agent: FakeAgent) -> None:
        """Open a session for `agent`, as a connection that answered the challenge; a session it had goes on."""
        nonce = os.urandom(32)
        hello = agent.hello(nonce=nonce, server_name=SERVER_NAME)
        await self.plane.sessions.verify(hello, nonce=nonce, server_name=SERVER_NAME)
        agent.session = await self.plane.sessions.open(hello)
        self._opened.append(agent.session)

    async def disconnect(self, agent: FakeAgent) -> None:
        """Cut the connection; both ends see it."""
        session, agent.session = agent.session, None
        if session is not None:
            self._opened.remove(session)
            await self.plane.sessions.close(session)

    async def exchange(self, *agents: FakeAgent, acknowledge: bool = True, chunk_bytes: int = MAX_CHUNK_BYTES) -> None:
        """Carry messages both ways until nobody has anything to say; without `agents`, for all that are connected.

        `acknowledge=False`: whatever acknowledgements the server sends are lost.
        """
        for agent in agents or self.agents.values():
            while agent.session is not None and await self._exchange_once(agent, acknowledge, chunk_bytes):
                pass

    async def _exchange_once(self, agent: FakeAgent, acknowledge: bool, chunk_bytes: int) -> bool:  # noqa: FBT001
        session = agent.session
        assert session is not None
        more = True
        while more:
            messages, more = await self.plane.assignments.take(session)
            session.push(*messages)
        down = list(session.outbox)
        session.outbox.clear()
        news = down if acknowledge else [message for message in down if not _is_ack(message)]
        for message in decode_to_agent(encode(news)):
            agent.handle(message)
        up = agent.take(chunk_bytes=chunk_bytes)
        if up:
            ack = await self.plane.reports.apply(session, decode_to_server(encode(up)))
            if ack.reports or ack.outputs:
                session.push(ack)
        return bool(up) or bool(session.outbox)

    # --- what a client does -------------------------------------------------------------------------------------------

    def machine_address(self, machine: str, kind: MachineKind = MachineKind.VIRTUAL_MACHINE) -> MachineAddress:
        """Return the address of a machine by its name."""
        return MachineAddress(
            subscription_id=self.installation.subscription_id,
            resource_group=self.installation.resource_group,
            kind=kind,
            name=machine,
        )

    def address(self, path: str) -> CommandAddress:
        """Return the address of `machine/command`, or of `set/id/command`."""
        machine, _, name = path.rpartition("/")
        kind = MachineKind.SCALE_SET_INSTANCE if "/" in machine else MachineKind.VIRTUAL_MACHINE
        return CommandAddress(machine=self.machine_address(machine, kind), name=name)

    async def put(
        self,
        path: str,
        script: str = "true",
        *,
        parameters: Sequence[Parameter] = (),
        protected: Sequence[Secret] | None = None,
        request_id: str | None = None,
        caller: Caller | None = None,
        timeout_s: int | None = None,
        async_execution: bool = False,
        treat_failure: bool = False,
    ) -> Accepted:
        """Create or update the run command `machine/command`."""
        request = CommandRequest(
            location="local",
            script=script,
            parameters=tuple(parameters),
            protected=None if protected is None else tuple(protected),
            timeout_s=timeout_s,
            async_execution=async_execution,
            treat_failure_as_deployment_failure=treat_failure,
        )
        body = repr((request, [(secret.name, secret.value) for secret in protected or ()]))
        trace = self.trace(f"put {path}", request_id=request_id, body=body)
        return await self.plane.commands.put(caller or self.caller, self.address(path), request, trace=trace)

    def trace(self, key: str, *, request_id: str | None = None, body: str = "") -> Trace:
        """Return what names a request."""
        return Trace(
            request_id=uuid4().hex,
            correlation_id=uuid4().hex,
            client_request_id=request_id,
            resource_key=key.lower(),
            body_sha256=hashlib.sha256(body.encode()).digest(),
        )

    async def show(self, path: str) -> CommandView:
        """Return `machine/command` as a GET shows it; raise NotFound."""
        return await self.plane.commands.get(self.address(path))

    async def execution(self, path: str, generation: int) -> Execution:
        """Return one generation of `machine/command`; raise NotFound."""
        return await self.plane.commands.execution(self.address(path), generation)

    async def cancel(self, path: str) -> Execution:
        """Cancel what runs of `machine/command`."""
        return await self.plane.commands.cancel(self.caller, self.address(path), trace=self.trace(f"cancel {path}"))

    async def delete(self, path: str) -> Operation | None:
        """Delete `machine/command`."""
        return await self.plane.commands.delete(self.caller, self.address(path), trace=self.trace(f"delete {path}"))

    async def operation(self, operation: Operation | UUID) -> Operation:
        """Return an operation as it stands now."""
        operation_id = operation if isinstance(operation, UUID) else operation.id
        return await self.plane.operations.get(self.installation.subscription_id, operation_id)

    async def output(self, path: str, stream: str = "stdout", *, generation: int | None = None) -> bytes:
        """Return what is here of a stream."""
        view = await self.show(path)
        execution = view.execution if generation is None else await self.execution(path, generation)
        pieces = []
        offset = 0
        while data := await self.plane.output.read(execution, stream, offset=offset, limit_bytes=100_000):
            pieces.append(data)
            offset += len(data)
        return b"".join(pieces)


def sign(request: EnrolmentRequest, agent: FakeAgent) -> EnrolmentRequest:
    """Return `request` with a proof that `agent` has the key it brings."""
    proof = agent.signing_key.sign(proof_content(request))
    return replaced(request, proof=base64.b64encode(proof).decode())


def _is_ack(message: ToAgent) -> bool:
    return isinstance(message, Ack)

"""An agent's loop with everything real but processes: journal, bundles, outbox. Scripts obey the test."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import cast
from uuid import UUID, uuid4

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from msgspec.structs import replace

from enjoin.agent.bundle import Bundle, Exit, Started, boot_id
from enjoin.agent.interpreter import Invocation
from enjoin.agent.journal import Journal
from enjoin.agent.loop import Loop
from enjoin.agent.policy import OpenPolicy, Policy
from enjoin.agent.recovery import Observation
from enjoin.agent.script import Script
from enjoin.agent.state import Identity, State
from enjoin.agent.supervisor import Supervisor
from enjoin.model.execution import Event
from enjoin.protocol.messages import Ack, Assignment, OutputChunk, StatusReport, ToServer

LIMIT_S = 20.0


async def until(is_so: Callable[[], bool]) -> None:
    """Wait until something is so; fail when it does not become so."""
    async with asyncio.timeout(LIMIT_S):
        while not is_so():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.001)


def assignment(
    *, incarnation_id: UUID | None = None, generation: int = 1, supersedes: UUID | None = None, script: str = "true"
) -> Assignment:
    """Something to run, under an id of its own."""
    return Assignment(
        execution_id=uuid4(),
        machine_id=uuid4(),
        incarnation_id=incarnation_id or uuid4(),
        command="c1",
        generation=generation,
        script=script,
        supersedes=supersedes,
    )


class FakeScript(Script):
    """A script without a process."""

    def __init__(self, bundle: Bundle, *, obeys: bool) -> None:
        """`obeys`: it ends when it is asked to."""
        super().__init__(bundle)
        self._obeys = obeys
        self.canceled: str | None = None

    def cancel(self, reason: str) -> None:
        """Note the wish, and obey."""
        self.canceled = reason
        if self._obeys:
            self.exit(-1, reason="canceled", message=reason)

    def start(self) -> None:
        """Let it be started by its shim."""
        started = Started(
            execution_id=self.bundle.execution_id,
            boot_id=boot_id(),
            pid=1,
            start_ticks=1,
            start_number=1,
            cgroup=None,
            wall_s=0.0,
        )
        self.bundle.started.touch()
        self.settle_started(started)

    def exit(self, exit_code: int = 0, *, reason: str = "exited", message: str = "", leftovers: bool = False) -> Exit:
        """Let it end."""
        record = Exit(
            exit_code=exit_code,
            signal=None,
            reason=reason,
            message=message,
            wall_s=0.0,
            duration_s=1.0,
            leftovers=leftovers,
            stdout_bytes=self.bundle.stdout.stat().st_size,
            stderr_bytes=self.bundle.stderr.stat().st_size,
        )
        self.settle_ended(record)
        return record


class FakeSupervisor:
    """Shims without processes. It stands for the machine: it outlives the agent."""

    def __init__(self) -> None:
        """Run nothing yet."""
        self.launched: list[UUID] = []
        self.scripts: dict[UUID, FakeScript] = {}
        self.exits: dict[UUID, Exit] = {}  # recorded while no agent looked
        self.ended_leftovers: list[UUID] = []
        self.obeys = True
        self.starts_at_once = True
        self.on_launch: Callable[[UUID], None] = lambda _: None

    async def launch(self, bundle: Bundle, invocation: Invocation, **_: object) -> Script:
        """Start a script."""
        execution_id = UUID(bundle.execution_id)
        assert invocation.argv
        self.on_launch(execution_id)
        self.launched.append(execution_id)
        script = self.scripts[execution_id] = FakeScript(bundle, obeys=self.obeys)
        if self.starts_at_once:
            script.start()
        return script

    async def examine(self, bundle: Bundle) -> tuple[Observation, Script | None]:
        """Say what an earlier agent left."""
        execution_id = UUID(bundle.execution_id)
        found = self.scripts.get(execution_id)
        record = self.exits.get(execution_id)
        is_alive = found is not None and record is None
        if is_alive:
            adopted = FakeScript(bundle, obeys=self.obeys)
            adopted.start()
            self.scripts[execution_id] = found = adopted
        observation = Observation(
            exit=record,
            shim_is_alive=is_alive,
            is_claimed=bundle.is_claimed(),
            started=None,
            is_same_boot=True,
            was_alive=False,
            may_remain=False,
        )
        return observation, found if is_alive else None

    async def end_leftovers(self, bundle: Bundle) -> bool:
        """End what a script left behind."""
        self.ended_leftovers.append(UUID(bundle.execution_id))
        return False


class Machine:
    """A state directory, what runs there, and the agent of the moment."""

    def __init__(self, directory: Path, *, policy: Policy | None = None) -> None:
        """Start nothing yet."""
        self.supervisor = FakeSupervisor()
        self.policy = policy or OpenPolicy()
        self.state = State(
            directory=directory,
            identity=Identity(
                server="https://localhost",
                machine_id=uuid4(),
                resource_id="/m1",
                name="m1",
                server_name="s",
                sealing_key_id="k",
                epoch="e",
            ),
            signing_key=Ed25519PrivateKey.generate(),
            sealing_key=X25519PrivateKey.generate(),
        )
        self.said: list[ToServer] = []
        self.journal: Journal
        self.loop: Loop

    async def start(self) -> None:
        """Start an agent on the directory, as after a crash of the one before."""
        self.said = []
        self.journal = Journal(self.state.directory / "journal")
        self.loop = Loop(self.state, self.journal, cast("Supervisor", self.supervisor), self.policy)
        await self.loop.recover()

    async def stop(self) -> None:
        """End the agent; scripts go on."""
        await self.loop.close()
        await self.journal.close()

    async def restart(self) -> None:
        """End the agent and start another."""
        await self.stop()
        await self.start()

    def bundle(self, execution_id: UUID) -> Bundle:
        """Where an execution lies."""
        return Bundle.of(self.state.directory, str(execution_id))

    def listen(self) -> list[ToServer]:
        """Take what the agent says now; all that it said is in `said`."""
        more = True
        while more:
            messages, more = self.loop.outbox.take()
            self.said += messages
        return self.said

    def reports(self, execution_id: UUID) -> list[StatusReport]:
        """The reports of an execution so far."""
        return [m for m in self.listen() if isinstance(m, StatusReport) and m.execution_id == execution_id]

    def events(self, execution_id: UUID) -> list[Event]:
        """What was reported of an execution so far."""
        return [report.event for report in self.reports(execution_id)]

    async def event(self, execution_id: UUID, event: Event) -> StatusReport:
        """Wait until the agent reports `event`."""
        await until(lambda: event in self.events(execution_id))
        return next(report for report in self.reports(execution_id) if report.event is event)

    async def message(self, wanted: ToServer) -> None:
        """Wait until the agent says exactly this."""
        await until(lambda: wanted in self.listen())

    async def launch(self, wanted: Assignment) -> FakeScript:
        """Assign, and wait until the script is started."""
        self.loop.handle(wanted)
        await until(lambda: wanted.execution_id in self.supervisor.scripts)
        return self.supervisor.scripts[wanted.execution_id]

    def acknowledge(self, *, reports: bool = True, output: bool = True) -> None:
        """Let the server say that it has what was said."""
        known = [(m.execution_id, m.sequence) for m in self.listen() if isinstance(m, StatusReport)]
        ends = [(m.execution_id, m.stream, m.offset + len(m.data)) for m in self.said if isinstance(m, OutputChunk)]
        self.loop.handle(Ack(reports=known if reports else [], outputs=ends if output else []))


def undated(message: ToServer) -> ToServer:
    """Return a report without the time that passed until it was sent."""
    return replace(message, ago_s=0.0) if isinstance(message, StatusReport) else message

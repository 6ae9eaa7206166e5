"""A machine without processes: it speaks the protocol as the real agent does, and its scripts do what a test says."""

import copy
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID, uuid4

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from enjoin.control.sessions import Session
from enjoin.model.execution import Event
from enjoin.protocol.messages import (
    MAX_CHUNK_BYTES,
    PROTOCOL_VERSION,
    STREAMS,
    Ack,
    Assignment,
    Cancel,
    CancelDone,
    Hello,
    MachineDeleted,
    NotHeld,
    OutputChunk,
    Question,
    StatusReport,
    ToAgent,
    ToServer,
    signed_content,
)

_SEQUENCES_PER_START: Final = 1 << 32
_TAIL_BYTES: Final = 4096


@dataclass(kw_only=True)
class Held:
    """What the machine keeps on its disk of one execution."""

    assignment: Assignment | None = None  # None: a tombstone, never to be started
    is_running: bool = False
    ending: StatusReport | None = None  # the last report
    is_settled: bool = False
    output: dict[str, bytes] = field(default_factory=lambda: dict.fromkeys(STREAMS, b""))


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A copy of a machine's disk."""

    epoch: str
    journal_sequence: int
    starts: int
    held: dict[UUID, Held]


class FakeAgent:
    """One machine. Its disk survives `restart`; its scripts survive it too, and end when the test says so."""

    def __init__(self, name: str) -> None:
        """Make the keys; `Cluster.join` enrols it."""
        self.name = name
        self.machine_id = UUID(int=0)
        self.signing_key = Ed25519PrivateKey.generate()
        self.sealing_key = X25519PrivateKey.generate()
        self.started: Counter[UUID] = Counter()  # how often each script was started, whatever was forgotten since
        self.is_deleted = False  # the server said so
        self.is_silent = False  # it sends no heartbeat
        self.session: Session | None = None
        self._install()

    def _install(self) -> None:
        self.epoch = uuid4().hex
        self.journal_sequence = 0
        self.starts = 0
        self.held: dict[UUID, Held] = {}
        self._boot()

    def _boot(self) -> None:
        """Start the agent's process: what was only in memory is gone."""
        self.session = None
        self.journal_sequence += 1
        self.starts += 1
        self._sequence = self.starts * _SEQUENCES_PER_START
        self.unacknowledged: dict[tuple[UUID, int], StatusReport] = {}
        self._acknowledged: dict[tuple[UUID, str], int] = {}
        self._sent: dict[tuple[UUID, str], int] = {}
        self._queue: list[ToServer] = []
        for execution_id, held in self.held.items():
            if held.is_settled:
                continue
            if held.ending is not None:
                self._report(held.ending)
            elif held.is_running:
                self._say_event(execution_id, Event.READOPTED, "Execution in progress")

    # --- what a test does to the machine ------------------------------------------------------------------------------

    def restart(self) -> None:
        """Kill the agent's process and start it again; scripts go on meanwhile."""
        self._boot()

    def reboot(self) -> None:
        """Restart the machine: what ran is gone."""
        running = [execution_id for execution_id, held in self.held.items() if held.is_running]
        for execution_id in running:
            self.held[execution_id].is_running = False
        self._boot()
        for execution_id in running:
            self._end(execution_id, Event.INTERRUPTED, "interrupted: the machine restarted", exit_code=-1)

    def reinstall(self) -> None:
        """Make the machine anew, with the keys it had: another state directory, and nothing in it or running."""
        self._install()

    def snapshot(self) -> Snapshot:
        """Copy the disk."""
        return Snapshot(
            epoch=self.epoch,
            journal_sequence=self.journal_sequence,
            starts=self.starts,
            held=copy.deepcopy(self.held),
        )

    def restore(self, snapshot: Snapshot) -> None:
        """Put an earlier disk back and boot from it; what ran is gone."""
        self.epoch, self.starts = snapshot.epoch, snapshot.starts
        self.journal_sequence, self.held = snapshot.journal_sequence, copy.deepcopy(snapshot.held)
        self.reboot()

    def write(self, execution_id: UUID, data: bytes, stream: str = "stdout") -> None:
        """Let a script write."""
        assert self.held[execution_id].is_running, "only a running script writes"
        self.held[execution_id].output[stream] += data

    def exit(self, execution_id: UUID, exit_code: int = 0) -> None:
        """Let a script end by itself."""
        assert self.held[execution_id].is_running, "only a running script ends"
        event = Event.EXITED_NONZERO if exit_code else Event.EXITED_ZERO
        self._end(execution_id, event, "Execution completed", exit_code=exit_code)

    def time_out(self, execution_id: UUID) -> None:
        """Let a script reach its timeout."""
        self._end(execution_id, Event.TIMED_OUT, "The script reached its timeout.", exit_code=-1)

    def say(self, *messages: ToServer) -> None:
        """Queue messages as they are, sensible or not."""
        self._queue.extend(messages)

    @property
    def running(self) -> Sequence[UUID]:
        """What runs now, oldest first."""
        return [execution_id for execution_id, held in self.held.items() if held.is_running]

    # --- the protocol -------------------------------------------------------------------------------------------------

    def hello(self, *, nonce: bytes, server_name: str) -> Hello:
        """Return a signed Hello, and get ready for a new connection."""
        content = signed_content(nonce=nonce, server_name=server_name, machine_id=self.machine_id, epoch=self.epoch)
        self._queue = list(self.unacknowledged.values())
        self._sent = dict(self._acknowledged)
        return Hello(
            machine_id=self.machine_id,
            protocol_version=PROTOCOL_VERSION,
            agent_version="0.1.0",
            epoch=self.epoch,
            journal_sequence=self.journal_sequence,
            held=[execution_id for execution_id, held in self.held.items() if not held.is_settled],
            signature=self.signing_key.sign(content),
            os_name="Fake",
            host_name=self.name,
            containment="cgroup",
        )

    def handle(self, message: ToAgent) -> None:
        """Act on a message of the server."""
        match message:
            case Assignment():
                self._assign(message)
            case Question():
                self._answer(message.execution_id)
            case Cancel():
                self._cancel(message)
            case Ack():
                self._acknowledge(message)
            case MachineDeleted():
                self.is_deleted = True
                for execution_id in self.running:
                    self._end(execution_id, Event.CANCELED, "the machine was deleted", exit_code=-1)
            case _:
                pass

    def take(self, *, chunk_bytes: int = MAX_CHUNK_BYTES) -> list[ToServer]:
        """Return what is to be sent now: reports and answers, then output that was not sent on this connection."""
        messages, self._queue = self._queue, []
        for execution_id, held in self.held.items():
            for stream, data in held.output.items() if not held.is_settled else ():
                key = (execution_id, stream)
                while (offset := self._sent.get(key, 0)) < len(data):
                    piece = data[offset : offset + chunk_bytes]
                    messages.append(OutputChunk(execution_id=execution_id, stream=stream, offset=offset, data=piece))
                    self._sent[key] = offset + len(piece)
        return messages

    def _assign(self, assignment: Assignment) -> None:
        execution_id = assignment.execution_id
        if execution_id in self.held:
            self._answer(execution_id)
            return
        self.held[execution_id] = Held(assignment=assignment)
        self.journal_sequence += 1
        for other_id, other in list(self.held.items()):
            is_same = other.assignment is not None and other.assignment.incarnation_id == assignment.incarnation_id
            if other.is_running and is_same:
                self._end(other_id, Event.CANCELED, "replaced by a later update", exit_code=-1)
        if assignment.supersedes is not None and assignment.supersedes not in self.held:
            self._end(assignment.supersedes, Event.CANCELED, "Canceled before the machine had it.")
        self.started[execution_id] += 1
        self.held[execution_id].is_running = True
        self._say_event(execution_id, Event.STARTED, "Execution in progress")

    def _answer(self, execution_id: UUID) -> None:
        held = self.held.get(execution_id)
        if held is None:
            self.say(NotHeld(execution_id=execution_id, journal_sequence=self.journal_sequence))
        elif held.ending is not None:
            self.say(held.ending)
        elif held.is_running:
            self._say_event(execution_id, Event.READOPTED, "Execution in progress")

    def _cancel(self, message: Cancel) -> None:
        held = self.held.get(message.execution_id)
        if held is None or held.is_running:
            exit_code = None if held is None else -1
            self._end(
                message.execution_id, Event.CANCELED, f"The script was ended: {message.reason}.", exit_code=exit_code
            )
        self.say(CancelDone(execution_id=message.execution_id))
        if message.forget:
            self._settle(message.execution_id)

    def _acknowledge(self, ack: Ack) -> None:
        for key in ack.reports:
            self.unacknowledged.pop(key, None)
        for execution_id, stream, offset in ack.outputs:
            self._acknowledged[execution_id, stream] = max(self._acknowledged.get((execution_id, stream), 0), offset)
        for execution_id, held in self.held.items():
            if not held.is_settled and held.ending is not None and self._is_received(execution_id, held):
                self._settle(execution_id)

    def _is_received(self, execution_id: UUID, held: Held) -> bool:
        assert held.ending is not None
        if (execution_id, held.ending.sequence) in self.unacknowledged:
            return False
        return all(self._acknowledged.get((execution_id, name), 0) >= len(data) for name, data in held.output.items())

    def _settle(self, execution_id: UUID) -> None:
        held = self.held[execution_id]
        if not held.is_settled:
            held.is_settled = True
            held.output = dict.fromkeys(STREAMS, b"")
            self.journal_sequence += 1

    def _end(self, execution_id: UUID, event: Event, message: str, *, exit_code: int | None = None) -> None:
        held = self.held.setdefault(execution_id, Held())
        held.is_running = False
        self.journal_sequence += 1
        self._sequence += 1
        held.ending = StatusReport(
            execution_id=execution_id,
            sequence=self._sequence,
            journal_sequence=self.journal_sequence,
            event=event,
            message=message,
            exit_code=exit_code,
            ran_s=None if exit_code is None else 1.0,
            stdout_bytes=len(held.output["stdout"]),
            stderr_bytes=len(held.output["stderr"]),
            stdout_tail=held.output["stdout"][-_TAIL_BYTES:],
            stderr_tail=held.output["stderr"][-_TAIL_BYTES:],
        )
        self._report(held.ending)

    def _say_event(self, execution_id: UUID, event: Event, message: str) -> None:
        self._sequence += 1
        self._report(
            StatusReport(
                execution_id=execution_id,
                sequence=self._sequence,
                journal_sequence=self.journal_sequence,
                event=event,
                message=message,
            )
        )

    def _report(self, report: StatusReport) -> None:
        self.unacknowledged[report.execution_id, report.sequence] = report
        self._queue.append(report)

"""The messages of a machine's channel. A frame is a list of them; either side may put several into one.

Who starts: the server sends Challenge, the agent answers Hello, the server Welcome. Then both speak as they need.
Everything the agent reports is repeated until it is acknowledged, and applying a message twice changes nothing.
"""

from typing import Final
from uuid import UUID

from msgspec import Struct, field

from enjoin.model.execution import Event

PROTOCOL_VERSION: Final = 1  # append below; never reuse a number
OLDEST_PROTOCOL_VERSION: Final = 1  # what a server still speaks
# 1 (2026-11): challenge, hello, welcome, assignment, question, cancel, report, output, acknowledgement, heartbeat.

MAX_FRAME_BYTES: Final = 4 * 1024 * 1024
MAX_CHUNK_BYTES: Final = 256 * 1024
MAX_HELD: Final = 50_000  # ids in one Hello


class Challenge(Struct, frozen=True, kw_only=True, tag="challenge"):
    """Server to agent, first of all: sign this."""

    nonce: bytes  # 32 random bytes, good for this connection only
    server_name: str
    protocol_version: int = PROTOCOL_VERSION
    oldest_protocol_version: int = OLDEST_PROTOCOL_VERSION


class Hello(Struct, frozen=True, kw_only=True, tag="hello"):
    """Agent to server: who I am and what I hold. `signature` is over `signed_content()`."""

    machine_id: UUID
    protocol_version: int
    agent_version: str
    epoch: str  # of the state directory: made by `join`
    journal_sequence: int  # records ever written to the journal
    held: list[UUID]  # executions accepted and not yet settled with the server
    signature: bytes
    os_name: str = ""
    os_version: str = ""
    host_name: str = ""
    architecture: str = ""
    containment: str = ""


class Welcome(Struct, frozen=True, kw_only=True, tag="welcome"):
    """Server to agent: the session stands. What the agent had not settled it reports now."""

    session_epoch: int
    heartbeat_s: float
    server_version: str


class SealedField(Struct, frozen=True, kw_only=True):
    """A protected value inside an assignment."""

    name: str
    field: str
    seal_id: UUID
    key_id: str
    ciphertext: bytes
    sha256: bytes  # of the ciphertext: what the assignment refers to


class Assignment(Struct, frozen=True, kw_only=True, tag="assignment"):
    """Server to agent: run this. Self-contained. One that the agent already holds is answered, never run again."""

    execution_id: UUID
    machine_id: UUID
    incarnation_id: UUID
    command: str  # the resource's name, for people and logs
    generation: int
    start_number: int = 1
    script: str
    parameters: list[tuple[str, str]] = field(default_factory=list)  # (name or "", value), in order
    protected: list[SealedField] = field(default_factory=list)  # after the public ones, in order
    timeout_s: int | None = None  # counted by the machine from the script's start; None is no limit
    supersedes: UUID | None = None  # end that execution before starting this one
    request_id: str = ""  # correlation id of the ARM request that caused it, for the logs of both sides


class Question(Struct, frozen=True, kw_only=True, tag="question"):
    """Server to agent: this was written to an earlier connection; what became of it?"""

    execution_id: UUID


class Cancel(Struct, frozen=True, kw_only=True, tag="cancel"):
    """Server to agent: end it and everything it left behind. Repeated until CancelDone."""

    execution_id: UUID
    reason: str  # "canceled", "deleted"
    forget: bool = False  # also remove what is kept of it on the machine


class Ack(Struct, frozen=True, kw_only=True, tag="ack"):
    """Server to agent: durable here; need not be sent again."""

    reports: list[tuple[UUID, int]] = field(default_factory=list)  # (execution, sequence)
    outputs: list[tuple[UUID, str, int]] = field(default_factory=list)  # (execution, stream, bytes now held)


class MachineDeleted(Struct, frozen=True, kw_only=True, tag="machine-deleted"):
    """Server to agent: your resource is gone. End what runs; do not come back."""


class StatusReport(Struct, frozen=True, kw_only=True, tag="report"):
    """Agent to server. Safe to send twice: (execution_id, sequence) names it."""

    execution_id: UUID
    sequence: int  # 0, 1, 2, ... within the execution
    journal_sequence: int  # of the agent's journal when it was made
    event: Event
    message: str = ""
    exit_code: int | None = None  # None until the script ended; -1 if a signal or the timeout ended it
    signal: int | None = None  # which signal, if one did
    ago_s: float = 0.0  # how long before it was sent it happened: durations cross the wire, instants do not
    ran_s: float | None = None  # how long the script ran, once it ended
    stdout_bytes: int = 0  # whole size so far
    stderr_bytes: int = 0
    stdout_tail: bytes = b""  # with an ending: at most the last 4,096 bytes
    stderr_tail: bytes = b""


class OutputChunk(Struct, frozen=True, kw_only=True, tag="output"):
    """Agent to server: bytes of one stream. What lies before the acknowledged offset is dropped on receipt."""

    execution_id: UUID
    stream: str  # "stdout" or "stderr"
    offset: int
    data: bytes  # at most MAX_CHUNK_BYTES


class NotHeld(Struct, frozen=True, kw_only=True, tag="not-held"):
    """Agent to server, answering Question: never accepted here, and my journal is whole."""

    execution_id: UUID
    journal_sequence: int


class CancelDone(Struct, frozen=True, kw_only=True, tag="cancel-done"):
    """Agent to server: nothing of that execution runs any more; its last report was sent before this."""

    execution_id: UUID
    may_remain: bool = False  # processes that left the supervisor's sight may still be there


class Heartbeat(Struct, frozen=True, kw_only=True, tag="heartbeat"):
    """Agent to server, every 60 s or so. Writes no row."""

    running: int


ToAgent = Challenge | Welcome | Assignment | Question | Cancel | Ack | MachineDeleted
ToServer = Hello | StatusReport | OutputChunk | NotHeld | CancelDone | Heartbeat
STREAMS: Final = ("stdout", "stderr")


def signed_content(*, nonce: bytes, server_name: str, machine_id: UUID, epoch: str) -> bytes:
    """Return what Hello's signature covers: length-prefixed, so that no two inputs share a text."""
    parts = (b"enjoin/hello/v1", nonce, server_name.encode(), machine_id.bytes, epoch.encode())
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)

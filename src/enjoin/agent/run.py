"""One execution on this machine, from its assignment to its last report."""

import asyncio
import os
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from enjoin.agent import log
from enjoin.agent.bundle import Bundle, Exit
from enjoin.agent.interpreter import Account, Invocation, Parameter, invocation, normalise
from enjoin.agent.recovery import MAY_REMAIN, OUTCOME_UNKNOWN, SUPERVISOR_LOST
from enjoin.agent.script import Lost, Script
from enjoin.model.command import TAIL_BYTES
from enjoin.model.execution import Event
from enjoin.protocol.messages import Assignment, StatusReport
from enjoin.protocol.sealing import seal_info, unseal

GRACE_S: Final = 5.0  # between SIGTERM and the kill that none survives

_EVENTS: Final = {
    "signaled": Event.SIGNALED,
    "timed_out": Event.TIMED_OUT,
    "canceled": Event.CANCELED,
    "could_not_start": Event.NOT_PREPARED,
}


@dataclass(eq=False, kw_only=True)
class Run:
    """What the loop holds of an execution in memory."""

    execution_id: UUID
    bundle: Bundle
    assignment: Assignment | None = None  # None: known from the journal as ended
    script: Script | None = None
    cancel: str | None = None  # why its end was asked for
    report: StatusReport | None = None  # its last, once it ended
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    is_running: bool = False  # its script was seen to run
    is_watched: bool = False  # its files are looked at while they grow
    watch: int | None = None  # of inotify, for that
    started_s: float | None = None  # on the clock of outbox.now_s
    ended_s: float | None = None
    leftovers: bool = False  # the script ended and left processes behind

    def conclude(self, report: StatusReport) -> None:
        """Record its end."""
        self.report = report
        self.ended.set()
        request_id = None if self.assignment is None else self.assignment.request_id
        log.info("ended", correlation_id=request_id, execution=self.execution_id, reported=report.event.value)

    def is_to_end(self) -> bool:
        """Whether its end was asked for."""
        return self.cancel is not None


def prepare(assignment: Assignment, bundle: Bundle, key: X25519PrivateKey) -> Invocation:
    """Write the bundle, open the sealed values, and return how the script is to be started.

    The opened values are in the returned value only. Raises RunCommandError (a seal that does not open, a missing
    interpreter, a name that no script could read) or OSError; then nothing was started.
    """
    script = normalise(assignment.script)
    parameters = [Parameter(name, value, protected=False) for name, value in assignment.parameters]
    for sealed in assignment.protected:
        info = seal_info(
            machine_id=assignment.machine_id,
            key_id=sealed.key_id,
            incarnation_id=assignment.incarnation_id,
            field=sealed.field,
            seal_id=sealed.seal_id,
        )
        value = unseal(sealed.ciphertext, private_key=key, info=info).decode()
        parameters.append(Parameter(sealed.name, value, protected=True))
    bundle.create(script)
    return invocation(
        script, bundle.script, parameters, execution_id=str(assignment.execution_id), account=Account.current()
    )


def describe_exit(record: Exit, assignment: Assignment | None) -> tuple[Event, str]:
    """Return the event of an exit record and the sentence that people read."""
    if record.reason == "exited":
        if record.exit_code == 0:
            return Event.EXITED_ZERO, "Execution completed"
        return Event.EXITED_NONZERO, f"Execution failed: the script ended with exit code {record.exit_code}."
    if record.reason == "signaled":
        return Event.SIGNALED, f"Execution failed: signal {record.signal} ended the script."
    if record.reason == "timed_out":
        limit_s = assignment.timeout_s if assignment is not None else None
        return Event.TIMED_OUT, f"The script was ended when it reached its timeout of {limit_s} s."
    if record.reason == "canceled":
        return Event.CANCELED, f"The script was ended: {record.message or 'canceled'}."
    return _EVENTS.get(record.reason, Event.OUTCOME_UNKNOWN), record.message or "The script could not be started."


def describe_lost(lost: Lost) -> tuple[Event, str]:
    """Return the event and the sentence for a script whose supervisor is gone without an exit record."""
    remark = MAY_REMAIN if lost.may_remain else ""
    if lost.was_alive:
        return Event.INTERRUPTED, SUPERVISOR_LOST + remark
    return Event.OUTCOME_UNKNOWN, OUTCOME_UNKNOWN + remark


def left_something(bundle: Bundle) -> bool:
    """Whether processes remained when the script of a bundle ended."""
    record = bundle.read_exit()
    return record is not None and record.leftovers


def read_tail(path: Path, size_bytes: int) -> bytes:
    """Return at most the last TAIL_BYTES of the first `size_bytes` of a file; empty when it cannot be read."""
    if not size_bytes:
        return b""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return b""
    try:
        return os.pread(descriptor, min(size_bytes, TAIL_BYTES), max(size_bytes - TAIL_BYTES, 0))
    except OSError:
        return b""
    finally:
        os.close(descriptor)


def size_of(path: Path) -> int:
    """Return a file's size; 0 when it is not there."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def clear_settled(directory: Path, settled: Collection[str]) -> None:
    """Remove what an agent left that died between letting go of an execution and removing its bundle."""
    for path in list(directory.glob("bundles/*")):
        if path.name in settled and not left_something(bundle := Bundle(path)):
            bundle.remove()

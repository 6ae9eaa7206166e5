"""The connections of machines that this process holds, and what opening and closing one means."""

import asyncio
import re
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Final
from uuid import UUID

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from enjoin.clock import Clock
from enjoin.control.settlement import deleted_machine, machine_topic, move
from enjoin.errors import ChannelError
from enjoin.model.execution import Event, Execution, ExecutionState
from enjoin.model.machine import LEASE, LOST_AFTER, Facts, Machine
from enjoin.protocol.messages import (
    OLDEST_PROTOCOL_VERSION,
    PROTOCOL_VERSION,
    Assignment,
    Hello,
    Question,
    ToAgent,
    signed_content,
)
from enjoin.store.base import Store, Transaction

REINSTALLED: Final = (
    "The agent was reinstalled or its state directory restored from a copy after this command was handed over; "
    "what became of it is not known."
)
_BATCH: Final = 200  # machines whose lease is set at a time


@dataclass(eq=False, kw_only=True)
class Session:
    """One machine's open channel."""

    machine_id: UUID
    epoch: int  # of the session: a later one ends this one
    state_epoch: str  # of the agent's state directory
    journal_sequence: int
    heard_at_s: float  # on the monotonic clock
    successor: "Callable[[], Session | None]" = lambda: None  # the machine's live session: this one, or a later one
    outbox: deque[ToAgent] = field(default_factory=deque)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    _asked: dict[UUID, bool] = field(default_factory=dict)  # questions of this channel: whether the answer is out

    def push(self, *messages: ToAgent) -> None:
        """Queue messages for the machine, in order. They leave the outbox only after they were written.

        What is too late for this session is repeated in a later one by its nature; an assignment is asked about there.
        """
        if not self.ended.is_set():
            self.outbox.extend(messages)
            self.wake.set()
            return
        later = self.successor()
        if later is not None and later is not self:
            for message in messages:
                if isinstance(message, Assignment):
                    later.ask(message.execution_id)

    def ask(self, execution_id: UUID) -> None:
        """Ask what became of an execution, once in a session: the channel keeps its order."""
        if execution_id not in self._asked:
            self._asked[execution_id] = True
            self.push(Question(execution_id=execution_id))

    def is_answer(self, execution_id: UUID) -> bool:
        """Whether the machine's NotHeld is the first answer to a question of this session.

        Only then it was said before an assignment that this session carried, and says nothing about that one.
        """
        if not self._asked.get(execution_id, False):
            return False
        self._asked[execution_id] = False
        return True


class MachineGone(Exception):
    """The machine's resource was deleted; its agent is to be told."""


class Sessions:
    """Registry and use cases of channels."""

    def __init__(self, store: Store, clock: Clock, *, min_agent_version: str | None = None) -> None:
        """Hold no session yet; refuse agents older than `min_agent_version` (F5)."""
        self._store = store
        self._min_agent_version = min_agent_version
        self._clock = clock
        self._live: dict[UUID, Session] = {}

    def live(self, machine_id: UUID) -> Session | None:
        """Return the open session of a machine if this process holds it."""
        return self._live.get(machine_id)

    def now(self) -> datetime:
        """Return the wall-clock time by which sessions live."""
        return self._clock.now()

    @property
    def count(self) -> int:
        """How many machines are connected here."""
        return len(self._live)

    @property
    def queued(self) -> int:
        """How many messages wait to be written to connections held here."""
        return sum(len(session.outbox) for session in self._live.values())

    async def verify(self, hello: Hello, *, nonce: bytes, server_name: str) -> None:
        """Raise ChannelError unless `hello` is signed by the machine's key; MachineGone when it was deleted."""
        if not OLDEST_PROTOCOL_VERSION <= hello.protocol_version <= PROTOCOL_VERSION:
            text = (
                f"the agent speaks protocol {hello.protocol_version}; "
                f"this server speaks {OLDEST_PROTOCOL_VERSION} to {PROTOCOL_VERSION}"
            )
            raise ChannelError(text)
        if self._min_agent_version and _version(hello.agent_version) < _version(self._min_agent_version):
            text = f"the agent is version {hello.agent_version}; this server wants {self._min_agent_version} or later"
            raise ChannelError(text)

        async def work(tx: Transaction) -> tuple[Machine | None, str | None]:
            machine = await tx.get_machine(hello.machine_id)
            deleted = None if machine else await tx.get_setting(deleted_machine(hello.machine_id))
            return machine, deleted

        machine, deleted = await self._store.read(work)
        key = machine.identity_key if machine else bytes.fromhex(deleted or "")
        content = signed_content(nonce=nonce, server_name=server_name, machine_id=hello.machine_id, epoch=hello.epoch)
        try:
            Ed25519PublicKey.from_public_bytes(key).verify(hello.signature, content)
        except (InvalidSignature, ValueError):
            text = "the machine is not known here, or its Hello is not signed with its key"
            raise ChannelError(text) from None
        if machine is None:
            raise MachineGone

    async def open(self, hello: Hello) -> Session:
        """Make the machine connected; queue what must be asked of it. `verify` came before."""
        now = self._clock.now()

        async def work(tx: Transaction) -> tuple[Machine, Sequence[UUID]]:
            machine = await tx.get_machine_for_update(hello.machine_id)
            if machine is None:
                text = "the machine was deleted while it connected"
                raise ChannelError(text)
            questions = await _compare(tx, machine, hello, now=now)
            if hello.epoch != machine.epoch:
                tx.wake(machine_topic(machine.id))  # whoever reads output of the old state directory waits in vain
            updated = replace(
                machine,
                epoch=hello.epoch,
                journal_sequence=hello.journal_sequence,
                facts=_facts(hello),
                connected=True,
                session_epoch=machine.session_epoch + 1,
                status_changed_at=now,
                lease_expires_at=None,
            )
            await tx.put_machine(updated)
            return updated, questions

        machine, questions = await self._store.write(work)
        session = Session(
            machine_id=machine.id,
            epoch=machine.session_epoch,
            state_epoch=hello.epoch,
            journal_sequence=hello.journal_sequence,
            heard_at_s=self._clock.monotonic_s(),
            successor=partial(self.live, machine.id),
        )
        earlier = self._live.get(machine.id)
        if earlier is not None:
            earlier.ended.set()
        self._live[machine.id] = session
        unsent = earlier.outbox if earlier is not None else ()
        for execution_id in (*questions, *(m.execution_id for m in unsent if isinstance(m, Assignment))):
            session.ask(execution_id)
        return session

    async def close(self, session: Session) -> None:
        """Start the lease of a machine whose channel closed, unless a later session took over."""
        session.ended.set()
        if self._live.get(session.machine_id) is session:
            del self._live[session.machine_id]
        now = self._clock.now()

        async def work(tx: Transaction) -> None:
            machine = await tx.get_machine_for_update(session.machine_id)
            if machine is None or machine.session_epoch != session.epoch:
                return
            is_same = machine.epoch == session.state_epoch  # else it was enrolled anew meanwhile
            shown = session.journal_sequence if is_same else 0
            await tx.put_machine(
                replace(
                    machine,
                    connected=False,
                    status_changed_at=now,
                    lease_expires_at=now + LEASE,
                    journal_sequence=max(machine.journal_sequence, shown),
                )
            )

        await self._store.write(work)

    def end(self, machine_id: UUID) -> Session | None:
        """Tell a machine's session to end, and return it."""
        session = self._live.get(machine_id)
        if session is not None:
            session.ended.set()
        return session

    def end_silent(self) -> None:
        """End each session that was not heard of for LOST_AFTER."""
        earliest_s = self._clock.monotonic_s() - LOST_AFTER.total_seconds()
        for session in self._live.values():
            if session.heard_at_s < earliest_s:
                session.ended.set()

    async def take_over(self, *, lease: timedelta) -> None:
        """At a start: every machine that an earlier process left as connected, or waited for, has `lease` from now."""
        now = self._clock.now()

        async def work(tx: Transaction) -> None:
            for machine in await tx.connected_machines():
                away = replace(machine, connected=False, status_changed_at=now)
                await tx.put_machine(replace(away, lease_expires_at=now + lease))
            earlier = now + lease - timedelta(microseconds=1)
            while shorter := await tx.expired_leases(now=earlier, limit=_BATCH):
                for machine_id in shorter:
                    waiting = await tx.get_machine_for_update(machine_id)
                    assert waiting is not None
                    await tx.put_machine(replace(waiting, lease_expires_at=now + lease))

        await self._store.write(work)


async def _compare(tx: Transaction, machine: Machine, hello: Hello, *, now: datetime) -> Sequence[UUID]:
    """Hold what was handed to a machine against what it says; return what is to be asked of it.

    A reinstalled machine, or one restored from a copy, is not asked about what it cannot know, and counts its reports
    anew. What it holds while nobody here knew how it fared is asked about, because an acknowledged report is never
    repeated by itself.
    """
    questions = []
    held = frozenset(hello.held)
    went_back = hello.journal_sequence < machine.journal_sequence and hello.epoch == machine.epoch
    for execution in await tx.delivered_and_open(machine.id):
        is_lost = went_back or _was_lost(execution, hello)
        if is_lost:
            anew = replace(
                execution,
                next_sequence=0,
                delivered_epoch=hello.epoch,
                delivered_sequence=hello.journal_sequence,
            )
            if execution.state is ExecutionState.UNKNOWN:
                await tx.put_execution(anew)
            else:
                await move(tx, anew, Event.MACHINE_LOST, at=now, now=now, message=REINSTALLED)
        if execution.id in held:
            if is_lost or execution.state is ExecutionState.UNKNOWN:
                questions.append(execution.id)
        elif not is_lost:
            questions.append(execution.id)
    return questions


def _version(text: str) -> tuple[int, ...]:
    """Return the four leading numbers of a version, for comparison; one that is not there counts as 0."""
    numbers = [int(digits) for digits in re.findall(r"\d{1,9}", text[:64], re.ASCII)]
    return tuple([*numbers, 0, 0, 0, 0][:4])


def _was_lost(execution: Execution, hello: Hello) -> bool:
    """Whether the machine's memory of this execution cannot be trusted any more."""
    return execution.delivered_epoch != hello.epoch or hello.journal_sequence < execution.delivered_sequence


def _facts(hello: Hello) -> Facts:
    return Facts(
        agent_version=hello.agent_version,
        os_name=hello.os_name,
        os_version=hello.os_version,
        host_name=hello.host_name,
        architecture=hello.architecture,
        containment=hello.containment,
    )

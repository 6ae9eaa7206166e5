"""The agent's decisions: once, in order, and to an end."""

import errno
import os
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from enjoin.agent import loop as module
from enjoin.agent.inotify import Inotify
from enjoin.agent.journal import Accepted, Journal, Record
from enjoin.agent.script import CouldNotStart
from enjoin.model.execution import Event
from enjoin.protocol.messages import Assignment, Cancel, CancelDone, NotHeld, OutputChunk, Question
from tests.unit.agent.machine import Machine, assignment, undated, until

E = Event


@pytest.fixture
async def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Machine]:
    """A machine whose agent runs."""
    monkeypatch.setattr(module, "SETTLE_EVERY_S", 0)
    made = Machine(tmp_path)
    await made.start()
    yield made
    await made.stop()


def recorded(machine: Machine) -> set[UUID]:
    """The executions that are in the journal on the disk now, as another agent would read it."""
    copy = machine.state.directory / "copy"
    copy.write_bytes((machine.state.directory / "journal").read_bytes())
    journal = Journal(copy)
    return set(journal.entries)


async def test_one_command(machine: Machine) -> None:
    """
    Accepted durably, started, reported, its output sent; let go of when the server has everything.
    """
    wanted = assignment()
    known_at_launch: list[bool] = []
    machine.supervisor.on_launch = lambda execution_id: known_at_launch.append(execution_id in recorded(machine))
    script = await machine.launch(wanted)
    assert known_at_launch == [True]
    assert machine.loop.held() == [wanted.execution_id]
    await machine.event(wanted.execution_id, E.STARTED)
    assert machine.loop.running == 1
    script.bundle.stdout.write_bytes(b"hello\n")
    chunk = OutputChunk(execution_id=wanted.execution_id, stream="stdout", offset=0, data=b"hello\n")
    await machine.message(chunk)  # while it runs
    script.exit(3)
    ended = await machine.event(wanted.execution_id, E.EXITED_NONZERO)
    assert (ended.exit_code, ended.stdout_bytes, ended.stdout_tail, ended.ran_s) == (3, 6, b"hello\n", 1.0)
    assert machine.loop.running == 0
    machine.acknowledge()
    await until(lambda: not script.bundle.path.exists())
    assert machine.loop.held() == []


async def test_assigned_twice(machine: Machine) -> None:
    """
    An assignment that is already held is answered, never run again: while it runs, when it ended, after a restart.
    """
    wanted = assignment()
    script = await machine.launch(wanted)
    await machine.event(wanted.execution_id, E.STARTED)
    machine.loop.handle(wanted)
    assert machine.events(wanted.execution_id)[-1] is E.READOPTED
    script.exit()
    ended = await machine.event(wanted.execution_id, E.EXITED_ZERO)
    machine.loop.handle(wanted)
    assert undated(machine.reports(wanted.execution_id)[-1]) == undated(ended)
    machine.acknowledge()
    await until(lambda: machine.loop.held() == [])
    for _ in range(2):
        machine.said.clear()
        machine.loop.handle(wanted)
        assert machine.events(wanted.execution_id) == [E.EXITED_ZERO]
        await machine.restart()
    assert machine.supervisor.launched == [wanted.execution_id]


async def test_cancel_right_behind(machine: Machine) -> None:
    """
    A cancel that comes while the assignment is being accepted: it is never started.
    """
    wanted = assignment()
    machine.loop.handle(wanted)
    machine.loop.handle(Cancel(execution_id=wanted.execution_id, reason="canceled"))
    await machine.message(CancelDone(execution_id=wanted.execution_id))
    assert machine.events(wanted.execution_id) == [E.CANCELED]
    assert machine.said.index(machine.reports(wanted.execution_id)[-1]) < len(machine.said) - 1  # before CancelDone
    assert machine.supervisor.launched == []


async def test_cancel_before_the_shim_started_it(machine: Machine) -> None:
    """
    A cancel that reaches the shim before the start is a cancel, not a failure to prepare.
    """
    machine.supervisor.starts_at_once = False
    wanted = assignment()
    script = await machine.launch(wanted)
    machine.loop.handle(Cancel(execution_id=wanted.execution_id, reason="canceled"))
    await machine.message(CancelDone(execution_id=wanted.execution_id))
    assert script.canceled == "canceled"
    assert machine.events(wanted.execution_id) == [E.CANCELED]


async def test_tombstone(machine: Machine) -> None:
    """
    A cancel of what the machine never had: it is never started, however late the assignment comes.
    """
    wanted = assignment()
    machine.loop.handle(Cancel(execution_id=wanted.execution_id, reason="deleted"))
    await machine.message(CancelDone(execution_id=wanted.execution_id))
    assert wanted.execution_id in recorded(machine)
    machine.loop.handle(wanted)
    assert machine.events(wanted.execution_id) == [E.NEVER_HELD, E.NEVER_HELD]
    machine.acknowledge()
    await until(lambda: machine.loop.held() == [])
    await machine.restart()
    machine.loop.handle(wanted)
    assert machine.events(wanted.execution_id) == [E.NEVER_HELD]
    assert machine.supervisor.launched == []


async def test_cancel(machine: Machine) -> None:
    """
    Cancel ends the script and what it left behind, reports the end, then confirms; repeated, it confirms again.
    """
    wanted = assignment()
    script = await machine.launch(wanted)
    await machine.event(wanted.execution_id, E.STARTED)
    for count in (1, 2):
        machine.said.clear()
        machine.loop.handle(Cancel(execution_id=wanted.execution_id, reason="canceled"))
        await machine.message(CancelDone(execution_id=wanted.execution_id))
        assert machine.supervisor.ended_leftovers == [wanted.execution_id] * count
    assert script.canceled == "canceled"
    assert recorded(machine) == {wanted.execution_id}


async def test_cancel_of_a_script_that_takes_its_time(machine: Machine) -> None:
    """
    The cancel is confirmed when the script has ended, not before.
    """
    machine.supervisor.obeys = False
    wanted = assignment()
    script = await machine.launch(wanted)
    machine.loop.handle(Cancel(execution_id=wanted.execution_id, reason="canceled"))
    await until(lambda: script.canceled is not None)
    done = CancelDone(execution_id=wanted.execution_id)
    assert done not in machine.listen()
    script.exit(-1, reason="canceled", message="canceled")
    await machine.message(done)
    assert machine.events(wanted.execution_id)[-1] is E.CANCELED


async def test_deleted_command(machine: Machine) -> None:
    """
    With `forget` nothing of it stays on the disk but its id, which is never started again.
    """
    wanted = assignment()
    script = await machine.launch(wanted)
    script.bundle.stdout.write_bytes(b"x" * 100)
    machine.loop.handle(Cancel(execution_id=wanted.execution_id, reason="deleted", forget=True))
    await until(lambda: not script.bundle.path.exists())
    assert machine.loop.held() == []
    await machine.restart()
    assert machine.loop.held() == []
    machine.loop.handle(wanted)
    assert machine.events(wanted.execution_id) == [E.CANCELED]
    assert machine.supervisor.launched == [wanted.execution_id]


async def test_questions(machine: Machine) -> None:
    """
    A question is answered with the state: never held, being started, running, ended, settled.
    """
    unknown = uuid4()
    machine.loop.handle(Question(execution_id=unknown))
    assert machine.listen() == [NotHeld(execution_id=unknown, journal_sequence=machine.journal.sequence)]
    machine.supervisor.starts_at_once = False
    wanted = assignment()
    script = await machine.launch(wanted)
    machine.loop.handle(Question(execution_id=wanted.execution_id))
    assert machine.events(wanted.execution_id) == []
    script.start()
    await machine.event(wanted.execution_id, E.STARTED)
    machine.loop.handle(Question(execution_id=wanted.execution_id))
    assert machine.events(wanted.execution_id) == [E.STARTED, E.READOPTED]
    script.exit()
    await machine.event(wanted.execution_id, E.EXITED_ZERO)
    machine.acknowledge()
    await until(lambda: machine.loop.held() == [])
    machine.said.clear()
    machine.loop.handle(Question(execution_id=wanted.execution_id))
    assert machine.events(wanted.execution_id) == [E.EXITED_ZERO]


async def test_supersedes(machine: Machine) -> None:
    """
    The one that is replaced has ended before the next is started (F20).
    """
    machine.supervisor.obeys = False
    first = assignment()
    script = await machine.launch(first)
    second = assignment(incarnation_id=first.incarnation_id, generation=2, supersedes=first.execution_id)
    machine.loop.handle(second)
    await until(lambda: script.canceled is not None)
    assert machine.supervisor.launched == [first.execution_id]
    script.exit(-1, reason="canceled", message="replaced by a later update")
    await machine.event(second.execution_id, E.STARTED)
    assert machine.supervisor.launched == [first.execution_id, second.execution_id]
    assert machine.events(first.execution_id)[-1] is E.CANCELED


async def test_supersedes_what_never_came(machine: Machine) -> None:
    """
    An update between the two was lost: what still runs of the command ends all the same, and the lost one never starts.
    """
    first = assignment()
    script = await machine.launch(first)
    lost = assignment(incarnation_id=first.incarnation_id, generation=2, supersedes=first.execution_id)
    third = assignment(incarnation_id=first.incarnation_id, generation=3, supersedes=lost.execution_id)
    other = assignment()
    await machine.launch(other)
    await machine.launch(third)
    assert script.canceled is not None
    assert machine.supervisor.scripts[other.execution_id].canceled is None
    machine.loop.handle(lost)
    await machine.event(lost.execution_id, E.NEVER_HELD)
    assert machine.supervisor.launched == [first.execution_id, other.execution_id, third.execution_id]


async def test_superseded_while_it_waits(machine: Machine) -> None:
    """
    Updates faster than the script ends: those in between never start, and the last one does.
    """
    machine.supervisor.obeys = False
    first = assignment()
    script = await machine.launch(first)
    chain = [first]
    for generation in (2, 3, 4):
        chain.append(
            assignment(incarnation_id=first.incarnation_id, generation=generation, supersedes=chain[-1].execution_id)
        )
        machine.loop.handle(chain[-1])
    await until(lambda: script.canceled is not None)
    script.exit(-1, reason="canceled")
    await machine.event(chain[-1].execution_id, E.STARTED)
    assert machine.supervisor.launched == [first.execution_id, chain[-1].execution_id]
    assert [machine.events(one.execution_id)[-1] for one in chain[:-1]] == [E.CANCELED] * 3


@pytest.mark.parametrize("missing", ["report", "output"])
async def test_settled_only_when_the_server_has_all(machine: Machine, missing: str) -> None:
    """
    The bundle stays until both the last report and the whole output are acknowledged.
    """
    wanted = assignment()
    script = await machine.launch(wanted)
    script.bundle.stderr.write_bytes(b"oops")
    script.exit(1)
    await machine.event(wanted.execution_id, E.EXITED_NONZERO)
    machine.acknowledge(reports=missing != "report", output=missing != "output")
    other = assignment()
    (await machine.launch(other)).exit()
    await machine.event(other.execution_id, E.EXITED_ZERO)
    machine.loop.outbox.settled.set()
    await until(lambda: not machine.loop.outbox.settled.is_set())
    assert script.bundle.path.exists()
    assert wanted.execution_id in machine.loop.held()
    machine.acknowledge()
    await until(lambda: not script.bundle.path.exists())


async def test_bundle_goes_after_the_journal_knows(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    While the journal cannot record that it is settled, the bundle, which shows that it was started, stays.
    """
    wanted = assignment()
    script = await machine.launch(wanted)
    script.exit()
    await machine.event(wanted.execution_id, E.EXITED_ZERO)
    tried: list[bool] = []

    def fdatasync(_: int) -> None:
        tried.append(True)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fdatasync)
        machine.acknowledge()
        await until(lambda: len(tried) > 4)
        assert script.bundle.path.exists()
        assert machine.loop.held() == [wanted.execution_id]
    await until(lambda: not script.bundle.path.exists())  # by itself, when there is room
    await machine.restart()
    assert machine.loop.held() == []


async def test_leftovers_keep_the_bundle(machine: Machine) -> None:
    """
    What tells how to end processes that were left behind is kept, and goes with them.
    """
    wanted = assignment()
    script = await machine.launch(wanted)
    script.exit(leftovers=True)
    await machine.event(wanted.execution_id, E.EXITED_ZERO)
    machine.acknowledge()
    await until(lambda: machine.loop.held() == [])
    assert script.bundle.path.exists()
    machine.loop.handle(Cancel(execution_id=wanted.execution_id, reason="deleted", forget=True))
    await until(lambda: not script.bundle.path.exists())
    assert machine.supervisor.ended_leftovers == [wanted.execution_id]


async def test_restart_while_it_runs(machine: Machine) -> None:
    """
    A new agent takes a running script up again, and reports its real end (F65, agent-semantics 76).
    """
    wanted = assignment()
    await machine.launch(wanted)
    first = await machine.event(wanted.execution_id, E.STARTED)
    await machine.restart()
    assert machine.loop.held() == [wanted.execution_id]
    again = await machine.event(wanted.execution_id, E.READOPTED)
    assert again.sequence > first.sequence
    assert again.journal_sequence > first.journal_sequence
    machine.bundle(wanted.execution_id).stdout.write_bytes(b"all of it")
    machine.supervisor.scripts[wanted.execution_id].exit(9)
    ended = await machine.event(wanted.execution_id, E.EXITED_NONZERO)
    assert (ended.exit_code, ended.stdout_tail) == (9, b"all of it")
    assert machine.supervisor.launched == [wanted.execution_id]


async def test_ended_without_an_agent(machine: Machine) -> None:
    """
    What ended while no agent ran is reported with its own outcome.
    """
    wanted = assignment()
    script = await machine.launch(wanted)
    await machine.stop()
    machine.supervisor.exits[wanted.execution_id] = script.exit(4)
    await machine.start()
    assert (await machine.event(wanted.execution_id, E.EXITED_NONZERO)).exit_code == 4
    assert machine.supervisor.launched == [wanted.execution_id]


async def test_accepted_and_never_started(machine: Machine) -> None:
    """
    What was accepted durably and never claimed is started by the next agent, once.
    """
    wanted = assignment()
    await machine.journal.append(Accepted(wanted, "boot"))
    await machine.restart()
    await machine.event(wanted.execution_id, E.STARTED)
    machine.loop.handle(wanted)
    assert machine.supervisor.launched == [wanted.execution_id]


async def test_unsettled_end_is_repeated(machine: Machine) -> None:
    """
    An end that nobody acknowledged is reported by the next agent with the same number, and its output from the start.
    """
    wanted = assignment()
    script = await machine.launch(wanted)
    script.bundle.stdout.write_bytes(b"once")
    script.exit()
    ended = await machine.event(wanted.execution_id, E.EXITED_ZERO)
    await machine.restart()
    assert undated(await machine.event(wanted.execution_id, E.EXITED_ZERO)) == undated(ended)
    await machine.message(
        OutputChunk(execution_id=wanted.execution_id, stream="stdout", offset=0, data=b"once"),
    )
    machine.acknowledge()
    await until(lambda: machine.loop.held() == [])


class Refusing:
    """A policy that refuses everything."""

    def refusal(self, assignment: Assignment) -> str | None:
        """Refuse."""
        return f"{assignment.command} is not on the list"


async def test_policy(machine: Machine) -> None:
    """
    What the machine's owner forbids is refused with the reason, and never started (F89, agent-semantics 85).
    """
    machine.loop._policy = Refusing()  # noqa: SLF001 - as if it had been started with it
    wanted = assignment()
    machine.loop.handle(wanted)
    refused = await machine.event(wanted.execution_id, E.REFUSED)
    assert refused.message == "c1 is not on the list"
    assert machine.supervisor.launched == []
    assert wanted.execution_id in recorded(machine)


async def test_journal_is_full(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    What cannot be recorded is not run, and says so (agent-semantics 80).
    """

    async def append(_: Record) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(machine.journal, "append", append)
    wanted = assignment()
    machine.loop.handle(wanted)
    failed = await machine.event(wanted.execution_id, E.NOT_PREPARED)
    assert "No space left" in failed.message
    assert machine.supervisor.launched == []


@pytest.mark.parametrize("error", [CouldNotStart("no shim"), OSError("no disk"), ZeroDivisionError("a defect")])
async def test_start_fails(machine: Machine, error: Exception) -> None:
    """
    Whatever fails before the start, foreseen or not, ends the execution with the reason.
    """

    def fail(_: UUID) -> None:
        raise error

    machine.supervisor.on_launch = fail
    wanted = assignment()
    machine.loop.handle(wanted)
    failed = await machine.event(wanted.execution_id, E.NOT_PREPARED)
    assert str(error) in failed.message
    machine.acknowledge()
    await until(lambda: machine.loop.held() == [])


async def test_defect_while_it_runs(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    An error of the agent's own while a script runs ends the execution as Unknown, and cancels still reach it.
    """
    wanted = assignment()
    script = await machine.launch(wanted)
    await machine.event(wanted.execution_id, E.STARTED)

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(machine.loop, "_end_with", fail)
    script.exit()
    await machine.event(wanted.execution_id, E.OUTCOME_UNKNOWN)
    machine.loop.handle(Cancel(execution_id=wanted.execution_id, reason="canceled"))
    await machine.message(CancelDone(execution_id=wanted.execution_id))


async def test_no_watches_left(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    On a machine that grants no watch, start, output and end arrive all the same, and output while it runs.
    """

    def add(*_: object) -> int:
        raise OSError(errno.ENOSPC, "no watches left")

    monkeypatch.setattr(Inotify, "add", add)
    wanted = assignment()
    script = await machine.launch(wanted)
    await machine.event(wanted.execution_id, E.STARTED)
    script.bundle.stdout.write_bytes(b"live")
    await machine.message(OutputChunk(execution_id=wanted.execution_id, stream="stdout", offset=0, data=b"live"))
    script.exit()
    await machine.event(wanted.execution_id, E.EXITED_ZERO)


async def test_machine_is_deleted(machine: Machine) -> None:
    """
    When the machine's resource is gone everything that runs is ended.
    """
    scripts = [await machine.launch(assignment()) for _ in range(3)]
    await machine.loop.end_everything()
    assert all(script.has_ended for script in scripts)

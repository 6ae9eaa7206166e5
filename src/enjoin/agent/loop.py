"""Reconcile: what was assigned against what is on this disk, towards start, stop and report."""

import asyncio
import time
import traceback
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from typing import Final
from uuid import UUID

from enjoin.agent import log
from enjoin.agent.bundle import Bundle, Exit, boot_id
from enjoin.agent.containment import end_marked
from enjoin.agent.journal import Accepted, Ended, Entry, Journal, Settled
from enjoin.agent.outbox import Outbox, now_s
from enjoin.agent.policy import Policy
from enjoin.agent.recovery import Interrupted, MayStart, OutcomeUnknown, Readopt, Report, recover
from enjoin.agent.reporting import Reporter
from enjoin.agent.run import GRACE_S, Run, clear_settled, describe_exit, describe_lost, left_something, prepare
from enjoin.agent.script import AlreadyClaimed, CouldNotStart, Script
from enjoin.agent.state import State
from enjoin.agent.supervisor import Supervisor
from enjoin.agent.watching import Watcher
from enjoin.errors import RunCommandError
from enjoin.model.execution import Event
from enjoin.protocol.messages import Ack, Assignment, Cancel, CancelDone, NotHeld, Question, StatusReport, ToAgent

_REPLACED: Final = "replaced by a later update"
BRIEFLY_S: Final = 0.004
SETTLE_EVERY_S: Final = 0.25


class Loop:
    """The agent's decisions. Messages come in by `handle`; what there is to say goes to the outbox."""

    def __init__(self, state: State, journal: Journal, supervisor: Supervisor, policy: Policy) -> None:
        """Work on `state`, whose lock the caller holds."""
        self._state = state
        self._journal = journal
        self._supervisor = supervisor
        self._policy = policy
        self.outbox = Outbox()
        self._runs: dict[UUID, Run] = {}
        self._watcher = Watcher(self.outbox)
        self._reporter = Reporter(journal)
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def running(self) -> int:
        """How many scripts run now."""
        return sum(1 for run in self._runs.values() if run.script is not None and not run.ended.is_set())

    @property
    def journal_sequence(self) -> int:
        """How many records the journal ever had: one that goes back was restored from a copy."""
        return self._journal.sequence

    def held(self) -> list[UUID]:
        """Return the executions that are not settled with the server."""
        unsettled = {key for key, entry in self._journal.entries.items() if not entry.settled}
        return sorted(unsettled | self._runs.keys())

    async def recover(self) -> None:
        """Take up again what an earlier agent on this directory left."""
        self._spawn(self._watcher.run())
        self._spawn(self._settle())
        for execution_id, entry in list(self._journal.entries.items()):
            if not entry.settled:
                run = Run(execution_id=execution_id, bundle=self._bundle(execution_id), assignment=entry.assignment)
                self._runs[execution_id] = run
                self._spawn(self._to_its_end(run, self._recover(run, entry)))
        settled = {str(key) for key, entry in self._journal.entries.items() if entry.settled}
        self._spawn(asyncio.to_thread(clear_settled, self._state.directory, settled))

    async def close(self) -> None:
        """Stop deciding; scripts go on."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._watcher.close()

    def handle(self, message: ToAgent) -> None:
        """Act on a message of the server; what takes time goes on by itself."""
        match message:
            case Assignment():
                self._assign(message)
            case Cancel():
                self._spawn(self._cancel(message))
            case Question():
                self._answer(message.execution_id)
            case Ack():
                self.outbox.acknowledge(message)
            case _:
                pass  # of a later protocol version, or the channel's own

    async def end_everything(self) -> None:
        """End all scripts: the machine was deleted."""
        for run in self._runs.values():
            self._ask_to_end(run, "the machine was deleted")
        for run in list(self._runs.values()):
            await run.ended.wait()

    def _assign(self, assignment: Assignment) -> None:
        execution_id = assignment.execution_id
        if execution_id in self._runs or execution_id in self._journal.entries:
            self._answer(execution_id)
            return
        log.info("assigned", correlation_id=assignment.request_id, execution=execution_id, command=assignment.command)
        run = Run(execution_id=execution_id, bundle=self._bundle(execution_id), assignment=assignment)
        self._runs[execution_id] = run
        self._spawn(self._to_its_end(run, self._accept(run, assignment)))

    def _answer(self, execution_id: UUID) -> None:
        """Say again what became of an execution."""
        run, entry = self._runs.get(execution_id), self._journal.entries.get(execution_id)
        last = run.report if run is not None else entry.report if entry is not None else None
        if last is not None:
            self.outbox.say(last)
        elif run is None and entry is None:
            self.outbox.say(NotHeld(execution_id=execution_id, journal_sequence=self._journal.sequence))
        elif run is not None and run.is_running:
            self.outbox.report(self._reporter.progress(run, Event.READOPTED))

    async def _to_its_end(self, run: Run, work: Coroutine[None, None, None]) -> None:
        """Do `work`; should it fail as nobody foresaw, the execution ends all the same, with what is known."""
        try:
            await work
        except Exception as error:  # noqa: BLE001 - whatever it is, the server must not wait for ever
            traceback.print_exception(error)
            if run.ended.is_set():
                return
            if run.bundle.is_claimed():
                run.leftovers = True  # it may run on: what tells how to end it is kept
                self._finish(run, Event.OUTCOME_UNKNOWN, f"The agent failed while the script ran: {error!r}.")
            else:
                await self._end_unstarted(run, Event.NOT_PREPARED, f"The agent failed before the start: {error!r}.")

    async def _accept(self, run: Run, assignment: Assignment) -> None:
        """Make the assignment ours, and run it."""
        refusal = self._policy.refusal(assignment)
        if refusal is not None:
            await self._end_unstarted(run, Event.REFUSED, refusal)
            return
        try:
            await self._journal.append(Accepted(assignment, boot_id()))
        except OSError as error:
            await self._end_unstarted(run, Event.NOT_PREPARED, f"The machine cannot record the command: {error}.")
            return
        await self._start(run, assignment)

    async def _start(self, run: Run, assignment: Assignment) -> None:
        replaced = self._replaced_by(assignment)
        for execution_id in replaced:  # all at once: one that waits for another must not start when that one ends
            if execution_id in self._runs:
                self._ask_to_end(self._runs[execution_id], _REPLACED)
        for execution_id in replaced:
            await self._end_execution(execution_id, _REPLACED)
        if run.is_to_end():
            await self._end_unstarted(run, Event.CANCELED, "Canceled before the script was started.")
            return
        try:
            invocation = prepare(assignment, run.bundle, self._state.sealing_key)
            run.script = await self._supervisor.launch(
                run.bundle,
                invocation,
                timeout_s=assignment.timeout_s,
                grace_s=GRACE_S,
                end_leftovers=False,
                start_number=assignment.start_number,
            )
            await run.script.started()
        except AlreadyClaimed:
            await self._resume(run)
        except CouldNotStart as error:
            if run.is_to_end():
                await self._end_unstarted(run, Event.CANCELED, "Canceled before the script was started.")
            else:
                await self._end_unstarted(run, Event.NOT_PREPARED, str(error))
        except (RunCommandError, OSError, UnicodeError) as error:
            await self._end_unstarted(run, Event.NOT_PREPARED, f"The script could not be prepared: {error}")
        else:
            await self._see_to_end(run, run.script, Event.STARTED)

    def _replaced_by(self, assignment: Assignment) -> Sequence[UUID]:
        """Return the executions to be ended first: the one that it names, and what an unseen update was to end."""
        earlier = [
            other.execution_id
            for other in self._runs.values()
            if other.assignment is not None
            and other.assignment.incarnation_id == assignment.incarnation_id
            and other.assignment.generation < assignment.generation
            and not other.ended.is_set()
        ]
        named = assignment.supersedes
        return earlier if named is None or named in earlier else [*earlier, named]

    async def _see_to_end(self, run: Run, script: Script, first: Event) -> None:
        """Report that the script runs, follow its output, and report how it ended.

        A script that is over within BRIEFLY_S says both in one frame, and nobody watched its files for nothing.
        """
        run.is_running = True
        report = self._reporter.progress(run, first)
        if run.cancel is not None:
            script.cancel(run.cancel)
        run.started_s = now_s()
        watching = asyncio.get_running_loop().call_later(BRIEFLY_S, self._watch, run, report)
        try:
            ended = await script.ended()
        finally:
            watching.cancel()
            self._unwatch(run, report)
        if isinstance(ended, Exit):
            await self._end_with(run, ended)
        else:
            event, message = describe_lost(ended)
            self._finish(run, event, message, exit_code=-1 if event is Event.INTERRUPTED else None)

    def _watch(self, run: Run, report: StatusReport) -> None:
        """Tell the server that the script runs, and send its output as it grows."""
        self.outbox.report(report, happened_s=run.started_s)
        self.outbox.follow(run.execution_id, run.bundle.path)
        self._watcher.watch(run)

    def _unwatch(self, run: Run, report: StatusReport) -> None:
        if run.is_watched:
            self._watcher.unwatch(run)
            return
        self.outbox.report(report, happened_s=run.started_s)
        self.outbox.follow(run.execution_id, run.bundle.path)

    async def _end_with(self, run: Run, record: Exit) -> None:
        event, message = describe_exit(record, run.assignment)
        run.leftovers = record.leftovers
        run.ended_s = now_s() - max(time.time() - record.wall_s, 0.0)  # an earlier agent may have missed it
        if event is Event.NOT_PREPARED:
            await self._end_unstarted(run, event, message)
            return
        self._finish(
            run,
            event,
            message,
            exit_code=record.exit_code,
            signal=record.signal,
            ran_s=record.duration_s,
            sizes=(record.stdout_bytes, record.stderr_bytes),
        )

    def _finish(
        self,
        run: Run,
        event: Event,
        message: str,
        *,
        exit_code: int | None = None,
        signal: int | None = None,
        ran_s: float | None = None,
        sizes: tuple[int, int] | None = None,
    ) -> None:
        """Report the end of a script that was started; its exit record, or its absence, is already durable."""
        report = self._reporter.ending(
            run, event, message, exit_code=exit_code, signal=signal, ran_s=ran_s, sizes=sizes
        )
        self._keep_sizes(run, report)
        self.outbox.touch(run.execution_id)
        self._journal.append_later(Ended(report))
        self._conclude(run, report)

    async def _end_unstarted(self, run: Run, event: Event, message: str) -> None:
        """Record, durably, that the execution is never to be started here, and say so."""
        report = self._reporter.unstarted(run, event, message)
        try:
            await self._journal.append(Ended(report))
        except OSError as error:
            log.error("journal_cannot_be_written", reason=str(error))
        self._conclude(run, report)

    def _conclude(self, run: Run, report: StatusReport) -> None:
        run.conclude(report)
        self.outbox.report(report, happened_s=run.ended_s)

    async def _recover(self, run: Run, entry: Entry) -> None:
        """Decide what a restart found of one execution, and go on from there."""
        if entry.report is not None:
            run.leftovers = left_something(run.bundle)
            self.outbox.follow(run.execution_id, run.bundle.path)
            self._keep_sizes(run, entry.report)
            self._conclude(run, entry.report)
            return
        await self._resume(run)

    def _keep_sizes(self, run: Run, report: StatusReport) -> None:
        for name, size in (("stdout", report.stdout_bytes), ("stderr", report.stderr_bytes)):
            stream = self.outbox.streams.get((run.execution_id, name))
            if stream is not None:
                stream.whole = size

    async def _resume(self, run: Run) -> None:
        """Go on from what is on the disk of an execution that this agent did not start itself."""
        seen, script = await self._supervisor.examine(run.bundle)
        match recover(seen):
            case Report(exit=record):
                self.outbox.follow(run.execution_id, run.bundle.path)
                await self._end_with(run, record)
            case Readopt():
                assert script is not None
                run.script = script
                await self._see_to_end(run, script, Event.READOPTED)
            case MayStart() if run.assignment is not None:
                await self._start(run, run.assignment)
            case MayStart():
                await self._end_unstarted(run, Event.NOT_PREPARED, "The machine lost what it was to run.")
            case Interrupted(message=message):
                self.outbox.follow(run.execution_id, run.bundle.path)
                self._finish(run, Event.INTERRUPTED, message, exit_code=-1)
            case OutcomeUnknown(message=message):
                self.outbox.follow(run.execution_id, run.bundle.path)
                self._finish(run, Event.OUTCOME_UNKNOWN, message)

    async def _cancel(self, message: Cancel) -> None:
        """End an execution and what it left behind; confirm when nothing of it runs."""
        may_remain = await self._end_execution(message.execution_id, message.reason)
        self.outbox.say(CancelDone(execution_id=message.execution_id, may_remain=may_remain))
        if message.forget:
            await self._forget(message.execution_id)

    async def _end_execution(self, execution_id: UUID, reason: str) -> bool:
        """Return when the execution has ended and its leftovers too; whether some may remain nevertheless."""
        run = self._runs.get(execution_id)
        if run is None and execution_id not in self._journal.entries:
            run = Run(execution_id=execution_id, bundle=self._bundle(execution_id), cancel=reason)
            self._runs[execution_id] = run
            await self._end_unstarted(run, Event.NEVER_HELD, "Canceled before the machine had it.")
            # An agent that was installed anew held it perhaps: what runs of it carries its name.
            was_alive, _ = await asyncio.to_thread(end_marked, str(execution_id), grace_s=GRACE_S)
            return was_alive
        if run is not None:
            self._ask_to_end(run, reason)
            await run.ended.wait()
        bundle = self._bundle(execution_id)
        may_remain = await self._supervisor.end_leftovers(bundle)
        if not may_remain:  # the bundle has nothing to show any more
            run = self._runs.get(execution_id)
            if run is not None:
                run.leftovers = False  # it goes when the server has everything
            else:
                await asyncio.to_thread(bundle.remove)
        return may_remain

    def _ask_to_end(self, run: Run, reason: str) -> None:
        if run.cancel is None and not run.ended.is_set():
            run.cancel = reason
            if run.script is not None:
                run.script.cancel(reason)

    async def _forget(self, execution_id: UUID) -> None:
        """Remove what is kept on disk of a deleted command's execution; its id stays in the journal."""
        with suppress(OSError):  # a full disk: then the acknowledged end of the execution settles it
            await self._let_go([Run(execution_id=execution_id, bundle=self._bundle(execution_id))])

    async def _settle(self) -> None:
        """Let go, now and then, of executions of which the server has everything."""
        while True:
            await self.outbox.settled.wait()
            await asyncio.sleep(SETTLE_EVERY_S)
            self.outbox.settled.clear()
            try:
                await self._let_go([run for run in self._runs.values() if self._is_settled(run)])
            except OSError:
                self.outbox.settled.set()  # a full disk: tried again

    async def _let_go(self, runs: Sequence[Run]) -> None:
        """Forget executions durably, and only then remove what shows that they were started. Raises OSError."""
        await self._journal.append_all([Settled(run.execution_id) for run in runs])
        for run in runs:
            self.outbox.drop(run.execution_id)
            self._runs.pop(run.execution_id, None)
        removable = [run.bundle for run in runs if not run.leftovers]
        await asyncio.to_thread(lambda: [bundle.remove() for bundle in removable])

    def _is_settled(self, run: Run) -> bool:
        report = run.report
        if report is None or (run.execution_id, report.sequence) in self.outbox.reports:
            return False
        streams = (self.outbox.streams.get((run.execution_id, name)) for name in ("stdout", "stderr"))
        return all(stream is None or stream.is_complete for stream in streams)

    def _bundle(self, execution_id: UUID) -> Bundle:
        return Bundle.of(self._state.directory, str(execution_id))

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            traceback.print_exception(task.exception())

"""What the agent tells the server of an execution, numbered so that nothing is counted twice."""

from typing import Final

from enjoin.agent.journal import Journal
from enjoin.agent.run import Run, read_tail, size_of
from enjoin.model.execution import Event
from enjoin.protocol.messages import StatusReport

_SEQUENCES_PER_START: Final = 1 << 32  # the reports of a later agent follow those of an earlier one


class Reporter:
    """Makes reports; each has a higher number than any before it on this journal."""

    def __init__(self, journal: Journal) -> None:
        """Begin above what earlier agents on `journal` said."""
        self._journal = journal
        self._sequence = journal.starts * _SEQUENCES_PER_START

    def progress(self, run: Run, event: Event) -> StatusReport:
        """Say that the script runs."""
        return self.unstarted(run, event, "Execution in progress")

    def unstarted(self, run: Run, event: Event, message: str) -> StatusReport:
        """Say what happened to an execution without output."""
        self._sequence += 1
        return StatusReport(
            execution_id=run.execution_id,
            sequence=self._sequence,
            journal_sequence=self._journal.sequence,
            event=event,
            message=message,
        )

    def ending(
        self,
        run: Run,
        event: Event,
        message: str,
        *,
        exit_code: int | None = None,
        signal: int | None = None,
        ran_s: float | None = None,
        sizes: tuple[int, int] | None = None,
    ) -> StatusReport:
        """Say how a script ended that was started, with the sizes and tails of its output."""
        stdout, stderr = sizes or (size_of(run.bundle.stdout), size_of(run.bundle.stderr))
        self._sequence += 1
        return StatusReport(
            execution_id=run.execution_id,
            sequence=self._sequence,
            journal_sequence=self._journal.sequence,
            event=event,
            message=message,
            exit_code=exit_code,
            signal=signal,
            ran_s=ran_s,
            stdout_bytes=stdout,
            stderr_bytes=stderr,
            stdout_tail=read_tail(run.bundle.stdout, stdout),
            stderr_tail=read_tail(run.bundle.stderr, stderr),
        )

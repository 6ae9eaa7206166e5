"""An execution as clients see it: its state, its exit code, the readable end of each stream."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from enjoin.arm.envelope import Body, time_text
from enjoin.arm.ids import COMMAND_TYPES, command_id_path
from enjoin.model.address import CommandAddress
from enjoin.model.command import TAIL_BYTES, CommandView
from enjoin.model.execution import Execution
from enjoin.model.retention import Retention

NEVER_RAN: Final = -1
_CONTINUATION: Final = range(0x80, 0xC0)
_LONGEST_CHARACTER_BYTES: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamView:
    """The end of one stream."""

    text: str
    total_bytes: int
    is_cut: bool  # `text` is not all of it


def stream_view(view: CommandView, stream: str) -> StreamView:
    """Return at most the last TAIL_BYTES of a stream as text, cut between characters."""
    outcome = view.execution.outcome
    received_bytes = view.received_bytes.get(stream, 0)
    whole_bytes, last = (
        (outcome.stdout_bytes, outcome.stdout_tail)
        if stream == "stdout"
        else (outcome.stderr_bytes, outcome.stderr_tail)
    )
    if whole_bytes > received_bytes:  # the machine told how it ended before all of its output arrived
        tail, total_bytes = last or view.tails.get(stream, b""), whole_bytes
    else:
        tail, total_bytes = view.tails.get(stream, last), received_bytes
    tail = tail[-TAIL_BYTES:]
    is_cut = total_bytes > len(tail)
    text = decode_tail(tail, begins_inside=is_cut, may_go_on=not view.execution.is_terminal)
    return StreamView(text=text, total_bytes=total_bytes, is_cut=is_cut)


def decode_tail(tail: bytes, *, begins_inside: bool, may_go_on: bool) -> str:
    """Return bytes as text. A character that the cut took in half is left out; bytes that are none are replaced."""
    start, end = 0, len(tail)
    if begins_inside:
        while start < min(_LONGEST_CHARACTER_BYTES - 1, end) and tail[start] in _CONTINUATION:
            start += 1
        if start < end and tail[start] in _CONTINUATION:
            start = 0  # four in a row: not the rest of a character, but bytes that never were text
    if may_go_on:
        end -= _begun_bytes(tail[start:])
    return tail[start:end].decode(errors="replace")


def _begun_bytes(data: bytes) -> int:
    """Return how many bytes at the end begin a character whose rest has not come yet."""
    for back in range(1, min(_LONGEST_CHARACTER_BYTES, len(data) + 1)):
        byte = data[-back]
        if byte in _CONTINUATION:
            continue
        needs = 2 if byte >> 5 == 0b110 else 3 if byte >> 4 == 0b1110 else 4 if byte >> 3 == 0b11110 else 1  # noqa: PLR2004 - UTF-8
        return back if needs > back else 0
    return 0


def exit_code(execution: Execution) -> int:
    """Return the script's exit code; 0 while it is not over, NEVER_RAN when it ended without one."""
    if execution.outcome.exit_code is not None:
        return execution.outcome.exit_code
    return NEVER_RAN if execution.is_terminal else 0


def render_times(execution: Execution) -> Body:
    """Return when it started and ended, each left out until it is known."""
    times: Body = {}
    if execution.started_at is not None:
        times["startTime"] = time_text(execution.started_at)
    if execution.ended_at is not None:
        times["endTime"] = time_text(execution.ended_at)
    return times


def render_retention(retention: Retention) -> Body:
    """Return how far back executions and their output are kept."""
    return {
        "days": retention.age / timedelta(days=1),
        "executions": retention.executions,
        "outputBytes": retention.output_bytes,
    }


def render_execution(execution: Execution, address: CommandAddress) -> Body:
    """Return one execution of a run command, current or past."""
    outcome, dropped_at = execution.outcome, execution.output_dropped_at
    return {
        "id": f"{command_id_path(address)}/executions/{execution.generation}",
        "name": str(execution.generation),
        "type": f"{COMMAND_TYPES[address.machine.kind]}/executions",
        "properties": {
            "executionId": str(execution.id),
            "generation": execution.generation,
            "origin": execution.origin.value,
            "executionState": execution.state.value,
            "executionMessage": execution.message,
            "exitCode": exit_code(execution),
            "signal": outcome.signal,
            "createdTime": time_text(execution.created_at),
            **render_times(execution),
            "outputBytes": outcome.stdout_bytes,
            "errorBytes": outcome.stderr_bytes,
            "principalId": str(execution.principal_id),
            "correlationId": execution.correlation_id,
            "clientRequestId": execution.client_request_id,
            **({} if dropped_at is None else {"outputDroppedTime": time_text(dropped_at)}),
        },
    }

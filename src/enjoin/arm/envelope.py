"""The frames of every answer: errors, operations, lists, times, and what an api-version says."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from enjoin.errors import RunCommandError
from enjoin.model.operation import Operation, OperationState

_DATED: Final = re.compile(r"\d{4}-\d{2}-\d{2}(?!\d)")
ENJOIN: Final = "enjoin"  # the one property of ours inside ARM's own
Body = dict[str, object]


def is_at_least(api_version: str, date: str) -> bool:
    """Whether an api-version is of `date` or later; one that is not dated counts as the newest."""
    match = _DATED.match(api_version)
    return match is None or match.group() >= date


def time_text(at: datetime) -> str:
    """Return an instant as RFC 3339 in UTC."""
    return at.astimezone(UTC).isoformat()


def render_error(error: RunCommandError) -> Body:
    """Return the error envelope."""
    detail: Body = {"code": error.code, "message": str(error)}
    if error.target is not None:
        detail["target"] = error.target
    return {"error": detail}


def render_list(values: Sequence[object], next_link: str | None) -> Body:
    """Return a page. `nextLink` is left out on the last one."""
    body: Body = {"value": values}
    if next_link is not None:
        body["nextLink"] = next_link
    return body


def render_operation(operation: Operation) -> Body:
    """Return the document behind `Azure-AsyncOperation`."""
    body: Body = {
        "name": str(operation.id),
        "startTime": time_text(operation.started_at),
        "status": operation.state.value,
    }
    if operation.ended_at is not None:
        body["endTime"] = time_text(operation.ended_at)
    if operation.state in (OperationState.FAILED, OperationState.CANCELED):
        body["error"] = operation_error(operation)
    return body


def operation_error(operation: Operation) -> Body:
    """Return why an operation failed, as clients print it."""
    return {
        "code": operation.error_code or "OperationFailed",
        "message": operation.error_message or f"The operation ended as {operation.state}.",
    }


def operation_path(operation: Operation, *, results: bool = False) -> str:
    """Return the path of an operation's status, or of its result."""
    place = f"/subscriptions/{operation.subscription_id}/providers/{operation.provider}/locations/{operation.location}"
    return f"{place}/{'operationresults' if results else 'operations'}/{operation.id}"

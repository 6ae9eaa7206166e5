"""What the client says when it cannot do what was asked: one sentence, a code for programs, and an exit code.

Failure                      1
+-- UsageFailure             2  the command line or a file that it names is wrong
+-- NotFoundFailure          3
+-- NotAuthorisedFailure     4
+-- UnreachableFailure       5  the control plane does not answer, or not as itself
"""

from collections.abc import Mapping
from typing import Any, ClassVar


class Failure(Exception):
    """Ends a command. Shown as the last line of stderr, `enjoin: MESSAGE`."""

    exit_code: ClassVar[int] = 1
    code: str = "RequestFailed"

    def __init__(self, message: str, *, code: str | None = None, envelope: Mapping[str, Any] | None = None) -> None:
        """Say what was found and what to do; `envelope` is the control plane's own answer, if it gave one."""
        super().__init__(" ".join(message.split()))  # exactly one line, whatever the server wrote
        if code is not None:
            self.code = code
        self._envelope = envelope

    @property
    def envelope(self) -> Mapping[str, Any]:
        """The ARM error body of it: the server's, or the same shape around our own words."""
        return self._envelope or {"error": {"code": self.code, "message": str(self)}}


class UsageFailure(Failure):
    """What was typed, or a file that it names, cannot be used."""

    exit_code = 2
    code = "InvalidUsage"


class NotFoundFailure(Failure):
    """There is no such thing."""

    exit_code = 3
    code = "ResourceNotFound"


class NotAuthorisedFailure(Failure):
    """The control plane does not know the caller, or forbids it."""

    exit_code = 4
    code = "AuthorizationFailed"


class UnreachableFailure(Failure):
    """The control plane did not answer, or what answered is not it."""

    exit_code = 5
    code = "ControlPlaneUnreachable"


_BY_STATUS: dict[int, type[Failure]] = {
    401: NotAuthorisedFailure,
    403: NotAuthorisedFailure,
    404: NotFoundFailure,
    429: UnreachableFailure,
    502: UnreachableFailure,
    503: UnreachableFailure,
    504: UnreachableFailure,
}


def from_answer(status: int, body: object, *, reason: str = "") -> Failure:
    """Return the failure that an error answer of the control plane amounts to."""
    error = body.get("error") if isinstance(body, dict) else None
    family = _BY_STATUS.get(status, Failure)
    if isinstance(body, dict) and isinstance(error, dict):
        code, message = str(error.get("code") or status), str(error.get("message") or reason)
        return family(message, code=code, envelope=body)
    if isinstance(body, dict) and isinstance(error, str):  # the token endpoint speaks OAuth, not ARM
        described = str(body.get("error_description") or error)
        return NotAuthorisedFailure(f"signing in failed: {described}", code=error)
    return family(f"the control plane answered {status} {reason}".rstrip(), code=str(status))

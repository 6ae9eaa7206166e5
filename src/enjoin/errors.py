"""Everything that can be wrong, as a tree. Each class carries the code and the status that an ARM client reads.

RunCommandError                      500 InternalServerError (never raised as such)
+-- InvalidRequest                   400 InvalidRequestContent
|   +-- InvalidField                 400 InvalidParameter
|   +-- MissingAPIVersion            400 MissingApiVersionParameter
|   +-- LocationRequired             400 LocationRequired
|   +-- NotSupportedYet              400 NotSupported
|   +-- RequestTooLarge              400 RequestEntityTooLarge
|   +-- MethodNotAllowed             405 MethodNotAllowed
+-- NotAuthenticated                 401 AuthenticationFailed
|   +-- InvalidToken                 401 InvalidAuthenticationToken
+-- NotAuthorised                    403 AuthorizationFailed
+-- NotFound                         404 ResourceNotFound
|   +-- ParentNotFound               404 ParentResourceNotFound
|   +-- GroupNotFound                404 ResourceGroupNotFound
|   +-- SubscriptionNotFound         404 SubscriptionNotFound
+-- Conflict                         409 Conflict
|   +-- IllegalTransition            409 OperationNotAllowed
|   +-- GroupBeingDeleted            409 ResourceGroupBeingDeleted
+-- Expired                          410 OutputExpired
+-- PreconditionFailed               412 PreconditionFailed
+-- RangeNotSatisfiable              416 InvalidRange
+-- EnrolmentRefused                 403 EnrolmentRefused
+-- ChannelError                     400 ChannelProtocolError
+-- StoreUnavailable                 503 ServiceUnavailable
"""

from typing import ClassVar


class RunCommandError(Exception):
    """A fact that stops a request, in one sentence: what was found, then what is allowed."""

    code: ClassVar[str] = "InternalServerError"
    status: ClassVar[int] = 500

    def __init__(self, message: str, *, target: str | None = None) -> None:
        """Say what is wrong; `target` is the path of the offending property, as ARM's envelope names it."""
        super().__init__(message)
        self.target = target


class InvalidRequest(RunCommandError):
    """The request cannot be read as what it should be."""

    code = "InvalidRequestContent"
    status = 400


class InvalidField(InvalidRequest):
    """One property has a value that is not allowed."""

    code = "InvalidParameter"


class MissingAPIVersion(InvalidRequest):
    """The query has no api-version."""

    code = "MissingApiVersionParameter"


class LocationRequired(InvalidRequest):
    """A tracked resource came without its location."""

    code = "LocationRequired"


class NotSupportedYet(InvalidRequest):
    """A valid request for something that this version does not do: refused rather than ignored."""

    code = "NotSupported"


class RequestTooLarge(InvalidRequest):
    """The body is over the limit. A 400 like every other limit, so that clients treat it as final."""

    code = "RequestEntityTooLarge"


class MethodNotAllowed(InvalidRequest):
    """The path exists; the verb does not apply to it."""

    code = "MethodNotAllowed"
    status = 405


class NotAuthenticated(RunCommandError):
    """No token came with the request."""

    code = "AuthenticationFailed"
    status = 401


class InvalidToken(NotAuthenticated):
    """A token came and is not, or no longer, good."""

    code = "InvalidAuthenticationToken"


class NotAuthorised(RunCommandError):
    """The caller is known and may not do this."""

    code = "AuthorizationFailed"
    status = 403


class NotFound(RunCommandError):
    """The resource does not exist."""

    code = "ResourceNotFound"
    status = 404


class ParentNotFound(NotFound):
    """The resource that this one would belong to does not exist."""

    code = "ParentResourceNotFound"


class GroupNotFound(NotFound):
    """The resource group does not exist."""

    code = "ResourceGroupNotFound"


class SubscriptionNotFound(NotFound):
    """The subscription does not exist, or is not this server's."""

    code = "SubscriptionNotFound"


class Conflict(RunCommandError):
    """Something else that is under way, or already there, stands against it."""

    code = "Conflict"
    status = 409


class IllegalTransition(Conflict):
    """The event does not apply in this state. Nothing was changed."""

    code = "OperationNotAllowed"


class GroupBeingDeleted(Conflict):
    """The resource group is going away with all that is in it: nothing new may come into it."""

    code = "ResourceGroupBeingDeleted"


class Expired(RunCommandError):
    """It was here, and history does not reach back that far any more."""

    code = "OutputExpired"
    status = 410


class PreconditionFailed(RunCommandError):
    """If-Match or If-None-Match does not hold. Nothing was changed."""

    code = "PreconditionFailed"
    status = 412


class RangeNotSatisfiable(RunCommandError):
    """The bytes that a Range asks for are not there, or not there yet."""

    code = "InvalidRange"
    status = 416


class EnrolmentRefused(RunCommandError):
    """The enrolment token is unknown, used up or expired, or the name is taken."""

    code = "EnrolmentRefused"
    status = 403


class ChannelError(RunCommandError):
    """The other end of a machine's channel said something that the protocol does not allow."""

    code = "ChannelProtocolError"
    status = 400


class StoreUnavailable(RunCommandError):
    """The database cannot be written now (full disk, lost connection). Nothing was changed; the client may retry."""

    code = "ServiceUnavailable"
    status = 503

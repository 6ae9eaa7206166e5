"""The state of an ARM resource, which tells whether Enjoin could do what was asked; not how the script fared."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from enjoin.errors import IllegalTransition


class ProvisioningState(StrEnum):
    """As ARM spells `properties.provisioningState`."""

    CREATING = "Creating"
    UPDATING = "Updating"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    CANCELED = "Canceled"
    DELETING = "Deleting"


class Change(StrEnum):
    """What can happen to a resource. Deletion ends in its absence, so no change leads out of Deleting."""

    REPLACED = "replaced"  # an accepted PUT or PATCH
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"
    DELETE_ACCEPTED = "delete-accepted"


P, C = ProvisioningState, Change

_SETTLING: Final[Mapping[Change, ProvisioningState]] = {
    C.REPLACED: P.UPDATING,
    C.SUCCEEDED: P.SUCCEEDED,
    C.FAILED: P.FAILED,
    C.CANCELED: P.CANCELED,
    C.DELETE_ACCEPTED: P.DELETING,
}
_SETTLED: Final[Mapping[Change, ProvisioningState]] = {
    C.REPLACED: P.UPDATING,
    C.DELETE_ACCEPTED: P.DELETING,
}
TRANSITIONS: Final[Mapping[ProvisioningState, Mapping[Change, ProvisioningState]]] = {
    P.CREATING: _SETTLING,
    P.UPDATING: _SETTLING,
    P.SUCCEEDED: _SETTLED,
    P.FAILED: _SETTLED,
    P.CANCELED: _SETTLED,
    P.DELETING: {},
}


def change(state: ProvisioningState, what: Change) -> ProvisioningState:
    """Return the state after `what`; raise IllegalTransition when it does not apply."""
    try:
        return TRANSITIONS[state][what]
    except KeyError:
        text = f"The resource is {state}; it cannot be {what.value} now."
        raise IllegalTransition(text) from None

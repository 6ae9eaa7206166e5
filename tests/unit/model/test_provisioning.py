"""The state of an ARM resource: every state and change."""

import pytest

from enjoin.errors import IllegalTransition
from enjoin.model.provisioning import Change, ProvisioningState, change

P, C = ProvisioningState, Change
SETTLING = {
    C.REPLACED: P.UPDATING,
    C.SUCCEEDED: P.SUCCEEDED,
    C.FAILED: P.FAILED,
    C.CANCELED: P.CANCELED,
    C.DELETE_ACCEPTED: P.DELETING,
}
SETTLED = {C.REPLACED: P.UPDATING, C.DELETE_ACCEPTED: P.DELETING}
EXPECTED = {
    P.CREATING: SETTLING,
    P.UPDATING: SETTLING,
    P.SUCCEEDED: SETTLED,
    P.FAILED: SETTLED,
    P.CANCELED: SETTLED,
    P.DELETING: {},
}


@pytest.mark.parametrize("state", list(P))
@pytest.mark.parametrize("what", list(C))
def test_every_pair(state: ProvisioningState, what: Change) -> None:
    """
    A settled resource is changed by a new request only, and nothing leads out of Deleting (F67).
    """
    expected = EXPECTED[state].get(what)
    if expected is None:
        with pytest.raises(IllegalTransition, match=str(state)):
            change(state, what)
    else:
        assert change(state, what) is expected

"""Every row of what a restarted agent may find."""

from itertools import product

import pytest

from enjoin.agent.bundle import Exit, Started
from enjoin.agent.recovery import (
    Decision,
    Interrupted,
    MayStart,
    Observation,
    OutcomeUnknown,
    Readopt,
    Report,
    recover,
)

EXIT = Exit(
    exit_code=0, signal=None, reason="exited", wall_s=0, duration_s=0, leftovers=False, stdout_bytes=0, stderr_bytes=0
)
STARTED = Started(execution_id="x", boot_id="b", pid=1, start_ticks=1, start_number=1, cgroup=None, wall_s=0)


def observation(**changes: object) -> Observation:
    """A claimed script of this boot, of which nothing is left."""
    found: dict[str, object] = {
        "exit": None,
        "shim_is_alive": False,
        "is_claimed": True,
        "started": STARTED,
        "is_same_boot": True,
        "was_alive": False,
        "may_remain": False,
    }
    return Observation(**(found | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("found", "decision"),
    [
        ({"exit": EXIT}, Report(EXIT)),
        ({"exit": EXIT, "shim_is_alive": True}, Report(EXIT)),
        ({"exit": EXIT, "is_same_boot": False}, Report(EXIT)),
        ({"shim_is_alive": True}, Readopt()),
        ({"is_claimed": False, "started": None}, MayStart()),
    ],
)
def test_settled_rows(found: dict[str, object], decision: Decision) -> None:
    """
    An exit record is reported, a living shim is adopted, what nobody claimed may be started.
    """
    assert recover(observation(**found)) == decision


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({"started": None, "is_same_boot": False}, "before it could start"),
        ({"is_same_boot": False}, "restarted"),
        ({"was_alive": True}, "supervisor lost"),
        ({"was_alive": True, "may_remain": True}, "may remain"),
    ],
)
def test_interrupted_rows(found: dict[str, object], words: str) -> None:
    """
    A torn claim, a reboot, and a script that was ended because its shim was gone are failures that say which.
    """
    decision = recover(observation(**found))
    assert isinstance(decision, Interrupted)
    assert words in decision.message


@pytest.mark.parametrize("may_remain", [True, False])
def test_unknown_row(*, may_remain: bool) -> None:
    """
    A script that nobody saw end, and of which nothing was found, has an unknown outcome.
    """
    decision = recover(observation(may_remain=may_remain))
    assert isinstance(decision, OutcomeUnknown)
    assert ("may remain" in decision.message) == may_remain


def test_every_combination() -> None:
    """
    Whatever is found, there is one decision; only what nobody ever claimed may be started.
    """
    flags = ("shim_is_alive", "is_claimed", "is_same_boot", "was_alive", "may_remain")
    for end, started, *values in product((None, EXIT), (None, STARTED), *[(True, False)] * len(flags)):
        seen = observation(exit=end, started=started, **dict(zip(flags, values, strict=True)))
        decision = recover(seen)
        assert isinstance(decision, MayStart) == (not seen.is_claimed and not seen.shim_is_alive and seen.exit is None)
        assert isinstance(decision, Report) == (seen.exit is not None)
        assert isinstance(decision, Readopt) == (seen.shim_is_alive and seen.exit is None)

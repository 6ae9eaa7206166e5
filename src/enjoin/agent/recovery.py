"""What a restarted agent makes of an execution that it finds on its disk. Pure: the observation is made elsewhere."""

from dataclasses import dataclass

from enjoin.agent.bundle import Exit, Started

INTERRUPTED_BY_REBOOT = "interrupted: the machine restarted while the script ran"
INTERRUPTED_BEFORE_START = "interrupted: its supervisor ended before it could start the script"
SUPERVISOR_LOST = "supervisor lost: the process that watched the script was killed, and the script was ended with it"
OUTCOME_UNKNOWN = "the process that watched the script was killed, and nobody saw how the script ended"
MAY_REMAIN = "; processes that it started may remain"


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What was found of one execution, in the order in which it was looked for: exit, shim, claim, remains."""

    exit: Exit | None  # None: no record, or only a torn one
    shim_is_alive: bool  # the kernel names a holder of the lock on `started`
    is_claimed: bool  # `started` exists, whatever it holds
    started: Started | None  # None: not claimed, or torn
    is_same_boot: bool  # as the one in `started`; of no meaning without it
    was_alive: bool  # something of the script still ran, and was ended by whoever looked
    may_remain: bool  # something may still run


@dataclass(frozen=True, slots=True)
class Report:
    """It ended, and how is known."""

    exit: Exit


@dataclass(frozen=True, slots=True)
class Readopt:
    """Its shim lives: follow it."""


@dataclass(frozen=True, slots=True)
class MayStart:
    """Nobody ever had the right to start it."""


@dataclass(frozen=True, slots=True)
class Interrupted:
    """It did not come to its own end: Failed."""

    message: str


@dataclass(frozen=True, slots=True)
class OutcomeUnknown:
    """It was started and is gone, and nobody saw how: Unknown."""

    message: str


Decision = Report | Readopt | MayStart | Interrupted | OutcomeUnknown


def recover(seen: Observation) -> Decision:
    """Return what is to be done about an execution of which `seen` was found. Nothing is ever started twice."""
    if seen.exit is not None:
        return Report(seen.exit)
    if seen.shim_is_alive:
        return Readopt()
    if not seen.is_claimed:
        return MayStart()
    if seen.started is None:  # the script is started only after the claim is whole on the disk
        return Interrupted(INTERRUPTED_BEFORE_START)
    if not seen.is_same_boot:
        return Interrupted(INTERRUPTED_BY_REBOOT)
    remark = MAY_REMAIN if seen.may_remain else ""
    if seen.was_alive:
        return Interrupted(SUPERVISOR_LOST + remark)
    return OutcomeUnknown(OUTCOME_UNKNOWN + remark)

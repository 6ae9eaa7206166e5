"""Named places at which a test may kill this process, one before and one after every durable write.

A crash test needs a process to die at an exact instruction. `ENJOIN_CRASH_POINT=NAME` makes the process that reaches
NAME kill itself with SIGKILL, which is what a power cut or the OOM killer looks like from inside: no handler, no
flush, no clean-up. With `ENJOIN_CRASH_ONCE=FILE` only the first process to create FILE dies, so that what replaces it
can go on. Without the variable a crash point costs one comparison.
"""

import os
import signal
from typing import Final

ARMED: Final = os.environ.get("ENJOIN_CRASH_POINT", "")
ONCE: Final = os.environ.get("ENJOIN_CRASH_ONCE", "")


def crash_point(name: str) -> None:
    """Die here, at once, when the environment names this place."""
    if name == ARMED:
        _die()


def _die() -> None:
    if ONCE:
        try:
            os.close(os.open(ONCE, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except FileExistsError:
            return
    os.kill(os.getpid(), signal.SIGKILL)

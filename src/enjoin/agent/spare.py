"""A process of the fork server's pool: it waits for a request, serves it to the end, and waits for the next one.

All spares wait on one socket. A request is one byte with two descriptors: a memfd that holds the spec, and the control
socket of the execution. End of file means that the agent is gone.
"""

import mmap
import os
import select
import signal
import socket
from contextlib import ExitStack, suppress
from typing import Final

from enjoin.agent.containment import become_subreaper, enter_cgroup, set_process_name, start_ticks
from enjoin.agent.records import receive
from enjoin.agent.shim import WOKEN_BY, Owner, Run

FREE, BORN, IDLE, BUSY = range(4)  # what a slot of the fork server's table says about its process
SPARES: Final = 2  # kept waiting at all times
MAX_IDLE: Final = 16  # kept after a burst
MAX_SERVED: Final = 1000  # scripts per process


class Spare:
    """This process, just forked. `wake` is the pipe that makes the fork server look at the table."""

    def __init__(
        self, pool: socket.socket, *, slots: mmap.mmap, slot: int, wake: int, cgroup: str | None, oom_score_adj: int
    ) -> None:
        self._pool, self._slots, self._slot, self._wake = pool, slots, slot, wake
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_BLOCK, WOKEN_BY)  # taken by sigwaitinfo: a blocked signal is never lost
        become_subreaper()
        set_process_name(b"enjoin-shim")
        if cgroup is not None:
            enter_cgroup(cgroup)
        with open("/proc/sys/kernel/random/boot_id", "rb") as file:
            boot_id = file.read().decode().strip()
        pid = os.getpid()
        self._owner = Owner(
            identity={"boot_id": boot_id, "pid": pid, "start_ticks": start_ticks(), "cgroup": cgroup},
            cgroup=cgroup,
            pidfd=os.pidfd_open(pid),
            oom_score_adj=oom_score_adj,
        )

    def serve(self) -> None:
        """Serve requests until the agent is gone, this process is used up, or there are spares enough without it."""
        for _ in range(MAX_SERVED):
            if not (descriptors := self._next()):
                return
            self._slots[self._slot] = BUSY
            if self._idle() < SPARES:
                with suppress(OSError):  # the fork server, if it lives, makes another
                    os.write(self._wake, b"t")
            with ExitStack() as held:
                may_serve_again = Run(self._owner, held, *descriptors).serve()
            if not may_serve_again or self._idle() >= MAX_IDLE:
                return

    def _next(self) -> list[int]:
        hung_up = select.poll()
        hung_up.register(self._pool, select.POLLRDHUP)
        while not hung_up.poll(0):  # what a dead agent left in the socket is its successor's to start
            self._slots[self._slot] = IDLE
            try:
                return receive(self._pool, 1, 2)[1]
            except BlockingIOError:  # nothing came for as long as the receive timeout that the fork server set
                if self._idle() > SPARES:
                    break
        return []

    def _idle(self) -> int:
        return self._slots[:].count(IDLE)

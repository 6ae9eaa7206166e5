"""A small single-threaded process that forks the shims before they are needed. Standard library only.

The agent starts it as `python -I -S forkserver.py POOL LIFELINE CGROUP|-`: two descriptors and the cgroup directory for
the shims. It says on the lifeline how it contains them, keeps the pool filled, and ends when the agent's end of the
lifeline closes. Idle spares end then too; a busy one stays with its script.
"""

import fcntl
import mmap
import os
import select
import signal
import socket
import struct
import sys
import termios
import time
import traceback
from contextlib import suppress
from typing import Final

if __name__ == "__main__":  # isolated mode: nothing but the standard library is on the path yet
    sys.path.insert(0, os.path.abspath(f"{__file__}/../../.."))

from enjoin.agent.containment import (
    CGROUP,
    PROTECTED,
    SUBREAPER,
    cgroups_below,
    enter_cgroup,
    make_cgroup,
    read_oom_score_adj,
    remove_base,
    remove_cgroup,
    set_process_name,
    write_file,
)
from enjoin.agent.spare import BORN, FREE, IDLE, SPARES, Spare

MAX_SHIMS: Final = 4096  # at the same time: slots of the table
MAX_BIRTHS: Final = 16  # under way at the same time
IDLE_LIMIT_S: Final = 60  # after which a spare that is one too many ends
TIDY_INTERVAL_S: Final = 10.0  # between two attempts to remove cgroups whose processes outlived their shim
LEAVE_LIMIT_S: Final = 1.0  # for idle spares to end when the agent is gone
FAILURE_PAUSE_S: Final = 0.5  # before the next birth when one failed
IGNORED: Final = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGTSTP)


class ForkServer:
    """The pool: a table with one byte per shim in shared memory, and the shims."""

    def __init__(self, pool: socket.socket, lifeline: socket.socket, base: str | None) -> None:
        self._pool, self._lifeline = pool, lifeline
        self._base = base if base is not None and _is_usable(base) else None
        self._slots = mmap.mmap(-1, MAX_SHIMS)  # shared with every child; each writes its own byte only
        self._children: dict[int, tuple[int, str | None]] = {}  # pid -> slot, cgroup
        self._stale: set[str] = set()  # cgroups to be removed once they are empty
        self._names = f"{os.getpid():x}-{os.urandom(4).hex()}"  # never used twice: a record may name one for ever
        self._made = 0
        self._failed = False
        self._woken, self._wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._oom_score_adj = _protect()

    def run(self) -> None:
        """Keep the pool filled until the agent is gone."""
        signal.signal(signal.SIGCHLD, lambda *_: None)  # the number goes into the pipe
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        timeout = struct.pack("@ll", IDLE_LIMIT_S, 0)
        self._pool.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeout)
        self._stale.update([] if self._base is None else cgroups_below(self._base))
        self._replenish()
        self._lifeline.send((SUBREAPER if self._base is None else CGROUP).encode())
        events = select.poll()
        events.register(self._woken, select.POLLIN)
        events.register(self._lifeline, select.POLLIN)
        while True:
            ready = dict(events.poll(self._pause_s() * 1000))
            if self._lifeline.fileno() in ready:
                self._pool.close()
                return self._leave()
            with suppress(BlockingIOError):
                while os.read(self._woken, 4096):
                    pass
            self._failed = False
            self._reap()
            self._tidy()
            if not self._failed:
                self._replenish()

    def _pause_s(self) -> float:
        if self._failed:
            return FAILURE_PAUSE_S
        return TIDY_INTERVAL_S if self._stale else -1

    def _replenish(self) -> None:
        """Make spares for what waits in the pool's socket, and SPARES more."""
        waiting = struct.unpack("@i", fcntl.ioctl(self._pool, termios.FIONREAD, b"\0" * 4))[0]  # one byte a request
        table = self._slots[:]
        births = table.count(BORN)
        missing = min(MAX_BIRTHS - births, waiting + SPARES - births - table.count(IDLE))
        for _ in range(missing):
            slot = self._slots[:].find(FREE)
            if slot < 0:
                return  # as many as there may be: the next one waits until one ends
            self._fork(slot)

    def _fork(self, slot: int) -> None:
        self._made += 1
        cgroup = None if self._base is None else f"{self._base}/{self._names}-{self._made:x}"
        try:
            if cgroup is not None:
                make_cgroup(cgroup, protected=self._oom_score_adj == PROTECTED)
            self._slots[slot] = BORN
            pid = os.fork()
        except OSError:
            traceback.print_exc()
            self._slots[slot], self._failed = FREE, True
            if cgroup is not None:
                self._stale.add(cgroup)
            return
        if pid == 0:
            self._be_spare(slot, cgroup)
        self._children[pid] = (slot, cgroup)

    def _be_spare(self, slot: int, cgroup: str | None) -> None:
        """Serve in the child, and never return: what follows belongs to the parent."""
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            self._lifeline.close()
            os.close(self._woken)
            spare = Spare(
                self._pool,
                slots=self._slots,
                slot=slot,
                wake=self._wake,
                cgroup=cgroup,
                oom_score_adj=self._oom_score_adj,
            )
            spare.serve()
            status = 0
        except BaseException:  # noqa: BLE001 - nothing may reach the parent's code
            traceback.print_exc()
        finally:
            os._exit(status)

    def _reap(self) -> None:
        with suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                slot, cgroup = self._children.pop(ended[0])
                self._failed = self._failed or (ended[1] != 0 and self._slots[slot] == BORN)
                self._slots[slot] = FREE
                if cgroup is not None:
                    self._stale.add(cgroup)

    def _tidy(self) -> None:
        self._stale = {cgroup for cgroup in self._stale if not remove_cgroup(cgroup)}

    def _leave(self) -> None:
        """See the idle spares end, which the agent's end ended too, and remove their cgroups."""
        end_s = time.monotonic() + LEAVE_LIMIT_S
        while any(self._slots[slot] in (BORN, IDLE) for slot, _ in self._children.values()):
            select.select([self._woken], [], [], 0.1)  # a byte of SIGCHLD
            with suppress(BlockingIOError):
                os.read(self._woken, 4096)
            self._reap()
            if time.monotonic() > end_s:
                break
        self._tidy()
        if self._base is not None:
            remove_base(self._base)


def _protect() -> int:
    """Hide from the OOM killer as far as this process may; return the adjustment that holds now."""
    with suppress(OSError):
        write_file("/proc/self/oom_score_adj", b"%d" % PROTECTED)
    return read_oom_score_adj()


def _is_usable(base: str) -> bool:
    """Whether a child can be put into a cgroup below `base`: tried, because what forbids it has many faces."""
    probe = f"{base}/probe-{os.getpid():x}"
    try:
        os.makedirs(probe)
    except OSError:
        return False
    pid = os.fork()
    if pid == 0:
        try:
            enter_cgroup(probe)
            os._exit(0)
        finally:
            os._exit(1)
    usable = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    with suppress(OSError):
        os.rmdir(probe)
    return usable


def main() -> None:
    """Run with the agent's two descriptors, in a session of its own."""
    set_process_name(b"enjoin-fork")
    for number in IGNORED:  # what a terminal or a service manager sends to the agent's group; shims inherit it
        signal.signal(number, signal.SIG_IGN)
    os.chdir("/")
    os.umask(0o022)
    pool, lifeline = (socket.socket(fileno=int(word)) for word in sys.argv[1:3])
    for end in (pool, lifeline):
        os.set_inheritable(end.fileno(), False)  # noqa: FBT003 - positional only
    ForkServer(pool, lifeline, None if sys.argv[3] == "-" else sys.argv[3]).run()


if __name__ == "__main__":
    main()

"""How a process tree is held and ended: by a cgroup where one can be written, by a subreaper everywhere.

The shim is the subreaper of its script, so everything the script starts stays its descendant whatever it does (setsid,
double fork). With a cgroup the tree can also be ended after the shim died. Standard library only: shims carry this.
"""

import ctypes
import os
import select
import signal
import time
import zlib
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Final

CGROUP, SUBREAPER = "cgroup", "subreaper"
HOME: Final = "home"  # the sibling cgroup into which a shim steps out while its own is killed
KILL_WAIT_S: Final = 10.0  # how long the kernel may take to end what was killed (a write to a dead disk takes longer)
UNPROTECTED: Final = 0
PROTECTED: Final = -1000  # never chosen by the OOM killer, not even with the whole cgroup (memory.oom.group)

_TICK_S: Final = 0.02  # between two looks at a tree that is going down
_STOP_ROUNDS: Final = 20  # to catch up with what forks while it is being stopped
_QUIET_ROUNDS: Final = 2  # in a row without a new process: one that lost its parent during the first is in the next
_KERNEL_LISTS_CHILDREN: Final = os.path.exists("/proc/thread-self/children")
_PR_SET_NAME: Final = 15
_PR_SET_CHILD_SUBREAPER: Final = 36
_LIBC: Final = ctypes.CDLL(None, use_errno=True)


def set_process_name(name: bytes) -> None:
    """Show this process as `name` (at most 15 bytes) in process lists."""
    _LIBC.prctl(_PR_SET_NAME, name, 0, 0, 0)


def become_subreaper() -> None:
    """Make this process the parent of every descendant whose own parent ends."""
    if _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def find_base(state_directory: str) -> str | None:
    """Return the cgroup directory for the shims of `state_directory`, made if need be; None where none can be made.

    It lies below this process's own cgroup: on the v2 hierarchy, or on the v2 side of a hybrid one.
    """
    own = _own_cgroup()
    if own is None:
        return None
    base = f"{own}/enjoin-{zlib.crc32(os.fsencode(os.path.realpath(state_directory))):08x}"
    try:
        os.makedirs(f"{base}/{HOME}", exist_ok=True)
    except OSError:
        return None
    return base if os.access(f"{base}/{HOME}/cgroup.procs", os.W_OK) else None


def _own_cgroup() -> str | None:
    with open("/proc/self/cgroup", encoding="utf-8") as file:
        paths = [line.rstrip("\n")[3:] for line in file if line.startswith("0::")]
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        mounts = [line.split(" ") for line in file]
    for fields in mounts:
        if fields[fields.index("-") + 1] != "cgroup2" or not paths:
            continue
        root, point = fields[3], unescaped(fields[4])
        directory = point + (paths[0] if root == "/" else paths[0].removeprefix(root)).rstrip("/")
        if os.path.exists(f"{directory}/cgroup.procs"):
            return directory
    return None


def unescaped(path: str) -> str:
    """Return a path of mountinfo as it is: the kernel writes blanks and backslashes in octal."""
    for octal, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        path = path.replace(octal, character)
    return path


def make_cgroup(path: str, *, protected: bool) -> None:
    """Make one for a shim. `protected`: its shim survives the OOM killer, so the rest may go as a whole."""
    os.makedirs(path)  # the base may have been removed by the fork server of an agent that ended just now
    if protected:
        with suppress(OSError):  # no memory controller here
            write_file(f"{path}/memory.oom.group", b"1")


def remove_cgroup(path: str) -> bool:
    """Remove one in which nothing runs; return whether it is gone."""
    try:
        os.rmdir(path)
    except FileNotFoundError:
        return True
    except OSError:  # somebody is still in it
        return False
    return True


def remove_base(base: str) -> None:
    """Remove what `find_base` made if no shim's cgroup is below: whoever needs it again makes it again."""
    if not cgroups_below(base) and remove_cgroup(f"{base}/{HOME}"):
        remove_cgroup(base)


def cgroups_below(base: str) -> list[str]:
    """Return the cgroups of shims, alive or not."""
    try:
        with os.scandir(base) as entries:
            return [entry.path for entry in entries if entry.is_dir(follow_symlinks=False) and entry.name != HOME]
    except OSError:
        return []


def enter_cgroup(path: str) -> None:
    """Move this process. Slow (4 to 15 ms): never while somebody waits for a script."""
    write_file(f"{path}/cgroup.procs", b"0")


def read_oom_score_adj() -> int:
    """Return what the OOM killer adds to this process's score."""
    with open("/proc/self/oom_score_adj", "rb") as file:
        return int(file.read())


def write_file(path: str, data: bytes) -> None:
    """Write to a file of the kernel, in one write."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, data)
    finally:
        os.close(descriptor)


def cgroup_processes(path: str) -> set[int]:
    """Return the processes in a cgroup and in those below it; none if it is gone."""
    found: set[int] = set()
    try:
        with open(f"{path}/cgroup.procs", "rb") as file:
            found.update(map(int, file.read().split()))
        if os.stat(path).st_nlink > 2:  # noqa: PLR2004 - "." and its own name: more are cgroups that the script made
            with os.scandir(path) as entries:
                below = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
            found.update(*map(cgroup_processes, below))
    except OSError:  # gone, or going
        pass
    return found - {0}  # 0: a process of another pid namespace


def descendants(ancestor: int) -> set[int]:
    """Return every process that descends from `ancestor` now; one that loses its parent meanwhile may be missed.

    It costs what the tree costs, not what the machine runs: one with thousands of processes is no reason to be late.
    """
    children = _children if _KERNEL_LISTS_CHILDREN else _table_of_children().get
    found: set[int] = set()
    waiting = [ancestor]
    while waiting:
        below = [child for child in children(waiting.pop(), ()) if child not in found]
        waiting.extend(below)
        found.update(below)
    return found


def _children(pid: int, none: Collection[int]) -> Collection[int]:
    """Return the children of all threads of a process; `none` when it is gone."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return none
    found: list[int] = []
    for thread in threads:
        with suppress(OSError), open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
            found.extend(map(int, file.read().split()))
    return found


def _table_of_children() -> dict[int, list[int]]:
    """Return the children of every process: for kernels without CONFIG_PROC_CHILDREN."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (parent := _parent(name)) is not None:
            children.setdefault(parent, []).append(int(name))
    return children


def _parent(name: str) -> int | None:
    fields = _stat(name)
    return int(fields[1]) if fields else None


def _stat(name: str) -> list[bytes]:
    """Return the fields of /proc/PID/stat from the state on; none if the process is gone."""
    try:
        with open(f"/proc/{name}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()
    except OSError:
        return []


def start_ticks(name: str = "self") -> int | None:
    """Return when a process started, in clock ticks since boot; None if it has ended, a zombie included."""
    fields = _stat(name)
    return int(fields[19]) if fields and fields[0] not in (b"Z", b"X") else None


def terminate_each(members: Callable[[], Collection[int]]) -> None:
    """Send SIGTERM once to every member there is, and to none that is born later: a handler may start its clean-up.

    They are stopped first, until nothing new appears: else one that is forking while its turn comes would leave a child
    that never heard the signal, and everybody would wait the whole grace for it.
    """
    pinned: dict[int, int] = {}
    quiet_rounds = 0
    for _ in range(_STOP_ROUNDS):
        newer = _pin(set(members()) - pinned.keys(), members)
        pinned |= newer
        for descriptor in newer.values():
            _send(descriptor, signal.SIGSTOP)
        quiet_rounds = 0 if newer else quiet_rounds + 1
        if quiet_rounds == _QUIET_ROUNDS:
            break
    for number in (signal.SIGTERM, signal.SIGCONT):
        for descriptor in pinned.values():
            _send(descriptor, number)
    for descriptor in pinned.values():
        os.close(descriptor)


def kill_each(members: Callable[[], Collection[int]]) -> None:
    """Send SIGKILL to every member there is; what they fork meanwhile is for the caller's next call."""
    for descriptor in _pin(members(), members).values():
        _send(descriptor, signal.SIGKILL)
        os.close(descriptor)


def _pin(pids: Collection[int], members: Callable[[], Collection[int]]) -> dict[int, int]:
    """Return pidfds of those `pids` that are members before and after: one that a stranger got in between is not."""
    pinned: dict[int, int] = {}
    for pid in pids:
        with suppress(OSError):
            pinned[pid] = os.pidfd_open(pid)
    still = members() if pinned else ()
    for pid in [pid for pid in pinned if pid not in still]:
        os.close(pinned.pop(pid))
    return pinned


def _send(descriptor: int, number: signal.Signals) -> None:
    with suppress(OSError):  # it has just ended
        signal.pidfd_send_signal(descriptor, number)


class ProcessTree:
    """The tree below this process, seen from its shim: the one place that collects the children that ended."""

    def __init__(self, cgroup: str | None) -> None:
        self.cgroup = cgroup
        self.leader = 0  # the script's own process, set once it exists
        self.leader_status: int | None = None  # its wait status, once it ended
        self.stepped_out = False  # of the cgroup: this process must not serve another script
        self._pid = os.getpid()

    def has_ended(self) -> bool:
        """Return whether the script's own process ended; what it started may still run."""
        self.reap()
        return self.leader_status is not None

    def reap(self) -> bool:
        """Collect every child that ended; return whether no descendant is left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return True
            if pid == 0:
                return False
            if pid == self.leader:
                self.leader_status = status

    def is_empty(self) -> bool:
        """Return whether nothing is left but this process."""
        return self.reap() and (self.cgroup is None or not self._others())

    def _others(self) -> set[int]:
        inside = set() if self.cgroup is None else cgroup_processes(self.cgroup)
        return inside - {self._pid}

    def _members(self) -> set[int]:
        return self._others() | descendants(self._pid)

    def wait_empty(self, *, timeout_s: float) -> bool:
        """Wait until the tree is empty; return whether it is. SIGCHLD must be blocked in this thread."""
        end_s = time.clock_gettime(time.CLOCK_BOOTTIME) + timeout_s
        while not self.is_empty():
            if time.clock_gettime(time.CLOCK_BOOTTIME) >= end_s:
                return False
            signal.sigtimedwait({signal.SIGCHLD}, _TICK_S)
        return True

    def end(self, *, grace_s: float) -> bool:
        """SIGTERM to each, `grace_s` to obey, then the kill that none survives. Return whether none is left."""
        terminate_each(self._members)
        if self.wait_empty(timeout_s=grace_s):
            return True
        if self.cgroup is not None:
            self.stepped_out = True
            with suppress(OSError):  # without it the sweep below must do
                os.makedirs(home := f"{os.path.dirname(self.cgroup)}/{HOME}", exist_ok=True)
                enter_cgroup(home)  # else the kill would take this process too
                kill_cgroup(self.cgroup)
        end_s = time.clock_gettime(time.CLOCK_BOOTTIME) + KILL_WAIT_S
        while not self.wait_empty(timeout_s=_TICK_S):
            # What a kill cannot reach at once: forked meanwhile, moved out of the cgroup, or there never was one.
            kill_each(self._members)
            if time.clock_gettime(time.CLOCK_BOOTTIME) >= end_s:
                return False
        return True


def kill_cgroup(path: str) -> None:
    """Kill everything in a cgroup at once; before Linux 5.14 the caller's repeated sweep does it."""
    try:
        write_file(f"{path}/cgroup.kill", b"1")
    except OSError:
        kill_each(lambda: cgroup_processes(path))


def end_cgroup(path: str, *, grace_s: float) -> tuple[bool, bool]:
    """End what a cgroup holds after its shim is gone. Return (something was alive, something may remain). Blocks."""
    return _end(lambda: cgroup_processes(path), lambda: kill_cgroup(path), grace_s=grace_s)


def end_marked(execution_id: str, *, grace_s: float) -> tuple[bool, bool]:
    """End the processes whose environment still names the execution: all that can be found without cgroup and shim.

    Return (something was alive, something that was found may remain). A process that cleared its environment is not
    found, and one of another user only by root.
    """
    mark = b"ENJOIN_EXECUTION_ID=" + execution_id.encode()

    def members() -> set[int]:
        return {int(name) for name in os.listdir("/proc") if name.isdigit() and _is_marked(name, mark)} - {os.getpid()}

    return _end(members, lambda: None, grace_s=grace_s)


def _is_marked(name: str, mark: bytes) -> bool:
    try:
        with open(f"/proc/{name}/environ", "rb") as file:
            return mark in file.read().split(b"\0")
    except OSError:
        return False


def _end(members: Callable[[], set[int]], kill: Callable[[], None], *, grace_s: float) -> tuple[bool, bool]:
    if not members():
        return False, False
    terminate_each(members)
    end_s = time.monotonic() + grace_s
    while members() and time.monotonic() < end_s:
        select.select([], [], [], _TICK_S)
    end_s = time.monotonic() + KILL_WAIT_S
    while members() and time.monotonic() < end_s:
        kill()
        kill_each(members)
        select.select([], [], [], _TICK_S)
    return True, bool(members())

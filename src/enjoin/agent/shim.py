"""What owns one script. It outlives the agent, and it alone has the right to start the script.

The process is a spare of the fork server's pool (`spare.py`). It imports nothing after its fork, for an upgrade may
have replaced the files, and only the standard library before. Signals meant for the agent do not end it; SIGUSR1 makes
it look for its bundle's `cancel`. On the control socket it says, in JSON: `{"is": "started", ...}` with its own pidfd
beside it, `{"is": "claimed"}` if the right to start was taken before, `{"is": "exit", ...}` once that is durable. End
of file without the last one is its death. What it writes is described in `bundle.py`.
"""

import errno
import fcntl
import json
import os
import signal
import socket
import time
from contextlib import ExitStack, suppress
from typing import Final, NamedTuple

from enjoin.agent.containment import ProcessTree, write_file
from enjoin.agent.records import append, raw
from enjoin.crashpoints import crash_point

PRELUDE_DESCRIPTOR: Final = 3  # as in interpreter.py, which no shim loads
SLICE_S: Final = 1.0  # waits count monotonic time: a suspend makes a deadline late by one slice at most
EXIT_RETRIES: Final = 600  # of a record that the disk refuses, one a second
WOKEN_BY: Final = {signal.SIGCHLD, signal.SIGUSR1}
ALL_SIGNALS: Final = sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})
WHY_NOT: Final = {
    errno.ENOENT: "there is no such file (or its own loader or interpreter is missing)",
    errno.EACCES: "it may not be executed (no permission, or a file system mounted noexec)",
    errno.ENOEXEC: "it is not a program for this machine",
    errno.E2BIG: "the parameters are longer than the kernel allows",
}


class Owner(NamedTuple):
    """The process that runs this, as it knows itself."""

    identity: dict[str, object]  # boot_id, pid, start_ticks, cgroup: the part of `started` that is the same for all
    cgroup: str | None
    pidfd: int
    oom_score_adj: int  # negative: the OOM killer spares this process, and must not spare the script


class Run:
    """One execution, from its request to its exit record. `held` closes every descriptor of it, `started` last."""

    def __init__(self, owner: Owner, held: ExitStack, spec: int, control: int) -> None:
        self._owner, self._held = owner, held
        self._control = held.enter_context(socket.socket(fileno=control))
        held.callback(os.close, spec)
        self._spec = json.loads(os.pread(spec, os.fstat(spec).st_size, 0))
        self._tree = ProcessTree(owner.cgroup)
        self._directory = -1
        self._began_s = time.clock_gettime(time.CLOCK_BOOTTIME)

    def serve(self) -> bool:
        """Return whether this process may serve another script: nothing is left of this one."""
        try:
            claim = self._claim()
        except OSError as error:
            self._tell("exit", self._record("could_not_start", message=f"the start could not be recorded: {error}"))
            return True
        if claim is None:
            self._tell("claimed", {})
            return True
        if self._canceled():
            return self._finish(self._record("canceled"))
        try:
            self._tree.leader = self._spawn()
        except OSError as error:
            program, reason = self._spec["argv"][0], WHY_NOT.get(error.errno or 0, os.strerror(error.errno or 0))
            return self._finish(self._record("could_not_start", message=f"{program} could not be started: {reason}"))
        self._tell("started", claim, self._owner.pidfd)
        return self._finish(record := self._watch()) and self._linger(record)

    def _claim(self) -> dict[str, object] | None:
        """Take the right to start, durably; None if it was taken before."""
        self._directory = os.open(self._spec["bundle"], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._held.callback(os.close, self._directory)
        try:
            started = self._open("started", os.O_RDWR | os.O_EXCL)
        except FileExistsError:
            return None
        try:
            fcntl.lockf(started, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # a recovering agent saw it empty and makes it final
            return None
        if os.fstat(started).st_size:
            return None
        fields = ("execution_id", "start_number")
        claim = {field: self._spec[field] for field in fields} | self._owner.identity | {"wall_s": time.time()}
        try:
            append(started, claim)
            crash_point("shim.started.before")
            os.fsync(started)
            crash_point("shim.started.after")
            crash_point("shim.directory.before")
            os.fsync(self._directory)  # the names `started` and `exit`
            crash_point("shim.directory.after")
        except OSError:
            with suppress(OSError):
                os.unlink("started", dir_fd=self._directory)  # nothing was started
            raise
        return claim

    def _open(self, name: str, flags: int, held: ExitStack | None = None) -> int:
        """Open a file of the bundle, made if need be, for as long as `held`: the run, if not given."""
        flags |= os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(name, flags, 0o600, dir_fd=self._directory)
        (held or self._held).callback(os.close, descriptor)
        return descriptor

    def _spawn(self) -> int:
        argv = [raw(word) for word in self._spec["argv"]]
        environment = {raw(name): raw(value) for name, value in self._spec["env"]}
        actions: list[tuple[int, ...] | tuple[int, int, str, int, int]] = [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, self._open("stdout", os.O_WRONLY | os.O_APPEND), 1),
            (os.POSIX_SPAWN_DUP2, self._open("stderr", os.O_WRONLY | os.O_APPEND), 2),
        ]
        if self._spec["prelude"] is not None:
            prelude = os.memfd_create("parameters")
            self._held.callback(os.close, prelude)
            os.write(prelude, raw(self._spec["prelude"]))
            actions.append((os.POSIX_SPAWN_DUP2, prelude, PRELUDE_DESCRIPTOR))
        work = os.open("work", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=self._directory)
        self._held.callback(os.close, work)
        try:
            os.fchdir(work)
            self._set_oom_score_adj(0)
            self._began_s = time.clock_gettime(time.CLOCK_BOOTTIME)
            return os.posix_spawn(
                argv[0], argv, environment, file_actions=actions, setsid=True, setsigmask=(), setsigdef=ALL_SIGNALS
            )
        finally:
            self._set_oom_score_adj(self._owner.oom_score_adj)
            os.chdir("/")

    def _set_oom_score_adj(self, value: int) -> None:
        if self._owner.oom_score_adj < 0:
            with suppress(OSError):
                write_file("/proc/self/oom_score_adj", b"%d" % value)

    def _watch(self) -> dict[str, object]:
        """Wait for the script's end, or end it; return the exit record."""
        limit_s, tree, woken = self._spec["timeout_s"], self._tree, None
        while not tree.has_ended():
            left_s = SLICE_S if limit_s is None else self._began_s + limit_s - time.clock_gettime(time.CLOCK_BOOTTIME)
            if left_s <= 0:
                return self._end("timed_out")
            if woken is not None and woken.si_signo == signal.SIGUSR1 and self._canceled():
                return self._end("canceled")
            woken = (
                signal.sigwaitinfo(WOKEN_BY) if limit_s is None else signal.sigtimedwait(WOKEN_BY, min(SLICE_S, left_s))
            )
        left = not tree.is_empty()
        if left and self._spec["end_leftovers"]:
            left = not tree.end(grace_s=self._spec["grace_s"])
        return self._record("exited", leftovers=left)

    def _end(self, reason: str) -> dict[str, object]:
        gone = self._tree.end(grace_s=self._spec["grace_s"])
        return self._record(reason, leftovers=not gone)

    def _canceled(self) -> bool:
        """Whether the bundle of this very run asks for it: a late signal for an earlier one means nothing."""
        return os.access("cancel", os.F_OK, dir_fd=self._directory, follow_symlinks=False)

    def _record(self, reason: str, *, message: str = "", leftovers: bool = False) -> dict[str, object]:
        status = self._tree.leader_status
        code = -1 if status is None else os.waitstatus_to_exitcode(status)
        if reason == "exited" and code < 0:
            reason = "signaled"
        if reason == "canceled":
            with suppress(OSError), open(self._open("cancel", os.O_RDONLY), "rb", closefd=False) as file:
                message = file.read(4096).decode("utf-8", "replace")
        sizes = {"stdout_bytes": 0, "stderr_bytes": 0}
        for name in ("stdout", "stderr"):
            with suppress(OSError):
                sizes[f"{name}_bytes"] = os.stat(name, dir_fd=self._directory, follow_symlinks=False).st_size
        return {
            "exit_code": -1 if code < 0 or reason == "timed_out" else code,
            "signal": -code if status is not None and code < 0 else None,
            "reason": reason,
            "message": message,
            "wall_s": time.time(),
            "duration_s": time.clock_gettime(time.CLOCK_BOOTTIME) - self._began_s,
            "leftovers": leftovers,
            **sizes,
        }

    def _finish(self, record: dict[str, object]) -> bool:
        """Write the exit record durably, then tell the agent; return whether it was written.

        A full disk delays the first, not the second. Where there is no record, the cgroup must stay this script's.
        """
        for attempt in range(EXIT_RETRIES):
            try:
                self._append(record)
            except OSError:
                if attempt == 0:
                    self._tell("exit", record)
                time.sleep(1)
            else:
                self._tell("exit", record)
                self._control.close()
                return True
        return False

    def _append(self, record: dict[str, object]) -> None:
        with ExitStack() as held:
            append(descriptor := self._open("exit", os.O_WRONLY | os.O_APPEND, held), record)
            crash_point("shim.exit.before")
            os.fdatasync(descriptor)  # its name became durable with `started`
            crash_point("shim.exit.after")

    def _linger(self, record: dict[str, object]) -> bool:
        """Stay with what the script left behind if nobody else could end it; return whether nothing is left of it."""
        if not record["leftovers"]:
            return not self._tree.stepped_out
        if self._owner.cgroup is not None:
            return False  # the cgroup is now that of the leftovers: the agent ends them by it
        while not self._tree.reap():
            if self._canceled():
                self._tree.end(grace_s=self._spec["grace_s"])
                break
            signal.sigwaitinfo(WOKEN_BY)
        if gone := self._tree.reap():
            with suppress(OSError):
                self._append(record | {"leftovers": False})
        return gone

    def _tell(self, what: str, fields: dict[str, object], *descriptors: int) -> None:
        with suppress(OSError):  # the agent is gone: its successor reads the bundle
            socket.send_fds(self._control, [json.dumps({"is": what} | fields).encode()], descriptors)

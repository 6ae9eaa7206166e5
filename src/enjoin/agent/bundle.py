"""One directory per execution: what was asked of this machine, and what came of it.

STATE/bundles/<execution id>/ (0700)
    script          what is run (0500)
    work/           its working directory (0700)
    stdout, stderr  what it wrote; the script itself appends to them (0600)
    started         the claim: whoever creates it may start the script, nobody else ever (0600). Its POSIX lock is held
                    by the shim for as long as that lives, so the kernel knows who it is
    exit            made empty, and filled with one sealed line when the script ended (0600). Filling it costs one
                    fdatasync; its name became durable together with `started`. The last whole line counts
    cancel          the reason to end the script: written by the agent, looked at by the shim after SIGUSR1 (0600)
"""

import fcntl
import os
import re
import stat
import struct
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final, TypeVar

from enjoin.agent.containment import unescaped
from enjoin.agent.records import append, unseal
from enjoin.crashpoints import crash_point

MAX_REMOVED: Final = 100_000  # entries that one call of `Bundle.remove` deletes at most
MAX_RECORD_BYTES: Final = 64 * 1024  # a `started` or `exit` is a few hundred; what is longer is not ours

_FORBIDDEN: Final[dict[str, object]] = {"forbidden": True}  # what `started` says when nobody may start the script
_MAX_DEPTH: Final = 100  # open directories during removal; deeper ones are moved up first
_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,63}", re.ASCII)
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
_KEPT: Final = ("script", "started", "exit", "cancel", "stdout", "stderr", "script.draft")
_FLOCK: Final = struct.Struct("@hhqqi4x")  # struct flock on 64-bit Linux


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """What the shim wrote when it claimed the start. A field that a later version adds needs a default."""

    execution_id: str
    boot_id: str
    pid: int  # of the shim
    start_ticks: int  # when that process started, in clock ticks since boot
    start_number: int
    cgroup: str | None  # None: contained by the subreaper alone
    wall_s: float  # since the epoch; for people


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """How the script ended, as its shim saw it. A field that a later version adds needs a default."""

    exit_code: int  # the script's own; -1 for a signal, the timeout, or when it could not be started
    signal: int | None
    reason: str  # "exited", "signaled", "timed_out", "canceled" or "could_not_start"
    message: str = ""  # why it could not be started, or why it was canceled
    wall_s: float  # since the epoch; for people
    duration_s: float
    leftovers: bool  # processes that the script started were still there
    stdout_bytes: int
    stderr_bytes: int


_Record = TypeVar("_Record", Started, Exit)


@dataclass(frozen=True, slots=True)
class Bundle:
    """The directory of one execution. Reading never raises for what a crash may have left behind."""

    path: Path

    @classmethod
    def of(cls, state_directory: Path, execution_id: str) -> "Bundle":
        """Return the bundle of `execution_id`, whether or not it exists."""
        if not _ID.fullmatch(execution_id):
            message = f"execution id {execution_id[:80]!r}: letters, digits and hyphens are allowed, at most 64"
            raise ValueError(message)
        return cls(state_directory / "bundles" / execution_id)

    @property
    def execution_id(self) -> str:
        """Return the execution that it belongs to."""
        return self.path.name

    @property
    def script(self) -> Path:
        """Return where the script lies."""
        return self.path / "script"

    @property
    def stdout(self) -> Path:
        """Return what the script writes to its standard output."""
        return self.path / "stdout"

    @property
    def stderr(self) -> Path:
        """Return what the script writes to its standard error."""
        return self.path / "stderr"

    @property
    def started(self) -> Path:
        """Return the claim."""
        return self.path / "started"

    @property
    def exit(self) -> Path:
        """Return the exit record."""
        return self.path / "exit"

    def create(self, script: bytes) -> None:
        """Make everything that a shim needs. Repeating it mends a half-made bundle; a claimed one is left alone.

        Nothing is synced: until `started` is durable the journal is the truth, and this can be repeated.
        """
        base = os.fspath(self.path)
        is_new = _make_directory(base)
        if not is_new and self.is_claimed():
            return
        directory = os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if not is_new:
                with suppress(FileNotFoundError):
                    os.unlink("script.draft", dir_fd=directory)
            _make_directory("work", directory)
            name = "script" if is_new else "script.draft"  # of an old one a shim may be reading
            _write_new(name, script, directory)
            if not is_new:
                os.rename(name, "script", src_dir_fd=directory, dst_dir_fd=directory)
            for name in ("stdout", "stderr", "exit"):  # never truncated: a shim may be claiming right now
                os.close(os.open(name, _CREATE, 0o600, dir_fd=directory))
        finally:
            os.close(directory)

    def is_claimed(self) -> bool:
        """Return whether a shim has, or had, the right to start the script; a torn `started` is a claim too."""
        return os.path.lexists(self.started)

    def has_whole_claim(self) -> bool:
        """Return whether `started` says to the end who may start the script, or that nobody may."""
        return _read_fields(self.started) is not None

    def read_started(self) -> Started | None:
        """Return the claim; None if there is none, or only a torn one."""
        return _read(self.started, Started)

    def read_exit(self) -> Exit | None:
        """Return how the script ended; None if that is not recorded, or only torn."""
        return _read(self.exit, Exit)

    def request_cancel(self, reason: str) -> None:
        """Leave the reason to end the script; then wake its shim with SIGUSR1. The first reason stays."""
        with suppress(FileExistsError, FileNotFoundError):  # asked before; removed meanwhile
            descriptor = os.open(
                self.path / "cancel", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
            )
            with os.fdopen(descriptor, "wb") as file:
                file.write(reason.encode())

    def lock_holder(self) -> int | None:
        """Return the pid of the shim that holds `started`, as the kernel names it; None if there is none."""
        try:
            descriptor = os.open(self.started, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return None
        try:
            asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            kind, _, _, _, pid = _FLOCK.unpack(fcntl.fcntl(descriptor, fcntl.F_GETLK, asked))
        finally:
            os.close(descriptor)
        return None if kind == fcntl.F_UNLCK else int(pid)

    def forbid_start(self) -> bool:
        """Take the right to start, durably and for ever, so that no shim that still has a request for it gets it.

        Return False when a shim got it first. A shim starts nothing unless it finds `started` empty under its lock: so
        this also settles a claim that was never written.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(self.started, flags, 0o600)
        try:
            try:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return False
            # By this descriptor: closing any other one of the file would drop the lock.
            held = unseal(os.pread(descriptor, MAX_RECORD_BYTES, 0))
            if held is not None:
                return held == _FORBIDDEN
            append(descriptor, _FORBIDDEN)
            crash_point("bundle.forbid.before")
            os.fsync(descriptor)
            crash_point("bundle.forbid.after")
        finally:
            os.close(descriptor)
        sync_directory(self.path, point="bundle.forbid.directory")
        return True

    def remove(self, *, limit: int = MAX_REMOVED) -> bool:
        """Delete the directory, at most `limit` entries of it; return whether it is gone. Blocks; never raises OSError.

        No symbolic link is followed. What the script mounted below is not entered: then False, for ever, until a
        person unmounts it.
        """
        if _remove_plain(os.fspath(self.path)):
            return True
        if _has_mounts(self.path):
            return False
        remover = _Remover(limit)
        with suppress(OSError):
            parent = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                remover.remove(parent, self.path.name)
            finally:
                os.close(parent)
        return not os.path.lexists(self.path)


def _make_directory(path: str, within: int | None = None) -> bool:
    """Make a private directory, and its parent; return whether it is new."""
    try:
        os.mkdir(path, 0o700, dir_fd=within)
    except FileExistsError:
        return False
    except FileNotFoundError:
        os.mkdir(os.path.dirname(path), 0o700)  # noqa: PTH102, PTH120 - the same
        os.mkdir(path, 0o700)  # noqa: PTH102 - the same
    return True


def _write_new(name: str, data: bytes, directory: int) -> None:
    descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o500, dir_fd=directory)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
    finally:
        os.close(descriptor)


class _Remover:
    """Deletes a tree without recursion into paths: each step holds its directory open."""

    def __init__(self, limit: int) -> None:
        self._left = limit
        self._moved_up = False  # since the last look

    def remove(self, parent: int, name: str, top: int | None = None, depth: int = 0) -> None:
        """Delete the directory `name` in `parent`; `top` is the directory that everything too deep is moved to."""
        descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            self._clear(descriptor, descriptor if top is None else top, depth)
        finally:
            os.close(descriptor)
        with suppress(OSError):  # something in it could not be deleted
            os.rmdir(name, dir_fd=parent)

    def _clear(self, directory: int, top: int, depth: int) -> None:
        with suppress(OSError):  # a directory without permissions of its own
            if stat.S_IMODE(os.fstat(directory).st_mode) & stat.S_IRWXU != stat.S_IRWXU:
                os.fchmod(directory, stat.S_IRWXU)
        self._delete_entries(directory, top, depth)
        while depth == 0 and self._moved_up and self._left > 0:
            self._moved_up = False
            self._delete_entries(directory, top, depth)

    def _delete_entries(self, directory: int, top: int, depth: int) -> None:
        with os.scandir(directory) as entries:
            listed = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
        for name, is_directory in listed:
            if self._left <= 0:
                return
            self._left -= 1
            with suppress(OSError):  # immutable, or gone: the caller sees that something is left
                if not is_directory:
                    os.unlink(name, dir_fd=directory)
                elif depth < _MAX_DEPTH:
                    self.remove(directory, name, top, depth + 1)
                else:
                    os.rename(name, f".deep-{os.urandom(8).hex()}", src_dir_fd=directory, dst_dir_fd=top)
                    self._moved_up = True


def _remove_plain(base: str) -> bool:
    """Delete a bundle whose script left nothing in `work`; return whether it is gone."""
    try:
        directory = os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    try:
        with suppress(FileNotFoundError):
            os.rmdir("work", dir_fd=directory)
        for name in _KEPT:
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=directory)
        os.rmdir(base)  # noqa: PTH106 - as in _make_directory
    except OSError:
        return False
    finally:
        os.close(directory)
    return True


def _has_mounts(path: Path) -> bool:
    prefix = f"{os.path.realpath(path)}/"
    mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    points = (unescaped(line.split(" ")[4]) for line in mounts)
    return any(f"{point}/".startswith(prefix) for point in points)


def _read_fields(path: Path) -> dict[str, Any] | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        return unseal(file.read(MAX_RECORD_BYTES))


def _read(path: Path, kind: type[_Record]) -> _Record | None:
    """Return the record in `path`. A shim of another version may have written it: what is unknown is passed over."""
    found = _read_fields(path)
    known = {field.name for field in fields(kind)}
    try:
        return None if found is None else kind(**{name: value for name, value in found.items() if name in known})
    except TypeError:  # something is missing
        return None


def boot_id() -> str:
    """Return the kernel's name for the time since this machine started."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def write_durably(path: Path, data: bytes, *, point: str) -> None:
    """Replace `path`. After a crash it holds the old bytes or the new, never both. `point` begins its crash points."""
    draft = path.with_name(f"{path.name}.draft")
    with draft.open("wb") as file:
        file.write(data)
        file.flush()
        crash_point(f"{point}.before")
        os.fsync(file.fileno())
        crash_point(f"{point}.after")
    draft.replace(path)
    sync_directory(path.parent, point=f"{point}.directory")


def sync_directory(path: Path, *, point: str) -> None:
    """Make the names in a directory survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        crash_point(f"{point}.before")
        os.fsync(descriptor)
        crash_point(f"{point}.after")
    finally:
        os.close(descriptor)

"""Real control planes and agents for acceptance tests: the installed `enjoin`, started, stopped, killed and restarted.

    with Fleet(tmp_path) as fleet:
        server = fleet.control_plane()                     # options of `enjoin serve` and variables can be given
        agent = fleet.agent(server, "m1", kind="vm")       # joined and connected
        done = server.enjoin("run", "m1", "--", "echo hello")

Nothing outlives the `with`: neither a process nor a script. A server keeps its port and its data across restarts, an
agent its state directory.
"""

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar
from urllib.parse import urlsplit

from enjoin.agent.bundle import Bundle
from enjoin.agent.containment import (
    cgroup_processes,
    cgroups_below,
    descendants,
    find_base,
    kill_cgroup,
    kill_each,
    remove_base,
)

LIMIT_S: Final = 30.0  # for what must come about; a test that meets it has failed
ENJOIN: Final = (sys.executable, "-m", "enjoin.cli.main")
_LOOK_S: Final = 0.02

T = TypeVar("T")


class NeverCame(AssertionError):
    """What a test waited for did not happen in time."""


def until(look: Callable[[], T], what: str, *, limit_s: float = LIMIT_S) -> T:
    """Look until there is something to see, and return it; fail with `what` when it does not come about."""
    end_s = time.monotonic() + limit_s
    while not (seen := look()):
        if time.monotonic() > end_s:
            message = f"never came about in {limit_s:g} s: {what}"
            raise NeverCame(message)
        time.sleep(_LOOK_S)
    return seen


def environment(*more: Mapping[str, str] | None) -> dict[str, str]:
    """Return this process's environment without what is meant for Enjoin, and then `more`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ENJOIN_")}
    for variables in more:
        kept |= variables or {}
    return kept


def run_enjoin(
    *words: str | Path, env: Mapping[str, str] | None = None, stdin: bytes = b"", limit_s: float = 120.0
) -> subprocess.CompletedProcess[bytes]:
    """Run `enjoin` with these words to its end; the exit code is the caller's to look at."""
    return subprocess.run(
        [*ENJOIN, *map(str, words)],
        env=environment(env),
        input=stdin,
        check=False,
        capture_output=True,
        timeout=limit_s,
    )


class Process:
    """One run of a long-lived command: its stdout by line as it comes, its stderr appended to a file."""

    def __init__(
        self, words: Sequence[str], *, env: Mapping[str, str], log: Path, under: Sequence[str | Path] = ()
    ) -> None:
        """Start `enjoin WORDS`; `under` are words before it, such as a tracer's."""
        self.words, self._log = words, log
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [*map(str, under), *ENJOIN, *words],
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        self.pid = self._process.pid
        self._lines: list[str] = []
        self._news = threading.Condition()
        self._has_ended = False
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as stdout:
            for line in stdout:
                with self._news:
                    self._lines.append(line.decode(errors="replace").rstrip("\n"))
                    self._news.notify_all()
        with self._news:
            self._has_ended = True
            self._news.notify_all()

    def wait_for_line(self, beginning: str, *, count: int = 1, limit_s: float = LIMIT_S) -> str:
        """Return the `count`th line that begins so, as soon as it was printed."""

        def found() -> list[str]:
            return [line for line in self._lines if line.startswith(beginning)]

        with self._news:
            self._news.wait_for(lambda: len(found()) >= count or self._has_ended, timeout=limit_s)
            if len(found()) < count:
                message = (
                    f"{self!r} printed {self._lines}, not {count} times {beginning!r}; its log:\n{self.log_tail()}"
                )
                raise NeverCame(message)
            return found()[count - 1]

    def count_lines(self, beginning: str) -> int:
        """Return how many lines that begin so were printed until now."""
        with self._news:
            return sum(line.startswith(beginning) for line in self._lines)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    def wait(self, *, limit_s: float = LIMIT_S) -> int:
        """Wait for the end; return the exit code, negative for a signal."""
        try:
            return self._process.wait(limit_s)
        except subprocess.TimeoutExpired:
            message = f"{self!r} is still there; its log:\n{self.log_tail()}"
            raise NeverCame(message) from None

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def kill(self) -> None:
        """SIGKILL it, if it still runs, and wait until it is gone."""
        self._process.kill()
        self._process.wait()

    def log_tail(self) -> str:
        """Return the end of what it wrote to stderr."""
        return self._log.read_text(errors="replace")[-4000:]

    def __repr__(self) -> str:
        return f"enjoin {' '.join(self.words)}"


class ControlPlane:
    """`enjoin serve` on a data directory: the same port and the same data at each start."""

    def __init__(self, directory: Path, *options: str, env: Mapping[str, str] | None = None) -> None:
        self.data_dir, self.log = directory, directory.with_name(f"{directory.name}.log")
        self._options, self._env = options, dict(env or {})
        self._listen = "127.0.0.1:0"
        self.process: Process | None = None

    @property
    def connection_file(self) -> Path:
        """What `ENJOIN_CONNECTION` is to name."""
        return self.data_dir / "connection.json"

    @property
    def connection(self) -> dict[str, str]:
        """What the connection file says now."""
        content: dict[str, str] = json.loads(self.connection_file.read_bytes())
        return content

    @property
    def endpoint(self) -> str:
        """Where it is."""
        return self.connection["endpoint"]

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self.process is not None
        return self.process.pid

    def launch(self, *, env: Mapping[str, str] | None = None, under: Sequence[str | Path] = ()) -> Process:
        """Start it and do not wait; `env` and `under` hold for this start only."""
        assert self.process is None or not self.process.is_running
        words = ["serve", "--data-dir", str(self.data_dir), "--listen", self._listen, *self._options]
        self.process = Process(words, env=environment(self._env, env), log=self.log, under=under)
        return self.process

    def start(self, *, env: Mapping[str, str] | None = None, under: Sequence[str | Path] = ()) -> Self:
        """Start it and wait until it accepts connections."""
        line = self.launch(env=env, under=under).wait_for_line("ready ")
        if "--public-url" not in self._options:
            self._listen = urlsplit(line.removeprefix("ready ")).netloc
        return self

    def stop(self) -> None:
        """SIGTERM it; it has to end by itself with 0."""
        assert self.process is not None
        self.process.signal(signal.SIGTERM)
        code = self.process.wait(limit_s=10.0)
        assert code == 0, f"exit code {code} after SIGTERM; its log:\n{self.process.log_tail()}"

    def kill(self) -> None:
        """SIGKILL it."""
        assert self.process is not None
        self.process.kill()

    def restart(self) -> Self:
        """Start it again where it was, killing it first if it still runs."""
        self.kill()
        return self.start()

    def logs(self) -> str:
        """Return all that it ever wrote to stderr."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    @property
    def environment(self) -> dict[str, str]:
        """What points the client at it."""
        return {"ENJOIN_CONNECTION": str(self.connection_file)}

    def enjoin(
        self, *words: str | Path, env: Mapping[str, str] | None = None, stdin: bytes = b"", limit_s: float = 120.0
    ) -> subprocess.CompletedProcess[bytes]:
        """Run `enjoin` against it, to its end."""
        return run_enjoin(*words, env={**self.environment, **(env or {})}, stdin=stdin, limit_s=limit_s)

    def text(self, *words: str | Path) -> str:
        """Return the stripped stdout of an `enjoin` command that has to exit 0."""
        done = self.enjoin(*words)
        assert done.returncode == 0, f"enjoin {words}: exit {done.returncode}: {done.stderr.decode()}"
        return done.stdout.decode().strip()

    def token(self) -> str:
        """Return a new enrolment token."""
        return self.text("token", "create")

    def close(self) -> None:
        """Leave nothing running, and see that it never broke."""
        if self.process is not None:
            self.process.kill()
        assert "Traceback" not in self.logs(), self.logs()


class Agent:
    """`enjoin agent` on a state directory that `join` made."""

    def __init__(self, state_dir: Path, *, env: Mapping[str, str] | None = None) -> None:
        self.state_dir, self.log = state_dir, state_dir.with_name(f"{state_dir.name}.log")
        self._env = dict(env or {})
        self.process: Process | None = None
        self.resource_id = ""

    @property
    def name(self) -> str:
        """The machine's name."""
        return self.resource_id.rpartition("/")[2]

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self.process is not None
        return self.process.pid

    def join(
        self, server: ControlPlane, name: str, *options: str, kind: str = "arc", endpoint: str | None = None
    ) -> Self:
        """Enrol the machine; `endpoint` is where it finds the server when that is not where clients find it."""
        connection = server.connection
        words: list[str | Path] = ["join", "--server", endpoint or connection["endpoint"], "--token-file", "-"]
        words += ["--ca-file", connection["ca_file"], "--name", name, "--as", kind, "--state-dir", self.state_dir]
        done = run_enjoin(*words, *options, stdin=server.token().encode())
        assert done.returncode == 0, done.stderr.decode()
        self.resource_id = done.stdout.decode().strip()
        return self

    def launch(self, *, env: Mapping[str, str] | None = None, under: Sequence[str | Path] = ()) -> Process:
        """Start it and do not wait; `env` and `under` hold for this start only."""
        assert self.process is None or not self.process.is_running
        words = ["agent", "--state-dir", str(self.state_dir)]
        self.process = Process(words, env=environment(self._env, env), log=self.log, under=under)
        return self.process

    def start(self, *, env: Mapping[str, str] | None = None, under: Sequence[str | Path] = ()) -> Self:
        """Start it and wait until it is connected."""
        self.launch(env=env, under=under).wait_for_line("connected")
        return self

    def wait_connected(self, count: int) -> None:
        """Wait until it connected for the `count`th time since its start."""
        assert self.process is not None
        self.process.wait_for_line("connected", count=count)

    def stop(self) -> None:
        """SIGTERM it; it has to end by itself with 0. Scripts go on."""
        assert self.process is not None
        self.process.signal(signal.SIGTERM)
        code = self.process.wait(limit_s=5.0)
        assert code == 0, f"exit code {code} after SIGTERM; its log:\n{self.process.log_tail()}"

    def kill(self) -> None:
        """SIGKILL it. Scripts go on."""
        assert self.process is not None
        self.process.kill()

    def restart(self) -> Self:
        """Start it again, killing it first if it still runs."""
        self.kill()
        return self.start()

    def logs(self) -> str:
        """Return all that it ever wrote to stderr."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    @property
    def bundles(self) -> list[Bundle]:
        """The directories of the executions that this machine holds, oldest first."""
        return [Bundle(path) for path in sorted(self.state_dir.glob("bundles/*"))]

    def close(self) -> None:
        """Leave nothing running, no agent, no script, no shim, and see that it never broke."""
        if self.process is not None:
            self.process.kill()
        for bundle in self.bundles:
            if (shim := bundle.lock_holder()) is not None:  # first what is below it: its children would leave our sight
                kill_below(shim)
                with suppress(ProcessLookupError):
                    os.kill(shim, signal.SIGKILL)
            kill_scripts(bundle.execution_id)
        if (base := find_base(str(self.state_dir))) is not None:
            for cgroup in cgroups_below(base):
                kill_cgroup(cgroup)
            until(lambda: not any(map(cgroup_processes, cgroups_below(base))), "its cgroups are empty")
            remove_base(base)
        assert "Traceback" not in self.logs(), self.logs()


class Fleet:
    """Control planes and agents below one directory, all ended with the `with`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._servers: list[ControlPlane] = []
        self._agents: list[Agent] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        broken = []
        ends = [agent.close for agent in self._agents] + [server.close for server in self._servers]
        for end in ends:
            try:
                end()
            except AssertionError as failure:
                broken.append(str(failure))
        assert not broken, "\n".join(broken)

    def new_control_plane(self, *options: str, env: Mapping[str, str] | None = None) -> ControlPlane:
        """Return one that is not started yet."""
        server = ControlPlane(self.directory / f"control{len(self._servers)}", *options, env=env)
        self._servers.append(server)
        return server

    def control_plane(self, *options: str, env: Mapping[str, str] | None = None) -> ControlPlane:
        """Start a control plane with these options of `enjoin serve`."""
        return self.new_control_plane(*options, env=env).start()

    def new_agent(
        self,
        server: ControlPlane,
        name: str,
        *,
        kind: str = "arc",
        env: Mapping[str, str] | None = None,
        endpoint: str | None = None,
    ) -> Agent:
        """Join a machine whose agent is not started yet."""
        agent = Agent(self.directory / f"machine{len(self._agents)}-{name}", env=env)
        self._agents.append(agent)
        return agent.join(server, name, kind=kind, endpoint=endpoint)

    def agent(
        self,
        server: ControlPlane,
        name: str,
        *,
        kind: str = "arc",
        env: Mapping[str, str] | None = None,
        endpoint: str | None = None,
    ) -> Agent:
        """Join a machine and start its agent; return when it is connected."""
        return self.new_agent(server, name, kind=kind, env=env, endpoint=endpoint).start()


def kill_below(ancestor: int) -> None:
    """SIGKILL the descendants of a subreaper until there is none."""
    end_s = time.monotonic() + LIMIT_S
    while descendants(ancestor) and time.monotonic() < end_s:
        kill_each(lambda: descendants(ancestor))


def processes_of(execution_id: str) -> list[int]:
    """Return the living processes whose environment names the execution: found by no name and no pid that it told."""
    mark = f"ENJOIN_EXECUTION_ID={execution_id}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
    return found


def kill_scripts(execution_id: str) -> None:
    """SIGKILL the processes of an execution until there is none."""
    for _ in range(100):
        found = processes_of(execution_id)
        if not found:
            return
        for pid in found:
            with suppress(ProcessLookupError, PermissionError):
                pidfd = os.pidfd_open(pid)
                try:
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                    select.select([pidfd], [], [], 1.0)
                finally:
                    os.close(pidfd)

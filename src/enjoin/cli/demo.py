"""`enjoin demo`: the whole of it on one machine, in a directory that is gone afterwards."""

import os
import selectors
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import IO, Any, Final, Self

import click
from rich.console import Console
from rich.text import Text

from enjoin.cli.client import Client
from enjoin.cli.connection import Connection, load
from enjoin.cli.failure import Failure
from enjoin.cli.machines import find_machine
from enjoin.cli.present import print_fields, print_json

MACHINE: Final = "demo"
COMMAND: Final = "hello"
SCRIPT: Final = """\
echo "hello from $(hostname), process $$"
for number in 1 2 3 4; do
    sleep 0.3
    echo "line $number, $greeting"
done
echo "this line went to stderr" >&2
"""
PARAMETER: Final = "greeting=written just now"
START_TIMEOUT_S: Final = 30.0
STOP_TIMEOUT_S: Final = 12.0  # the control plane promises 10
STYLES: Final = {"stdout": "green", "stderr": "yellow"}


@click.command(short_help="Show it all at once on this machine, and leave nothing behind.")
def demo() -> int:
    """Start a control plane and an agent here, run a first script with live output, show the instance view, stop all.

    Everything is in a temporary directory that is removed at the end; no port is open but one on 127.0.0.1.
    """
    with Interruption() as interruption, tempfile.TemporaryDirectory(prefix="enjoin-demo-") as name:
        stage = Stage(Path(name), interruption)
        try:
            return _play(stage)
        finally:
            interruption.hold()  # what is begun to be cleared is cleared to the end
            stage.clear()


def _play(stage: "Stage") -> int:
    data, state = stage.directory / "control-plane", stage.directory / "machine"
    stage.say("A control plane. It makes its own certificate authority, a subscription and an administrator.")
    stage.start("serve", "--data-dir", str(data), "--listen", "127.0.0.1:0", until="ready ")
    stage.connection = load(str(data / "connection.json"))
    stage.say("A token with which one machine may join, and the machine: it makes its keys itself, and only dials out.")
    token_file = stage.directory / "token"
    token_file.touch(mode=0o600)
    token_file.write_text(stage.run("token", "create", show_output=False))
    server = ("--server", stage.connection.endpoint, "--ca-file", str(stage.connection.ca_file))
    join = ("--token-file", str(token_file), "--name", MACHINE, "--state-dir", str(state))
    stage.run("join", *server, *join)
    stage.start("agent", "--state-dir", str(state), until="connected")
    stage.say("A script, its lines as they appear.")
    code = stage.follow("run", MACHINE, "--name", COMMAND, "-p", PARAMETER, "--", SCRIPT)
    stage.say("What became of it, as az shows it.")
    view = _instance_view(stage.connection)
    print_json(view)
    print_fields({name: view[name] for name in ("executionState", "exitCode")})
    return code


def _instance_view(connection: Connection) -> Mapping[str, object]:
    here = Client(connection)
    try:
        body = here.get(find_machine(here, MACHINE).command_path(COMMAND), **{"$expand": "instanceView"})
    finally:
        here.close()
    view: Mapping[str, object] = body["properties"]["instanceView"]
    return view


class Interruption:
    """Ctrl-C, SIGTERM and SIGHUP end the demo, but not between the birth of a process and its entry in the list."""

    def __init__(self) -> None:
        self._is_held = False
        self._waiting: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self._before[number] = signal.signal(number, self._arrived)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _arrived(self, number: int, _frame: FrameType | None) -> None:
        if self._is_held:
            self._waiting = number
        elif number == signal.SIGINT:
            raise KeyboardInterrupt
        else:
            sys.exit(128 + number)

    def hold(self) -> None:
        """Let none through."""
        self._is_held = True

    def release(self) -> None:
        """Let through what has arrived meanwhile, and what comes."""
        self._is_held = False
        if self._waiting is not None:
            self._arrived(self._waiting, None)


class Stage:
    """The processes of the demonstration, each a real `enjoin` command, shown as it would be typed."""

    def __init__(self, directory: Path, interruption: Interruption) -> None:
        self.directory = directory
        self._interruption = interruption
        self.connection: Connection | None = None
        self._console = Console(soft_wrap=True, highlight=False)
        self._running: list[tuple[str, subprocess.Popen[bytes]]] = []

    def say(self, text: str) -> None:
        """Tell what comes next."""
        self._console.print(Text(f"\n{text}", style="bold"))

    def start(self, *words: str, until: str) -> None:
        """Start a command that stays, and return when it prints a line that begins with `until`."""
        self._show(words)
        log = self.directory / f"{words[0]}.log"
        with log.open("wb") as errors:
            process = self._popen(words, stderr=errors)
        assert process.stdout is not None
        line = _first_line(process.stdout)
        if not line.startswith(until):
            raise Failure(_complaint(words[0], log.read_text(errors="replace")))
        self._console.print(Text(line, style="green"))

    def run(self, *words: str, show_output: bool = True) -> str:
        """Run a command to its end and return what it printed."""
        self._show(words)
        process = self._popen(words, stderr=subprocess.PIPE)
        output, errors = process.communicate()
        self._running.pop()
        if process.returncode != 0:
            raise Failure(_complaint(words[0], errors.decode(errors="replace")))
        text = output.decode()
        self._console.print(Text(text.strip() if show_output else "(a secret, kept in a file)", style="green"))
        return text

    def follow(self, *words: str) -> int:
        """Run a command, show each line with the time at which it came, and return its exit code."""
        self._show(words)
        began = time.monotonic()
        process = self._popen(words, stderr=subprocess.PIPE)
        with selectors.DefaultSelector() as selector:
            for stream, pipe in (("stdout", process.stdout), ("stderr", process.stderr)):
                assert pipe is not None
                selector.register(pipe, selectors.EVENT_READ, stream)
            while selector.get_map():
                for key, _ in selector.select():
                    data = os.read(key.fd, 65536)
                    if not data:
                        selector.unregister(key.fileobj)
                    for line in data.decode(errors="replace").splitlines():
                        stamp = f"{time.monotonic() - began:6.2f} s  {key.data}  "
                        self._console.print(Text(stamp, style="dim").append(line, style=STYLES[key.data]))
        return process.wait()

    def clear(self) -> None:
        """Stop what still runs, the last one first."""
        while self._running:
            name, process = self._running.pop()
            if process.poll() is None:  # SIGINT ends the script too
                process.send_signal(signal.SIGINT if name == "run" else signal.SIGTERM)
            try:
                process.wait(timeout=STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            for pipe in (process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()

    def _show(self, words: Sequence[str]) -> None:
        self._console.print(Text(f"$ enjoin {shlex.join(words)}", style="cyan"))

    def _popen(self, words: Sequence[str], *, stderr: IO[bytes] | int) -> subprocess.Popen[bytes]:
        environment = dict(os.environ)
        if self.connection is not None:
            environment["ENJOIN_CONNECTION"] = str(self.connection.path)
        self._interruption.hold()
        process = subprocess.Popen(
            [sys.executable, "-m", "enjoin.cli.main", *words],
            cwd=self.directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            start_new_session=True,  # their end is ours to order, not Ctrl-C's
        )
        self._running.append((words[0], process))
        self._interruption.release()
        return process


def _first_line(pipe: IO[bytes]) -> str:
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        return pipe.readline().decode().rstrip("\n") if selector.select(START_TIMEOUT_S) else ""


def _complaint(verb: str, errors: str) -> str:
    lines = [line for line in errors.splitlines() if line.strip()]
    last = lines[-1].removeprefix("enjoin: ") if lines else f"it did not get ready within {START_TIMEOUT_S:.0f} s"
    return f"`enjoin {verb}` failed: {last}"

"""`enjoin run` and `enjoin logs` against a real control plane and a real agent."""

import hashlib
import json
import secrets
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.acceptance.processes import ENJOIN, LIMIT_S, Agent, ControlPlane, Fleet, environment, processes_of, until

MIB = 1024 * 1024


@contextmanager
def running(server: ControlPlane, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """`enjoin WORDS` while it runs, its streams as pipes."""
    process = subprocess.Popen(
        [*ENJOIN, *words],
        env=environment(server.environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,  # so that a line can be read first and the rest by communicate()
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def line(process: subprocess.Popen[bytes]) -> bytes:
    """The next line of its stdout, as soon as it is there."""
    assert process.stdout is not None
    return process.stdout.readline()


def state(server: ControlPlane, machine: Agent, name: str) -> str:
    """The state of the latest execution."""
    shown = json.loads(server.text("show", machine.name, name, "-o", "json"))
    found: str = shown["properties"]["instanceView"]["executionState"]
    return found


def execution_id(server: ControlPlane, machine: Agent, name: str) -> str:
    """The id of the latest execution."""
    shown = json.loads(server.text("show", machine.name, name, "-o", "json"))
    found: str = shown["properties"]["instanceView"]["enjoin"]["executionId"]
    return found


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("exit 0", 0),
        ("exit 3", 3),
        ("exit 255", 255),
        ("kill -9 $$", 137),
        ("kill -TERM $$", 143),
        ("exec bash -c 'exit 42'", 42),
    ],
)
def test_exit_code(server: ControlPlane, machine: Agent, script: str, code: int) -> None:
    """
    The exit code is the script's own, 128+N when signal N ended it, and a failure adds no word (F68).
    """
    done = server.enjoin("run", machine.name, "--", script)
    assert (done.returncode, done.stdout, done.stderr) == (code, b"", b"")


def test_timeout(server: ControlPlane, machine: Agent) -> None:
    """
    A script that is over its time is exit 124 (F56), and what it wrote is there.
    """
    done = server.enjoin("run", machine.name, "--timeout", "1", "--", "echo begun; sleep 600")
    assert (done.returncode, done.stdout, done.stderr) == (124, b"begun\n", b"")


def test_words_and_values(server: ControlPlane, machine: Agent, tmp_path: Path) -> None:
    """
    Words, parameters and secrets arrive as they were sent: spaces, quotes, newlines, nothing at all (F42, F43, F46,
    F47, F48, F52).
    """
    show = 'printf "%s\\0" "$@"'
    words = ["bash", "-c", show, "name", "two  words", "it's", "$HOME `id` \\", "", "new\nline", "ä€😀"]
    done = server.enjoin("run", machine.name, "--", *words)
    assert done.stdout.decode().split("\0")[:-1] == words[4:]

    (tmp_path / "secret").write_text("from\nfile\n")
    script = 'printf "%s\\0" "$A" "$S" "$F" "$@"'
    options = ["-p", 'A=it\'s "$x" & ^', "--protected", "S", "--protected", f"F=@{tmp_path / 'secret'}"]
    options += ["--arg", "", "--arg", "last public", "--protected", "=hidden argument"]
    done = server.enjoin("run", machine.name, *options, "--", script, env={"S": "a secret = b"})
    assert done.stdout.decode().split("\0")[:-1] == [
        'it\'s "$x" & ^',
        "a secret = b",
        "from\nfile\n",
        "",
        "last public",
        "hidden argument",
    ]


def test_script_file(server: ControlPlane, machine: Agent, tmp_path: Path) -> None:
    """
    A script comes from a file or from standard input (F38), with its own interpreter and any line ends.
    """
    (tmp_path / "script").write_bytes(b"#!/usr/bin/env python3\r\nprint('python')\r\n")
    assert server.text("run", machine.name, "--script-file", tmp_path / "script") == "python"
    done = server.enjoin("run", machine.name, "--script-file", "-", stdin=b"echo piped")
    assert done.stdout == b"piped\n"


def test_streams_are_live_and_apart(server: ControlPlane, machine: Agent, tmp_path: Path) -> None:
    """
    What a script writes is here while it still runs (F71), each stream on its own.
    """
    gate = tmp_path / "gate"
    script = f"echo first; echo complaint >&2; until [ -e {gate} ]; do sleep 0.05; done; echo last"
    with running(server, "run", machine.name, "--name", "live", "--", script) as run:
        assert line(run) == b"first\n"
        assert run.stderr is not None
        assert run.stderr.readline() == b"complaint\n"
        assert state(server, machine, "live") == "Running"
        gate.touch()
        assert line(run) == b"last\n"
        assert run.wait(LIMIT_S) == 0


def test_bytes(server: ControlPlane, machine: Agent, tmp_path: Path) -> None:
    """
    10 MiB of random bytes come back equal, through `run` as they come and through `logs` afterwards, whole.
    """
    data = tmp_path / "data"
    data.write_bytes(secrets.token_bytes(10 * MIB))
    expected = hashlib.sha256(data.read_bytes()).hexdigest()
    script = f"cat {data}; head -c 70000 {data} >&2"
    done = server.enjoin("run", machine.name, "--name", "bytes", "--", script)
    assert done.returncode == 0
    assert hashlib.sha256(done.stdout).hexdigest() == expected
    assert done.stderr == data.read_bytes()[:70000]
    logs = server.enjoin("logs", machine.name, "bytes")
    assert hashlib.sha256(logs.stdout).hexdigest() == expected
    assert logs.stderr == done.stderr
    only = server.enjoin("logs", machine.name, "bytes", "--stream", "stderr")
    assert (only.stdout, only.stderr) == (b"", done.stderr)


def test_logs_follow_and_generations(server: ControlPlane, machine: Agent, tmp_path: Path) -> None:
    """
    `logs -f` shows what was and what comes, until the end; an earlier generation keeps its output (F27).
    """
    gate = tmp_path / "gate"
    server.text("run", machine.name, "--name", "twice", "--", "echo one")
    script = f"echo two; until [ -e {gate} ]; do sleep 0.05; done; echo end"
    server.text("run", machine.name, "--name", "twice", "--detach", "--", script)
    with running(server, "logs", "-f", machine.name, "twice") as logs:
        assert line(logs) == b"two\n"
        gate.touch()
        assert line(logs) == b"end\n"
        assert logs.wait(LIMIT_S) == 0
    assert server.text("logs", machine.name, "twice", "--generation", "1") == "one"
    done = server.enjoin("logs", machine.name, "twice", "--generation", "3")
    assert done.returncode == 3
    assert b"no generation 3" in done.stderr


def test_interrupt(server: ControlPlane, machine: Agent) -> None:
    """
    Ctrl-C ends the script and all it started, shows what it still wrote, and is exit 130.
    """
    script = "trap 'echo cleaning; exit 0' TERM; echo ready; sleep 600 & wait"
    with running(server, "run", machine.name, "--name", "stopped", "--", script) as run:
        assert line(run) == b"ready\n"
        execution = execution_id(server, machine, "stopped")
        run.send_signal(signal.SIGINT)
        assert line(run) == b"cleaning\n"
        assert run.wait(LIMIT_S) == 130
        assert run.stderr is not None
        assert run.stderr.read() == b""
    assert state(server, machine, "stopped") == "Canceled"
    assert processes_of(execution) == []


def test_interrupt_twice(server: ControlPlane, machine: Agent) -> None:
    """
    A second Ctrl-C leaves at once; the cancellation goes on without it.
    """
    script = "trap 'echo asked' TERM; echo ready; while :; do sleep 0.1; done"
    with running(server, "run", machine.name, "--name", "stubborn", "--", script) as run:
        assert line(run) == b"ready\n"
        run.send_signal(signal.SIGINT)
        assert line(run) == b"asked\n"
        run.send_signal(signal.SIGINT)
        assert run.wait(LIMIT_S) == 130
    until(lambda: state(server, machine, "stubborn") == "Canceled", "the script is ended")


def test_nobody_reads(server: ControlPlane, machine: Agent) -> None:
    """
    When the reader of the output goes, `run` ends at once and says how to end the script, which goes on.
    """
    with running(server, "run", machine.name, "--name", "unread", "--", "while echo y; do sleep 0.01; done") as run:
        assert line(run) == b"y\n"
        assert run.stdout is not None
        run.stdout.close()
        assert run.wait(LIMIT_S) == 141
        assert run.stderr is not None
        assert run.stderr.read().decode() == (
            "enjoin: nobody reads the output any more; the script goes on: "
            f"`enjoin cancel {machine.name} unread` ends it\n"
        )
    assert state(server, machine, "unread") == "Running"
    assert server.text("cancel", machine.name, "unread") == "unread: Canceled"


def test_detach(server: ControlPlane, machine: Agent) -> None:
    """
    --detach prints the resource id and leaves the script running; the name is made up when none is given.
    """
    made = server.text("run", machine.name, "--detach", "--", "sleep 600")
    prefix = f"{machine.resource_id}/runCommands/run-"
    assert made.lower().startswith(prefix.lower())
    name = made.rpartition("/")[2]
    assert len(bytes.fromhex(name.removeprefix("run-"))) == 6
    assert state(server, machine, name) in ("Pending", "Running")
    assert server.text("cancel", machine.name, name) == f"{name}: Canceled"


def test_json(server: ControlPlane, machine: Agent) -> None:
    """
    With -o json stdout is the final resource and nothing else; the exit code stays the script's.
    """
    done = server.enjoin("run", machine.name, "-o", "json", "--name", "as-json", "--", "echo text; exit 9")
    view = json.loads(done.stdout)["properties"]["instanceView"]
    assert (done.returncode, done.stderr) == (9, b"")
    assert (view["executionState"], view["exitCode"], view["output"]) == ("Failed", 9, "text\n")


def test_not_yet(server: ControlPlane, machine: Agent) -> None:
    """
    What this version refuses is exit 125 with the control plane's words: nothing ran, and nothing is left.
    """
    done = server.enjoin("run", machine.name, "--name", "as-bob", "--run-as", "bob", "--", "id")
    assert (done.returncode, done.stdout) == (125, b"")
    assert b"runAsUser" in done.stderr
    assert server.enjoin("show", machine.name, "as-bob").returncode == 3


def test_control_plane_killed_meanwhile(fleet: Fleet, tmp_path: Path) -> None:
    """
    `run` survives a control plane that is killed and comes back: every byte once, and the script's exit code (F65).
    """
    server = fleet.control_plane()
    machine = fleet.agent(server, "m1")
    gate = tmp_path / "gate"
    script = f"seq 1 20000; until [ -e {gate} ]; do sleep 0.05; done; seq 20001 40000; exit 5"
    with running(server, "run", machine.name, "--", script) as run:
        assert line(run) == b"1\n"
        server.restart()
        machine.wait_connected(2)
        gate.touch()
        out, err = run.communicate(timeout=LIMIT_S)
        assert err == b""
        assert out == "".join(f"{number}\n" for number in range(2, 40001)).encode()
        assert run.returncode == 5


def test_machine_away(fleet: Fleet) -> None:
    """
    A command for a machine that is not connected waits for it; given up, it is exit 125 and says why.
    """
    server = fleet.control_plane("--delivery-deadline", "2")
    machine = fleet.new_agent(server, "m1")
    done = server.enjoin("run", "m1", "--", "echo ran")
    assert (done.returncode, done.stdout) == (125, b"")
    assert done.stderr.startswith(b"enjoin: ")
    assert done.stderr.count(b"\n") == 1
    with running(server, "run", "m1", "--", "echo ran") as run:
        machine.start()
        assert (line(run), run.wait(LIMIT_S)) == (b"ran\n", 0)

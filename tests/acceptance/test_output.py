"""Output is never lost and never lies: every byte through `enjoin logs`, and a readable end in the instance view."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest

from tests.acceptance.arm_client import ARMClient, Commands
from tests.acceptance.processes import Agent, ControlPlane, Process, environment, until

TAIL_BYTES: Final = 4096
LONG_BYTES: Final = 10 * 1024 * 1024


@pytest.fixture
def commands(server: ControlPlane, machine: Agent) -> Iterator[Commands]:
    """The run commands of a machine."""
    with ARMClient(server) as client:
        yield client.on(machine)


class Steps:
    """A script that goes on when the test says so."""

    def __init__(self, directory: Path) -> None:
        self._directory, self._taken = directory, 0

    @property
    def wait(self) -> str:
        """A shell function of that name: `pause 1` waits for the first step."""
        return f"pause() {{ until [ -e {self._directory}/step$1 ]; do sleep 0.01; done; }}\n"

    def take(self) -> None:
        """Let it go on."""
        self._taken += 1
        (self._directory / f"step{self._taken}").touch()


def test_ten_mebibytes(server: ControlPlane, machine: Agent, commands: Commands, tmp_path: Path) -> None:
    """
    10 MiB of random bytes on each stream come back equal, each on its own stream; so do they to a follower (case 51).
    """
    out, err = os.urandom(LONG_BYTES), os.urandom(LONG_BYTES)
    (tmp_path / "out").write_bytes(out)
    (tmp_path / "err").write_bytes(err)
    steps = Steps(tmp_path)
    commands.put("long", f"{steps.wait}pause 1\ncat {tmp_path}/err >&2 & cat {tmp_path}/out; wait")
    commands.reached("long", "Running")
    with ThreadPoolExecutor(1) as pool:
        followed = pool.submit(server.enjoin, "logs", "-f", machine.name, "long")
        steps.take()
        done = followed.result()
    assert (done.returncode, done.stdout == out, done.stderr == err) == (0, True, True)
    for stream, sent in (("stdout", out), ("stderr", err)):
        alone = server.enjoin("logs", "--stream", stream, machine.name, "long")
        assert (alone.returncode, (alone.stdout if stream == "stdout" else alone.stderr) == sent) == (0, True)
    view = commands.ended("long")
    assert (view["enjoin"]["outputBytes"], view["enjoin"]["errorBytes"]) == (LONG_BYTES, LONG_BYTES)
    assert len(view["output"].encode()) <= TAIL_BYTES * 3, "each byte that is no text is shown as one character"


def test_view_grows(commands: Commands, tmp_path: Path) -> None:
    """
    instanceView.output holds what the script has printed so far, also without a newline, while it runs.
    """
    steps = Steps(tmp_path)
    commands.put("grows", f"{steps.wait}printf one; pause 1; echo two; pause 2; echo bad >&2; pause 3; echo three")
    for shown, error in (("one", ""), ("onetwo\n", ""), ("onetwo\n", "bad\n")):
        until(lambda: (view := commands.view("grows"))["output"] == shown and view["error"] == error, shown)  # noqa: B023
        assert commands.view("grows")["executionState"] == "Running"
        steps.take()
    view = commands.ended("grows")
    assert (view["output"], view["error"]) == ("onetwo\nthree\n", "bad\n")
    assert (view["enjoin"]["outputBytes"], view["enjoin"]["outputTruncated"]) == (13, False)


@pytest.mark.parametrize("character", ["x", "é", "漢", "🦉"])
def test_tail_is_cut_between_characters(commands: Commands, tmp_path: Path, character: str) -> None:
    """
    The end in the instance view is at most 4,096 bytes of whole characters, while the script runs and after; the whole
    is kept (case 51).
    """
    text = f"a{character * 5000}bc{character * 5000}\n"
    (tmp_path / "text").write_text(text)
    steps = Steps(tmp_path)
    name = f"tail-{len(character.encode())}"
    commands.put(name, f"{steps.wait}cat {tmp_path}/text; pause 1")
    commands.whole_output(name, len(text.encode()))
    running = commands.reached(name, "Running")
    steps.take()
    for view in (running, commands.ended(name)):
        shown = view["output"]
        assert text.endswith(shown)
        assert TAIL_BYTES - 3 <= len(shown.encode()) <= TAIL_BYTES
        assert view["enjoin"]["outputTruncated"]
        assert view["enjoin"]["outputBytes"] == len(text.encode())
    assert commands.output(name) == text.encode()


def test_half_a_character(commands: Commands, tmp_path: Path) -> None:
    """
    The first bytes of a character whose rest is still to come are not shown as garbage; when it never comes they are.
    """
    steps = Steps(tmp_path)
    commands.put("half", f"{steps.wait}printf 'a\\xe6\\xbc'; pause 1; printf '\\xa2b\\xe6'; pause 2")
    commands.whole_output("half", 3)
    assert commands.view("half")["output"] == "a"
    steps.take()
    commands.whole_output("half", 6)
    assert commands.view("half")["output"] == "a漢b"
    steps.take()
    assert commands.ended("half")["output"].startswith("a漢b\N{REPLACEMENT CHARACTER}")
    assert commands.output("half") == "a漢b".encode() + b"\xe6"


def test_binary(server: ControlPlane, machine: Agent, commands: Commands) -> None:
    """
    Every byte value, NUL included, is shown in JSON that clients can read, and logs gives it back as it was (case 52).
    """
    data = bytes(range(256))
    printed = "".join(f"\\x{value:02x}" for value in data)
    commands.put("binary", f"printf '{printed}'; printf '{printed}' >&2")
    view = commands.ended("binary")
    assert view["output"].startswith("\0\1\2")
    assert "~\x7f\N{REPLACEMENT CHARACTER}" in view["output"]
    done = server.enjoin("logs", "-f", machine.name, "binary")
    assert (done.returncode, done.stdout, done.stderr) == (0, data, data)


def test_follower_sees_lines_as_they_come(
    server: ControlPlane, machine: Agent, commands: Commands, tmp_path: Path
) -> None:
    """
    `enjoin logs -f` prints a line while the script waits to be let on, and ends when the script does.
    """
    steps = Steps(tmp_path)
    commands.put("lines", f"{steps.wait}echo first; pause 1; echo second; pause 2; exit 3")
    follower = Process(["logs", "-f", machine.name, "lines"], env=environment(server.environment), log=tmp_path / "log")
    follower.wait_for_line("first")
    assert follower.count_lines("second") == 0
    steps.take()
    follower.wait_for_line("second")
    assert follower.is_running
    assert commands.view("lines")["executionState"] == "Running"
    steps.take()
    assert follower.wait() == 0
    assert commands.ended("lines")["exitCode"] == 3


def test_each_generation_keeps_its_output(server: ControlPlane, machine: Agent, commands: Commands) -> None:
    """
    An update does not take the output of the run before it; a run that prints nothing has none.
    """
    for script in ("echo one", "echo two; echo error >&2", "true"):
        commands.put("generations", script)
        commands.ended("generations")
    said = [server.enjoin("logs", "--generation", str(n), machine.name, "generations") for n in (1, 2, 3)]
    assert [(one.stdout, one.stderr) for one in said] == [(b"one\n", b""), (b"two\n", b"error\n"), (b"", b"")]
    latest = server.enjoin("logs", machine.name, "generations")
    assert (latest.returncode, latest.stdout, latest.stderr) == (0, b"", b"")


def test_output_of_a_timed_out_script(commands: Commands) -> None:
    """
    What a script printed before its timeout ended it is kept, its last words on SIGTERM included (case 47).
    """
    script = "trap 'echo last words; exit 0' TERM; echo first; while :; do sleep 0.05; done"
    commands.put("late", script, timeoutInSeconds=1)
    view = commands.ended("late")
    assert (view["executionState"], view["exitCode"]) == ("TimedOut", -1)
    assert view["output"] == "first\nlast words\n"
    assert commands.whole_output("late", 17) == b"first\nlast words\n"

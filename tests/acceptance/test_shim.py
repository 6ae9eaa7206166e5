"""Scripts under real shims: what they are given, what is recorded of them, and what the next one sees of the last."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from enjoin.agent.bundle import Bundle
from enjoin.agent.records import encode_spec
from enjoin.agent.script import AlreadyClaimed, CouldNotStart
from enjoin.agent.spare import MAX_IDLE, SPARES
from tests.acceptance.shims import (
    CONTAINMENTS,
    LIMIT_S,
    Machine,
    children_of,
    command_lines,
    exit_of,
    fork_server,
    is_gone,
    pids_in,
    until,
)
from tests.tools import REPOSITORY

SHOW_ARGUMENTS = f"#!{sys.executable}\nimport sys, os\nos.write(1, '\\0'.join(sys.argv[1:]).encode())\n"


@pytest.fixture(params=CONTAINMENTS)
async def machine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Machine]:
    """A supervisor with its fork server, in both ways of containment."""
    async with Machine.started(tmp_path, request.param) as machine:
        yield machine


async def test_exit_codes(machine: Machine) -> None:
    """
    The script's own exit code is recorded as it is, with the sizes of what it wrote (F8).
    """
    for code in (0, 1, 3, 126, 255):
        end, out, err = await machine.run(f"echo out; echo error >&2; exit {code}")
        assert (end.reason, end.exit_code, end.signal) == ("exited", code, None)
        assert (out, err) == (b"out\n", b"error\n")
        assert (end.stdout_bytes, end.stderr_bytes) == (4, 6)
        assert not end.leftovers


async def test_signals(machine: Machine) -> None:
    """
    A script that a signal ended has exit code -1 and names the signal.
    """
    for number in (signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM):
        end, _, _ = await machine.run(f"kill -{number.value} $$; sleep 60")
        assert (end.reason, end.exit_code, end.signal) == ("signaled", -1, number)


async def test_started_comes_before_the_end(machine: Machine) -> None:
    """
    The claim is on the disk, whole, and names the shim, while the script runs.
    """
    script = await machine.launch("sleep 600")
    started = await asyncio.wait_for(script.started(), LIMIT_S)
    assert started == script.bundle.read_started()
    assert started.execution_id == script.bundle.execution_id
    assert started.pid == script.bundle.lock_holder()
    assert script.bundle.read_exit() is None
    script.cancel("enough")
    end = await exit_of(script)
    assert (end.reason, end.message, end.exit_code, end.signal) == ("canceled", "enough", -1, signal.SIGTERM)
    assert script.bundle.read_exit() == end


async def test_parameters_arrive_byte_exact(machine: Machine) -> None:
    """
    Every value is one argument with the same bytes, also an empty one; nothing of it is executed (cases 29-31).
    """
    values = ["a b; $(id) 'q' *", "", "two\nlines\n", '"', "\\", "`id`", "\x01\x7f\r\t", "-n", "--", "é漢", "$HOME"]
    parameters = [("", value, False) for value in values]
    end, out, _ = await machine.run(SHOW_ARGUMENTS, parameters)
    assert end.exit_code == 0
    assert out.decode().split("\0") == values
    end, out, err = await machine.run('printf "%s\\0" "$@"', parameters)
    assert (end.exit_code, err) == (0, b"")
    assert out.decode().split("\0")[:-1] == values


@pytest.mark.parametrize("first_line", ["", "#!/bin/bash -eu\n", "#!/usr/bin/env bash\n", "#!/bin/bash -xv\n"])
async def test_protected_arguments_are_on_no_command_line(machine: Machine, first_line: str) -> None:
    """
    Protected nameless values arrive byte-exact after the public ones and appear in no /proc/*/cmdline, nor in a trace
    that the script itself did not ask for; descriptor 3 and BASH_ENV are gone before the script begins (case 35).
    """
    secrets = ["s3cr3t a b; $(id) 'q' *", "", "s3cr3t\nlines\n", "s3cr3t\x01\x7f\\", 's3cr3t"']
    values = ["public 'one'", *secrets]
    text = (
        'set +xv; printf "%s\\0" "$@" > arguments; test ! -e /proc/$$/fd/3; echo "$? ${BASH_ENV-unset}"; '
        "bash -c 'echo child $#'; touch ready; until [ -e go ]; do sleep 0.02; done"
    )
    parameters = [("", values[0], False), *(("", value, True) for value in secrets)]
    script = await machine.launch(first_line + text, parameters=parameters)
    work = script.bundle.path / "work"
    await until((work / "ready").exists, "the script is running")
    assert [line for line in command_lines() if b"s3cr3t" in line] == []
    (work / "go").touch()
    assert (await exit_of(script)).exit_code == 0
    assert (work / "arguments").read_bytes().decode().split("\0")[:-1] == values
    assert script.bundle.stdout.read_text().splitlines() == ["0 unset", "child 0"]
    assert "s3cr3t" not in script.bundle.stderr.read_text()


async def test_named_parameters_and_base_environment(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Named values are variables, protected ones win, empty ones are set; nothing of the agent's own environment comes
    along (cases 29, 31, 32, 34).
    """
    monkeypatch.setenv("AGENT_SECRET", "x")
    parameters = [("A", "1", False), ("B", "", False), ("C", "public", False), ("C", "pro\ntected", True)]
    end, out, _ = await machine.run("env -0", parameters)
    assert end.exit_code == 0
    variables = dict(entry.split("=", 1) for entry in out.decode().split("\0") if entry)
    for added_by_bash in ("PWD", "OLDPWD", "SHLVL", "_"):
        variables.pop(added_by_bash, None)
    execution = variables.pop("ENJOIN_EXECUTION_ID")
    assert Bundle.of(machine.state, execution).is_claimed()
    assert {name: variables.pop(name) for name in "ABC"} == {"A": "1", "B": "", "C": "pro\ntected"}
    assert variables.keys() == {"PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG"}


async def test_own_bash_env_parameter(machine: Machine) -> None:
    """
    A parameter named BASH_ENV does what it does to bash, also beside protected nameless values.
    """
    parameters = [("BASH_ENV", "$HOME/env file", False), ("HOME", str(machine.state), False)]
    (machine.state / "env file").write_text("from_file=yes\n")
    for more in ([], [("", "secret", True)]):
        _, out, err = await machine.run('echo "$from_file $BASH_ENV $#"', [*parameters, *more])
        assert (out.decode(), err) == (f"yes $HOME/env file {len(more)}\n", b"")


async def test_stdin_is_at_its_end(machine: Machine) -> None:
    """
    A script that reads its standard input finds the end at once (case 39).
    """
    end, out, _ = await machine.run("cat; read -r line; echo read $?")
    assert (end.exit_code, out) == (0, b"read 1\n")


async def test_binary_output(machine: Machine) -> None:
    """
    Every byte that a script writes is kept as it is (case 52).
    """
    end, out, _ = await machine.run("for i in {1..100}; do printf '\\0\\xff\\xfe\\r\\n\\x80'; done")
    assert out == b"\0\xff\xfe\r\n\x80" * 100
    assert end.stdout_bytes == 600


async def test_big_script_and_parameters(machine: Machine) -> None:
    """
    A script of 256 KiB and 64 KiB of parameters pass: they travel in memory, not in a datagram.
    """
    value = "v" * 64 * 1024
    end, out, _ = await machine.run("# " + "x" * 256 * 1024 + "\necho ${#V}", [("V", value, False)])
    assert (end.exit_code, out) == (0, b"65536\n")


async def test_windows_script(machine: Machine) -> None:
    """
    A script with byte order mark or UTF-16, and CRLF, runs as if it had been written here (cases 23, 26).
    """
    text = "#!/bin/bash\r\nvalue=x\r\necho $value\r\nexit 3\r\n"
    for script in (
        text,
        "\ufeff" + text,
        b"\xff\xfe" + text.encode("utf-16-le"),
        b"\xfe\xff" + text.encode("utf-16-be"),
    ):
        end, out, err = await machine.run(script)
        assert (end.exit_code, out, err) == (3, b"x\n", b"")


async def test_missing_interpreter(machine: Machine) -> None:
    """
    An interpreter that is not there is a failure that names it, recorded like any other end.
    """
    script = await machine.launch("#!/opt/no/such/interpreter -x\necho")
    with pytest.raises(CouldNotStart, match="/opt/no/such/interpreter could not be started: there is no such file"):
        await asyncio.wait_for(script.started(), LIMIT_S)
    end = await exit_of(script)
    assert (end.reason, end.exit_code) == ("could_not_start", -1)
    assert "/opt/no/such/interpreter" in end.message
    assert script.bundle.read_exit() == end


@pytest.mark.requires("root")
async def test_noexec_state_directory(tmp_path: Path) -> None:
    """
    A state directory on a file system mounted noexec runs scripts all the same (case 28).
    """
    state = tmp_path / "state"
    state.mkdir()
    mount = await asyncio.create_subprocess_exec("mount", "-t", "tmpfs", "-o", "noexec", "tmpfs", state)
    if await mount.wait() != 0:
        pytest.skip("this machine does not let root mount a tmpfs")
    try:
        async with Machine.started(state, "subreaper") as machine:
            for first_line in ("", "#!/bin/sh\n", "#!/usr/bin/env bash\n"):
                end, out, _ = await machine.run(first_line + "echo ran")
                assert (end.exit_code, out) == (0, b"ran\n")
    finally:
        await (await asyncio.create_subprocess_exec("umount", state)).wait()


async def test_background_child_does_not_delay(machine: Machine) -> None:
    """
    A script that leaves a child behind with its output open ends at once, and the child is left running (case 54).
    """
    script = await machine.launch("sleep 600 & echo $!")
    end = await exit_of(script)
    assert (end.reason, end.exit_code, end.leftovers) == ("exited", 0, True)
    (child,) = await pids_in(script.bundle.stdout, 1)
    assert not is_gone(child)
    _, out, _ = await machine.run("echo the next one runs")
    assert out == b"the next one runs\n"
    assert not await machine.supervisor.end_leftovers(script.bundle, grace_s=1)
    assert is_gone(child)
    os.close(child)


async def test_leftovers_ended_when_asked(machine: Machine) -> None:
    """
    With `end_leftovers` the end of the script is the end of all that it started, before its exit is told.
    """
    script = await machine.launch("trap '' TERM; setsid sleep 600 & echo $!", end_leftovers=True, grace_s=0.1)
    (child,) = await pids_in(script.bundle.stdout, 1)
    end = await exit_of(script)
    assert (end.reason, end.exit_code, end.leftovers) == ("exited", 0, False)
    assert is_gone(child)
    os.close(child)


REPORT_SURROUNDINGS = f"""#!{sys.executable}
import json, os, signal
print(json.dumps({{
    "env": sorted(os.environ),
    "cwd": os.listdir("."),
    "fds": sorted(int(name) for name in os.listdir("/proc/self/fd"))[:-1],
    "umask": os.umask(0),
    "ignored": sorted(n for n in signal.valid_signals() if signal.getsignal(n) == signal.SIG_IGN and n not in (13, 25)),
    "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
    "session": os.getsid(0) == os.getpid(),
    "oom": open("/proc/self/oom_score_adj").read(),
}}))
"""


async def test_recycled_shim_shows_nothing_of_the_last_script(machine: Machine) -> None:
    """
    Scripts that share a shim one after the other share nothing else: environment, directory, descriptors, umask,
    signals, session, and the OOM killer's view of the shim (case 34).
    """
    first: dict[int, dict[str, object]] = {}
    for round_number in range(20):
        name = f"ROUND_{round_number}"
        script = await machine.launch(REPORT_SURROUNDINGS, parameters=[(name, "x", False), ("", "y", False)])
        started = await asyncio.wait_for(script.started(), LIMIT_S)
        assert (await exit_of(script)).exit_code == 0, script.bundle.stderr.read_text()
        seen = json.loads(script.bundle.stdout.read_bytes())
        assert name in seen["env"]
        seen["env"].remove(name)
        assert not [variable for variable in seen["env"] if variable.startswith("ROUND_")]
        assert seen["cwd"] == []
        assert seen["fds"] == [0, 1, 2]
        assert (seen["umask"], seen["ignored"], seen["blocked"], seen["session"]) == (0o022, [], [], True)
        assert int(seen["oom"]) >= 0
        await machine.run("cd /; umask 077; exec 7</etc/passwd; export LEAK=1; trap '' TERM; touch file; ulimit -n 99")
        if started.pid in first:
            assert seen == first[started.pid]
            return
        first[started.pid] = seen
    pytest.fail("no shim was recycled in 20 rounds")


async def test_claimed_bundle_is_not_started_again(machine: Machine) -> None:
    """
    A second request for an execution starts nothing, whether the first one is running or over.
    """
    script = await machine.launch("echo ran; until [ -e go ]; do sleep 0.02; done")
    await asyncio.wait_for(script.started(), LIMIT_S)
    for _ in range(2):
        again = await machine.launch("echo ran", bundle=script.bundle)
        with pytest.raises(AlreadyClaimed):
            await asyncio.wait_for(again.started(), LIMIT_S)
        with pytest.raises(AlreadyClaimed):
            await asyncio.wait_for(again.ended(), LIMIT_S)
        (script.bundle.path / "work/go").touch()
        await exit_of(script)
    assert script.bundle.stdout.read_bytes() == b"ran\n"


async def test_many_at_once(machine: Machine) -> None:
    """
    A burst runs at once, each script once, with as many shims as it takes; later only a few of them stay.
    """
    scripts = await asyncio.gather(
        *(machine.launch(f"echo {n}; until [ -e go ]; do sleep 0.1; done") for n in range(80))
    )
    await asyncio.wait_for(asyncio.gather(*(script.started() for script in scripts)), LIMIT_S)
    shims = {script.bundle.lock_holder() for script in scripts}
    assert len(shims) == 80
    for script in scripts:
        (script.bundle.path / "work/go").touch()
    for number, script in enumerate(scripts):
        assert (await exit_of(script)).exit_code == 0
        assert script.bundle.stdout.read_text() == f"{number}\n"
    server = await fork_server()
    await until(lambda: len(children_of(server)) <= MAX_IDLE + SPARES, "the shims that nobody needs have ended")


async def test_read_only_bundle_is_a_clear_failure(machine: Machine) -> None:
    """
    A bundle that cannot be written is a failure with its reason, and nothing was started (case 80).
    """
    script = await machine.launch("echo ran", bundle=Bundle(machine.state / "bundles/missing"))
    with pytest.raises(CouldNotStart, match="the start could not be recorded"):
        await asyncio.wait_for(script.started(), LIMIT_S)
    assert (await exit_of(script)).reason == "could_not_start"


SERVE_ONE = """
import mmap, os, socket, sys
from contextlib import ExitStack
sys.path.insert(0, sys.argv[1])
from enjoin.agent import forkserver, shim
from enjoin.agent.spare import Spare

pool, agent = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
spec = os.memfd_create("spec")
os.write(spec, sys.stdin.buffer.read())
socket.send_fds(agent, [b"r"], [spec, theirs.fileno()])
before = set(sys.modules)
spare = Spare(pool, slots=mmap.mmap(-1, 4096), slot=0, wake=os.pipe()[1], cgroup=None, oom_score_adj=0)
with ExitStack() as held:
    shim.Run(spare._owner, held, *spare._next()).serve()
print(sorted(set(sys.modules) - before))
"""


@pytest.mark.parametrize("ending", ["exited", "timed_out", "canceled", "could_not_start"])
def test_shim_imports_nothing_after_its_fork(tmp_path: Path, ending: str) -> None:
    """
    Whatever comes, a shim needs no file that an upgrade may have replaced (case 77).
    """
    bundle = Bundle.of(tmp_path, "0190-abc")
    bundle.create(b"setsid sleep 600 & trap '' TERM; while :; do sleep 0.1; done" if ending == "timed_out" else b"")
    if ending == "canceled":
        bundle.request_cancel("canceled")
    spec = {
        "bundle": str(bundle.path),
        "execution_id": bundle.execution_id,
        "start_number": 1,
        "argv": [b"/no/such" if ending == "could_not_start" else b"/bin/bash", bytes(bundle.script)],
        "env": [],
        "prelude": b"",
        "timeout_s": 0.2,
        "grace_s": 0.1,
        "end_leftovers": True,
    }
    command = [sys.executable, "-I", "-S", "-c", SERVE_ONE, str(REPOSITORY / "src")]
    shim = subprocess.run(command, input=encode_spec(spec), capture_output=True, check=True)
    assert (shim.stdout, shim.stderr) == (b"[]\n", b"")
    end = bundle.read_exit()
    assert end is not None
    assert end.reason == ending

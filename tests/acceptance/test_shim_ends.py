"""Ending means ending: after a timeout or a cancel no process of a script exists, whatever it did to stay."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.acceptance.shims import (
    CONTAINMENTS,
    LIMIT_S,
    Machine,
    exit_of,
    is_gone,
    pids_in,
    processes_of,
    until,
    whole_lines,
)

GRACE_S = 0.2

# Each prints the pids of all its processes, so that they can be pinned before the end.
SETSID = "setsid bash -c 'echo $$; exec sleep 600' & echo $$; sleep 600"
NOHUP = "nohup bash -c 'echo $$; exec sleep 600' 2>/dev/null & echo $$; sleep 600"
DOUBLE_FORK = "( ( echo $BASHPID; exec sleep 600 ) & ); echo $$; sleep 600"
TERM_PROOF = """trap '' TERM INT HUP
setsid bash -c 'trap "" TERM; echo $$; while :; do sleep 600; done' &
echo $$; while :; do sleep 600; done"""
CLEARED = "env -i setsid bash -c 'echo $$; trap \"\" TERM; while :; do read -t 600; done <> <(:)' & echo $$; sleep 600"
STOPPED = "bash -c 'echo $$; kill -STOP $$' & echo $$; sleep 600"
# It moves on to a new process in a new session every few milliseconds, and ignores what can be ignored.
RESPAWNER = f"""#!{sys.executable}
import os, signal, time
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
os.write(1, b"%d\\n" % os.getpid())
if os.fork() == 0:
    end_s = time.monotonic() + 60  # a test that fails must not leave it to the machine for ever
    while time.monotonic() < end_s:
        os.write(1, b"%d\\n" % os.getpid())
        if os.fork():
            os._exit(0)
        os.setsid()
        time.sleep(0.003)
while True:
    time.sleep(600)
"""
TREES = {
    "setsid": SETSID,
    "nohup": NOHUP,
    "double fork": DOUBLE_FORK,
    "term proof": TERM_PROOF,
    "cleared environment": CLEARED,
    "stopped": STOPPED,
}


@pytest.fixture(params=CONTAINMENTS)
async def machine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Machine]:
    """A supervisor with its fork server, in both ways of containment."""
    async with Machine.started(tmp_path, request.param) as machine:
        yield machine


def processes_in(cgroup: str | None) -> list[str]:
    """What the kernel lists in a cgroup; nothing without one, or when it is gone."""
    path = Path(f"{cgroup}/cgroup.procs")
    return path.read_text().split() if cgroup is not None and path.exists() else []


@pytest.mark.parametrize("ending", ["timed_out", "canceled"])
@pytest.mark.parametrize("tree", TREES)
async def test_no_process_is_left(machine: Machine, tree: str, ending: str) -> None:
    """
    What called setsid, double-forked, ignores SIGTERM, cleared its environment or is stopped ends with the script,
    before the end is told (cases 45, 67).
    """
    script = await machine.launch(TREES[tree], timeout_s=0.5 if ending == "timed_out" else None, grace_s=GRACE_S)
    started = await asyncio.wait_for(script.started(), LIMIT_S)
    members = await pids_in(script.bundle.stdout, 2)
    if ending == "canceled":
        script.cancel("deleted")
    end = await exit_of(script)
    assert [is_gone(member) for member in members] == [True, True]
    assert processes_of(script.bundle.execution_id) == []
    assert (end.reason, end.exit_code, end.leftovers) == (ending, -1, False)
    assert end.message == ("deleted" if ending == "canceled" else "")
    assert set(processes_in(started.cgroup)) <= {str(started.pid)}  # the shim may serve on
    for member in members:
        os.close(member)


@pytest.mark.parametrize("ending", ["timed_out", "canceled"])
async def test_respawner(machine: Machine, ending: str) -> None:
    """
    What replaces itself by a new process in a new session all the time is ended too.
    """
    script = await machine.launch(RESPAWNER, timeout_s=0.5 if ending == "timed_out" else None, grace_s=GRACE_S)
    await until(lambda: len(whole_lines(script.bundle.stdout)) > 20, "it has moved on twenty times")
    if ending == "canceled":
        script.cancel("deleted")
    end = await exit_of(script)
    assert processes_of(script.bundle.execution_id) == []
    assert (end.reason, end.leftovers) == (ending, False)
    assert script.bundle.stdout.stat().st_size == end.stdout_bytes, "nobody has written since"


async def test_term_handler_has_the_grace(machine: Machine) -> None:
    """
    A script that cleans up on SIGTERM finishes that, children included, and what it writes is kept (case 47).
    """
    text = "trap 'sleep 0.3; bash -c \"echo cleaned up\"; exit 7' TERM; echo ready; while :; do sleep 0.05; done"
    script = await machine.launch(text, grace_s=LIMIT_S)
    await until(lambda: whole_lines(script.bundle.stdout) == [b"ready"], "the handler is set")
    script.cancel("canceled")
    end = await exit_of(script)
    assert (end.reason, end.exit_code, end.signal) == ("canceled", 7, None)
    assert script.bundle.stdout.read_bytes() == b"ready\ncleaned up\n"


async def test_timeout_is_not_success(machine: Machine) -> None:
    """
    A script that ends with 0 because its timeout ended it is timed out, with exit code -1 (case 44).
    """
    script = await machine.launch("trap 'exit 0' TERM; while :; do sleep 0.05; done", timeout_s=0.3)
    end = await exit_of(script)
    assert (end.reason, end.exit_code) == ("timed_out", -1)
    assert 0.3 <= end.duration_s < LIMIT_S


async def test_cancel_before_the_start(machine: Machine) -> None:
    """
    A cancel that comes before any shim took the request means that nothing is started.
    """
    bundle = machine.bundle("echo ran")
    bundle.request_cancel("too late")
    script = await machine.launch("echo ran", bundle=bundle)
    end = await exit_of(script)
    assert (end.reason, end.message) == ("canceled", "too late")
    assert bundle.stdout.read_bytes() == b""


async def test_cancel_at_any_moment(machine: Machine) -> None:
    """
    A cancel at any moment around the start ends the script or comes too late for it; it is never lost.
    """
    for delay_s in (0.0, 0.0005, 0.001, 0.0015, 0.002, 0.003, 0.004, 0.006):
        script = await machine.launch("sleep 600", grace_s=GRACE_S)
        await asyncio.sleep(delay_s)
        script.cancel("canceled")
        assert (await exit_of(script)).reason == "canceled"
        assert processes_of(script.bundle.execution_id) == []


async def test_late_cancel_spares_the_next_script(machine: Machine) -> None:
    """
    A cancel of a script that has ended does nothing to the one that its shim runs now.
    """
    script = await machine.launch("exit 0")
    started = await asyncio.wait_for(script.started(), LIMIT_S)
    pidfd = os.pidfd_open(started.pid)
    await exit_of(script)
    for _ in range(50):
        running = await machine.launch("until [ -e go ]; do sleep 0.02; done; echo whole")
        now = await asyncio.wait_for(running.started(), LIMIT_S)
        is_same_shim = now.pid == started.pid
        if is_same_shim:
            script.bundle.request_cancel("late")
            signal.pidfd_send_signal(pidfd, signal.SIGUSR1)
        (running.bundle.path / "work/go").touch()
        end = await exit_of(running)
        assert (end.reason, running.bundle.stdout.read_bytes()) == ("exited", b"whole\n")
        if is_same_shim:
            os.close(pidfd)
            return
    pytest.fail("the shim of the first script was not used again")


async def test_shim_survives_what_is_sent_to_the_agent(machine: Machine) -> None:
    """
    SIGHUP, SIGINT, SIGTERM and SIGQUIT to a shim do not end it, nor its script.
    """
    script = await machine.launch("until [ -e go ]; do sleep 0.02; done; echo whole")
    started = await asyncio.wait_for(script.started(), LIMIT_S)
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGUSR1):
        os.kill(started.pid, number)
    (script.bundle.path / "work/go").touch()
    end = await exit_of(script)
    assert (end.reason, end.exit_code, script.bundle.stdout.read_bytes()) == ("exited", 0, b"whole\n")


async def test_stopped_across_its_deadline(machine: Machine) -> None:
    """
    A shim that was frozen across its script's deadline ends the script as soon as it runs again.
    """
    script = await machine.launch("sleep 600", timeout_s=0.3, grace_s=GRACE_S)
    started = await asyncio.wait_for(script.started(), LIMIT_S)
    os.kill(started.pid, signal.SIGSTOP)
    deadline_s = time.monotonic() + 0.5
    await until(lambda: time.monotonic() > deadline_s, "the deadline is over")
    assert script.bundle.read_exit() is None
    os.kill(started.pid, signal.SIGCONT)
    assert (await exit_of(script)).reason == "timed_out"

"""What is on the disk before a script begins, as the kernel saw it."""

import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.acceptance.arm_client import ARMClient
from tests.acceptance.processes import Agent, ControlPlane, Fleet

CALL = re.compile(r"(?P<at>\d+\.\d+) (?P<name>\w+)\((?P<rest>.*) = (?P<result>-?\d+).*<(?P<took>\d+\.\d+)>$")


@dataclass(frozen=True, slots=True)
class Call:
    """One system call of one thread."""

    name: str
    text: str
    began_s: float
    ended_s: float


def calls(directory: Path) -> Iterator[Call]:
    """Yield what strace wrote, a file for each thread."""
    for path in directory.glob("trace.*"):
        for line in path.read_text(errors="replace").splitlines():
            found = CALL.match(line)
            if found and found["result"] == "0":
                began_s = float(found["at"])
                yield Call(found["name"], found["rest"], began_s, began_s + float(found["took"]))


@contextmanager
def traced(agent: Agent, output: Path) -> Iterator[None]:
    """Run an agent under strace. At the end it is told itself: a tracer that is killed would leave it running."""
    tracer: list[str | Path] = [
        "strace",
        "-ff",
        "-ttt",
        "-T",
        "-y",
        "-s",
        "512",
        "-e",
        "trace=fsync,fdatasync,execve",
        "-o",
        output,
    ]
    process = agent.start(under=tracer).process
    assert process is not None
    children = [int(pid) for pid in Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text().split()]
    try:
        yield
    finally:
        for pid in children:
            os.kill(pid, signal.SIGTERM)
        assert process.wait() == 0


@pytest.mark.requires("strace")
def test_journal_before_execve(server: ControlPlane, fleet: Fleet, tmp_path: Path) -> None:
    """
    The journal that holds the command, then the claim and its directory, are durable before the script's execve.
    """
    agent = fleet.new_agent(server, "traced")
    with traced(agent, tmp_path / "trace"), ARMClient(server) as client:
        asked_s = time.time()
        commands = client.on(agent)
        commands.put("traced", "true")
        assert commands.ended("traced")["exitCode"] == 0
        bundle = f"/bundles/{commands.execution_id('traced')}"
    trace = sorted(calls(tmp_path), key=lambda call: call.began_s)
    [start] = [call for call in trace if call.name == "execve" and bundle in call.text]
    syncs = [call for call in trace if call.name != "execve" and call.ended_s > asked_s]
    [journal, *_] = [call for call in syncs if f"{agent.state_dir}/journal>" in call.text]
    [claim] = [call for call in syncs if f"{bundle}/started>" in call.text]
    [names] = [call for call in syncs if f"{bundle}>" in call.text]
    [record] = [call for call in syncs if f"{bundle}/exit>" in call.text]
    assert journal.name == "fdatasync"
    assert journal.ended_s <= claim.began_s
    assert claim.ended_s <= names.began_s
    assert names.ended_s <= start.began_s
    assert start.ended_s <= record.began_s

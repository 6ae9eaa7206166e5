"""`enjoin demo`, as a newcomer runs it."""

import json
import os
import re
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.acceptance.processes import ENJOIN, LIMIT_S, environment, run_enjoin

STAMP = re.compile(r"^ *(\d+\.\d\d) s  (stdout|stderr)  (.*)$", re.MULTILINE)


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """Variables under which everything that a program keeps for its user lands in an empty directory."""
    for name in ("home", "temporary"):
        (tmp_path / name).mkdir()
    return {"HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path / "temporary")}


def left_in(home: dict[str, str]) -> Sequence[str]:
    """What is there now."""
    return [path.name for directory in home.values() for path in Path(directory).iterdir()]


def processes_with(directory: str) -> list[int]:
    """Living processes that have a file below `directory` open, or name it."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            links = [str(link.readlink()) for link in (entry / "fd").iterdir()]
            links.append((entry / "cmdline").read_bytes().decode(errors="replace"))
        except OSError:  # it has just ended
            continue
        if any(directory in link for link in links):
            found.append(int(entry.name))
    return found


def test_demo(home: dict[str, str]) -> None:
    """
    The demo exits 0, shows each line at the time it was written and then the instance view (F66, F71), and leaves no
    file and no process.
    """
    done = run_enjoin("demo", env=home)
    text = done.stdout.decode()
    assert done.returncode == 0, done.stderr.decode()
    stamps = [float(stamp) for stamp, stream, _ in STAMP.findall(text) if stream == "stdout"]
    assert len(stamps) == 5
    assert stamps[-1] - stamps[0] > 0.6, "the lines came one by one, as the script wrote them"
    assert ("stderr", "this line went to stderr") in [found[1:] for found in STAMP.findall(text)]
    view = json.loads(re.search(r"^\{$.*?^\}$", text, re.MULTILINE | re.DOTALL)[0])  # type: ignore[index]
    assert (view["executionState"], view["exitCode"]) == ("Succeeded", 0)
    assert text.endswith("executionState  Succeeded\nexitCode        0\n")
    assert done.stderr == b""
    assert left_in(home) == []
    assert processes_with(home["TMPDIR"]) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", ["$ enjoin serve", "$ enjoin agent", "line 1"])
def test_demo_interrupted(home: dict[str, str], moment: str, number: signal.Signals) -> None:
    """
    Whenever the demo is interrupted, it stops what it started, the script too, and leaves nothing.
    """
    process = subprocess.Popen(
        [*ENJOIN, "demo"],
        env=environment(home),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    with process:
        assert process.stdout is not None
        assert any(moment in line for line in process.stdout)
        os.killpg(process.pid, number)  # as a terminal does, to all of the foreground
        process.communicate(timeout=LIMIT_S)
    assert process.returncode == 128 + number
    assert left_in(home) == []
    assert processes_with(home["TMPDIR"]) == []

"""A control plane and one agent, as real processes on a real file system, for the length of a benchmark."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ENJOIN = [sys.executable, "-m", "enjoin.cli.main"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """What runs."""

    directory: Path
    connection: dict[str, str]
    machine: str  # resource id
    server_pid: int
    agent_pid: int


def file_system(path: Path) -> str:
    """Return the type of the file system that holds `path`; refuse one that syncs nothing."""
    out = subprocess.run(["stat", "-f", "-c", "%T", str(path)], check=True, capture_output=True, text=True)
    kind = out.stdout.strip()
    if kind in ("tmpfs", "ramfs"):
        message = f"{path} is on {kind}, where a sync costs nothing; set ENJOIN_BENCH_DIR to a directory on a disk"
        raise SystemExit(message)
    return kind


@contextmanager
def fleet(kind: str = "arc") -> Iterator[Fleet]:
    """Start a control plane and an agent, joined as `kind` and connected; end them and remove what they wrote."""
    base = os.environ.get("ENJOIN_BENCH_DIR")
    with tempfile.TemporaryDirectory(prefix="enjoin-bench-", dir=base) as name:
        directory = Path(name)
        data, state = directory / "control", directory / "machine"
        server = _start("serve", "--data-dir", str(data), "--listen", "127.0.0.1:0", awaits="ready", log=directory)
        agent: subprocess.Popen[str] | None = None
        try:
            connection = json.loads((data / "connection.json").read_text())
            environment = {**os.environ, "ENJOIN_CONNECTION": str(data / "connection.json")}
            token = _output("token", "create", env=environment)
            machine = _output(
                *("join", "--server", connection["endpoint"], "--ca-file", connection["ca_file"]),
                *("--token", token, "--name", "bench", "--as", kind, "--state-dir", str(state)),
                env=environment,
            )
            agent = _start("agent", "--state-dir", str(state), awaits="connected", log=directory)
            yield Fleet(
                directory=directory,
                connection=connection,
                machine=machine,
                server_pid=server.pid,
                agent_pid=agent.pid,
            )
        finally:
            for process in (agent, server):
                if process is not None:
                    process.terminate()
                    process.wait()


def _start(*words: str, awaits: str, log: Path) -> subprocess.Popen[str]:
    with (log / f"{words[0]}.log").open("w") as errors:
        process = subprocess.Popen([*ENJOIN, *words], stdout=subprocess.PIPE, stderr=errors, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line.startswith(awaits):
        process.kill()
        process.wait()
        message = f"enjoin {words[0]} said {line!r} instead of {awaits}: {(log / f'{words[0]}.log').read_text()}"
        raise SystemExit(message)
    return process


def _output(*words: str, env: dict[str, str]) -> str:
    return subprocess.run([*ENJOIN, *words], check=True, capture_output=True, text=True, env=env).stdout.strip()

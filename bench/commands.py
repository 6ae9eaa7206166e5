"""What one command costs through the REST API: latency one by one, throughput with many in flight.

Latency runs from the first byte of the PUT to the answer that shows the operation's end, over TLS, with a token check,
with the database in WAL mode under `synchronous=FULL` and the agent's journal synced. The floor, in the same run and
on the same machine, is `bash -c 'echo hello'` spawned and waited for; twice, before and after, because machines drift.
"""

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import uvloop

from bench.fleet import Fleet, file_system, fleet
from bench.rest import Connection

WARM_UP = 100
SERIAL = 500
PARALLEL = 3_000
IN_FLIGHT = 16


def main() -> dict[str, Any]:
    """Run and print; return the figures."""
    with fleet() as running:
        kind = file_system(running.directory)
        before = floor_ms()
        figures: dict[str, Any] = uvloop.run(_measure(running))
        after = floor_ms()
        figures |= {"file_system": kind, "floor_before_ms": before, "floor_after_ms": after}
        figures["memory_mb"] = {
            "control_plane_pss": pss_mb(running.server_pid),
            "agent_and_fork_server_pss": pss_mb(running.agent_pid, *children(running.agent_pid)),
        }
    figures["overhead_p50_ms"] = round(figures["latency_ms"]["p50"] - min(before["p50"], after["p50"]), 2)
    print(f"commands through the REST API ({kind}, 2 processes, TLS, synchronous=FULL)")
    for name, value in figures.items():
        print(f"  {name:28} {value}")
    return figures


async def _measure(running: Fleet) -> dict[str, Any]:
    connection = await _connect(running)
    for number in range(WARM_UP):
        await connection.wait(await connection.put_command(running.machine, f"warm{number}", "echo hello"))
    samples, accepted = [], []
    for number in range(SERIAL):
        begun = time.perf_counter()
        operation = await connection.put_command(running.machine, f"serial{number}", "echo hello")
        accepted.append(time.perf_counter() - begun)
        status = await connection.wait(operation)
        samples.append(time.perf_counter() - begun)
        assert status == "Succeeded", status
    await connection.close()
    return {
        "latency_ms": percentiles(samples),
        "put_answered_ms": percentiles(accepted),
        **await _throughput(running),
    }


async def _throughput(running: Fleet) -> dict[str, Any]:
    parts = {"control_plane": running.server_pid, "agent": running.agent_pid}
    numbers = iter(range(PARALLEL))

    async def worker() -> None:
        connection = await _connect(running)
        for number in numbers:
            operation = await connection.put_command(running.machine, f"parallel{number}", "echo hello")
            assert await connection.wait(operation) == "Succeeded"
        await connection.close()

    before = {name: cpu_s(pid) for name, pid in parts.items()} | {"client": time.process_time()}
    begun = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))
    elapsed_s = time.perf_counter() - begun
    after = {name: cpu_s(pid) for name, pid in parts.items()} | {"client": time.process_time()}
    cost = {name: round((after[name] - before[name]) * 1000 / PARALLEL, 2) for name in after}
    return {"scripts_per_s": round(PARALLEL / elapsed_s), "cpu_ms_per_script": cost}


async def _connect(running: Fleet) -> Connection:
    connection = Connection(running.connection["endpoint"], running.connection["ca_file"])
    await connection.open()
    await connection.sign_in(running.connection)
    return connection


def floor_ms(count: int = 200) -> dict[str, float]:
    """Return what spawning `bash -c 'echo hello'` and reading its output costs."""
    samples = []
    for _ in range(count):
        begun = time.perf_counter()
        reading, writing = os.pipe()
        pid = os.posix_spawn(
            "/bin/bash",
            ["bash", "-c", "echo hello"],
            {"PATH": os.defpath},
            file_actions=[(os.POSIX_SPAWN_DUP2, writing, 1)],
        )
        os.close(writing)
        assert os.read(reading, 100) == b"hello\n"
        os.waitpid(pid, 0)
        os.close(reading)
        samples.append(time.perf_counter() - begun)
    return percentiles(samples)


def percentiles(samples_s: list[float]) -> dict[str, float]:
    """Return p50 and p99 in milliseconds."""
    ordered = sorted(samples_s)
    return {
        "p50": round(ordered[len(ordered) // 2] * 1000, 2),
        "p99": round(ordered[len(ordered) * 99 // 100] * 1000, 2),
    }


def pss_mb(*pids: int) -> float:
    """Return the proportional memory of processes, in MB."""
    total_kib = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total_kib += int(line.split()[1])
    return round(total_kib / 1000, 1)


def cpu_s(pid: int) -> float:
    """Return the processor time that a process has used, without its children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def children(pid: int) -> list[int]:
    """Return the direct children of a process."""
    out = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], check=False, capture_output=True, text=True)
    return [int(word) for word in out.stdout.split()]


if __name__ == "__main__":
    sys.exit(0 if main() else 1)

"""From a request to a shim to the exit record at the agent, beside bash spawned directly, in the same run.

`python -m bench.shim [DIRECTORY]`: on a real file system, because start and exit are made durable (home by default).
"""

import asyncio
import os
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

from enjoin.agent.bundle import Bundle, Exit
from enjoin.agent.interpreter import invocation, normalise
from enjoin.agent.supervisor import Supervisor

ROUNDS = 400
IN_FLIGHT = 16
SCRIPT = normalise("echo hello\n")


async def spawn_bash(directory: Path) -> None:
    """Do the least that runs the script and sees its end: the floor."""
    pid = start_bash(str(directory / "floor"))
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    pidfd = os.pidfd_open(pid)
    loop.add_reader(pidfd, ended.set)
    await ended.wait()
    loop.remove_reader(pidfd)
    os.close(pidfd)
    collect(pid)


def start_bash(output: str) -> int:
    """Spawn the script directly."""
    actions = [(os.POSIX_SPAWN_OPEN, 1, output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)]
    return os.posix_spawn("/bin/bash", ["/bin/bash", "-c", "echo hello"], {}, file_actions=actions, setsid=True)


def collect(pid: int) -> None:
    """Take the status of a child that has ended."""
    os.waitpid(pid, 0)


def sync_cost(directory: Path) -> float:
    """Return the seconds that the two durable writes of a shim cost here by themselves."""
    began_s = time.perf_counter()
    for name in ("started", "exit"):
        descriptor = os.open(directory / f"sync-{name}-{uuid.uuid4()}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        os.write(descriptor, b"x" * 250)
        os.fsync(descriptor)
        os.close(descriptor)
    return time.perf_counter() - began_s


async def run_script(supervisor: Supervisor, bundle: Bundle, times_s: list[float] | None = None) -> None:
    """Launch one script whose bundle exists, and wait for its exit."""
    call = invocation(SCRIPT, bundle.script, [], execution_id=bundle.execution_id)
    began_s = time.perf_counter()
    script = await supervisor.launch(bundle, call, timeout_s=3600)
    await script.started()
    if times_s is not None:
        times_s.append(time.perf_counter() - began_s)
    end = await script.ended()
    assert isinstance(end, Exit)
    assert end.exit_code == 0


def new_bundle(state: Path) -> Bundle:
    """Make what the agent makes before a launch."""
    bundle = Bundle.of(state, str(uuid.uuid4()))
    bundle.create(SCRIPT)
    return bundle


async def timed(work: Callable[[], Awaitable[None]]) -> float:
    """Return how many seconds `work` takes."""
    began_s = time.perf_counter()
    await work()
    return time.perf_counter() - began_s


def show(name: str, times_s: list[float]) -> None:
    """Print the median and the slow end."""
    ordered = sorted(times_s)
    p99_ms = ordered[int(len(ordered) * 0.99)] * 1000
    print(f"{name:<34} p50 {statistics.median(ordered) * 1000:6.2f} ms   p99 {p99_ms:6.2f} ms")


async def throughput(name: str, work: Callable[[], Awaitable[None]]) -> None:
    """Print how many scripts a second run with IN_FLIGHT at a time, and what each costs in processor time."""
    left = iter(range(ROUNDS * 2))

    async def lane() -> None:
        for _ in left:
            await work()

    async def lanes() -> None:
        await asyncio.gather(*(lane() for _ in range(IN_FLIGHT)))

    cpu_s = time.process_time()
    took_s = await timed(lanes)
    per_s, agent_ms = ROUNDS * 2 / took_s, (time.process_time() - cpu_s) * 1000 / (ROUNDS * 2)
    print(f"{name:<34} {per_s:6.0f} scripts/s with {IN_FLIGHT} in flight, {agent_ms:.2f} ms of the agent's CPU each")


def private_kib(pids: list[int]) -> list[int]:
    """Return the memory that each process shares with nobody; one that has just ended counts no more."""
    found = []
    for pid in pids:
        with suppress(OSError):
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            found.append(sum(int(line.split()[1]) for line in lines if line.startswith("Private_")))
    return found


def pss_kib(pid: int) -> int:
    """Return a process's fair share of the memory it uses."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def children(pid: int) -> list[int]:
    """Return the processes that `pid` started."""
    return [int(word) for path in Path(f"/proc/{pid}/task").glob("*/children") for word in path.read_text().split()]


def pool() -> tuple[int, list[int]]:
    """Return the fork server of this process and the shims of that."""
    (server,) = children(os.getpid())
    return server, children(server)


async def measure(directory: Path, *, use_cgroups: bool) -> None:
    """Print the figures of one way of containment."""
    supervisor = Supervisor(directory, use_cgroups=use_cgroups)
    await supervisor.start()
    print(f"\ncontainment: {supervisor.containment}")
    server, spares = pool()
    print(f"  idle: fork server {pss_kib(server)} KiB PSS; spares {private_kib(spares)} KiB private each")
    start_s: list[float] = []
    floor_s, total_s, syncs_s = [], [], []
    for _ in range(ROUNDS):
        floor_s.append(await timed(lambda: spawn_bash(directory)))
        syncs_s.append(sync_cost(directory))
        bundle = await asyncio.to_thread(new_bundle, directory)
        total_s.append(await timed(lambda bundle=bundle: run_script(supervisor, bundle, start_s)))  # type: ignore[misc]
    show("  floor: posix_spawn bash", floor_s)
    show("  two durable writes by themselves", syncs_s)
    show("  shim: request to started", start_s)
    show("  shim: request to exit record", total_s)
    over_ms = (statistics.median(total_s) - statistics.median(floor_s)) * 1000
    print(f"  over the floor: {over_ms:.2f} ms at p50; goal 0.80")
    await throughput("  floor", lambda: spawn_bash(directory))
    bundles = [new_bundle(directory) for _ in range(ROUNDS * 2)]
    await throughput("  shim", lambda: run_script(supervisor, bundles.pop()))
    print(f"  after it: {len(pool()[1])} shims, p50 {statistics.median(private_kib(pool()[1])):.0f} KiB private each")
    bundles = [new_bundle(directory) for _ in range(200)]
    took_s = await timed(lambda: start_all(supervisor, bundles))
    each_kib = statistics.median(private_kib(pool()[1]))
    print(f"  200 at once: all started after {took_s * 1000:.0f} ms; p50 {each_kib:.0f} KiB private each")
    for bundle in bundles:
        await supervisor.end_leftovers(bundle, grace_s=0)
    await supervisor.stop()


async def start_all(supervisor: Supervisor, bundles: list[Bundle]) -> None:
    """Start a script that stays in each bundle."""
    calls = [invocation(b"", bundle.script, [], execution_id=bundle.execution_id) for bundle in bundles]
    for call in calls:
        call.argv[1:] = [b"-c", b"sleep 60"]
    pairs = zip(bundles, calls, strict=True)
    scripts = await asyncio.gather(*(supervisor.launch(bundle, call, timeout_s=None) for bundle, call in pairs))
    await asyncio.gather(*(script.started() for script in scripts))


def main() -> None:
    """Measure both ways of containment."""
    parent = Path(sys.argv[1]) if len(sys.argv) > 1 else Path.home()
    with tempfile.TemporaryDirectory(dir=parent, prefix="enjoin-bench-") as name:
        for use_cgroups in (True, False):
            asyncio.run(measure(Path(name), use_cgroups=use_cgroups))


if __name__ == "__main__":
    main()

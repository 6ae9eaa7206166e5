"""`enjoin agent`: the process on the machine, in the foreground."""

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from enjoin.agent import log
from enjoin.agent.channel import Channel, Deleted
from enjoin.agent.containment import CGROUP, SUBREAPER
from enjoin.agent.journal import Journal
from enjoin.agent.loop import Loop
from enjoin.agent.policy import OpenPolicy
from enjoin.agent.state import State, StateUnusable, load, lock
from enjoin.agent.supervisor import Supervisor

DEFAULT_STATE: Final = Path("/var/lib/enjoin")
EXIT_USAGE: Final = 2
EXIT_DELETED: Final = 3
CONTAINMENT: Final = "ENJOIN_CONTAINMENT"
_EPILOG: Final = f"""\
{CONTAINMENT}={SUBREAPER} in the environment holds scripts without cgroups, as on a machine where none can be written.
{log.LEVEL}={"|".join(log.LEVELS)}: from which level on lines are logged to stderr (info).
"""


def main(argv: Sequence[str]) -> int:
    """Run until SIGTERM or SIGINT (0), or until the machine's resource is deleted (3)."""
    parser = argparse.ArgumentParser(prog="enjoin agent", description="Run the agent of this machine.", epilog=_EPILOG)
    parser.add_argument("--state-dir", type=Path, default=DEFAULT_STATE, help="what `enjoin join` made (%(default)s)")
    options = parser.parse_args(argv)
    containment = os.environ.get(CONTAINMENT, CGROUP)
    if containment not in (CGROUP, SUBREAPER):
        print(f"enjoin: {CONTAINMENT}={containment}: allowed are {CGROUP} and {SUBREAPER}", file=sys.stderr)
        return EXIT_USAGE
    directory = options.state_dir.absolute()  # a shim leaves the working directory
    if log.wanted_level() not in log.LEVELS:
        print(f"enjoin: {log.LEVEL}={log.wanted_level()}: allowed are {', '.join(log.LEVELS)}", file=sys.stderr)
        return EXIT_USAGE
    try:
        state = load(directory)
        _lock = lock(directory)
    except StateUnusable as error:
        print(f"enjoin: {error}", file=sys.stderr)
        return EXIT_USAGE
    try:
        return asyncio.run(_run(state, use_cgroups=containment == CGROUP))
    except OSError as error:
        print(f"enjoin: {directory} cannot be used: {error}; free or mend it and start again", file=sys.stderr)
        return 1


async def _run(state: State, *, use_cgroups: bool) -> int:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    journal = Journal(state.directory / "journal")
    supervisor = Supervisor(state.directory, use_cgroups=use_cgroups)
    await supervisor.start()
    loop = Loop(state, journal, supervisor, OpenPolicy())
    await loop.recover()
    channel = Channel(state, loop, containment=supervisor.containment, on_connect=_connected)
    connected, stopped = asyncio.create_task(channel.run()), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([connected, stopped], return_when=asyncio.FIRST_COMPLETED)
        if not connected.done():
            return 0
        try:
            connected.result()
        except Deleted:
            print("enjoin: this machine was deleted; ending what runs", file=sys.stderr, flush=True)
            await loop.end_everything()
            return EXIT_DELETED
        return 1
    finally:
        connected.cancel()
        stopped.cancel()
        await asyncio.gather(connected, stopped, return_exceptions=True)
        await loop.close()
        await journal.close()
        await supervisor.stop()


def _connected() -> None:
    print("connected", flush=True)

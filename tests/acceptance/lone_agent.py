"""An agent's process with nothing but a supervisor, to be killed: `python -m tests.acceptance.lone_agent STATE HOW`.

Each line of its standard input is the path of a script. It launches that, and says `submitted ID`, then `started ID`.
"""

import asyncio
import sys
from pathlib import Path

from tests.acceptance.shims import Machine


async def main(state: Path, containment: str) -> None:
    """Launch what standard input names, until it ends."""
    async with Machine.started(state, containment) as machine:
        print("ready", flush=True)  # noqa: T201 - the protocol above
        while line := (await asyncio.to_thread(sys.stdin.readline)).strip():
            script = await machine.launch(await asyncio.to_thread(Path(line).read_text))
            print("submitted", script.bundle.execution_id, flush=True)  # noqa: T201
            await script.started()
            print("started", script.bundle.execution_id, flush=True)  # noqa: T201


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))

"""`enjoin logs`: the whole output of a run command, now or as it comes."""

from typing import Final

import click

from enjoin.cli.application import BROKEN_PIPE
from enjoin.cli.client import BROKEN, Client
from enjoin.cli.failure import UnreachableFailure
from enjoin.cli.machines import find_machine
from enjoin.cli.options import client, connection_option
from enjoin.cli.streams import PATIENCE_S, ExecutionPath, Following, ReaderGone, descriptors, write_all

TRIES: Final = 5


@click.command(short_help="Print the whole output of a run command.")
@click.argument("machine")
@click.argument("name")
@click.option("-f", "--follow", is_flag=True, help="Go on until the script is over.")
@click.option(
    "--stream", type=click.Choice(("stdout", "stderr")), help="Only this one [default: both, each to its own]."
)
@click.option("--generation", type=click.IntRange(min=1), metavar="N", help="Of an earlier run [default: the latest].")
@connection_option
def logs(*, machine: str, name: str, follow: bool, stream: str | None, generation: int | None) -> int:
    """Print the output of a run command, all of it, byte for byte: stdout on stdout, stderr on stderr."""
    here = client()
    command = find_machine(here, machine).command_path(name)
    if generation is None:
        view = here.get(command, **{"$expand": "instanceView"})["properties"]["instanceView"]
        generation = int(view["enjoin"]["generation"])
    execution = ExecutionPath(command=command, generation=generation)
    targets = descriptors((stream,) if stream else ("stdout", "stderr"))
    try:
        if follow:
            here.patience_s = PATIENCE_S
            Following(here, execution, targets).wait()
            return 0
        execution.get(here)  # an absent generation is said before anything is printed
        for one, descriptor in targets.items():
            _copy(here, execution, one, descriptor)
    except ReaderGone:
        return BROKEN_PIPE
    return 0


def _copy(here: Client, execution: ExecutionPath, stream: str, descriptor: int) -> None:
    """Copy what there is of a stream now, resuming when the connection breaks."""
    offset, tries = 0, TRIES
    while True:
        with here.stream(f"{execution}/output", stream=stream, offset=str(offset)) as (_, pieces):
            try:
                for piece in pieces:
                    write_all(descriptor, piece)
                    offset, tries = offset + len(piece), TRIES
            except BROKEN as error:
                tries -= 1
                if tries == 0:
                    message = f"the output broke off after {offset} bytes of {stream}: {error}"
                    raise UnreachableFailure(message) from None
                continue
        return

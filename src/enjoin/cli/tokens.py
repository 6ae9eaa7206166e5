"""`enjoin token`: what lets machines join."""

import re
from typing import Final

import click

from enjoin.cli.options import client, connection_option, output_option
from enjoin.cli.present import print_json

SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class Duration(click.ParamType[int]):
    """A number of seconds, or one with a unit: 90s, 30m, 24h, 7d."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the seconds."""
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"([0-9]+)([smhd]?)", str(value))
        if found is None or int(found[1]) == 0:
            self.fail(f"{value!r} is no duration; write seconds or 90s, 30m, 24h, 7d", param, ctx)
        return int(found[1]) * SECONDS[found[2] or "s"]


@click.group(short_help="Make tokens with which machines join.")
def token() -> None:
    """Make tokens with which machines join."""


@token.command("create")
@click.option("--resource-group", metavar="RG", help="Where the machines go [default: that of the connection file].")
@click.option("--uses", type=click.IntRange(min=1), default=1, show_default=True, help="How many machines may join.")
@click.option("--expires", type=Duration(), default="24h", show_default=True, help="For how long it is good.")
@output_option
@connection_option
def create(resource_group: str | None, uses: int, expires: int, output: str) -> None:
    """Print a new enrolment token, alone on its line.

    Hand it to `enjoin join` on the machine, rather in a file (--token-file) than on a command line.
    """
    here = client()
    body = {
        "resourceGroup": resource_group or here.connection.resource_group,
        "uses": uses,
        "expiresInSeconds": expires,
    }
    made = here.send("POST", "/enjoin/v1/enrolmentTokens", body=body).body
    if output == "json":
        print_json({name: made[name] for name in ("token", "expiresAt", "uses")})
    else:
        print(made["token"])

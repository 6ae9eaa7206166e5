"""Options that several commands share, and what a command gets from them."""

from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from enjoin.cli.client import Client
from enjoin.cli.connection import load

Command = TypeVar("Command", bound=Callable[..., Any])
CONNECTION_KEY: Final = "enjoin.connection"
OUTPUTS: Final = ("text", "json")


def connection_option(command: Command) -> Command:
    """Add --connection; its value is read by `client()` and `connection_file()`."""
    return click.option(
        "--connection",
        metavar="FILE",
        expose_value=False,
        callback=_remember,
        help="Connection file of the control plane [default: $ENJOIN_CONNECTION, then the user's own].",
    )(command)


def output_option(command: Command) -> Command:
    """Add -o, as `output`."""
    return click.option(
        "-o", "--output", type=click.Choice(OUTPUTS), default="text", show_default=True, help="What to print."
    )(command)


def _remember(context: click.Context, _: click.Parameter, value: str | None) -> None:
    if value is not None:
        context.meta[CONNECTION_KEY] = value


def connection_file() -> str | None:
    """Return what --connection named, before or after the verb."""
    given: str | None = click.get_current_context().meta.get(CONNECTION_KEY)
    return given


def client() -> Client:
    """Return a client of the control plane that the options name, closed when the command is over."""
    made = Client(load(connection_file()))
    click.get_current_context().call_on_close(made.close)
    return made

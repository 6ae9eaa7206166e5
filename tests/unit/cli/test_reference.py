"""docs/reference/command-line.md says what the commands themselves say."""

import os
from collections.abc import Iterator
from typing import Final

import click

from enjoin.cli.application import VERBS, cli
from tests.tools import REPOSITORY

PAGE: Final = REPOSITORY / "docs/reference/command-line.md"
MARK: Final = "when asked. -->\n"
UPDATE: Final = "ENJOIN_UPDATE_DOCS"  # =1: write the page anew instead of comparing
WIDTH: Final = 100


def helps(name: str, command: click.Command, parent: click.Context) -> Iterator[str]:
    """The help of a command and of those below it."""
    settings = {"terminal_width": WIDTH, **command.context_settings}
    with click.Context(command, info_name=name, parent=parent, **settings) as context:
        yield f"\n```text\n{command.get_help(context)}\n```\n"
        if isinstance(command, click.Group):
            for below in command.list_commands(context):
                found = command.get_command(context, below)
                assert found is not None
                yield from helps(below, found, context)


def test_page_is_what_help_prints() -> None:
    """
    The page holds the help of every verb, as it is printed now.
    """
    written = ""
    with click.Context(cli, info_name="enjoin", terminal_width=WIDTH, **cli.context_settings) as context:
        for name, verb in VERBS.items():
            if verb.attribute is not None:
                command = cli.get_command(context, name)
                assert command is not None
                written += f"\n### {name}\n" + "".join(helps(name, command, context))
    text = PAGE.read_text(encoding="utf-8")
    by_hand, mark, generated = text.partition(MARK)
    if os.environ.get(UPDATE) == "1":
        PAGE.write_text(by_hand + mark + written, encoding="utf-8")
        return
    assert generated == written, f"the help has changed: run this test once with {UPDATE}=1"

"""Requests of Azure's clients that this version knows and does not do: a clear 400 instead of "nothing there"."""

from typing import NoReturn

from enjoin.api.call import Call
from enjoin.errors import NotSupportedYet


async def refuse_action(_: Call) -> NoReturn:
    """POST .../runCommand: the action run command."""
    text = (
        "The action run command (`az vm run-command invoke`) is not supported by this version of Enjoin; "
        "create a managed run command (`az vm run-command create`)."
    )
    raise NotSupportedYet(text)


async def refuse_catalogue(_: Call) -> NoReturn:
    """GET .../locations/{location}/runCommands[/{document}]: the built-in commands."""
    text = "Built-in commands are not supported by this version of Enjoin; there is no catalogue of them."
    raise NotSupportedYet(text)

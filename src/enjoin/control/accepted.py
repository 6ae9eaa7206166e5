"""What an accepted write answers with."""

from dataclasses import dataclass

from enjoin.model.command import CommandView
from enjoin.model.operation import Operation


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """A PUT that was accepted, now or by the request that this one repeats."""

    view: CommandView
    operation: Operation
    created: bool  # 201 when the run command is new, else 200

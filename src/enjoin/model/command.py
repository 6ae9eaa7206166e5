"""What to run: the spec of a run command, and the resource that holds it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final
from uuid import UUID

from enjoin.errors import InvalidField
from enjoin.model.execution import Execution
from enjoin.model.provisioning import ProvisioningState

MAX_SCRIPT_BYTES: Final = 256 * 1024
MAX_PARAMETER_BYTES: Final = 64 * 1024  # names and values of all parameters together
MAX_URI_BYTES: Final = 8 * 1024
MAX_TIMEOUT_S: Final = 2**31 - 1
TAIL_BYTES: Final = 4096  # of each stream, in instanceView
RESERVED_PREFIX: Final = "ENJOIN_"  # what the agent tells a script, and finds its processes by
PARAMETER_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)  # a name every shell can read back


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One value for the script: an environment variable, or the next argument when `name` is empty."""

    name: str
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret:
    """A protected value on its way to be sealed. It exists in memory for the length of one request."""

    name: str  # of the parameter; "" for the next argument
    value: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedValue:
    """A protected value that only its machine can open."""

    id: UUID  # the seal id: names this ciphertext for ever
    name: str  # of the parameter; "" for the next argument
    field: str  # what it is, bound into the seal: "protectedParameters[0]"
    key_id: str  # of the machine's sealing key
    ciphertext: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandSpec:
    """What to run. Never edited: each accepted PUT stores a new spec, one generation up."""

    script: str
    parameters: tuple[Parameter, ...] = ()
    protected: tuple[SealedValue, ...] = ()  # in the order given
    timeout_s: int | None = None  # ARM timeoutInSeconds as given; None or <= 0 is no limit
    async_execution: bool = False
    treat_failure_as_deployment_failure: bool = False

    def __post_init__(self) -> None:
        """Raise InvalidField when a limit is passed."""
        size_bytes = len(self.script.encode())
        if size_bytes > MAX_SCRIPT_BYTES:
            text = f"The script has {size_bytes} bytes; at most {MAX_SCRIPT_BYTES} are allowed."
            raise InvalidField(text, target="properties.source.script")

    @property
    def limit_s(self) -> int | None:
        """Seconds the script may run; None for no limit."""
        return self.timeout_s if self.timeout_s is not None and self.timeout_s > 0 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandRequest:
    """What a PUT asks for, read and checked, before its secrets are sealed."""

    location: str | None
    tags: Mapping[str, str] = field(default_factory=dict)
    script: str
    parameters: tuple[Parameter, ...] = ()
    protected: tuple[Secret, ...] | None = None  # None keeps the stored ones; () clears them
    timeout_s: int | None = None
    async_execution: bool = False
    treat_failure_as_deployment_failure: bool = False


def check_parameters(parameters: tuple[Parameter | Secret, ...], *, target: str) -> int:
    """Return the bytes they take; raise InvalidField for a name or a value that no script could be given."""
    total_bytes = 0
    for index, parameter in enumerate(parameters):
        if parameter.name and not PARAMETER_NAME.fullmatch(parameter.name):
            text = (
                f"The parameter name {parameter.name!r} is not usable as a variable; "
                "allowed are letters, digits and underscores, not starting with a digit, or no name for an argument."
            )
            raise InvalidField(text, target=f"{target}[{index}].name")
        if parameter.name.startswith(RESERVED_PREFIX):
            text = f"The parameter name {parameter.name!r} is Enjoin's own; choose one without {RESERVED_PREFIX}."
            raise InvalidField(text, target=f"{target}[{index}].name")
        if "\0" in parameter.value:
            text = "The parameter value contains a NUL character, which no argument or variable can hold."
            raise InvalidField(text, target=f"{target}[{index}].value")
        total_bytes += len(parameter.name.encode()) + len(parameter.value.encode())
    return total_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCommand:
    """The ARM child resource. Each creation is an incarnation; each accepted PUT a generation of it."""

    incarnation_id: UUID
    machine_id: UUID
    name: str  # as first spelled; compared without regard to case
    location: str
    tags: Mapping[str, str] = field(default_factory=dict)
    spec: CommandSpec
    generation: int
    revision: int = 1  # counts the writes of clients; those that only change tags run nothing
    execution_id: UUID  # of that generation
    provisioning_state: ProvisioningState
    created_by: str
    created_at: datetime
    modified_by: str
    modified_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandView:
    """A run command as it stands, with its current execution: what a GET shows."""

    command: RunCommand
    execution: Execution
    received_bytes: Mapping[str, int]  # of each stream, so far
    tails: Mapping[str, bytes]  # the last TAIL_BYTES of each stream, so far

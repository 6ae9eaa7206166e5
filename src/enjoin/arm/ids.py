"""ARM resource ids: read, written, and compared without regard to case."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

from enjoin.errors import InvalidRequest
from enjoin.model.address import CommandAddress, MachineAddress, ScaleSetAddress
from enjoin.model.machine import MachineKind

SCALE_SET_TYPE: Final = "Microsoft.Compute/virtualMachineScaleSets"
MACHINE_TYPES: Final[Mapping[MachineKind, str]] = {
    MachineKind.VIRTUAL_MACHINE: "Microsoft.Compute/virtualMachines",
    MachineKind.SCALE_SET_INSTANCE: f"{SCALE_SET_TYPE}/virtualMachines",
    MachineKind.ARC: "Microsoft.HybridCompute/machines",
}
COMMAND_TYPES: Final[Mapping[MachineKind, str]] = {  # the spelling of `type`: Azure's own, which is not consistent
    MachineKind.VIRTUAL_MACHINE: "Microsoft.Compute/virtualMachines/runCommands",
    MachineKind.SCALE_SET_INSTANCE: f"{SCALE_SET_TYPE}/virtualMachines/runCommands",
    MachineKind.ARC: "Microsoft.HybridCompute/machines/runcommands",
}
KIND_OF_TYPE: Final[Mapping[str, MachineKind]] = {text.lower(): kind for kind, text in MACHINE_TYPES.items()}
_RUN_COMMANDS: Final = "runCommands"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ResourceId:
    """The path of a subscription, a group, or a resource in a group. Two spellings that differ in case are equal."""

    subscription_id: str
    resource_group: str = ""  # "": the subscription itself
    provider: str = ""  # "": the group itself
    types: tuple[str, ...] = ()
    names: tuple[str, ...] = ()  # one for each of `types`

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read an id; raise InvalidRequest when it is none. Empty segments are passed over."""
        parts = [part for part in text.split("/") if part]
        lower = [part.lower() for part in parts]
        if len(parts) == 2 and lower[0] == "subscriptions":  # noqa: PLR2004 - a key and its value
            return cls(subscription_id=parts[1])
        if lower[0::2][:2] != ["subscriptions", "resourcegroups"] or len(parts) % 2:
            raise _not_an_id(text)
        if len(parts) == 4:  # noqa: PLR2004 - two keys and their values
            return cls(subscription_id=parts[1], resource_group=parts[3])
        if lower[4] != "providers" or len(parts) < 8:  # noqa: PLR2004 - and a provider, a type, a name
            raise _not_an_id(text)
        return cls(
            subscription_id=parts[1],
            resource_group=parts[3],
            provider=parts[5],
            types=tuple(parts[6::2]),
            names=tuple(parts[7::2]),
        )

    def __str__(self) -> str:
        path = f"/subscriptions/{self.subscription_id}"
        if self.resource_group:
            path += f"/resourceGroups/{self.resource_group}"
        if self.provider:
            path += f"/providers/{self.provider}"
        return path + "".join(f"/{kind}/{name}" for kind, name in zip(self.types, self.names, strict=True))

    @property
    def type(self) -> str:
        """The resource type, as in "Microsoft.Compute/virtualMachines"; "" for a subscription or a group."""
        return "/".join((self.provider, *self.types)) if self.provider else ""

    @property
    def name(self) -> str:
        """The last name in the path."""
        return self.names[-1] if self.names else self.resource_group or self.subscription_id

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ResourceId) and str(self).lower() == str(other).lower()

    def __hash__(self) -> int:
        return hash(str(self).lower())

    def as_machine(self) -> MachineAddress | None:
        """Return the address when this is a machine's id, else None."""
        kind = KIND_OF_TYPE.get(self.type.lower())
        if kind is None:
            return None
        return MachineAddress(
            subscription_id=self.subscription_id,
            resource_group=self.resource_group,
            kind=kind,
            name="/".join(self.names),
        )

    def as_command(self) -> CommandAddress | None:
        """Return the address when this is a run command's id, else None."""
        if len(self.types) < 2 or self.types[-1].lower() != _RUN_COMMANDS.lower():  # noqa: PLR2004 - below a machine
            return None
        machine = self.parent().as_machine()
        return None if machine is None else CommandAddress(machine=machine, name=self.names[-1])

    def parent(self) -> "ResourceId":
        """Return the id one level up: what a nested resource belongs to."""
        return ResourceId(
            subscription_id=self.subscription_id,
            resource_group=self.resource_group,
            provider=self.provider,
            types=self.types[:-1],
            names=self.names[:-1],
        )


def group_id_path(subscription_id: str, name: str) -> str:
    """Return the id of a resource group."""
    return f"/subscriptions/{subscription_id}/resourceGroups/{name}"


def machine_id_path(address: MachineAddress) -> str:
    """Return the id of a machine."""
    group = group_id_path(address.subscription_id, address.resource_group)
    provider, *types = MACHINE_TYPES[address.kind].split("/")
    pairs = zip(types, address.name.split("/", len(types) - 1), strict=True)
    return f"{group}/providers/{provider}" + "".join(f"/{kind}/{name}" for kind, name in pairs)


def scale_set_id_path(address: ScaleSetAddress) -> str:
    """Return the id of a scale set."""
    group = group_id_path(address.subscription_id, address.resource_group)
    return f"{group}/providers/{SCALE_SET_TYPE}/{address.name}"


def command_id_path(address: CommandAddress) -> str:
    """Return the id of a run command."""
    return f"{machine_id_path(address.machine)}/{_RUN_COMMANDS}/{address.name}"


def below_group(path: str) -> str:
    """Return an id without the group that it is in: how ARM's errors name a resource."""
    return path.partition("/providers/")[2]


def _not_an_id(text: str) -> InvalidRequest:
    message = (
        f"{text!r} is not a resource id; one looks like /subscriptions/ID/resourceGroups/GROUP"
        "/providers/Microsoft.Compute/virtualMachines/NAME."
    )
    return InvalidRequest(message)

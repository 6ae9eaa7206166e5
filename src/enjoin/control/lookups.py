"""Finding what a request names, or saying in ARM's words that it is not there."""

from enjoin.arm.ids import MACHINE_TYPES, below_group, command_id_path, machine_id_path
from enjoin.control.machines import find_machine
from enjoin.errors import GroupBeingDeleted, NotFound, ParentNotFound
from enjoin.model.address import CommandAddress
from enjoin.model.command import RunCommand
from enjoin.model.directory import ResourceGroup
from enjoin.model.provisioning import ProvisioningState
from enjoin.store.base import Transaction


async def find_command(tx: Transaction, address: CommandAddress) -> RunCommand:
    """Return the run command at an address; raise NotFound."""
    machine = await find_machine(tx, address.machine)
    command = await tx.find_command(machine.id, address.name)
    if command is None:
        raise no_command(address)
    return command


def no_command(address: CommandAddress) -> NotFound:
    """Return the error for a run command that is not there."""
    text = (
        f"The Resource '{below_group(command_id_path(address))}' under resource group "
        f"'{address.machine.resource_group}' was not found."
    )
    return NotFound(text)


def no_parent(address: CommandAddress) -> ParentNotFound:
    """Return the error for a write below a machine that is not there."""
    kind = MACHINE_TYPES[address.machine.kind]
    text = (
        f"Failed to perform 'write' on resource(s) of type '{kind}/runCommands', because the parent resource "
        f"'{machine_id_path(address.machine)}' could not be found."
    )
    return ParentNotFound(text)


def refuse_deleting(group: ResourceGroup | None) -> None:
    """Raise GroupBeingDeleted when nothing new may come into a group."""
    if group is not None and group.provisioning_state is ProvisioningState.DELETING:
        text = f"The resource group '{group.name}' is being deleted; nothing can be put into it until that is over."
        raise GroupBeingDeleted(text)

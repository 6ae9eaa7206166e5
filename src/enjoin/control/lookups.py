"""Finding what a request names, or saying in ARM's words that it is not there."""

from enjoin.control.machines import TYPES, find_machine
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
    kind = TYPES[address.machine.kind]
    text = (
        f"The Resource '{kind}/{address.machine.name}/runCommands/{address.name}' under resource group "
        f"'{address.machine.resource_group}' was not found."
    )
    return NotFound(text)


def no_parent(address: CommandAddress) -> ParentNotFound:
    """Return the error for a write below a machine that is not there."""
    kind = TYPES[address.machine.kind]
    text = (
        f"Failed to perform 'write' on resource(s) of type '{kind}/runCommands', because the parent resource "
        f"'/subscriptions/{address.machine.subscription_id}/resourceGroups/{address.machine.resource_group}"
        f"/providers/{kind}/{address.machine.name}' could not be found."
    )
    return ParentNotFound(text)


def refuse_deleting(group: ResourceGroup | None) -> None:
    """Raise GroupBeingDeleted when nothing new may come into a group."""
    if group is not None and group.provisioning_state is ProvisioningState.DELETING:
        text = f"The resource group '{group.name}' is being deleted; nothing can be put into it until that is over."
        raise GroupBeingDeleted(text)

"""How a machine's address was spelled when it was made, which is how ids are spelled whatever a request wrote."""

from collections import OrderedDict
from typing import Final
from uuid import UUID

from enjoin.arm.machine import address_of
from enjoin.control.machines import Machines
from enjoin.errors import NotFound
from enjoin.model.address import MachineAddress
from enjoin.model.machine import MachineKind

MAX_REMEMBERED: Final = 20_000


class Spellings:
    """Remembers addresses by machine and kind. A machine has one of a kind at most, and it never changes."""

    def __init__(self, machines: Machines) -> None:
        """Ask `machines` once for each."""
        self._machines = machines
        self._known: OrderedDict[tuple[UUID, MachineKind], MachineAddress] = OrderedDict()

    async def of(self, machine_id: UUID, asked: MachineAddress) -> MachineAddress:
        """Return the address of the machine that was found under `asked`."""
        key = (machine_id, asked.kind)
        known = self._known.get(key)
        if known is None:
            try:
                machine = await self._machines.get(asked)
            except NotFound:  # deleted between the two reads
                return asked
            known = address_of(machine)
            if machine.id != machine_id:
                return known
            self._known[key] = known
            if len(self._known) > MAX_REMEMBERED:
                self._known.popitem(last=False)
        return known

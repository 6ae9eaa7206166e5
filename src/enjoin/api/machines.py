"""Routes of the inventory: VMs and Arc machines."""

from typing import Final

from starlette.responses import Response

from enjoin.api.call import JSON, Call, accepted
from enjoin.arm.envelope import render_list
from enjoin.arm.ids import MACHINE_TYPES, machine_id_path
from enjoin.arm.machine import address_of, render_machine, render_vm_instance_view
from enjoin.errors import NotFound

PAGE: Final = 1000


async def get_machine(call: Call) -> Response:
    """GET a VM or an Arc machine."""
    machine = await call.services.machines.get(call.machine)
    body = render_machine(machine, tenant_id=call.services.tenant_id, expand_instance_view=call.expands_instance_view)
    return JSON(body)


async def get_vm_instance_view(call: Call) -> Response:
    """GET .../virtualMachines/{machine}/instanceView."""
    return JSON(render_vm_instance_view(await call.services.machines.get(call.machine)))


async def list_machines(call: Call) -> Response:
    """GET the machines of a kind, in a group or in the whole subscription, in pages."""
    subscription, group = call.params["subscription"], call.params.get("group")
    if group is None:
        await call.services.directory.subscription(subscription)
    else:
        await call.services.directory.group(subscription, group)
    found = await call.services.machines.list(subscription, resource_group=group, kind=call.kind)
    by_key = {machine_id_path(address_of(machine)).lower(): machine for machine in found}
    mark = call.page_mark
    rest = sorted(key for key in by_key if key > mark)
    shown = [by_key[key] for key in rest[:PAGE]]
    next_link = call.next_page(rest[PAGE - 1]) if len(rest) > PAGE else None
    expand = call.expands_instance_view or call.query("statusOnly").lower() == "true"
    values = [
        render_machine(machine, tenant_id=call.services.tenant_id, expand_instance_view=expand) for machine in shown
    ]
    return JSON(render_list(values, next_link))


async def delete_machine(call: Call) -> Response:
    """DELETE a machine: its agent ends what runs and leaves. 202 and an operation, or 204 when there is none."""
    address = call.machine
    try:
        machine = await call.services.machines.get(address)
    except NotFound:
        return Response(status_code=204)
    if not await call.services.machines.delete(address):
        return Response(status_code=204)
    operation = await call.services.directory.record_deletion(
        call.caller,
        subscription_id=machine.subscription_id,
        location=machine.location,
        resource_path=machine_id_path(address_of(machine)),
        provider=MACHINE_TYPES[address.kind].partition("/")[0],
    )
    return accepted(call, operation)

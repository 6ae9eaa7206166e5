"""Routes of the inventory: VMs, scale-set instances and Arc machines."""

from typing import Final

from starlette.responses import Response

from enjoin.api.call import JSON, Call, accepted
from enjoin.arm.envelope import Body, render_list
from enjoin.arm.ids import MACHINE_TYPES, machine_id_path
from enjoin.arm.machine import address_of, render_machine, render_vm_instance_view
from enjoin.arm.tracked import parse_tags_change
from enjoin.errors import NotFound, NotSupportedYet
from enjoin.model.machine import Machine

PAGE: Final = 250


async def get_machine(call: Call) -> Response:
    """GET a machine."""
    return JSON(_render(call, await call.services.machines.get(call.machine)))


async def change_machine(call: Call) -> Response:
    """PUT or PATCH a machine that has joined: its tags."""
    body, is_patch = await call.json(), call.request.method == "PATCH"
    try:
        machine = await call.services.machines.get(call.machine)
    except NotFound:
        if is_patch:
            raise
        text = (
            f"There is no machine '{call.machine.name}', and a PUT cannot make one: "
            "a machine joins by `enjoin join` on it."
        )
        raise NotSupportedYet(text) from None
    change = parse_tags_change(body, _render(call, machine), is_patch=is_patch)
    return JSON(_render(call, await call.services.machines.change_tags(call.machine, change)))


def _render(call: Call, machine: Machine) -> Body:
    expand = call.expands_instance_view
    return render_machine(machine, tenant_id=call.services.tenant_id, expand_instance_view=expand)


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
    after_group, _, after_name = call.page_mark.partition("/")
    found = await call.services.machines.list(
        subscription, resource_group=group, kind=call.kind, after=(after_group, after_name, call.kind), limit=PAGE + 1
    )
    shown = found[:PAGE]
    next_link = call.next_page(f"{shown[-1].resource_group}/{shown[-1].name}") if len(found) > PAGE else None
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

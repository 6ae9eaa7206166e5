"""Routes of scale sets. Their instances are machines."""

from typing import Final

from starlette.responses import Response

from enjoin.api.call import JSON, Call, accepted
from enjoin.arm.envelope import render_list
from enjoin.arm.ids import scale_set_id_path
from enjoin.arm.machine import render_machine
from enjoin.arm.scale_set import (
    address_of_set,
    parse_instance_ids,
    render_scale_set,
    render_scale_set_instance_view,
)
from enjoin.arm.tracked import parse_tags_change
from enjoin.errors import InvalidField, NotFound, NotSupportedYet
from enjoin.model.scale_set import ScaleSet

PAGE: Final = 250
_MAX_NUMBER_DIGITS: Final = 9


async def list_scale_sets(call: Call) -> Response:
    """GET the scale sets of a group or of the whole subscription, in pages."""
    subscription, group = call.params["subscription"], call.params.get("group")
    if group is None:
        await call.services.directory.subscription(subscription)
    else:
        await call.services.directory.group(subscription, group)
    after_group, _, after_name = call.page_mark.partition("/")
    found = await call.services.scale_sets.list(
        subscription, resource_group=group, after=(after_group, after_name), limit=PAGE + 1
    )
    shown = found[:PAGE]
    next_link = None
    if len(found) > PAGE:
        last = shown[-1].scale_set
        next_link = call.next_page(f"{last.resource_group}/{last.name}")
    return JSON(render_list([render_scale_set(view) for view in shown], next_link))


async def get_scale_set(call: Call) -> Response:
    """GET a scale set."""
    return JSON(render_scale_set(await call.services.scale_sets.get(call.scale_set)))


async def get_instance_view(call: Call) -> Response:
    """GET .../virtualMachineScaleSets/{scale_set}/instanceView."""
    return JSON(render_scale_set_instance_view(await call.services.scale_sets.get(call.scale_set)))


async def change_scale_set(call: Call) -> Response:
    """PUT or PATCH a scale set that is there: its tags."""
    body, is_patch = await call.json(), call.request.method == "PATCH"
    try:
        view = await call.services.scale_sets.get(call.scale_set)
    except NotFound:
        if is_patch:
            raise
        text = (
            f"There is no scale set '{call.scale_set.name}', and a PUT cannot make one: it comes into being when its "
            "first instance joins (`enjoin join --as vmss:SET/ID`)."
        )
        raise NotSupportedYet(text) from None
    change = parse_tags_change(body, render_scale_set(view), is_patch=is_patch)
    return JSON(render_scale_set(await call.services.scale_sets.change_tags(call.scale_set, change)))


async def delete_scale_set(call: Call) -> Response:
    """DELETE a scale set with its machines: 202 and an operation, or 204 when there is none."""
    try:
        view = await call.services.scale_sets.get(call.scale_set)
        await call.services.scale_sets.delete(call.scale_set)
    except NotFound:
        return Response(status_code=204)
    return await _deleted(call, view.scale_set)


async def delete_instances(call: Call) -> Response:
    """POST .../virtualMachineScaleSets/{scale_set}/delete: those in instanceIds. 202 and an operation."""
    numbers = parse_instance_ids(await call.json())
    view = await call.services.scale_sets.get(call.scale_set)
    await call.services.scale_sets.delete_instances(call.scale_set, numbers)
    return await _deleted(call, view.scale_set)


async def _deleted(call: Call, scale_set: ScaleSet) -> Response:
    operation = await call.services.directory.record_deletion(
        call.caller,
        subscription_id=scale_set.subscription_id,
        location=scale_set.location,
        resource_path=scale_set_id_path(address_of_set(scale_set)),
        provider="Microsoft.Compute",
    )
    return accepted(call, operation)


async def list_instances(call: Call) -> Response:
    """GET .../virtualMachineScaleSets/{scale_set}/virtualMachines, by instance id, in pages."""
    mark = call.page_mark
    if mark and not (mark.isascii() and mark.isdigit() and len(mark) <= _MAX_NUMBER_DIGITS):
        text = "The query parameter '$skiptoken' is not one that this server gave."
        raise InvalidField(text, target="$skiptoken")
    found = await call.services.scale_sets.instances(call.scale_set, after=int(mark or "-1"), limit=PAGE + 1)
    shown = found[:PAGE]
    last = shown[-1].instance if len(found) > PAGE else None
    next_link = None if last is None else call.next_page(str(last.number))
    tenant_id, expand = call.services.tenant_id, call.expands_instance_view
    values = [render_machine(machine, tenant_id=tenant_id, expand_instance_view=expand) for machine in shown]
    return JSON(render_list(values, next_link))

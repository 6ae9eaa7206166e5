"""Routes of resource groups."""

from starlette.responses import Response

from enjoin.api.call import JSON, Call, accepted
from enjoin.arm.envelope import render_list
from enjoin.arm.group import parse_group, render_group
from enjoin.errors import GroupNotFound, SubscriptionNotFound


async def list_groups(call: Call) -> Response:
    """GET the groups of a subscription."""
    groups = await call.services.directory.groups(call.params["subscription"])
    return JSON(render_list([render_group(group) for group in groups], None))


async def get_group(call: Call) -> Response:
    """GET one group."""
    return JSON(render_group(await call.services.directory.group(call.params["subscription"], call.params["group"])))


async def head_group(call: Call) -> Response:
    """HEAD one group: 204 when it exists, 404 when not."""
    try:
        await call.services.directory.group(call.params["subscription"], call.params["group"])
    except (GroupNotFound, SubscriptionNotFound):
        return Response(status_code=404)
    return Response(status_code=204)


async def put_group(call: Call) -> Response:
    """PUT a group. 201 if created, 200 if replaced."""
    wanted = parse_group(await call.json())
    directory = call.services.directory
    group, created = await directory.put_group(call.params["subscription"], call.params["group"], wanted)
    return JSON(render_group(group), status_code=201 if created else 200)


async def delete_group(call: Call) -> Response:
    """DELETE an empty group: 202 and where its end can be read."""
    directory = call.services.directory
    operation = await directory.delete_group(call.caller, call.params["subscription"], call.params["group"])
    return accepted(call, operation)

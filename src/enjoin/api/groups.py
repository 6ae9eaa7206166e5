"""Routes of resource groups."""

from functools import partial

from starlette.responses import Response

from enjoin.api.call import JSON, Call, accepted
from enjoin.arm.envelope import render_list
from enjoin.arm.group import parse_group, parse_group_patch, render_group
from enjoin.arm.resource import parse_filter
from enjoin.errors import GroupNotFound, SubscriptionNotFound
from enjoin.model.directory import ResourceGroup
from enjoin.model.entity_tag import group_tag


async def list_groups(call: Call) -> Response:
    """GET the groups of a subscription; `$filter` may name a tag."""
    wanted = parse_filter(call.query("$filter"))
    groups = await call.services.directory.groups(call.params["subscription"])
    return JSON(render_list([render_group(group) for group in groups if wanted.admits_tags(group.tags)], None))


async def get_group(call: Call) -> Response:
    """GET one group; 304 to a reader that has it as it is."""
    group = await call.services.directory.group(call.params["subscription"], call.params["group"])
    if call.precondition.is_known(group_tag(group)):
        return Response(status_code=304, headers={"ETag": str(group_tag(group))})
    return _shown(group)


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
    group, created = await call.services.groups.put(
        call.params["subscription"], call.params["group"], wanted, precondition=call.precondition
    )
    return _shown(group, status_code=201 if created else 200)


async def patch_group(call: Call) -> Response:
    """PATCH a group: merge with what is there."""
    merge = partial(parse_group_patch, await call.json())
    group = await call.services.groups.patch(
        call.params["subscription"], call.params["group"], merge, precondition=call.precondition
    )
    return _shown(group)


async def delete_group(call: Call) -> Response:
    """DELETE a group with all that is in it, after ending what runs: 202 and where its end can be read."""
    operation = await call.services.groups.delete(
        call.caller, call.params["subscription"], call.params["group"], precondition=call.precondition
    )
    return accepted(call, operation)


def _shown(group: ResourceGroup, *, status_code: int = 200) -> Response:
    return JSON(render_group(group), status_code=status_code, headers={"ETag": str(group_tag(group))})

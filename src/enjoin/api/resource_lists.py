"""Routes that are about any resource: the list of all, and locks, of which there are none."""

from typing import Final

import msgspec
from starlette.responses import Response

from enjoin.api.call import JSON, Call
from enjoin.arm.envelope import render_list
from enjoin.arm.resource import parse_filter, render_entry
from enjoin.control.resources import Mark
from enjoin.errors import InvalidField

PAGE: Final = 200


async def list_resources(call: Call) -> Response:
    """GET the resources of a subscription or a group, filtered by `$filter`, in pages of at most `$top`."""
    wanted = parse_filter(call.query("$filter"))
    top = call.number("$top", default=PAGE)
    if top == 0:
        text = "The query parameter '$top' is 0; it has to be at least 1."
        raise InvalidField(text, target="$top")
    found = await call.services.resources.list(
        call.params["subscription"], call.params.get("group"), wanted, after=_mark(call), limit=min(top, PAGE)
    )
    expand = call.query("$expand").split(",")
    values = [render_entry(one.resource, one.machine, expand=expand) for one in found.entries]
    next_link = None if found.end is None else call.next_page(msgspec.json.encode(found.end).decode())
    return JSON(render_list(values, next_link))


def _mark(call: Call) -> Mark | None:
    text = call.page_mark
    if not text:
        return None
    try:
        return msgspec.json.decode(text, type=Mark)
    except msgspec.MsgspecError:
        message = "The query parameter '$skiptoken' is not one that this server gave."
        raise InvalidField(message, target="$skiptoken") from None


async def list_locks(_: Call) -> Response:
    """GET the locks of a scope: there are none."""
    return JSON(render_list([], None))

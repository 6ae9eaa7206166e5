"""Routes of managed run commands, on VMs and on Arc machines alike."""

import asyncio
import re
from collections.abc import AsyncIterator, Coroutine, Mapping
from functools import partial
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from enjoin.api.call import JSON, Call, accepted
from enjoin.arm.byte_range import read_range
from enjoin.arm.envelope import Body, render_list, time_text
from enjoin.arm.execution import render_execution, render_retention
from enjoin.arm.properties import read_json
from enjoin.arm.run_command import parse_patch, parse_run_command, render_run_command
from enjoin.control.accepted import Accepted
from enjoin.control.output import Output
from enjoin.errors import Expired, InvalidField, NotFound
from enjoin.model.address import CommandAddress
from enjoin.model.command import CommandRequest, CommandView, RunCommand
from enjoin.model.entity_tag import command_tag
from enjoin.model.execution import Execution
from enjoin.model.machine import MachineKind
from enjoin.protocol.messages import STREAMS

PAGE: Final = 50
READ_BYTES: Final = 256 * 1024
_NAME: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.\-]{0,78}[A-Za-z0-9_\-])?", re.ASCII)


async def put_run_command(call: Call) -> Response:
    """PUT .../runCommands/{command}: create or replace, and run. 201 if created, 200 if replaced; never 202."""
    address = call.command
    _check_name(address.name)
    body = await call.request.body()
    wanted = parse_run_command(read_json(body), api_version=call.api_version, kind=address.machine.kind)
    done = await call.services.commands.put(
        call.caller, address, wanted, trace=call.trace(body), precondition=call.precondition
    )
    return await _written(call, done, status_code=201 if done.created else 200)


async def patch_run_command(call: Call) -> Response:
    """PATCH .../runCommands/{command}: merge with what is there; run when more than tags changed. Always 200."""
    address = call.command
    body = await call.request.body()
    patch = read_json(body)
    merge = partial(_merge, patch, api_version=call.api_version, kind=address.machine.kind)
    done = await call.services.commands.patch(
        call.caller, address, merge, trace=call.trace(body), precondition=call.precondition
    )
    return await _written(call, done, status_code=200)


async def get_run_command(call: Call) -> Response:
    """GET .../runCommands/{command}[?$expand=instanceView]."""
    view = await call.services.commands.get(call.command)
    headers = {"ETag": str(command_tag(view.command))}
    shows_execution = call.expands_instance_view or call.kind is MachineKind.ARC  # which changes under the same tag
    if not shows_execution and call.precondition.is_known(command_tag(view.command)):
        return Response(status_code=304, headers=headers)
    return JSON(await _render(call, view), headers=headers)


async def list_run_commands(call: Call) -> Response:
    """GET .../runCommands[?$expand=instanceView], in pages."""
    views = await call.services.commands.list(call.machine, after_name=call.page_mark, limit=PAGE + 1)
    shown = views[:PAGE]
    next_link = call.next_page(shown[-1].command.name) if len(views) > PAGE else None
    return JSON(render_list([await _render(call, view) for view in shown], next_link))


async def delete_run_command(call: Call) -> Response:
    """DELETE .../runCommands/{command}: 202 and an operation, or 204 when there is none."""
    try:
        operation = await call.services.commands.delete(
            call.caller, call.command, trace=call.trace(b""), precondition=call.precondition
        )
    except NotFound:  # no such machine: no such command either
        operation = None
    return Response(status_code=204) if operation is None else accepted(call, operation)


async def cancel_run_command(call: Call) -> Response:
    """POST .../runCommands/{command}/cancel: 202 and the execution as it stands. Ours, not ARM's."""
    execution = await call.services.commands.cancel(call.caller, call.command, trace=call.trace(b""))
    return JSON(render_execution(execution, await _address(call, execution)), status_code=202)


async def list_executions(call: Call) -> Response:
    """GET .../runCommands/{command}/executions, newest first, in pages. Ours, not ARM's."""
    mark = call.page_mark
    if mark and not (mark.isascii() and mark.isdigit() and len(mark) < len(str(2**63))):
        text = "The query parameter '$skiptoken' is not one that this server gave."
        raise InvalidField(text, target="$skiptoken")
    executions = await call.services.commands.executions(
        call.command, before_generation=int(mark) if mark else None, limit=PAGE + 1
    )
    shown = executions[:PAGE]
    next_link = call.next_page(str(shown[-1].generation)) if len(executions) > PAGE else None
    values = [render_execution(execution, await _address(call, execution)) for execution in shown]
    retention = render_retention(call.services.history.retention)
    return JSON({**render_list(values, next_link), "retention": retention})


async def get_execution(call: Call) -> Response:
    """GET .../runCommands/{command}/executions/{generation}. Ours, not ARM's."""
    execution = await _execution(call)
    return JSON(render_execution(execution, await _address(call, execution)))


async def get_output(call: Call) -> Response:
    """GET .../executions/{generation}/output?stream=stdout|stderr&offset=&follow=: the bytes as the script wrote them.

    A Range is served as RFC 9110 says, unless the stream is followed. With follow=true the answer goes on until the
    stream is complete, or the server stops: a client that sees the end while the execution is not over asks again from
    where it is.
    """
    stream = call.query("stream").lower() or "stdout"
    if stream not in STREAMS:
        text = f"The query parameter 'stream' is '{stream[:40]}'; allowed are {' and '.join(STREAMS)}."
        raise InvalidField(text, target="stream")
    offset, follow = call.number("offset", default=0), call.flag("follow")
    execution = await _execution(call)
    output = call.services.output
    if execution.output_dropped_at is not None:
        text = (
            f"The output of generation {execution.generation} was removed on "
            f"{time_text(execution.output_dropped_at)} to keep within the bounds of history."
        )
        raise Expired(text)
    if follow:
        chunks = output.follow(execution.id, stream, offset=offset)
        return Followed(chunks, call.services.stopping)
    total_bytes = await output.size(execution, stream)
    wanted = read_range(call.request.headers.get("range"), total_bytes)
    headers = {"Accept-Ranges": "bytes"}
    if wanted is None:
        size_bytes = max(total_bytes - offset, 0)
    else:
        offset, size_bytes = wanted
        headers["Content-Range"] = f"bytes {offset}-{offset + size_bytes - 1}/{total_bytes}"
    pieces = _pieces(output, execution, stream, offset=offset, size_bytes=size_bytes)
    status_code = 200 if wanted is None else 206
    return Followed(
        pieces, call.services.stopping, size_bytes=size_bytes, status_code=status_code, more_headers=headers
    )


async def _pieces(
    output: Output, execution: Execution, stream: str, *, offset: int, size_bytes: int
) -> AsyncIterator[bytes]:
    while size_bytes > 0:
        piece = await output.read(execution, stream, offset=offset, limit_bytes=min(READ_BYTES, size_bytes))
        if not piece:
            text = f"The output of the execution {execution.id} was removed while it was being read."
            raise NotFound(text)
        yield piece
        offset, size_bytes = offset + len(piece), size_bytes - len(piece)


class Followed(Response):
    """Bytes as they come, until they end, the client goes, or the server stops."""

    def __init__(
        self,
        chunks: AsyncIterator[bytes],
        stopping: asyncio.Event,
        *,
        size_bytes: int | None = None,
        status_code: int = 200,
        more_headers: Mapping[str, str] | None = None,
    ) -> None:
        """Send `chunks`; `size_bytes` is their size when it is known."""
        headers = dict(more_headers or {})
        if size_bytes is not None:
            headers["Content-Length"] = str(size_bytes)
        super().__init__(status_code=status_code, headers=headers, media_type="application/octet-stream")
        if size_bytes is None:
            del self.headers["content-length"]
        self._chunks = chunks
        self._stopping = stopping
        self._is_whole = size_bytes is not None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        if scope["method"] != "HEAD":
            await self._send_until(_gone(Request(scope, receive)), send)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_until(self, gone: Coroutine[None, None, None], send: Send) -> None:
        sending = asyncio.create_task(self._send_all(send))
        others: list[asyncio.Task[Any]] = [asyncio.create_task(gone)]
        if not self._is_whole:
            others.append(asyncio.create_task(self._stopping.wait()))
        try:
            await asyncio.wait([sending, *others], return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()  # raises what ended it
        finally:
            for task in (sending, *others):
                task.cancel()
            await asyncio.gather(sending, *others, return_exceptions=True)

    async def _send_all(self, send: Send) -> None:
        async for chunk in self._chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})


async def _gone(request: Request) -> None:
    """Return when the client has closed the connection."""
    message: Message = {"type": "http.request"}
    while message["type"] != "http.disconnect":
        message = await request.receive()


async def _execution(call: Call) -> Execution:
    text = call.params["generation"]
    if not (text.isascii() and text.isdigit() and len(text) < len(str(2**63))):
        message = f"The generation '{text[:40]}' is not a number."
        raise InvalidField(message, target="generation")
    return await call.services.commands.execution(call.command, int(text))


async def _address(call: Call, execution: Execution) -> CommandAddress:
    machine = await call.spellings.of(execution.machine_id, call.machine)
    return CommandAddress(machine=machine, name=call.command.name)


def _merge(patch: object, current: RunCommand, *, api_version: str, kind: MachineKind) -> CommandRequest:
    return parse_patch(patch, current, api_version=api_version, kind=kind)


async def _written(call: Call, done: Accepted, *, status_code: int) -> Response:
    headers = call.operation_headers(done.operation, location=False)
    headers["ETag"] = str(command_tag(done.view.command))
    return JSON(await _render(call, done.view), status_code=status_code, headers=headers)


async def _render(call: Call, view: CommandView) -> Body:
    machine = await call.spellings.of(view.command.machine_id, call.machine)
    expand = call.expands_instance_view or machine.kind is MachineKind.ARC  # the Arc SDK cannot ask for it
    return render_run_command(view, machine, expand_instance_view=expand)


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        text = (
            f"'{name[:100]}' cannot be a run command's name; allowed are 1 to 80 letters, digits, '_', '-' and '.', "
            "starting with a letter, a digit or '_' and not ending with '.'."
        )
        raise InvalidField(text, target="runCommandName")

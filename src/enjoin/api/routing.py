"""Routes as one table: a verb, a path, a handler, and the permission without which the handler is not called."""

import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from starlette.datastructures import URLPath
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, NoMatchFound
from starlette.types import Receive, Scope, Send

from enjoin.api.call import Call, query_value
from enjoin.api.envelope import error_response
from enjoin.api.services import Services
from enjoin.arm.ids import MACHINE_TYPES
from enjoin.errors import MethodNotAllowed, MissingAPIVersion, NotFound
from enjoin.model.machine import MachineKind

Handler = Callable[[Call], Awaitable[Response]]
OpenHandler = Callable[[Request], Awaitable[Response]]
SIGNED_IN: Final = ""  # as a permission: every caller with a token
_PARAMETER: Final = re.compile(r"\{(\w+)(?::([^{}]+))?\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Guarded:
    """A handler behind a token, an api-version and a permission."""

    handler: Handler
    permission: str  # Azure's string; {namespace} in it is filled from the path
    kind: MachineKind | None = None  # of the machines that the path is about


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line of the route table."""

    method: str
    path: str  # {name} is one segment, {name:pattern} what the pattern matches
    endpoint: Guarded | OpenHandler


def guarded(method: str, path: str, handler: Handler, permission: str) -> Entry:
    """Return a line whose callers need a token, an api-version and `permission`."""
    return Entry(method=method, path=path, endpoint=Guarded(handler=handler, permission=permission))


def public(method: str, path: str, handler: OpenHandler) -> Entry:
    """Return a line that anyone may call."""
    return Entry(method=method, path=path, endpoint=handler)


_A_MACHINE: Final = "{machine_type}/{machine}"
_PATHS: Final[Mapping[MachineKind, str]] = {
    MachineKind.VIRTUAL_MACHINE: "Microsoft.Compute/virtualMachines/{machine}",
    MachineKind.ARC: "Microsoft.HybridCompute/machines/{machine}",
    MachineKind.SCALE_SET_INSTANCE: "Microsoft.Compute/virtualMachineScaleSets/{scale_set}/virtualMachines/{machine}",
}


def each_kind(lines: Iterable[Entry]) -> Iterator[Entry]:
    """Return the lines, those about {machine_type} once for each kind of machine.

    A path with {machine_type}/{machine} is there for all; one with {machine_type} alone, the collection, for those that
    a group holds directly.
    """
    for line in lines:
        if not isinstance(line.endpoint, Guarded) or "{machine_type}" not in line.path:
            yield line
            continue
        for kind, path in _PATHS.items():
            if _A_MACHINE not in line.path and kind is MachineKind.SCALE_SET_INSTANCE:
                continue
            kind_path = line.path.replace(_A_MACHINE, path).replace("{machine_type}", MACHINE_TYPES[kind])
            permission = line.endpoint.permission.replace("{machine_type}", MACHINE_TYPES[kind])
            yield replace(line, path=kind_path, endpoint=replace(line.endpoint, permission=permission, kind=kind))


class Resource(BaseRoute):
    """All verbs of one path. Paths are compared without regard to case."""

    def __init__(self, path: str, endpoints: dict[str, Guarded | OpenHandler]) -> None:
        """Serve `endpoints`, by verb, at `path`."""
        self.path = path
        self.route = _PARAMETER.sub(r"{\1}", path)  # as it is counted and logged
        self._endpoints = endpoints
        pattern = "".join(
            part if at % 2 else re.escape(part)
            for at, part in enumerate(re.split(r"(\(\?P<.*?>.*?\))", _PARAMETER.sub(_group, path)))
        )
        self._pattern = re.compile(pattern + r"\Z", re.IGNORECASE | re.DOTALL)

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Match the path; the verb is looked at afterwards."""
        if scope["type"] == "http":
            match = self._pattern.match(scope["path"])
            if match is not None:
                return Match.FULL, {"path_params": match.groupdict()}
        return Match.NONE, {}

    def url_path_for(self, name: str, /, **path_params: object) -> URLPath:
        """Raise: URLs are made by `arm`, not from routes."""
        raise NoMatchFound(name, path_params)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        scope["enjoin.route"] = self.route
        request = Request(scope, receive)
        response = await self._answer(request)
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        method = request.method
        endpoint = self._endpoints.get(method) or (self._endpoints.get("GET") if method == "HEAD" else None)
        if isinstance(endpoint, Guarded):
            return await _guard(request, endpoint)
        if endpoint is not None:
            return await endpoint(request)
        if any(isinstance(other, Guarded) for other in self._endpoints.values()):
            await services_of(request).access.authenticate(request.headers.get("authorization"))
        allowed = ", ".join(sorted(self._endpoints))
        text = f"{method} does not apply to '{request.scope['path']}'; allowed are {allowed}."
        return error_response(MethodNotAllowed(text), services_of(request), {"Allow": allowed})


def resources(table: Iterable[Entry]) -> list[Resource]:
    """Return one Resource a path, in the table's order."""
    by_path: dict[str, dict[str, Guarded | OpenHandler]] = {}
    for entry in table:
        by_path.setdefault(entry.path, {})[entry.method] = entry.endpoint
    return [Resource(path, endpoints) for path, endpoints in by_path.items()]


def services_of(request: Request) -> Services:
    """Return what the application was built with."""
    services: Services = request.app.state.services
    return services


async def nothing_there(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a path that no route has: 404, once the caller is known."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1000, "reason": ""})
        return
    request = Request(scope, receive)
    services = services_of(request)
    await services.access.authenticate(request.headers.get("authorization"))
    text = f"There is nothing at '{scope['path']}' on this server."
    await error_response(NotFound(text), services)(scope, receive, send)


async def _guard(request: Request, endpoint: Guarded) -> Response:
    services = services_of(request)
    caller = await services.access.authenticate(request.headers.get("authorization"))
    request.scope["enjoin.caller"] = caller
    api_version = query_value(request, "api-version")
    if not api_version:
        text = "The api-version query parameter (?api-version=) is required for all requests."
        raise MissingAPIVersion(text)
    if endpoint.permission != SIGNED_IN:
        permission = endpoint.permission.format_map(request.path_params)
        await services.access.require(caller, permission, request.scope["path"])
    call = Call(
        request=request,
        services=services,
        caller=caller,
        api_version=api_version,
        params=request.path_params,
        machine_kind=endpoint.kind,
    )
    return await endpoint.handler(call)


def _group(match: re.Match[str]) -> str:
    name, pattern = match.groups()
    return f"(?P<{name}>{pattern or '[^/]+'})"

"""One request on its way through a handler, and the answers that handlers give."""

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, urlencode

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from enjoin.api.services import Services
from enjoin.api.spelling import Spellings
from enjoin.arm.envelope import operation_path
from enjoin.arm.properties import read_json
from enjoin.control.access import Authenticated
from enjoin.errors import InvalidField
from enjoin.model.address import CommandAddress, MachineAddress, ScaleSetAddress, Trace
from enjoin.model.entity_tag import Precondition
from enjoin.model.machine import MachineKind
from enjoin.model.operation import Operation

RETRY_AFTER: Final = {"Retry-After": "1"}  # whole and above zero, or clients sleep for 2 to 30 seconds
_TAG: Final = re.compile(r'(?P<weak>W/)?"(?P<quoted>[^"]*)"|(?P<bare>[^\s,"]+)')
_REPEATED: Final = ("$expand", "$filter", "$top")  # what the next page is asked for like this one
_TRUE: Final = frozenset({"true", "1"})
_FALSE: Final = frozenset({"", "false", "0"})


class JSON(Response):
    """A body of JSON."""

    media_type = "application/json; charset=utf-8"

    def render(self, content: object) -> bytes:
        """Return `content` as JSON."""
        return msgspec.json.encode(content)


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestIds:
    """What names a request, from its headers."""

    request_id: str
    correlation_id: str
    client_request_id: str | None
    return_client_request_id: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A request whose sender is known and may do it."""

    request: Request
    services: Services
    caller: Authenticated
    api_version: str
    params: Mapping[str, str]  # from the path, as spelled
    machine_kind: MachineKind | None = None

    async def json(self) -> object:
        """Return the body; raise InvalidRequest when it is no JSON."""
        return read_json(await self.request.body())

    def trace(self, body: bytes) -> Trace:
        """Return what names this request, for history and for its repetition."""
        ids: RequestIds = self.request.scope["enjoin.ids"]
        return Trace(
            request_id=ids.request_id,
            correlation_id=ids.correlation_id,
            client_request_id=ids.client_request_id,
            resource_key=f"{self.request.method} {self.path.lower()}",
            body_sha256=hashlib.sha256(body).digest(),
        )

    @property
    def path(self) -> str:
        """The path, as spelled."""
        path: str = self.request.scope["path"]
        return path

    def query(self, name: str) -> str:
        """Return a query parameter; "" when absent. Names are matched without regard to case."""
        return query_value(self.request, name)

    @property
    def precondition(self) -> Precondition:
        """What `If-Match` and `If-None-Match` say."""
        headers = self.request.headers
        return Precondition(
            if_match=_tags(headers.getlist("if-match"), weak=False),
            if_none_match=_tags(headers.getlist("if-none-match"), weak=True),
        )

    @property
    def expands_instance_view(self) -> bool:
        """Whether `$expand` asks for the instance view."""
        return "instanceview" in self.query("$expand").lower()

    def flag(self, name: str) -> bool:
        """Return a query parameter that is true or false."""
        text = self.query(name).lower()
        if text not in _TRUE | _FALSE:
            message = f"The query parameter '{name}' is '{text[:40]}'; it has to be true or false."
            raise InvalidField(message, target=name)
        return text in _TRUE

    def number(self, name: str, *, default: int) -> int:
        """Return a query parameter that is a whole number, not negative."""
        text = self.query(name)
        if not text:
            return default
        if not (text.isascii() and text.isdigit() and len(text) <= len(str(2**63))):
            message = f"The query parameter '{name}' is '{text[:40]}'; it has to be a whole number, not negative."
            raise InvalidField(message, target=name)
        return min(int(text), 2**63 - 1)

    @property
    def kind(self) -> MachineKind:
        """The kind of machine that the path is about."""
        assert self.machine_kind is not None
        return self.machine_kind

    @property
    def machine(self) -> MachineAddress:
        """The machine that the path is about."""
        name = self.params["machine"]
        return MachineAddress(
            subscription_id=self.params["subscription"],
            resource_group=self.params["group"],
            kind=self.kind,
            name=f"{self.params['scale_set']}/{name}" if self.kind is MachineKind.SCALE_SET_INSTANCE else name,
        )

    @property
    def scale_set(self) -> ScaleSetAddress:
        """The scale set that the path is about."""
        return ScaleSetAddress(
            subscription_id=self.params["subscription"],
            resource_group=self.params["group"],
            name=self.params["scale_set"],
        )

    @property
    def command(self) -> CommandAddress:
        """The run command that the path is about."""
        return CommandAddress(machine=self.machine, name=self.params["command"])

    @property
    def spellings(self) -> Spellings:
        """How addresses are to be spelled in ids."""
        spellings: Spellings = self.request.app.state.spellings
        return spellings

    @property
    def page_mark(self) -> str:
        """What the previous page ended with; "" on the first page."""
        text = self.query("$skiptoken")
        try:
            return base64.urlsafe_b64decode(text.encode()).decode()
        except (binascii.Error, ValueError):
            message = "The query parameter '$skiptoken' is not one that this server gave."
            raise InvalidField(message, target="$skiptoken") from None

    def next_page(self, mark: str) -> str:
        """Return the URL of the page after the one that ended with `mark`."""
        query = {"api-version": self.api_version}
        query |= {name: self.query(name) for name in _REPEATED if self.query(name)}
        query["$skiptoken"] = base64.urlsafe_b64encode(mark.encode()).decode()
        return f"{self.url(self.path)}?{urlencode(query)}"

    def url(self, path: str) -> str:
        """Return the absolute URL of a path, as clients reach it."""
        return self.services.public_url + quote(path, safe="/:@!$&'()*+,;=~")

    def operation_headers(self, operation: Operation, *, location: bool) -> dict[str, str]:
        """Return what a client follows to the end of an operation. Only deletions and actions have a Location."""
        query = urlencode({"api-version": self.api_version})
        headers = {"Azure-AsyncOperation": f"{self.url(operation_path(operation))}?{query}", **RETRY_AFTER}
        if location:
            headers["Location"] = f"{self.url(operation_path(operation, results=True))}?{query}"
        return headers


def query_value(request: Request, name: str) -> str:
    """Return the first value of a query parameter, its name matched without regard to case; "" when absent."""
    wanted = name.lower()
    return next((value for key, value in request.query_params.multi_items() if key.lower() == wanted), "")


def _tags(headers: Sequence[str], *, weak: bool) -> frozenset[str] | None:
    """Return the tags of a header without their quotes; weak ones only when `weak`, bare ones as if quoted."""
    if not headers:
        return None
    return frozenset(
        match["quoted"] if match["quoted"] is not None else match["bare"]
        for match in _TAG.finditer(",".join(headers))
        if weak or not match["weak"]
    )


def accepted(call: Call, operation: Operation) -> Response:
    """Return 202 with both headers: a deletion that is under way."""
    return Response(status_code=202, headers=call.operation_headers(operation, location=True))

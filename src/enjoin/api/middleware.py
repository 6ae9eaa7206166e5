"""Around every request: its names, its size, the shape of its path, its line in the log, what becomes of exceptions."""

import hashlib
import re
import time
from dataclasses import dataclass
from typing import Final
from uuid import uuid4

import structlog
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from enjoin.api.call import RequestIds
from enjoin.api.envelope import error_response
from enjoin.api.services import Services
from enjoin.control.access import Authenticated
from enjoin.control.metrics import REQUESTS
from enjoin.errors import InvalidRequest, RequestTooLarge, RunCommandError

log = structlog.get_logger(__name__)
MAX_BODY_BYTES: Final = 4 * 1024 * 1024
MAX_DISCARDED_BYTES: Final = 64 * 1024 * 1024  # read and dropped, so that the sender gets to see the refusal
MAX_URL_BYTES: Final = 16 * 1024
MAX_HEADERS_BYTES: Final = 64 * 1024
MAX_ID_CHARACTERS: Final = 128
MAX_LOGGED_PATH_CHARACTERS: Final = 512
NO_ROUTE: Final = "none"  # of requests that none of our paths fits
METHODS: Final = frozenset({"GET", "HEAD", "PUT", "PATCH", "POST", "DELETE", "OPTIONS"})
_SLASHES: Final = re.compile("/{2,}")
_CONTROL: Final = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")


class Unexpected(RunCommandError):
    """A mistake in this program. What it was is in the log, under the request's id."""


@dataclass(slots=True, kw_only=True)
class _Exchange:
    """One request and its answer, as the two pass by."""

    receive: Receive
    send: Send
    ids: RequestIds
    received_bytes: int = 0
    status: int = 0  # of the answer, once it has started

    @property
    def started(self) -> bool:
        """Whether a part of the answer is out."""
        return self.status != 0

    async def limited(self) -> Message:
        """Receive; raise RequestTooLarge once the body is over the limit. No more than the limit is ever kept."""
        message = await self.receive()
        self.received_bytes += len(message.get("body", b""))
        if self.received_bytes <= MAX_BODY_BYTES:
            return message
        while (
            message["type"] == "http.request"
            and message.get("more_body", False)
            and self.received_bytes <= MAX_DISCARDED_BYTES
        ):
            message = await self.receive()
            self.received_bytes += len(message.get("body", b""))
        text = f"The request body is over the limit of {MAX_BODY_BYTES} bytes."
        raise RequestTooLarge(text)

    async def named(self, message: Message) -> None:
        """Send, with the request's names in the headers."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message = {**message, "headers": [*message.get("headers", ()), *self._names()]}
        await self.send(message)

    def _names(self) -> list[tuple[bytes, bytes]]:
        ids = self.ids
        names = [
            (b"x-ms-request-id", ids.request_id.encode()),
            (b"x-ms-correlation-request-id", ids.correlation_id.encode()),
        ]
        if ids.return_client_request_id and ids.client_request_id is not None:
            names.append((b"x-ms-client-request-id", ids.client_request_id.encode()))
        return names


class Front:
    """The outermost layer of the application."""

    def __init__(self, app: ASGIApp, services: Services) -> None:
        """Wrap `app`."""
        self._app = app
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; connections of agents pass through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began_s = time.perf_counter()
        exchange = _Exchange(receive=receive, send=send, ids=_ids(scope))
        scope = {**scope, "path": normal_path(scope["path"]), "enjoin.ids": exchange.ids}
        try:
            await self._serve(scope, receive, exchange)
        finally:
            _record(scope, exchange, time.perf_counter() - began_s)

    async def _serve(self, scope: Scope, receive: Receive, exchange: _Exchange) -> None:
        try:
            _check_size(scope)
            _check_path(scope)
            await self._app(scope, exchange.limited, exchange.named)
        except ClientDisconnect:
            return
        except RunCommandError as error:
            if exchange.started:  # too late for an envelope: the connection is closed before the promised end
                log.warning("answer_cut_short", request_id=exchange.ids.request_id, reason=str(error))
                return
            await error_response(error, self._services)(scope, receive, exchange.named)
        except Exception:
            log.exception(
                "request_failed", request_id=exchange.ids.request_id, method=scope["method"], path=scope["path"]
            )
            if exchange.started:
                raise
            text = f"An unexpected error occurred. The server's log tells more under {exchange.ids.request_id}."
            await error_response(Unexpected(text), self._services)(scope, receive, exchange.named)


def _record(scope: Scope, exchange: _Exchange, took_s: float) -> None:
    """Count the request, and write its line: neither the query nor a header is in it, where secrets may be."""
    method, route = scope["method"], scope.get("enjoin.route", NO_ROUTE)
    REQUESTS.labels(method if method in METHODS else "other", route, exchange.status or "none").inc()
    ids, caller = exchange.ids, scope.get("enjoin.caller")
    log.info(
        "request",
        request_id=ids.request_id,
        correlation_id=ids.correlation_id,
        client_request_id=ids.client_request_id,
        principal=str(caller.principal_id) if isinstance(caller, Authenticated) else None,
        method=method,
        route=route,
        path=scope["path"][:MAX_LOGGED_PATH_CHARACTERS],
        status=exchange.status or None,  # None: the client went before there was an answer
        duration_ms=round(took_s * 1000, 3),
    )


def normal_path(path: str) -> str:
    """Return a path without empty segments: `//` and a trailing `/` mean nothing."""
    if "//" in path:
        path = _SLASHES.sub("/", path)
    return path.rstrip("/") or "/"


def _ids(scope: Scope) -> RequestIds:
    correlation, client, returns = "", "", ""
    for name, value in scope["headers"]:
        if name.startswith(b"x-ms-"):
            match name:
                case b"x-ms-correlation-request-id":
                    correlation = _id(value)
                case b"x-ms-client-request-id":
                    client = _id(value)
                case b"x-ms-return-client-request-id":
                    returns = _id(value).lower()
    request_id = str(uuid4())
    return RequestIds(
        request_id=request_id,
        correlation_id=correlation or request_id,
        client_request_id=client or None,
        return_client_request_id=returns == "true",
    )


def _id(value: bytes) -> str:
    """Return an id that a client chose; the hash of one that is too long, or not plain text, to be written down."""
    text = value.decode("latin-1").strip()
    if len(text) <= MAX_ID_CHARACTERS and text.isascii() and text.isprintable():
        return text
    return f"sha256-{hashlib.sha256(value).hexdigest()}"


def _check_path(scope: Scope) -> None:
    """Refuse an encoded slash: routes are matched on the decoded path, where it would be a separator."""
    if b"%2f" in (scope.get("raw_path") or b"").lower():
        text = "The path contains an encoded slash (%2F), which no name here may contain."
        raise InvalidRequest(text)


def _check_size(scope: Scope) -> None:
    url_bytes = len(scope.get("raw_path") or scope["path"].encode(errors="replace")) + len(scope["query_string"])
    if url_bytes > MAX_URL_BYTES:
        text = f"The URL has {url_bytes} bytes; at most {MAX_URL_BYTES} are allowed."
        raise InvalidRequest(text)
    headers_bytes = sum(len(name) + len(value) for name, value in scope["headers"])
    if headers_bytes > MAX_HEADERS_BYTES:
        text = f"The headers have {headers_bytes} bytes; at most {MAX_HEADERS_BYTES} are allowed."
        raise InvalidRequest(text)
    if _CONTROL.search(scope["path"]):
        text = "The path contains a control character, which no name may have."
        raise InvalidRequest(text)

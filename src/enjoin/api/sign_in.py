"""Discovery and sign-in: what a client asks before it has a token."""

import base64
import binascii
from datetime import datetime
from typing import Final
from urllib.parse import parse_qsl, unquote_plus
from uuid import uuid4

from starlette.requests import Request
from starlette.responses import Response

from enjoin.api.call import JSON, query_value
from enjoin.api.routing import services_of
from enjoin.arm.discovery import ADFS, render_metadata, render_openid_configuration
from enjoin.control.identity import SignInRefused
from enjoin.control.tokens import LIFETIME
from enjoin.errors import MissingAPIVersion, NotFound

_NO_STORE: Final = {"Cache-Control": "no-store", "Pragma": "no-cache"}
MAX_FIELDS: Final = 100


async def get_metadata(request: Request) -> Response:
    """GET /metadata/endpoints: where this cloud's services are."""
    api_version = query_value(request, "api-version")
    if not api_version:
        text = "The api-version query parameter (?api-version=) is required for all requests."
        raise MissingAPIVersion(text)
    return JSON(render_metadata(services_of(request).public_url, api_version))


async def get_openid_configuration(request: Request) -> Response:
    """GET {authority}/.well-known/openid-configuration."""
    services = services_of(request)
    first = request.path_params["authority"].partition("/")[0]
    if first.lower() == ADFS:
        authority = ADFS
    elif first.lower() in (services.tenant_id.lower(), "common", "organizations"):
        authority = services.tenant_id
    else:
        text = f"AADSTS90002: Tenant '{first[:100]}' not found; this server's is '{services.tenant_id}'."
        raise NotFound(text)
    return JSON(render_openid_configuration(services.public_url, authority))


async def get_public_keys(request: Request) -> Response:
    """GET .../discovery/keys: what tokens can be verified with."""
    return JSON(services_of(request).identity.public_keys())


async def post_token(request: Request) -> Response:
    """POST .../oauth2/token or .../oauth2/v2.0/token: client credentials for an access token (RFC 6749 section 4.4)."""
    services = services_of(request)
    try:
        token = await _grant(request)
    except SignInRefused as refusal:
        return _refusal(refusal, request, services.clock.now())
    seconds = int(LIFETIME.total_seconds())
    body = {"token_type": "Bearer", "expires_in": seconds, "ext_expires_in": seconds, "access_token": token}
    return JSON(body, headers=_NO_STORE)


async def _grant(request: Request) -> str:
    fields = _fields(await request.body())
    grant = fields.get("grant_type", "")
    if grant != "client_credentials":
        text = f"AADSTS70003: The grant type '{grant[:40]}' is not supported; use client_credentials."
        raise SignInRefused(text, error="unsupported_grant_type", number=70003)
    client_id, secret = fields.get("client_id", ""), fields.get("client_secret", "")
    if not secret:
        client_id, secret = _basic(request.headers.get("authorization", ""), client_id)
    if not client_id:
        text = "AADSTS900144: The request body must contain the following parameter: 'client_id'."
        raise SignInRefused(text, error="invalid_request", number=900144)
    if not secret:
        text = "AADSTS7000216: 'client_secret' is required for the 'client_credentials' grant type."
        raise SignInRefused(text, error="invalid_client", number=7000216, http_status=401)
    return await services_of(request).identity.sign_in(client_id, secret)


def _fields(body: bytes) -> dict[str, str]:
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=MAX_FIELDS)
    except ValueError:  # not UTF-8, or too many fields
        text = "AADSTS900144: The request body is not a form."
        raise SignInRefused(text, error="invalid_request", number=900144) from None
    return dict(pairs)


def _basic(authorization: str, client_id: str) -> tuple[str, str]:
    """Return the credentials in the header: a client may send them there instead of in the form."""
    scheme, _, text = authorization.partition(" ")
    if scheme.lower() != "basic":
        return client_id, ""
    try:
        user, _, password = base64.b64decode(text.strip(), validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        return client_id, ""
    return unquote_plus(user), unquote_plus(password)


def _refusal(refusal: SignInRefused, request: Request, now: datetime) -> Response:
    ids = request.scope["enjoin.ids"]
    trace_id = str(uuid4())
    stamp = now.strftime("%Y-%m-%d %H:%M:%SZ")
    details = f"Trace ID: {trace_id} Correlation ID: {ids.correlation_id} Timestamp: {stamp}"
    body = {
        "error": refusal.error,
        "error_description": f"{refusal} {details}",
        "error_codes": [refusal.number],
        "timestamp": stamp,
        "trace_id": trace_id,
        "correlation_id": ids.correlation_id,
    }
    return JSON(body, status_code=refusal.http_status, headers=_NO_STORE)

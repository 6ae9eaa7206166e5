"""The error envelope as an HTTP answer: the one place where an exception becomes one."""

from collections.abc import Mapping

from starlette.responses import Response

from enjoin.api.call import JSON, RETRY_AFTER
from enjoin.api.services import Services
from enjoin.arm.envelope import render_error
from enjoin.errors import NotAuthenticated, RunCommandError, StoreUnavailable


def error_response(error: RunCommandError, services: Services, headers: Mapping[str, str] | None = None) -> Response:
    """Return the answer that an error is."""
    more = dict(headers or {})
    if isinstance(error, NotAuthenticated):
        authority = f"{services.public_url}/{services.tenant_id}"
        more["WWW-Authenticate"] = (
            f'Bearer authorization_uri="{authority}", error="invalid_token", error_description="{error}"'
        )
    if isinstance(error, StoreUnavailable):
        more |= RETRY_AFTER
    return JSON(render_error(error), status_code=error.status, headers=more)

"""Routes of ours: service principals and enrolment tokens."""

from datetime import timedelta
from typing import Final
from uuid import UUID

from starlette.responses import Response

from enjoin.api.call import JSON, Call
from enjoin.arm.envelope import Body, render_list, time_text
from enjoin.arm.properties import Properties, is_given
from enjoin.control.directory import MAX_USES
from enjoin.errors import Conflict, InvalidField, NotSupportedYet
from enjoin.model.directory import Principal, PrincipalRole

DEFAULT_LIFE_S: Final = 24 * 3600
MAX_LIFE_S: Final = 3650 * 24 * 3600


async def list_principals(call: Call) -> Response:
    """GET /enjoin/v1/principals."""
    return JSON(render_list([_principal(principal) for principal in await call.services.identity.list()], None))


async def create_principal(call: Call) -> Response:
    """POST /enjoin/v1/principals {name, role?}: 201 with the secret, this once."""
    body = Properties(await call.json(), "")
    if is_given(body.raw("scope")):
        text = "Roles on a scope are not supported by this version of Enjoin; leave 'scope' out."
        raise NotSupportedYet(text, target="scope")
    role = _role(body.text("role"))
    principal, secret = await call.services.identity.create(body.text("name") or "", role=role)
    return JSON({**_principal(principal), "clientSecret": secret}, status_code=201)


async def delete_principal(call: Call) -> Response:
    """DELETE /enjoin/v1/principals/{principal}: 204, also when there is none."""
    text = call.params["principal"]
    try:
        principal_id = UUID(text)
    except ValueError:
        message = f"The object id '{text[:80]}' is not a UUID."
        raise InvalidField(message, target="objectId") from None
    if principal_id == call.caller.principal_id:
        message = "A principal cannot delete itself: nobody might be left who may do anything."
        raise Conflict(message)
    await call.services.identity.delete(principal_id)
    return Response(status_code=204)


async def create_enrolment_token(call: Call) -> Response:
    """POST /enjoin/v1/enrolmentTokens {resourceGroup, uses?, expiresInSeconds?}: 201 with the token, this once."""
    body = Properties(await call.json(), "")
    group = body.text("resourceGroup")
    if group is None:
        text = "The enrolment token needs a resource group, in which the machines will be."
        raise InvalidField(text, target="resourceGroup")
    uses = body.integer("uses", minimum=1, maximum=MAX_USES)
    life_s = body.integer("expiresInSeconds", minimum=1, maximum=MAX_LIFE_S)
    token = await call.services.directory.new_token(
        call.caller,
        body.text("subscriptionId") or call.services.subscription_id,
        group,
        uses=1 if uses is None else uses,
        life=timedelta(seconds=DEFAULT_LIFE_S if life_s is None else life_s),
    )
    answer: Body = {"token": token.text, "expiresAt": time_text(token.expires_at), "uses": token.uses}
    return JSON(answer, status_code=201)


def _role(text: str | None) -> PrincipalRole:
    if text is None:
        return PrincipalRole.NONE
    try:
        return PrincipalRole(text.lower())
    except ValueError:
        allowed = " and ".join(role.value for role in PrincipalRole)
        message = f"The role '{text[:40]}' is not known to this version of Enjoin; allowed are {allowed}."
        raise InvalidField(message, target="role") from None


def _principal(principal: Principal) -> Body:
    return {
        "objectId": str(principal.id),
        "clientId": principal.client_id,
        "name": principal.name,
        "role": principal.role.value,
        "enabled": principal.enabled,
        "createdAt": time_text(principal.created_at),
    }

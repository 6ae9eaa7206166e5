"""Discovery, sign-in, and who may do what."""

import base64
import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest

from enjoin.api.app import TABLE
from enjoin.api.routing import Guarded
from enjoin.control.identity import hash_secret
from enjoin.model.directory import PrincipalRole
from enjoin.store.base import Transaction
from tests.unit.api.plane import URL, VERSION, HandClock, Plane, token_key


@pytest.mark.parametrize(
    "path",
    [
        "/adfs/oauth2/token",
        "/adfs/oauth2/v2.0/token",
        "/{tenant}/oauth2/token",
        "/{tenant}/oauth2/v2.0/token",
        "/adfs/{tenant}/oauth2/v2.0/token",
        "//{tenant}/oauth2/v2.0/token/",
    ],
)
async def test_any_token_path(plane: Plane, path: str) -> None:
    """
    Every path that ends like a token endpoint is one: Terraform builds it itself.
    """
    url = URL + path.format(tenant=plane.services.tenant_id)
    answer = await plane.post_token(url, client_id=plane.client_id, client_secret=plane.secret)
    body = answer.json()
    assert (body["token_type"], body["expires_in"], body["ext_expires_in"]) == ("Bearer", 3599, 3599)
    assert answer.headers["Cache-Control"] == "no-store"


async def test_token_says_who_and_for_whom(plane: Plane) -> None:
    """
    The token is an RS256 JWT that any library verifies with the published keys.
    """
    claims = jwt.decode(
        plane.token,
        token_key().public_key(),
        algorithms=["RS256"],
        audience=URL,
        options={"verify_exp": False, "verify_nbf": False, "verify_iat": False},
    )
    assert claims["appid"] == plane.client_id
    assert claims["tid"] == plane.services.tenant_id
    assert claims["exp"] - claims["iat"] == 3599
    keys = (await plane.http.get("/common/discovery/v2.0/keys")).json()["keys"]
    assert [key["kid"] for key in keys] == [jwt.get_unverified_header(plane.token)["kid"]]
    assert jwt.PyJWK(keys[0]).key.public_numbers() == token_key().public_key().public_numbers()


@pytest.mark.parametrize(
    ("fields", "status", "error", "number"),
    [
        ({"client_secret": "wrong"}, 401, "invalid_client", 7000215),
        ({"client_secret": ""}, 401, "invalid_client", 7000216),
        ({"client_id": "nobody"}, 400, "unauthorized_client", 700016),
        ({"client_id": ""}, 400, "invalid_request", 900144),
        ({"grant_type": "password"}, 400, "unsupported_grant_type", 70003),
    ],
)
async def test_refusals(plane: Plane, fields: dict[str, str], status: int, error: str, number: int) -> None:
    """
    A refusal is OAuth's, with the number that clients of Azure print, and repeats no secret.
    """
    given = {"client_id": plane.client_id, "client_secret": plane.secret, **fields}
    answer = await plane.post_token(**given)
    body = answer.json()
    assert (answer.status_code, body["error"], body["error_codes"]) == (status, error, [number])
    assert body["error_description"].startswith(f"AADSTS{number}: ")
    assert plane.secret not in answer.text
    assert "wrong" not in answer.text


@pytest.mark.parametrize("body", [b"", b"\xff\xfe", b"a=1&" * 1000, b'{"client_id": "x"}'])
async def test_what_is_no_form(plane: Plane, body: bytes) -> None:
    """
    Anything else is refused as OAuth says.
    """
    answer = await plane.http.post("/adfs/oauth2/token", content=body)
    assert answer.status_code == 400
    assert answer.json()["error"] in ("invalid_request", "unsupported_grant_type")


async def test_credentials_in_the_header(plane: Plane) -> None:
    """
    Credentials may come by HTTP Basic, as RFC 6749 wants.
    """
    pair = base64.b64encode(f"{plane.client_id}:{plane.secret}".encode()).decode()
    answer = await plane.http.post(
        "/adfs/oauth2/token", data={"grant_type": "client_credentials"}, headers={"Authorization": f"Basic {pair}"}
    )
    assert answer.status_code == 200


async def test_discovery_leads_to_a_token(plane: Plane) -> None:
    """
    From the metadata alone a client finds the token endpoint (the three-command recipe of az).
    """
    metadata = (await plane.http.get("/metadata/endpoints?api-version=2022-09-01")).json()
    login = metadata["authentication"]["loginEndpoint"]
    document = (await plane.http.get(f"{login}/.well-known/openid-configuration")).json()
    scope = metadata["authentication"]["audiences"][0] + "/.default"
    answer = await plane.post_token(
        document["token_endpoint"], client_id=plane.client_id, client_secret=plane.secret, scope=scope
    )
    assert answer.status_code == 200
    assert (await plane.http.get(document["jwks_uri"])).status_code == 200


@pytest.mark.parametrize("authority", ["{tenant}/v2.0", "{tenant}", "common/v2.0"])
async def test_openid_configuration_of_the_tenant(plane: Plane, authority: str) -> None:
    """
    The tenant's own authority answers too; another tenant's does not.
    """
    tenant = plane.services.tenant_id
    path = f"/{authority.format(tenant=tenant)}/.well-known/openid-configuration"
    assert (await plane.http.get(path)).json()["issuer"] == f"{URL}/{tenant}/v2.0"
    other = await plane.http.get("/00000000-0000-0000-0000-000000000001/v2.0/.well-known/openid-configuration")
    assert (other.status_code, other.json()["error"]["code"]) == (404, "ResourceNotFound")


@pytest.mark.parametrize(
    ("header", "code"),
    [
        (None, "AuthenticationFailed"),
        ("", "AuthenticationFailed"),
        ("Basic eDp5", "AuthenticationFailed"),
        ("Bearer", "AuthenticationFailed"),
        ("Bearer x", "InvalidAuthenticationToken"),
        ("Bearer a.b.c", "InvalidAuthenticationToken"),
        (f"Bearer {'a' * 9000}", "InvalidAuthenticationToken"),
    ],
)
@pytest.mark.parametrize("path", ["/subscriptions", "/nothing/here", "/enjoin/v1/principals"])
async def test_no_or_bad_token(plane: Plane, header: str | None, code: str, path: str) -> None:
    """
    401 with the envelope and a challenge that makes no client sign in again by itself.
    """
    headers = {} if header is None else {"Authorization": header}
    answer = await plane.http.get(f"{path}?api-version={VERSION}", headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, code)
    challenge = answer.headers["WWW-Authenticate"]
    assert challenge.startswith(f'Bearer authorization_uri="{URL}/{plane.services.tenant_id}", error="invalid_token"')
    assert "claims=" not in challenge


def forged(plane: Plane, *, key: Any = None, algorithm: str = "RS256", **claims: object) -> str:  # noqa: ANN401 - what PyJWT takes
    """Return the administrator's token with other claims, signed again."""
    own = jwt.decode(plane.token, options={"verify_signature": False})
    return jwt.encode({**own, **claims}, token_key() if key is None else key, algorithm=algorithm)


async def status_with(plane: Plane, token: str) -> int:
    """Return what a request with `token` is answered."""
    answer = await plane.http.get(f"/subscriptions?api-version={VERSION}", headers={"Authorization": f"Bearer {token}"})
    return answer.status_code


async def test_forged_tokens(plane: Plane) -> None:
    """
    A token of another audience, issuer, key, algorithm or shape is not taken.
    """
    assert await status_with(plane, forged(plane)) == 200
    bad = [
        forged(plane, aud="https://other"),
        forged(plane, iss="https://other"),
        forged(plane, oid="no uuid"),
        forged(plane, oid=1),
        forged(plane, principal_version="x"),
        forged(plane, key="a" * 64, algorithm="HS256"),
        forged(plane, key="", algorithm="none"),
        plane.token[:-4],
    ]
    assert [await status_with(plane, token) for token in bad] == [401] * len(bad)


async def test_token_expires(plane: Plane, clock: HandClock) -> None:
    """
    A token is good for an hour, also once it was seen.
    """
    clock.advance(timedelta(seconds=3598))
    assert await status_with(plane, plane.token) == 200
    clock.advance(timedelta(seconds=1))
    assert await status_with(plane, plane.token) == 401


async def test_deleted_principal(plane: Plane) -> None:
    """
    The token of a deleted principal is worth nothing from then on.
    """
    principal, secret = await plane.services.identity.create("x", role=PrincipalRole.ADMINISTRATOR)
    token = await plane.sign_in(principal.client_id, secret)
    assert await status_with(plane, token) == 200
    await plane.services.identity.delete(principal.id)
    assert await status_with(plane, token) == 401
    answer = await plane.post_token(client_id=principal.client_id, client_secret=secret)
    assert answer.json()["error_codes"] == [700016]


@pytest.mark.parametrize("change", [{"enabled": False}, {"version": 2}])
async def test_changed_principal(plane: Plane, change: dict[str, Any]) -> None:
    """
    A token that was seen before is worth nothing once its principal is disabled or has another version.
    """
    principal, secret = await plane.services.identity.create("x", role=PrincipalRole.ADMINISTRATOR)
    token = await plane.sign_in(principal.client_id, secret)
    assert await status_with(plane, token) == 200

    async def work(tx: Transaction) -> None:
        await tx.delete_principal(principal.id)
        await tx.add_principal(replace(principal, **change))
        await tx.set_secret(principal.id, hash_secret(secret))

    await plane.services.store.write(work)
    assert await status_with(plane, token) == 401
    again = await plane.post_token(client_id=principal.client_id, client_secret=secret)
    assert again.status_code == (400 if "enabled" in change else 200)


async def test_renewed_secret(plane: Plane) -> None:
    """
    A new secret revokes the old one.
    """
    principal, old = await plane.services.identity.create("x", role=PrincipalRole.NONE)
    new = await plane.services.identity.renew_secret(principal.id)
    assert (await plane.post_token(client_id=principal.client_id, client_secret=old)).status_code == 401
    assert (await plane.post_token(client_id=principal.client_id, client_secret=new)).status_code == 200


async def test_a_principal_without_a_role_may_do_nothing(plane: Plane) -> None:
    """
    403 in Azure's words, with the permission and the scope, before the body is looked at (F84, F85).
    """
    await plane.machine()
    principal, secret = await plane.services.identity.create("x", role=PrincipalRole.NONE)
    plane.token = await plane.sign_in(principal.client_id, secret)
    answer = await plane.ask("PUT", plane.path("c1"), content=b"no json")
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (403, "AuthorizationFailed")
    assert f"with object id '{principal.id}'" in error["message"]
    assert "action 'Microsoft.Compute/virtualMachines/runCommands/write' over scope" in error["message"]
    assert plane.path("c1") in error["message"]
    assert (await plane.ask("GET", "/subscriptions")).json() == {"value": []}


async def test_every_route_is_guarded(plane: Plane) -> None:
    """
    Without a token every route is 401, and without a role every permission is asked for; the public ones are listed.
    """
    principal, secret = await plane.services.identity.create("x", role=PrincipalRole.NONE)
    token = await plane.sign_in(principal.client_id, secret)
    public = set()
    for entry in TABLE:
        if not isinstance(entry.endpoint, Guarded):
            public.add(entry.path)
            continue
        url = f"{entry.path}?api-version={VERSION}"
        refused = await plane.http.request(entry.method, url)
        assert refused.status_code == 401, entry
        plain = await plane.http.request(entry.method, url, headers={"Authorization": f"Bearer {token}"})
        assert plain.status_code == (403 if entry.endpoint.permission else 200), entry
    assert public == {
        "/enjoin/v1/enrol",
        "/enjoin/v1/openapi.json",
        "/healthz",
        "/metadata/endpoints",
        "/metrics",
        "/readyz",
        "/{authority:.+}/.well-known/openid-configuration",
        "/{authority:.+}/discovery/keys",
        "/{authority:.+}/discovery/v2.0/keys",
        "/{authority:.+}/oauth2/token",
        "/{authority:.+}/oauth2/v2.0/token",
    }


def contents(directory: Path) -> bytes:
    """Return all that the database's files hold."""
    return b"".join(path.read_bytes() for path in directory.glob("enjoin.db*"))


async def test_secrets_are_stored_as_hashes(plane: Plane, tmp_path: Path) -> None:
    """
    The database holds no client secret.
    """
    answer = await plane.ask("POST", "/enjoin/v1/principals", {"name": "robot"})
    secret = answer.json()["clientSecret"]
    assert answer.status_code == 201
    assert len(secret) >= 43, "256 bits in base64"
    stored = contents(tmp_path)
    assert b"robot" in stored
    assert secret.encode() not in stored
    assert plane.secret.encode() not in stored


async def test_principals(plane: Plane) -> None:
    """
    Principals are made with or without a role, listed without secrets, and deleted; none deletes itself.
    """
    made = (await plane.ask("POST", "/enjoin/v1/principals", {"name": "robot", "role": "Administrator"})).json()
    assert {"clientId", "clientSecret", "objectId"} <= made.keys()
    listed = await plane.ask("GET", "/enjoin/v1/principals")
    assert {item["name"]: item["role"] for item in listed.json()["value"]} == {
        "administrator": "administrator",
        "robot": "administrator",
    }
    assert "clientSecret" not in listed.text
    same = await plane.ask("POST", "/enjoin/v1/principals", {"name": "robot"})
    assert (same.status_code, same.json()["error"]["code"]) == (409, "Conflict")
    path = f"/enjoin/v1/principals/{made['objectId']}"
    assert [(await plane.ask("DELETE", path)).status_code for _ in range(2)] == [204, 204]
    own = next(item["objectId"] for item in listed.json()["value"] if item["clientId"] == plane.client_id)
    assert (await plane.ask("DELETE", f"/enjoin/v1/principals/{own}")).status_code == 409


@pytest.mark.parametrize(
    ("body", "target"),
    [
        ({}, "name"),
        ({"name": " "}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"name": 1}, "name"),
        ({"name": "x", "role": "Owner"}, "role"),
        ({"name": "x", "scope": "/subscriptions/s"}, "scope"),
        ([], None),
    ],
)
async def test_principals_refused(plane: Plane, body: object, target: str | None) -> None:
    """
    A wrong body is a 400 with its target.
    """
    answer = await plane.ask("POST", "/enjoin/v1/principals", body)
    assert (answer.status_code, answer.json()["error"].get("target")) == (400, target)


async def test_enrolment_token(plane: Plane) -> None:
    """
    A token for a group is long, random, and told once with its end and its uses.
    """
    sent = {"resourceGroup": "ENJOIN", "uses": 3, "expiresInSeconds": 60}
    answers = [(await plane.ask("POST", "/enjoin/v1/enrolmentTokens", sent)).json() for _ in range(2)]
    assert answers[0]["token"] != answers[1]["token"]
    assert len(answers[0]["token"]) >= 43
    assert answers[0]["uses"] == 3
    assert answers[0]["expiresAt"] == "2026-11-20T12:01:00+00:00"


@pytest.mark.parametrize(
    ("body", "status", "target"),
    [
        ({}, 400, "resourceGroup"),
        ({"resourceGroup": "nowhere"}, 404, None),
        ({"resourceGroup": "enjoin", "uses": 0}, 400, "uses"),
        ({"resourceGroup": "enjoin", "uses": "1"}, 400, "uses"),
        ({"resourceGroup": "enjoin", "expiresInSeconds": 0}, 400, "expiresInSeconds"),
        ({"resourceGroup": "enjoin", "expiresInSeconds": 10**12}, 400, "expiresInSeconds"),
        ({"resourceGroup": "enjoin", "subscriptionId": "other"}, 404, None),
    ],
)
async def test_enrolment_tokens_refused(plane: Plane, body: object, status: int, target: str | None) -> None:
    """
    Out of bounds: 400 with the target; of what is not there: 404.
    """
    answer = await plane.ask("POST", "/enjoin/v1/enrolmentTokens", json.loads(json.dumps(body)))
    assert (answer.status_code, answer.json()["error"].get("target")) == (status, target)

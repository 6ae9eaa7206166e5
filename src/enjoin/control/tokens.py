"""Access tokens: signed and verified. Pure but for the key."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID, uuid4

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

from enjoin.control.pki import key_id
from enjoin.errors import InvalidToken
from enjoin.model.directory import Principal

LIFETIME: Final = timedelta(seconds=3599)  # as Microsoft's: clients renew five minutes before
_ALGORITHM: Final = "RS256"
_VERSION_CLAIM: Final = "principal_version"


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """What a verified token says."""

    principal_id: UUID
    principal_version: int
    expires_at_s: int  # seconds since 1970


class Tokens:
    """The installation as the issuer and the audience of tokens."""

    def __init__(self, key: rsa.RSAPrivateKey, *, tenant_id: str, public_url: str) -> None:
        """Sign with `key`; tokens are good for `public_url` only."""
        self._key = key
        self._public_key = key.public_key()
        self._key_id = key_id(self._public_key)
        self._tenant_id = tenant_id
        self._audience = public_url
        self._issuer = f"{public_url}/{tenant_id}/v2.0"

    def issue(self, principal: Principal, *, now: datetime) -> str:
        """Return a token for a principal that proved who it is."""
        issued_s = int(now.timestamp())
        claims = {
            "aud": self._audience,
            "iss": self._issuer,
            "iat": issued_s,
            "nbf": issued_s,
            "exp": issued_s + int(LIFETIME.total_seconds()),
            "oid": str(principal.id),
            "sub": str(principal.id),
            "appid": principal.client_id,
            "azp": principal.client_id,
            "app_displayname": principal.name,
            "idtyp": "app",
            "tid": self._tenant_id,
            "uti": str(uuid4()),
            "ver": "2.0",
            _VERSION_CLAIM: principal.version,
        }
        return jwt.encode(claims, self._key, algorithm=_ALGORITHM, headers={"kid": self._key_id})

    def verify(self, token: str, *, now: datetime) -> Claims:
        """Return what a token says; raise InvalidToken unless it is ours, for us, and not over."""
        try:
            claims = jwt.decode(
                token,
                self._public_key,
                algorithms=[_ALGORITHM],
                audience=self._audience,
                issuer=self._issuer,
                options={
                    "require": ["exp", "oid", _VERSION_CLAIM],
                    "verify_exp": False,  # below, by the injected clock
                    "verify_nbf": False,
                    "verify_iat": False,
                },
            )
            verified = Claims(
                principal_id=UUID(claims["oid"]),
                principal_version=int(claims[_VERSION_CLAIM]),
                expires_at_s=int(claims["exp"]),
            )
        except (jwt.PyJWTError, ValueError, TypeError, AttributeError):
            text = "The access token is invalid: it is not one that this control plane issued. Sign in again."
            raise InvalidToken(text) from None
        if verified.expires_at_s <= now.timestamp():
            raise expired()
        return verified

    def public_keys(self) -> dict[str, object]:
        """Return the JSON Web Key Set that others may verify tokens with."""
        key = jwt.algorithms.RSAAlgorithm.to_jwk(self._public_key, as_dict=True)
        return {"keys": [{**key, "kid": self._key_id, "use": "sig", "alg": _ALGORITHM, "issuer": self._issuer}]}


def expired() -> InvalidToken:
    """Return the error of a token that is over."""
    text = "The access token has expired. Sign in again."
    return InvalidToken(text)

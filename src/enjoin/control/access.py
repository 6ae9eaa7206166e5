"""Who is asking, and whether they may. The one place where both are decided."""

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from enjoin.clock import Clock
from enjoin.control.tokens import Claims, Tokens, expired
from enjoin.errors import InvalidToken, NotAuthenticated, NotAuthorised
from enjoin.model.address import Caller
from enjoin.model.directory import Principal, PrincipalRole
from enjoin.store.base import Store, Transaction

MAX_REMEMBERED: Final = 10_000  # verified tokens
MAX_TOKEN_CHARACTERS: Final = 8 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Authenticated(Caller):
    """A caller with what is known of its rights."""

    role: PrincipalRole


class Access:
    """Reads tokens and rights."""

    def __init__(self, store: Store, clock: Clock, tokens: Tokens) -> None:
        """Believe `tokens`, and read each principal from `store` on each request."""
        self._store = store
        self._clock = clock
        self._tokens = tokens
        self._verified: OrderedDict[bytes, Claims] = OrderedDict()  # by hash of the token, least used first

    async def authenticate(self, authorization: str | None) -> Authenticated:
        """Return who sent this Authorization header; raise NotAuthenticated or InvalidToken.

        A token is verified once; whether its principal still exists, is enabled and has not been changed since is
        read each time.
        """
        claims = self._claims(_bearer(authorization))
        principal = await self._principal(claims.principal_id)
        if principal is None or not principal.enabled:
            text = "The principal of the access token was deleted or disabled."
            raise InvalidToken(text)
        if principal.version != claims.principal_version:
            text = "The access token was issued before its principal was changed. Sign in again."
            raise InvalidToken(text)
        return Authenticated(
            principal_id=principal.id, client_id=principal.client_id, name=principal.name, role=principal.role
        )

    async def require(self, caller: Authenticated, action: str, scope: str) -> None:
        """Return when `caller` may do `action`, Azure's name of a permission, at `scope`; else raise NotAuthorised."""
        if caller.role is PrincipalRole.ADMINISTRATOR:
            return
        text = (
            f"The client '{caller.client_id}' with object id '{caller.principal_id}' does not have authorization to "
            f"perform action '{action}' over scope '{scope}' or the scope is invalid. If access was recently granted, "
            "please refresh your credentials."
        )
        raise NotAuthorised(text)

    def _claims(self, token: str) -> Claims:
        now = self._clock.now()
        key = hashlib.sha256(token.encode(errors="surrogatepass")).digest()
        claims = self._verified.get(key)
        if claims is None:
            claims = self._tokens.verify(token, now=now)
            self._verified[key] = claims
            if len(self._verified) > MAX_REMEMBERED:
                self._verified.popitem(last=False)
            return claims
        if claims.expires_at_s <= now.timestamp():
            del self._verified[key]
            raise expired()
        self._verified.move_to_end(key)
        return claims

    async def _principal(self, principal_id: UUID) -> Principal | None:
        async def work(tx: Transaction) -> Principal | None:
            return await tx.get_principal(principal_id)

        return await self._store.read(work)


def _bearer(authorization: str | None) -> str:
    scheme, _, token = (authorization or "").strip().partition(" ")
    token = token.strip()
    if not scheme:
        text = "Authentication failed. The 'Authorization' header is missing."
        raise NotAuthenticated(text)
    if scheme.lower() != "bearer" or not token:
        text = "Authentication failed. The 'Authorization' header has to be 'Bearer' and an access token."
        raise NotAuthenticated(text)
    if len(token) > MAX_TOKEN_CHARACTERS:
        text = f"The access token is invalid: it is longer than {MAX_TOKEN_CHARACTERS} characters."
        raise InvalidToken(text)
    return token

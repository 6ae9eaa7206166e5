"""Service principals: made, listed, deleted, and let in."""

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from typing import Final
from uuid import UUID, uuid4

from enjoin.clock import Clock
from enjoin.control.tokens import Tokens
from enjoin.errors import InvalidField, NotFound, RunCommandError
from enjoin.model.directory import Principal, PrincipalRole
from enjoin.store.base import Store, Transaction

SECRET_BYTES: Final = 32
MAX_NAME_CHARACTERS: Final = 120
_NO_SECRET: Final = bytes(32)  # what an unknown client's secret is compared with


class SignInRefused(RunCommandError):
    """No token. Rendered as OAuth says (RFC 6749 section 5.2), with the numbers that clients of Azure print."""

    code = "invalid_request"
    status = 400

    def __init__(self, message: str, *, error: str, number: int, http_status: int = 400) -> None:
        """`error` is OAuth's word, `number` Azure's."""
        super().__init__(message)
        self.error = error
        self.number = number
        self.http_status = http_status


def hash_secret(secret: str) -> bytes:
    """Return what is stored of a secret. It is random and long: a slow hash would add nothing."""
    return hashlib.sha256(secret.encode(errors="surrogatepass")).digest()


def new_secret() -> str:
    """Return a secret that nobody guesses."""
    return secrets.token_urlsafe(SECRET_BYTES)


class Identity:
    """Use cases around service principals."""

    def __init__(self, store: Store, clock: Clock, tokens: Tokens) -> None:
        """Keep principals in `store`; let them in with `tokens`."""
        self._store = store
        self._clock = clock
        self._tokens = tokens

    async def create(self, name: str, *, role: PrincipalRole) -> tuple[Principal, str]:
        """Make a principal and return it with its secret, which is not kept; raise Conflict when the name is taken."""
        if not name.strip() or len(name) > MAX_NAME_CHARACTERS or not name.isprintable():
            text = f"A principal's name has 1 to {MAX_NAME_CHARACTERS} printable characters."
            raise InvalidField(text, target="name")
        principal = Principal(id=uuid4(), client_id=str(uuid4()), name=name, role=role, created_at=self._clock.now())
        secret = new_secret()

        async def work(tx: Transaction) -> None:
            await tx.add_principal(principal)
            await tx.set_secret(principal.id, hash_secret(secret))

        await self._store.write(work)
        return principal, secret

    async def renew_secret(self, principal_id: UUID) -> str:
        """Return a new secret of a principal; the old one is no longer good. Raises NotFound."""
        secret = new_secret()

        async def work(tx: Transaction) -> None:
            if await tx.get_principal(principal_id) is None:
                raise _unknown(principal_id)
            await tx.set_secret(principal_id, hash_secret(secret))

        await self._store.write(work)
        return secret

    async def list(self) -> Sequence[Principal]:
        """Return all principals, by name."""

        async def work(tx: Transaction) -> Sequence[Principal]:
            return await tx.list_principals()

        return await self._store.read(work)

    async def delete(self, principal_id: UUID) -> bool:
        """Remove a principal: its tokens are no longer good. False when it was not there."""

        async def work(tx: Transaction) -> bool:
            return await tx.delete_principal(principal_id)

        return await self._store.write(work)

    async def sign_in(self, client_id: str, secret: str) -> str:
        """Return an access token for the right secret; raise SignInRefused."""

        async def work(tx: Transaction) -> tuple[Principal | None, Sequence[bytes]]:
            principal = await tx.find_principal(client_id.lower())
            return principal, () if principal is None else await tx.secret_hashes(principal.id)

        principal, hashes = await self._store.read(work)
        given = hash_secret(secret)
        matches = [hmac.compare_digest(given, known) for known in (hashes or (_NO_SECRET,))]
        if principal is None:
            text = f"AADSTS700016: Application with identifier '{client_id[:100]}' was not found in the directory."
            raise SignInRefused(text, error="unauthorized_client", number=700016)
        if not any(matches):
            text = "AADSTS7000215: Invalid client secret provided."
            raise SignInRefused(text, error="invalid_client", number=7000215, http_status=401)
        if not principal.enabled:
            text = f"AADSTS7000112: Application '{principal.client_id}' is disabled."
            raise SignInRefused(text, error="unauthorized_client", number=7000112)
        return self._tokens.issue(principal, now=self._clock.now())

    def public_keys(self) -> dict[str, object]:
        """Return the JSON Web Key Set of the tokens."""
        return self._tokens.public_keys()


def _unknown(principal_id: UUID) -> NotFound:
    text = f"There is no principal with the object id '{principal_id}'."
    return NotFound(text)

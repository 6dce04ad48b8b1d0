"""Who is asking: keys, what a request shows of them, and the workspace that a key opens.

Secrets exist only in the hands of users and in the headers of a request; the store keeps digests.
"""

from __future__ import annotations

import hashlib
import secrets
import uuid
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.requests import Request

from standby.api.peers import is_local
from standby.config import ServerSettings
from standby.errors import ApiError
from standby.records import SECOND, Clock, Key, Principal, WorkspaceId
from standby.store.base import Store

SECRET_PREFIX = "sk-standby-"  # noqa: S105 - the part that is no secret
CACHE_US = 2 * SECOND
"""How long a revoked key may still work, and how long the server stays open after the first key is made."""
CACHE_SIZE = 4096
OPEN_CREDENTIAL = "local"
_ORGANIZATIONS = uuid.UUID("6f0c2ad5-5d6f-5f0f-9a55-1c1b6a1b8b57")


def new_secret() -> str:
    """Make the secret of a new key; it is shown once and never stored."""
    return SECRET_PREFIX + secrets.token_urlsafe(32)


def digest(secret: str) -> bytes:
    """Hash a secret as it is stored: SHA-256, which is enough for 256 random bits."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def shown_secrets(headers: Headers) -> list[str]:
    """Collect every secret that a request shows, in `x-api-key` and as a bearer token (contract 1.1)."""
    shown = [value.strip() for value in headers.getlist("x-api-key")]
    for value in headers.getlist("authorization"):
        scheme, _, token = value.strip().partition(" ")
        if scheme.lower() == "bearer":
            shown.append(token.strip())
    return [secret for secret in shown if secret]


def unknown_key() -> ApiError:
    """401 for a key that is unknown or revoked."""
    return ApiError(401, "authentication_error", "API key is invalid.")


def missing_key() -> ApiError:
    """401 for a request that shows none."""
    return ApiError(401, "authentication_error", "x-api-key header is required")


def not_local() -> ApiError:
    """401 for a stranger while no key is defined."""
    return ApiError(
        401,
        "authentication_error",
        "No API key is defined yet, so only programs on this machine are served, under a name of this machine. "
        "Make a key with `standby keys create`.",
    )


@dataclass(frozen=True, slots=True)
class _Known:
    key: Key | None
    at_us: int


class Keyring:
    """Looks keys up, and remembers the answers for two seconds."""

    def __init__(self, store: Store, settings: ServerSettings, clock: Clock) -> None:
        """Nothing is read before the first request."""
        self._store = store
        self._settings = settings
        self._clock = clock
        self._keys: dict[bytes, _Known] = {}
        self._needs_key: tuple[bool, int] = (True, -CACHE_US)
        self._default: WorkspaceId | None = None

    async def identify(self, request: Request) -> Principal:
        """Find who asks; `ApiError` 401. With several secrets one valid one is enough."""
        shown = shown_secrets(request.headers)
        for secret in shown:
            key = await self._find(digest(secret))
            if key is not None and key.revoked_us is None:
                return Principal(workspace_id=key.workspace_id, credential=key.id, key_id=key.id)
        if not await self._is_open():
            raise unknown_key() if shown else missing_key()
        if not is_local(request, self._settings):
            raise not_local()
        return Principal(workspace_id=await self.default_workspace(), credential=OPEN_CREDENTIAL)

    async def default_workspace(self) -> WorkspaceId:
        """Return the workspace named `default`, which every store has from the start."""
        if self._default is None:
            workspaces = await self._store.list_workspaces()
            self._default = next(w.id for w in workspaces if w.name == "default")
        return self._default

    async def organization(self) -> str:
        """Name this data folder as an organization: a UUID that never changes."""
        return str(uuid.uuid5(_ORGANIZATIONS, await self.default_workspace()))

    async def _find(self, digest_: bytes) -> Key | None:
        known = self._keys.get(digest_)
        if known is None or not self._is_fresh(known.at_us):
            now_us = self._clock()
            known = _Known(await self._store.find_key(digest_), now_us)
            if len(self._keys) >= CACHE_SIZE:
                self._keys.clear()
            self._keys[digest_] = known
        return known.key

    async def _is_open(self) -> bool:
        """Whether no key was ever made; revoked ones count, so that revoking the last one opens nothing."""
        needs_key, at_us = self._needs_key
        if needs_key and at_us >= 0:
            return False  # keys are never forgotten, so this stays true
        if not self._is_fresh(at_us):
            now_us = self._clock()
            self._needs_key = (bool(await self._store.list_keys()), now_us)
        return not self._needs_key[0]

    def _is_fresh(self, at_us: int) -> bool:
        return 0 <= self._clock() - at_us < CACHE_US

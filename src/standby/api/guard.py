"""What every route behind a key has in common: who asks, under which rules, within which limits."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from standby.api.auth import Keyring
from standby.api.call import Caller, call_of
from standby.api.limits import Limits, Pool
from standby.api.rules import check_workspace, rules_of
from standby.config import ServerSettings
from standby.errors import ApiError

Endpoint = Callable[[Request], Awaitable[ASGIApp]]
Guarded = Callable[[Request, Caller], Awaitable[ASGIApp]]


class Resource:
    """One path and its methods, as an ASGI application; HEAD is GET without the body."""

    def __init__(self, name: str, **endpoints: Endpoint) -> None:
        """`name` is what the log and the metrics call the route; keywords are methods."""
        self.name = name
        self._endpoints = endpoints

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the method's endpoint, then send what it answers."""
        call_of(scope).route = self.name
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        if method not in self._endpoints:
            raise ApiError(405, "invalid_request_error", "Method Not Allowed", headers={"allow": self._allowed})
        answer = await self._endpoints[method](Request(scope, receive))
        await answer(scope, receive, send)

    @property
    def _allowed(self) -> str:
        return ", ".join(sorted({*self._endpoints, *({"HEAD"} if "GET" in self._endpoints else ())}))


class Guard:
    """Stands in front of endpoints."""

    def __init__(
        self, *, keyring: Keyring, limits: Limits, settings: ServerSettings, is_simulated: bool = False
    ) -> None:
        """Keep what it asks; `is_simulated`: the header `standby-simulate` means something."""
        self._keyring = keyring
        self._limits = limits
        self._settings = settings
        self._is_simulated = is_simulated

    def batch(self, endpoint: Guarded) -> Endpoint:
        """Guard a route that counts for the batch limit."""
        return self._before(endpoint, Pool.BATCH)

    def live(self, endpoint: Guarded) -> Endpoint:
        """Guard a route that counts for the live limit."""
        return self._before(endpoint, Pool.LIVE)

    def free(self, endpoint: Guarded) -> Endpoint:
        """Guard a route that counts for no limit."""
        return self._before(endpoint, None)

    def test(self, endpoint: Endpoint) -> Endpoint:
        """Guard a route that tests turn the simulator with: any key will do, and no other header matters."""

        async def guarded(request: Request) -> ASGIApp:
            call_of(request.scope).workspace_id = (await self._keyring.identify(request)).workspace_id
            return await endpoint(request)

        return guarded

    def _before(self, endpoint: Guarded, pool: Pool | None) -> Endpoint:
        async def guarded(request: Request) -> ASGIApp:
            return await endpoint(request, await self._admit(request, pool))

        return guarded

    async def _admit(self, request: Request, pool: Pool | None) -> Caller:
        call = call_of(request.scope)
        principal = await self._keyring.identify(request)
        call.workspace_id = principal.workspace_id
        check_workspace(request.headers, principal.workspace_id)
        rules = rules_of(request.headers, self._settings, is_simulated=self._is_simulated)
        caller = Caller(principal=principal, rules=rules)
        if pool is not None:
            self._limits.count(pool, caller, call)
        return caller

"""For whoever runs the server: alive, ready, and numbers. No key needed, and nothing about any workspace."""

from __future__ import annotations

import asyncio

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from standby.api.deps import Deps, Phase
from standby.api.metrics import CONTENT_TYPE
from standby.api.replies import JSON
from standby.errors import StandbyError

STORE_WITHIN_S = 5.0


class Health:
    """The three routes."""

    def __init__(self, deps: Deps) -> None:
        """Keep what they look at."""
        self._deps = deps

    async def health(self, request: Request) -> Response:  # noqa: ARG002 - the shape of an endpoint
        """Say that the process answers."""
        return Response(b'{"status":"ok"}', media_type=JSON)

    async def ready(self, request: Request) -> Response:  # noqa: ARG002 - the shape of an endpoint
        """Say whether requests sent now can be expected to work, and if not, why."""
        reason = await self._reason()
        body = {"status": "not ready", "reason": reason} if reason else {"status": "ready"}
        return Response(msgspec.json.encode(body), status_code=503 if reason else 200, media_type=JSON)

    async def metrics(self, request: Request) -> Response:  # noqa: ARG002 - the shape of an endpoint
        """Read store and engine and write all numbers."""
        store, engine = self._deps.store, self._deps.engine
        batches, results = await asyncio.gather(store.count_batches(), store.count_results())
        text = self._deps.metrics.expose(batches=batches, results=results, load=engine.load(), is_ready=engine.ready())
        return Response(text, headers={"content-type": CONTENT_TYPE})

    async def _reason(self) -> str | None:
        phase = self._deps.state()
        if phase is not Phase.READY:
            return f"the server is {phase}"
        try:
            async with asyncio.timeout(STORE_WITHIN_S):
                await self._deps.store.count_batches()
        except (StandbyError, TimeoutError):
            return "the store does not answer"
        return None if self._deps.engine.ready() else "the engine is not ready"

"""What the SDK's own tests say, in the words of a running server: a thin proxy between the two.

Those tests were written for a mock that answers any id with an example. This proxy puts real objects in the place of
their literals on the way in, and passes every answer of the server back as it is, status, headers and bytes:

| they say | the server is told |
| --- | --- |
| key `my-anthropic-api-key`, in either header | a real key |
| `anthropic-workspace-id: wrkspc_011CZkZaBF1tNoB5wlCeusgy` | the workspace of that key |
| `GET …/batches/message_batch_id` | a batch that has ended |
| `POST …/batches/message_batch_id/cancel`, many times | each time another batch that is in progress |
| `DELETE …/batches/message_batch_id`, many times | each time another batch that has ended |
| `after_id=after_id`, `before_id=before_id` of batches | batches of the list |
| `/v1/models/model_id`, and the cursors of models | a model of the list |
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
from aiohttp import web
from yarl import URL

KEY = "my-anthropic-api-key"
WORKSPACE = "wrkspc_011CZkZaBF1tNoB5wlCeusgy"
BATCH = "message_batch_id"
MODEL = "model_id"
CURSORS = ("after_id", "before_id")
BATCHES = "/v1/messages/batches"
MODELS = "/v1/models"
MANY = 300
HOPS = {"connection", "content-length", "host", "keep-alive", "transfer-encoding"}
"""Headers that speak of one connection, not of the answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Real:
    """The running server, and what stands for the literals."""

    url: str
    key: str
    workspace: str


@asynccontextmanager
async def literals(real: Real) -> AsyncIterator[str]:
    """Run the proxy on a free port; yields its base URL."""
    session = aiohttp.ClientSession(auto_decompress=False)
    app = web.Application(client_max_size=32 << 20)
    app.router.add_route("*", "/{path:.*}", Proxy(real, session).pass_on)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
        await session.close()


class Proxy:
    """Maps requests; answers pass through."""

    def __init__(self, real: Real, session: aiohttp.ClientSession) -> None:
        """Keep where to."""
        self._real = real
        self._session = session
        self._ended: str | None = None
        self._model: str | None = None

    async def pass_on(self, request: web.Request) -> web.StreamResponse:
        """Say it in the server's words and hand the answer back as it comes."""
        url = URL(self._real.url).with_path(await self._path(request)).with_query(await self._query(request))
        body = await request.read()
        async with self._session.request(
            request.method, url, headers=self._headers(request), data=body or None, allow_redirects=False
        ) as answer:
            passed = web.StreamResponse(status=answer.status, reason=answer.reason)
            for name, value in answer.headers.items():
                if name.lower() not in HOPS:
                    passed.headers.add(name, value)
            with contextlib.suppress(ConnectionError):  # a test that closes a stream has seen enough of it
                await passed.prepare(request)
                async for piece in answer.content.iter_any():
                    await passed.write(piece)
                await passed.write_eof()
            return passed

    def _headers(self, request: web.Request) -> list[tuple[str, str]]:
        kept = [(name, value) for name, value in request.headers.items() if name.lower() not in HOPS]
        return [
            (name, value.replace(KEY, self._real.key).replace(WORKSPACE, self._real.workspace)) for name, value in kept
        ]

    async def _path(self, request: web.Request) -> str:
        path = request.path
        if path == f"{MODELS}/{MODEL}":
            return f"{MODELS}/{await self._any_model()}"
        if path == f"{BATCHES}/{BATCH}/cancel":
            return f"{BATCHES}/{await self._create(MANY, tokens=64)}/cancel"
        if path == f"{BATCHES}/{BATCH}" and request.method == "DELETE":
            return f"{BATCHES}/{await self._make_ended()}"
        if path == f"{BATCHES}/{BATCH}":
            return f"{BATCHES}/{await self._any_ended()}"
        return path

    async def _query(self, request: web.Request) -> list[tuple[str, str]]:
        found = self._any_model if request.path == MODELS else self._any_ended
        return [
            (name, await found() if name in CURSORS and value == name else value)
            for name, value in request.query.items()
        ]

    async def _any_model(self) -> str:
        if self._model is None:
            self._model = str((await self._call("GET", MODELS))["data"][0]["id"])
        return self._model

    async def _any_ended(self) -> str:
        if self._ended is None:
            self._ended = await self._make_ended()
        return self._ended

    async def _make_ended(self) -> str:
        batch = await self._create(1, tokens=1)
        async with asyncio.timeout(30):
            while (await self._call("GET", f"{BATCHES}/{batch}"))["processing_status"] != "ended":  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.01)
        return batch

    async def _create(self, items: int, *, tokens: int) -> str:
        params = {
            "model": "claude-sonnet-5-5",
            "max_tokens": tokens,
            "messages": [{"role": "user", "content": "Hello"}],
        }
        requests = [{"custom_id": f"item-{number}", "params": params} for number in range(items)]
        return str((await self._call("POST", BATCHES, {"requests": requests}))["id"])

    async def _call(self, method: str, path: str, body: Any = None) -> Any:
        headers = {"x-api-key": self._real.key, "accept-encoding": "identity"}
        async with self._session.request(method, self._real.url + path, json=body, headers=headers) as answer:
            text = await answer.text()
            assert answer.status == 200, f"{method} {path}: {answer.status} {text}"
            return await answer.json()

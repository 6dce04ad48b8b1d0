"""The way to one endpoint: connections, requests, streams. Every failure comes out as `EngineError`.

Answers always stream, so that a stall is noticed and closing the connection stops the work in the engine.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import aiohttp
import msgspec

from standby.config import EngineSettings
from standby.engines.chat.failures import from_exception, from_status, read
from standby.engines.http import no_stream, open_session, read_to_end, read_whole, send
from standby.engines.patience import Patience
from standby.errors import EngineError, Failure
from standby.wire.chat.dialect import Dialect
from standby.wire.sse import SseParser

ASK_S = 10.0
MOST = 16 * 2**20
MOST_OF_ERROR = 65536
CHAT = "/v1/chat/completions"
NEEDED = frozenset({CHAT, "/v1/models"})
"""Routes without which nothing works; others are only nice to have."""
GONE = frozenset({Failure.UNREACHABLE, Failure.UNKNOWN_MODEL})
"""After these the engine is asked again who it is: only models that it listed are asked of it."""
log = logging.getLogger("standby.engines.chat")


class Connection:
    """Connections to one endpoint."""

    def __init__(
        self, settings: EngineSettings, *, base_url: str, uds: str | None, lost: Callable[[], None] = lambda: None
    ) -> None:
        """Keep the address; `lost` is called whenever the endpoint turns out to be away."""
        self.base = re.sub(r"(/v1)?/*$", "", base_url)
        self.dialect: Dialect | None = None
        """Whose words may be passed on; set once the engine is known."""
        self._settings = settings
        self._uds = uds
        self._lost = lost
        self._session: aiohttp.ClientSession | None = None
        self._closed = False
        self._told: dict[str, str] = {}
        """The operator's faults that were logged and last, by path."""

    async def close(self) -> None:
        """Close every connection; whatever is sent later fails as unreachable."""
        self._closed = True
        if self._session is not None:
            await self._session.close()

    async def ask(self, path: str, body: Any = None, *, within_s: float = ASK_S) -> Any:
        """Ask a small question (GET without a body, else POST) and read its JSON answer."""
        data = await self.read(path, body, within_s=within_s)
        try:
            return msgspec.json.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise EngineError(Failure.BROKEN, f"the engine's answer to {path} is not JSON") from None

    async def read(self, path: str, body: Any = None, *, within_s: float = ASK_S, most: int = MOST) -> bytes:
        """Ask a small question and return the bytes of its answer, at most `most`."""
        data = None if body is None else msgspec.json.encode(body)
        try:
            async with asyncio.timeout(within_s), self._request(path, data) as response:
                return await read_whole(response, most)
        except TimeoutError:
            raise EngineError(Failure.TIMEOUT, f"the engine did not answer {path} in {within_s:.0f} s") from None

    async def events(self, data: bytes, patience: Patience) -> AsyncGenerator[bytes, None]:
        """Send a chat request and yield the data of its events; ends after `[DONE]`, or raises `EngineError`."""
        parser = SseParser()
        async with AsyncExitStack() as stack:
            stack.enter_context(patience)
            response = await patience.wait_for(stack.enter_async_context(self._request(CHAT, data)))
            await patience.wait_for(self._check_streams(response))
            while piece := await patience.wait_for(response.content.readany()):
                for event in parser.feed(piece):
                    if event.data == b"[DONE]":
                        await read_to_end(response)
                        return
                    yield event.data
            raise EngineError(Failure.BROKEN, "the engine ended the stream before it was done")

    async def _check_streams(self, response: aiohttp.ClientResponse) -> None:
        """Refuse an answer that is no stream of events: an error in disguise, a web page."""
        kind = response.content_type
        if kind == "text/event-stream":
            return
        if kind != "text/html":
            read(await read_whole(response, MOST_OF_ERROR))
        raise no_stream(kind)

    @asynccontextmanager
    async def _request(self, path: str, data: bytes | None) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request and look at its status; every failure comes out as `EngineError`."""
        try:
            async with await send(self._open(), f"{self.base}{path}", data, {}) as response:
                if response.status != 200:
                    raise await self._refusal(response, path)
                self._told.pop(path, None)
                yield response
        except (aiohttp.ClientError, OSError, ValueError) as error:
            failure = from_exception(error)
            if failure.failure is Failure.UNREACHABLE:
                self._lost()
            raise failure from None

    async def _refusal(self, response: aiohttp.ClientResponse, path: str) -> EngineError:
        if response.status < 300:
            return EngineError(Failure.BROKEN, f"the engine answered with nothing ({response.status})")
        body = await read_whole(response, MOST_OF_ERROR)
        failure = from_status(response.status, response.headers, body, dialect=self.dialect, now=datetime.now(UTC))
        if failure.failure in GONE and path in NEEDED:
            self._lost_by(failure.message, path)
        return failure

    def _lost_by(self, message: str, path: str) -> None:
        """Say once what the operator has to put right; the engine is looked at until it is."""
        self._lost()
        if self._told.get(path) != message:
            self._told[path] = message
            log.warning("%s: %s", self.base, message)

    def _open(self) -> aiohttp.ClientSession:
        if self._closed:
            raise EngineError(Failure.UNREACHABLE, "the engine is closed")
        if self._session is None:
            key = self._settings.api_key
            headers = {"authorization": f"Bearer {key}"} if key else {}
            self._session = open_session(self._settings, uds=self._uds, headers=headers)
        return self._session

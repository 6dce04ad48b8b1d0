"""The way to a Messages server: connections, questions, streams. Failures come out as `EngineError` or `InvalidParams`.

Headers: the key goes as `x-api-key`, which every such server takes. `anthropic-version` is always `2023-06-01`: later
versions only forbid more (contract 3.3), and whoever asked for one was checked by its rules at our own door, so one
value serves all and is known everywhere. The path says `?beta=true`, for the same reason: beta parameters were let in
at our door or refused there, and the service ignores it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Any

import aiohttp
import msgspec
import structlog

from standby.config import EngineSettings
from standby.engines.bodies import in_pieces
from standby.engines.chat.failures import from_exception
from standby.engines.chat.patience import Patience
from standby.engines.messages.failures import NoRoute, from_status
from standby.errors import ApiError, EngineError, Failure
from standby.wire.sse import SseParser

VERSION = "2023-06-01"
ASK_S = 10.0
IDLE_S = 2.0
"""How long an idle connection is kept: less than the 5 s after which engines close theirs."""
LAST_S = 0.2
"""How long the end of a finished stream is waited for, so that its connection can be used again."""
MOST = 64 * 2**20
MOST_OF_ERROR = 65536
LARGE = 2**19

log = structlog.get_logger("standby.engines")


class Connection:
    """Connections to one endpoint."""

    def __init__(
        self,
        settings: EngineSettings,
        *,
        base_url: str,
        uds: str | None = None,
        lost: Callable[[], None] = lambda: None,
        says_bearer: bool = False,
    ) -> None:
        """Keep the address; `lost` is called whenever the endpoint turns out to be away or to refuse our key.

        With `says_bearer` the key is sent the way of chat-completions, too.
        """
        self.base = re.sub(r"(/v1)?/*$", "", base_url)
        self._settings = settings
        self._uds = uds
        self._lost = lost
        self._says_bearer = says_bearer
        self._session: aiohttp.ClientSession | None = None
        self._closed = False
        self._told = ""

    async def close(self) -> None:
        """Close every connection; whatever is sent later fails as unreachable."""
        self._closed = True
        if self._session is not None:
            await self._session.close()

    async def ask(self, path: str, body: bytes | None = None, *, betas: Sequence[str] = ()) -> Any:
        """Ask a small question (GET without a body, else POST) and read its JSON answer."""
        try:
            async with asyncio.timeout(ASK_S), self._request(path, body, betas) as response:
                return msgspec.json.decode(await _whole(response, MOST))
        except TimeoutError:
            raise EngineError(Failure.TIMEOUT, f"the engine did not answer in {ASK_S:.0f} s") from None

    async def whole(self, path: str, body: bytes, patience: Patience, *, betas: Sequence[str] = ()) -> bytes:
        """Send a request whose answer does not stream."""
        async with AsyncExitStack() as stack:
            response = await patience.wait_for(stack.enter_async_context(self._request(path, body, betas)))
            return await patience.wait_for(_whole(response, MOST))

    async def events(
        self, path: str, body: bytes, patience: Patience, *, betas: Sequence[str] = ()
    ) -> AsyncGenerator[bytes, None]:
        """Send a request and yield the data of its events until the reader stops; `EngineError` if it breaks off."""
        parser = SseParser()
        async with AsyncExitStack() as stack:
            response = await patience.wait_for(stack.enter_async_context(self._request(path, body, betas)))
            if response.content_type != "text/event-stream":
                raise _no_stream(response.content_type)
            while piece := await patience.wait_for(response.content.readany()):
                for event in parser.feed(piece):
                    yield event.data
                    if event.name == "message_stop":
                        await _last(response)
                        return
            raise EngineError(Failure.BROKEN, "the engine ended the stream before it was done")

    @asynccontextmanager
    async def _request(
        self, path: str, body: bytes | None, betas: Sequence[str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        try:
            async with await self._send(f"{self.base}{path}", body, betas) as response:
                if response.status != 200:
                    raise await self._refusal(response, is_asking=body is None or "count" in path)
                self._told = ""
                yield response
        except (aiohttp.ClientError, OSError, ValueError) as error:
            failure = from_exception(error)
            if failure.failure is Failure.UNREACHABLE:
                self._lost()
            raise failure from None

    async def _send(self, url: str, body: bytes | None, betas: Sequence[str]) -> aiohttp.ClientResponse:
        """Send; once more if an idle connection turns out to be closed by the other side."""
        session = self._open()
        method = "GET" if body is None else "POST"
        headers = {} if body is None else {"content-type": "application/json"}
        if betas:
            headers["anthropic-beta"] = ",".join(betas)
        try:
            return await session.request(method, url, data=in_pieces(body), headers=headers, allow_redirects=False)
        except aiohttp.ClientConnectorError:
            raise
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
            return await session.request(method, url, data=in_pieces(body), headers=headers, allow_redirects=False)

    async def _refusal(self, response: aiohttp.ClientResponse, *, is_asking: bool) -> EngineError | ApiError:
        if response.status < 400:
            return EngineError(Failure.UNREACHABLE, f"the engine answers with {response.status}; is the URL right?")
        body = await _whole(response, MOST_OF_ERROR)
        failure = from_status(response.status, response.headers, body, now=datetime.now(UTC))
        if is_asking and isinstance(failure, NoRoute):
            return failure
        if isinstance(failure, EngineError) and failure.failure is Failure.UNREACHABLE:
            self._tell(failure.message)
            self._lost()
        return failure

    def _tell(self, message: str) -> None:
        """Say once what the operator has to put right."""
        if message != self._told:
            self._told = message
            log.warning("engine refuses", url=self.base, reason=message)

    def _open(self) -> aiohttp.ClientSession:
        if self._closed:
            raise EngineError(Failure.UNREACHABLE, "the engine is closed")
        if self._session is None:
            connector: aiohttp.BaseConnector = (
                aiohttp.UnixConnector(self._uds, limit=0, keepalive_timeout=IDLE_S)
                if self._uds
                else aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE_S)
            )
            self._session = aiohttp.ClientSession(
                connector=connector,
                headers=self._headers(),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._settings.connect_timeout_s),
                trust_env=False,
            )
        return self._session

    def _headers(self) -> dict[str, str]:
        key = self._settings.api_key
        headers = {"anthropic-version": VERSION}
        if key:
            headers["x-api-key"] = key
        if key and self._says_bearer:
            headers["authorization"] = f"Bearer {key}"
        return headers


def _no_stream(kind: str) -> EngineError:
    if kind == "text/html":
        return EngineError(Failure.UNREACHABLE, "a web page answers there, not an engine; is the URL right?")
    return EngineError(Failure.BROKEN, "the engine does not stream its answer")


async def _whole(response: aiohttp.ClientResponse, most: int) -> bytes:
    """Read an answer; `ValueError` if it is larger than `most`."""
    pieces, size = [], 0
    while piece := await response.content.readany():
        size += len(piece)
        if size > most:
            raise ValueError(f"an answer of the engine is larger than {most} bytes")
        pieces.append(piece)
    return b"".join(pieces)


async def _last(response: aiohttp.ClientResponse) -> None:
    """Read on to the end of a stream that is done: only then can its connection be used again."""
    with suppress(TimeoutError):
        async with asyncio.timeout(LAST_S):
            while await response.content.readany():
                pass

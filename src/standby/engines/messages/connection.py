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
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import aiohttp
import msgspec
import structlog

from standby.config import EngineSettings
from standby.engines.chat.failures import from_exception
from standby.engines.http import no_stream, open_session, read_to_end, read_whole, send
from standby.engines.messages.failures import NoRoute, from_status
from standby.engines.patience import Patience
from standby.errors import ApiError, EngineError, Failure
from standby.wire.sse import SseParser

VERSION = "2023-06-01"
ASK_S = 10.0
MOST = 64 * 2**20
MOST_OF_ERROR = 65536

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
                return msgspec.json.decode(await read_whole(response, MOST))
        except TimeoutError:
            raise EngineError(Failure.TIMEOUT, f"the engine did not answer in {ASK_S:.0f} s") from None

    async def whole(self, path: str, body: bytes, patience: Patience, *, betas: Sequence[str] = ()) -> bytes:
        """Send a request whose answer does not stream."""
        async with AsyncExitStack() as stack:
            stack.enter_context(patience)
            response = await patience.wait_for(stack.enter_async_context(self._request(path, body, betas)))
            return await patience.wait_for(read_whole(response, MOST))

    async def events(
        self, path: str, body: bytes, patience: Patience, *, betas: Sequence[str] = ()
    ) -> AsyncGenerator[bytes, None]:
        """Send a request and yield the data of its events until the reader stops; `EngineError` if it breaks off."""
        parser = SseParser()
        async with AsyncExitStack() as stack:
            stack.enter_context(patience)
            response = await patience.wait_for(stack.enter_async_context(self._request(path, body, betas)))
            if response.content_type != "text/event-stream":
                raise no_stream(response.content_type)
            while piece := await patience.wait_for(response.content.readany()):
                for event in parser.feed(piece):
                    yield event.data
                    if event.name == "message_stop":
                        await read_to_end(response)
                        return
            raise EngineError(Failure.BROKEN, "the engine ended the stream before it was done")

    @asynccontextmanager
    async def _request(
        self, path: str, body: bytes | None, betas: Sequence[str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        try:
            async with await send(self._open(), f"{self.base}{path}", body, _naming(betas)) as response:
                if response.status != 200:
                    raise await self._refusal(response, is_asking=body is None or "count" in path)
                self._told = ""
                yield response
        except (aiohttp.ClientError, OSError, ValueError) as error:
            failure = from_exception(error)
            if failure.failure is Failure.UNREACHABLE:
                self._lost()
            raise failure from None

    async def _refusal(self, response: aiohttp.ClientResponse, *, is_asking: bool) -> EngineError | ApiError:
        if response.status < 400:
            return EngineError(Failure.UNREACHABLE, f"the engine answers with {response.status}; is the URL right?")
        body = await read_whole(response, MOST_OF_ERROR)
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
            self._session = open_session(self._settings, uds=self._uds, headers=self._headers())
        return self._session

    def _headers(self) -> dict[str, str]:
        key = self._settings.api_key
        headers = {"anthropic-version": VERSION}
        if key:
            headers["x-api-key"] = key
        if key and self._says_bearer:
            headers["authorization"] = f"Bearer {key}"
        return headers


def _naming(betas: Sequence[str]) -> dict[str, str]:
    return {"anthropic-beta": ",".join(betas)} if betas else {}

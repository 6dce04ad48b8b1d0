"""What all engines behind HTTP share: a session, a request, the end of a stream, a count of what runs there."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

import aiohttp

from standby.config import EngineSettings
from standby.errors import EngineError, Failure

IDLE_S = 2.0
"""How long an idle connection is kept: less than the 5 s after which engines close theirs."""
LAST_S = 0.2
"""How long the end of a finished stream is waited for, so that its connection can be used again."""
LARGE = 1 << 19
"""From this size on a body is sent in pieces."""


def open_session(settings: EngineSettings, *, uds: str | None, headers: Mapping[str, str]) -> aiohttp.ClientSession:
    """Open connections to one endpoint; `uds` is the path of a unix socket."""
    connector: aiohttp.BaseConnector = (
        aiohttp.UnixConnector(uds, limit=0, keepalive_timeout=IDLE_S)
        if uds
        else aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE_S)
    )
    return aiohttp.ClientSession(
        connector=connector,
        headers=headers,
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=settings.connect_timeout_s),
        trust_env=False,
    )


async def send(
    session: aiohttp.ClientSession, url: str, body: bytes | None, headers: Mapping[str, str]
) -> aiohttp.ClientResponse:
    """Send (GET without a body, else POST JSON); once more if an idle connection turns out to be closed over there."""
    method = "GET" if body is None else "POST"
    sent = dict(headers) if body is None else {"content-type": "application/json", **headers}
    try:
        return await session.request(method, url, data=_in_pieces(body), headers=sent, allow_redirects=False)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
        return await session.request(method, url, data=_in_pieces(body), headers=sent, allow_redirects=False)


async def read_whole(response: aiohttp.ClientResponse, most: int) -> bytes:
    """Read an answer; raises `EngineError` if it is larger than `most`."""
    pieces, size = [], 0
    while piece := await response.content.readany():
        size += len(piece)
        if size > most:
            raise EngineError(Failure.BROKEN, f"an answer of the engine is larger than {most} bytes")
        pieces.append(piece)
    return b"".join(pieces)


async def read_to_end(response: aiohttp.ClientResponse) -> None:
    """Read on to the end of a stream that is done: only then can its connection be used again."""
    with suppress(TimeoutError):
        async with asyncio.timeout(LAST_S):
            while await response.content.readany():
                pass


def no_stream(kind: str) -> EngineError:
    """Say what an answer of this content type is, where a stream was due."""
    if kind == "text/html":
        return EngineError(Failure.UNREACHABLE, "a web page answers there, not an engine; is the URL right?")
    return EngineError(Failure.BROKEN, "the engine does not stream its answer")


class InFlight:
    """How many requests are under way, live and batch."""

    def __init__(self) -> None:
        """Begin with none."""
        self.live = 0
        self.batch = 0

    @contextmanager
    def one(self, *, live: bool) -> Iterator[None]:
        """Count one request for as long as the block lasts."""
        self.add(1, live=live)
        try:
            yield
        finally:
            self.add(-1, live=live)

    def add(self, change: int, *, live: bool) -> None:
        """Count."""
        if live:
            self.live += change
        else:
            self.batch += change


def _in_pieces(body: bytes | None) -> bytes | io.BytesIO | None:
    """Let large bodies be read piece by piece: aiohttp warns of writing one at once."""
    return io.BytesIO(body) if body is not None and len(body) > LARGE else body

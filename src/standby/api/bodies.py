"""Request bodies: read with a cap, decoded if compressed, thrown away politely if refused."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive

from standby.errors import ApiError
from standby.wire.bodies import Inflate, too_large

LIVE_MAX_BYTES = 32 * 2**20
"""Largest body of messages and count_tokens, after decoding (contract 1.3)."""

DISCARD_MAX_BYTES = 512 * 2**20
DISCARD_WITHIN_S = 30.0


class Body:
    """The body of one request, as it arrives."""

    def __init__(self, receive: Receive) -> None:
        """Nothing is read before the first piece is asked for."""
        self._receive = receive
        self.is_complete = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield pieces; `ClientDisconnect` if the client breaks off."""
        while not self.is_complete:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            self.is_complete = not message.get("more_body", False)
            if piece := message.get("body", b""):
                yield piece

    async def discard(self) -> None:
        """Read on for a while without keeping anything.

        An answer that is sent while the client still writes is often lost with the connection; so a refused body
        is let through first, up to a bound in bytes and time.
        """
        left = DISCARD_MAX_BYTES
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DISCARD_WITHIN_S):
                async for piece in self:
                    left -= len(piece)
                    if left < 0:
                        return


def encoding_of(request: Request) -> str | None:
    """Read `Content-Encoding`: lower case, None for plain bytes."""
    encoding = request.headers.get("content-encoding", "").strip().lower()
    return None if encoding in {"", "identity"} else encoding


def check_length(request: Request, max_bytes: int) -> None:
    """Refuse by the announced length, before a byte is read."""
    length = request.headers.get("content-length", "")
    if length.isascii() and length.isdigit() and int(length[:20]) > max_bytes:
        raise too_large(max_bytes)


async def read_body(request: Request, *, max_bytes: int = LIVE_MAX_BYTES) -> bytes:
    """Read and decode a whole body; `ApiError` 413, or 400 for a bad encoding."""
    body = Body(request.receive)
    try:
        check_length(request, max_bytes)
        return await _decoded(body, encoding_of(request), max_bytes)
    except ApiError:
        await body.discard()
        raise


async def _decoded(body: Body, encoding: str | None, max_bytes: int) -> bytes:
    inflate = Inflate(encoding, max_bytes)
    held = bytearray()
    async for piece in body:
        # A compressed piece may become a thousand times as large, which takes its time.
        held += inflate.feed(piece) if encoding is None else await asyncio.to_thread(inflate.feed, piece)
    return bytes(held + inflate.finish())

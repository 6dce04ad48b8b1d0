"""Request bodies: read with a cap, decoded if compressed, thrown away politely if refused."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from starlette.requests import ClientDisconnect, Request
from starlette.types import Message, Receive

from standby.wire.bodies import Inflate, too_large

LIVE_MAX_BYTES = 32 * 2**20
"""Largest body of messages and count_tokens, after decoding (contract 1.3)."""

DISCARD_MAX_BYTES = 512 * 2**20
DISCARD_WITHIN_S = 30.0


class Incoming:
    """The way in: an ASGI `receive` that knows whether the whole body has come."""

    def __init__(self, receive: Receive, *, is_asked_for: bool) -> None:
        """`is_asked_for`: the client sends its body only once somebody reads (`Expect: 100-continue`)."""
        self._receive = receive
        self._is_held_back = is_asked_for
        self._is_complete = False

    async def __call__(self) -> Message:
        """Receive."""
        message = await self._receive()
        self._is_held_back = False
        self._is_complete = not message.get("more_body", False)
        return message

    async def discard(self) -> None:
        """Read the rest of the body for a while without keeping anything.

        An answer that is sent while the client still writes is often lost with the connection; so a refused body
        is let through first, up to a bound in bytes and time.
        """
        left = DISCARD_MAX_BYTES
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DISCARD_WITHIN_S):
                while left > 0 and not self._is_complete and not self._is_held_back:
                    left -= len((await self()).get("body", b""))


async def pieces_of(receive: Receive) -> AsyncIterator[bytes]:
    """Yield a body as it arrives; `ClientDisconnect` if the client breaks off."""
    is_complete = False
    while not is_complete:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        is_complete = not message.get("more_body", False)
        if piece := message.get("body", b""):
            yield piece


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
    check_length(request, max_bytes)
    encoding = encoding_of(request)
    inflate = Inflate(encoding, max_bytes)
    held = bytearray()
    async for piece in pieces_of(request.receive):
        # A compressed piece may become a thousand times as large, which takes its time.
        held += inflate.feed(piece) if encoding is None else await asyncio.to_thread(inflate.feed, piece)
    return bytes(held + inflate.finish())

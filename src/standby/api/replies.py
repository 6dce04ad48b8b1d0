"""Answers: JSON, events and long streams, each an ASGI application that stops when its client leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Mapping
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from standby.errors import ApiError
from standby.wire.errors import error_body

T = TypeVar("T")
JSON = "application/json"


def json_reply(body: bytes) -> Response:
    """200 with a JSON body."""
    return Response(body, media_type=JSON)


def error_reply(error: ApiError, request_id: str) -> Response:
    """Write an error in the contract's shape; `request_id` is the same as in the header."""
    return Response(error_body(error, request_id), status_code=error.status, headers=error.headers, media_type=JSON)


class Streamed:
    """An answer in pieces; the pieces stop being made when the client leaves."""

    def __init__(self, pieces: AsyncIterator[bytes], *, status: int = 200, headers: Mapping[str, str]) -> None:
        """Nothing is taken from `pieces` before the answer is sent."""
        self._pieces = pieces
        self._status = status
        self._headers = headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - the shape of ASGI
        """Send; a failing piece leaves the answer visibly unfinished."""
        try:
            await unless_gone(receive, self._send(send))
        finally:
            await close(self._pieces)

    async def _send(self, send: Send) -> None:
        headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in self._headers.items()]
        await send({"type": "http.response.start", "status": self._status, "headers": headers})
        async for piece in self._pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Do the work, or cancel it and raise `ClientDisconnect` if the client leaves first.

    The request's body must have been read.
    """
    doing = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait({doing, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not doing.done():
            raise ClientDisconnect
        return doing.result()
    finally:
        doing.cancel()
        watching.cancel()
        await asyncio.gather(doing, watching, return_exceptions=True)


async def close(pieces: AsyncIterator[Any]) -> None:
    """End a generator now rather than when it is collected."""
    if isinstance(pieces, AsyncGenerator):
        await pieces.aclose()


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass

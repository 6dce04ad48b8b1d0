"""Gzip for clients that ask for it; never for events, ranges or small answers."""

from __future__ import annotations

import asyncio
import re
import zlib

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SMALLEST = 1024
LEVEL = 1
OFF_LOOP = 1 << 15
"""From this size on a piece is compressed in a thread, so that nobody else waits for it."""
_GZIP = 16 + zlib.MAX_WBITS
_FORBIDDEN = re.compile(r"q=0(\.0*)?")
_TYPES = ("application/json", "application/x-jsonl", "text/plain")


class Compress:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp) -> None:
        """Wrap an application."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, compressing if the client takes gzip."""
        if scope["type"] == "http" and scope["method"] != "HEAD":
            send = _Gzip(send) if accepts_gzip(Headers(scope=scope)) else _Vary(send)
        await self._app(scope, receive, send)


def accepts_gzip(headers: Headers) -> bool:
    """Whether `Accept-Encoding` names gzip (or everything) without forbidding it."""
    weights: dict[str, str] = {}
    for part in ",".join(headers.getlist("accept-encoding")).lower().split(","):
        name, _, parameters = part.partition(";")
        weights[name.strip()] = parameters.replace(" ", "")
    weight = weights.get("gzip", weights.get("*"))
    return weight is not None and _FORBIDDEN.fullmatch(weight) is None


def _may_compress(headers: Headers) -> bool:
    kind = headers.get("content-type", "").partition(";")[0]
    return kind in _TYPES and "content-encoding" not in headers and "content-range" not in headers


class _Vary:
    def __init__(self, send: Send) -> None:
        self._send = send

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(raw=message["headers"])
            if _may_compress(headers):
                headers.add_vary_header("Accept-Encoding")
        await self._send(message)


class _Gzip:
    """Holds the start of an answer back until its first piece tells whether compressing is worth it."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._start: Message | None = None
        self._packer: zlib._Compress | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message
            return
        if self._start is not None:
            await self._begin(message)
        if self._packer is not None:
            message = {**message, "body": await self._pack(message)}
        await self._send(message)

    async def _begin(self, first: Message) -> None:
        start, self._start = self._start, None
        assert start is not None
        headers = MutableHeaders(raw=start["headers"])
        if _may_compress(headers):
            headers.add_vary_header("Accept-Encoding")
            if first.get("more_body", False) or len(first.get("body", b"")) >= SMALLEST:
                self._packer = zlib.compressobj(LEVEL, wbits=_GZIP)
                _relabel(headers)
        await self._send(start)

    async def _pack(self, message: Message) -> bytes:
        assert self._packer is not None
        body, is_last = message.get("body", b""), not message.get("more_body", False)
        if len(body) >= OFF_LOOP:
            return await asyncio.to_thread(_packed, self._packer, body, is_last=is_last)
        return _packed(self._packer, body, is_last=is_last)


def _packed(packer: zlib._Compress, body: bytes, *, is_last: bool) -> bytes:
    return packer.compress(body) + (packer.flush() if is_last else b"")


def _relabel(headers: MutableHeaders) -> None:
    headers["content-encoding"] = "gzip"
    for gone in ("content-length", "accept-ranges"):
        if gone in headers:
            del headers[gone]
    etag = headers.get("etag")
    if etag is not None and not etag.startswith("W/"):
        headers["etag"] = f"W/{etag}"

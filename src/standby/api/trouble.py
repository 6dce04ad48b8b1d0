"""A layer of the emulator: it notes what arrives, and lets the faults strike that a test set."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from http import HTTPStatus

import msgspec
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from standby.api.faults import answer_to
from standby.api.protocol import LINE, Line
from standby.emulation.faults import Fault, operation_of
from standby.emulation.stage import Arrival, Stage
from standby.errors import ApiError

PIECES_A_SECOND = 20
"""Of an answer that is sent slowly."""
SEEN = "/v1/"
"""Paths below it are the API; the rest is never in trouble, or a test could not get out of it again."""


class Trouble:
    """ASGI middleware, right behind the front."""

    def __init__(self, app: ASGIApp, *, stage: Stage, prefix: str) -> None:
        """Wrap an application; `prefix` stands in front of `/v1`."""
        self._app = app
        self._stage = stage
        self._prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or do to it what the fault wants that it meets."""
        path = scope["path"].removeprefix(self._prefix)
        if scope["type"] != "http" or not path.startswith(SEEN):
            await self._app(scope, receive, send)
            return
        arrival = self._note(scope, path)
        fault = self._stage.faults.strike(scope["method"], path)
        app = _Noted(self._app, arrival)
        if fault is None:
            await app(scope, receive, send)
            return
        arrival.fault, arrival.status = fault.source, fault.status
        await _suffer(fault, app, scope, receive, send)

    def _note(self, scope: Scope, path: str) -> Arrival:
        headers = Headers(scope=scope)
        retry = headers.get("x-stainless-retry-count", "")
        arrival = Arrival(
            operation=operation_of(scope["method"], path),
            method=scope["method"],
            path=path,
            at_us=self._stage.clock(),
            retry=int(retry[:9]) if retry.isascii() and retry.isdigit() else 0,
            simulate=headers.get("standby-simulate", ""),
        )
        self._stage.arrivals.append(arrival)
        return arrival


async def _suffer(fault: Fault, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    if fault.wait_s:
        await asyncio.sleep(fault.wait_s)
    if fault.is_reset:
        await _break(scope, receive, is_reset=True)
    if fault.status:
        raise _refusal(fault)
    if fault.is_lost:
        with contextlib.suppress(Exception):  # an error is an answer as well, and noted
            await app(scope, receive, _nobody)
        await _break(scope, receive, is_reset=True)
    if fault.cut_rows is not None or fault.bytes_per_s:
        scope = _plain(scope)
        send = _Cut(send, fault, scope, receive)
    await app(scope, receive, send)


def _refusal(fault: Fault) -> ApiError:
    headers = {} if fault.retry_after_s is None else {"retry-after": f"{fault.retry_after_s:g}"}
    return ApiError(fault.status, fault.error_type, fault.message or _text(fault), headers=headers)


def _text(fault: Fault) -> str:
    match fault.status:
        case 401:
            return "API key is invalid."
        case 529:
            return "Overloaded"
        case 429:
            return "This request would exceed your rate limit. Please try again later."
        case _:
            return f"The emulator was told to answer {fault.status}."


async def _nobody(message: Message) -> None:
    """Send an answer to nobody."""


async def _break(scope: Scope, receive: Receive, *, is_reset: bool) -> None:
    """End the connection in the middle; without a socket the answer is just not there."""
    extension = scope.get("extensions", {}).get(LINE)
    if extension is not None:
        line: Line = extension["line"]
        line.hang_up(is_reset=is_reset)
        while (await receive())["type"] != "http.disconnect":
            pass
    raise ClientDisconnect


def _plain(scope: Scope) -> Scope:
    """Ask for an answer that is not compressed, so that its lines can be counted."""
    headers = [(name, value) for name, value in scope["headers"] if name != b"accept-encoding"]
    return {**scope, "headers": headers}


class _Noted:
    """An application whose answers are noted, whether or not they leave."""

    def __init__(self, app: ASGIApp, arrival: Arrival) -> None:
        self._app = app
        self._arrival = arrival

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def noting(message: Message) -> None:
            self._note(message)
            await send(message)

        try:
            await self._app(scope, receive, noting)
        except ClientDisconnect:
            raise
        except Exception as error:
            self._arrival.status = self._arrival.status or answer_to(error).status
            raise

    def _note(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._arrival.status = message["status"]
        elif self._arrival.operation == "create" and self._arrival.status == HTTPStatus.OK:
            self._read_batch(message.get("body", b""))

    def _read_batch(self, body: bytes) -> None:
        if body.startswith(b"{"):
            batch = msgspec.json.decode(body)
            self._arrival.batch_id, self._arrival.items = batch["id"], sum(batch["request_counts"].values())


class _Cut:
    """Sends an answer slowly, or only its beginning."""

    def __init__(self, send: Send, fault: Fault, scope: Scope, receive: Receive) -> None:
        self._send = send
        self._fault = fault
        self._scope = scope
        self._receive = receive
        self._rows = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] != "http.response.body":
            await self._send(message)
            return
        body = message.get("body", b"")
        kept = self._kept(body)
        if len(kept) < len(body):
            await self._pass({"type": "http.response.body", "body": kept, "more_body": True})
            await _break(self._scope, self._receive, is_reset=False)
        await self._pass(message)

    async def _pass(self, message: Message) -> None:
        """Send a piece of the body in the fault's time."""
        if not self._fault.bytes_per_s:
            await self._send(message)
            return
        pieces = list(self._pieces(message.get("body", b"")))
        for place, piece in enumerate(pieces):
            is_last = place == len(pieces) - 1
            await self._send({**message, "body": piece, "more_body": not is_last or message.get("more_body", False)})
            await asyncio.sleep(len(piece) / self._fault.bytes_per_s)

    def _pieces(self, body: bytes) -> Iterator[bytes]:
        size = max(1, int(self._fault.bytes_per_s) // PIECES_A_SECOND)
        yield from (body[start : start + size] for start in range(0, len(body), size)) if body else (b"",)

    def _kept(self, body: bytes) -> bytes:
        """Return what may still be sent; all of it until the line is reached at which the answer is cut."""
        left = None if self._fault.cut_rows is None else self._fault.cut_rows - self._rows
        self._rows += body.count(b"\n")
        if left is None:
            return body
        end = _end_of_line(body, left)
        if end == len(body):
            return body
        rest = body.find(b"\n", end)
        line = (rest if rest >= 0 else len(body)) - end
        return body[: end + line // 2] if self._fault.is_cut_inside else body[:end]


def _end_of_line(body: bytes, number: int) -> int:
    """Find where this line ends; the whole length if there are not so many."""
    end = 0
    for _ in range(number):
        found = body.find(b"\n", end)
        if found < 0:
            return len(body)
        end = found + 1
    return end

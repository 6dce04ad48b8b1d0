"""An ASGI client that hides nothing: bodies in pieces, clients that leave, answers that break off."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from starlette.types import ASGIApp, Message

HEADERS = {"anthropic-version": "2023-06-01", "host": "localhost:8378"}
LOOPBACK = ("127.0.0.1", 50000)
PATIENCE_S = 20.0

Headers = Mapping[str, str] | Sequence[tuple[str, str]]


@dataclass(slots=True, kw_only=True)
class Answer:
    """What came back."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    pieces: list[bytes] = field(default_factory=list)
    is_complete: bool = False

    @property
    def body(self) -> bytes:
        """All pieces together."""
        return b"".join(self.pieces)

    def json(self) -> Any:
        """Decode the body."""
        return json.loads(self.body)

    def ok(self) -> Any:
        """Decode the body of a 200."""
        assert self.status == 200, (self.status, self.body[:500])
        assert self.headers["content-type"] == "application/json"
        return self.json()

    def error(self, status: int, type_: str) -> str:
        """Check that this is an error of the contract's shape and return its message."""
        assert self.status == status, (self.status, self.body[:500])
        assert self.headers["content-type"] == "application/json"
        body = self.json()
        assert set(body) == {"type", "error", "request_id"}
        assert body["type"] == "error"
        assert body["error"]["type"] == type_, body
        assert body["request_id"] == self.headers["request-id"]
        return str(body["error"]["message"])


class Leaving:
    """A client that leaves once it has seen enough; `set` it, or let it leave after some pieces."""

    def __init__(self, *, after_pieces: int | None = None) -> None:
        """Leave by itself after so many pieces of the answer, or only when told."""
        self.after_pieces = after_pieces
        self.now = asyncio.Event()


class Client:
    """Sends requests to one application."""

    def __init__(self, app: ASGIApp, *, key: str | None = None, peer: tuple[str, int] | None = LOOPBACK) -> None:
        """`key` goes out as `x-api-key`."""
        self._app = app
        self._key = key
        self._peer = peer

    async def get(self, path: str, headers: Headers = (), **more: Any) -> Answer:
        """GET."""
        return await self.send("GET", path, headers=headers, **more)

    async def post(self, path: str, body: Any = None, headers: Headers = (), **more: Any) -> Answer:
        """POST; a body that is not bytes goes out as JSON."""
        return await self.send("POST", path, body, headers=headers, **more)

    async def send(
        self,
        method: str,
        path: str,
        body: Any = b"",
        *,
        headers: Headers = (),
        leaving: Leaving | None = None,
        bare: bool = False,
    ) -> Answer:
        """Send one request; `bare` leaves the usual headers out. A body may be a list of pieces."""
        usual = {} if bare else {**HEADERS, **({"x-api-key": self._key} if self._key else {})}
        given = list(headers.items() if isinstance(headers, Mapping) else headers)
        sent = [(n, v) for n, v in usual.items() if n not in {name.lower() for name, _ in given}] + given
        exchange = _Exchange(_pieces(body), leaving or Leaving())
        scope = _scope(method, path, sent, self._peer)
        async with asyncio.timeout(PATIENCE_S):
            await self._app(scope, exchange.receive, exchange.send)
        return exchange.answer


class _Exchange:
    def __init__(self, pieces: Sequence[bytes | None], leaving: Leaving) -> None:
        self.answer = Answer()
        self._pieces = list(pieces)
        self._leaving = leaving

    async def receive(self) -> Message:
        if self._pieces:
            piece = self._pieces.pop(0)
            if piece is None:
                return {"type": "http.disconnect"}
            return {"type": "http.request", "body": piece, "more_body": bool(self._pieces)}
        await self._leaving.now.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        assert not self.answer.is_complete
        if message["type"] == "http.response.start":
            assert self.answer.status == 0
            self.answer.status = message["status"]
            self.answer.headers = {
                name.decode("latin-1"): value.decode("latin-1") for name, value in message["headers"]
            }
            return
        if message.get("body"):
            self.answer.pieces.append(bytes(message["body"]))
        self.answer.is_complete = not message.get("more_body", False)
        enough = self._leaving.after_pieces
        if self.answer.is_complete or (enough is not None and len(self.answer.pieces) >= enough):
            self._leaving.now.set()
            await asyncio.sleep(0)


def _pieces(body: Any) -> Sequence[bytes | None]:
    if isinstance(body, bytes):
        return [body]
    if isinstance(body, list) and all(piece is None or isinstance(piece, bytes) for piece in body):
        return body
    return [b"" if body is None else json.dumps(body).encode()]


def _scope(method: str, path: str, headers: Iterable[tuple[str, str]], peer: tuple[str, int] | None) -> dict[str, Any]:
    raw_path, _, query = path.partition("?")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(raw_path),
        "raw_path": raw_path.encode("utf-8", "surrogatepass"),
        "root_path": "",
        "query_string": query.encode("utf-8", "surrogatepass"),
        "headers": [(name.lower().encode("latin-1"), value.encode("latin-1", "replace")) for name, value in headers],
        "client": peer,
        "server": ("127.0.0.1", 8378),
        "state": {},
    }

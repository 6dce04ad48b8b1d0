"""The host's HTTP face: chat-completions (streaming or not), models, count_tokens, health, metrics."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import Any, Protocol

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from standby.host.ask import Ask, Bad, Turn, read_ask, read_prompt
from standby.host.loop import StepLoop
from standby.host.metrics import Metrics
from standby.host.sequence import Piece, Sequence

JSON = "application/json"
KEEP_ALIVE_S = 5.0
"""Silence after which a stream carries an SSE comment."""

ERRORS: dict[str | None, tuple[int, dict[str, Any]]] = {
    "failed": (
        500,
        {"error": {"type": "server_error", "code": "generation_failed", "message": "the engine gave up this sequence"}},
    ),
    "refused": (
        400,
        {
            "error": {
                "type": "invalid_request_error",
                "code": "invalid_schema",
                "message": "response_format.json_schema.schema: the engine cannot enforce this schema",
            }
        },
    ),
}
"""How an answer can end badly: the status before anything is sent, and the body, also in a stream."""


class Prompter(Protocol):
    """What turns a conversation into tokens (`pipeline.Pipeline`)."""

    context: int

    def prompt(self, turns: tuple[Turn, ...]) -> list[int]:
        """Write the conversation in the model's template."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the host tells of itself at `/v1/models`."""

    name: str
    slots: int
    threads: int
    kv_tokens: int
    """How many tokens the KV cache holds."""
    prefill_tokens_s: float | None = None
    """Prompt tokens a second, as measured at the start; None if that was skipped."""
    decode_tokens_s: float | None = None
    """Tokens a second of one answer alone, measured likewise."""
    version: str = field(default_factory=lambda: f"standby {version('standby')}")


def build_app(facts: Facts, *, prompter: Prompter, loop: StepLoop, metrics: Metrics) -> Starlette:
    """Put the routes together for a model that is loaded."""
    name = facts.name
    created = int(time.time())

    async def models(_: Request) -> Response:
        return _json(200, {"object": "list", "data": [_model(facts, created, prompter.context)]})

    async def count(request: Request) -> Response:
        try:
            prompt = read_prompt(await request.body())
            tokens = prompter.prompt(tuple(prompt.messages))
        except Bad as bad:
            return _bad(bad)
        return _json(200, {"tokens": len(tokens)})

    async def health(_: Request) -> Response:
        return _json(200, {"status": "ok"})

    async def numbers(_: Request) -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    return Starlette(
        routes=[
            Route("/v1/chat/completions", _Completions(name, prompter, loop), methods=["POST"]),
            Route("/v1/models", models),
            Route("/count_tokens", count, methods=["POST"]),
            Route("/health", health),
            Route("/metrics", numbers),
        ]
    )


def _model(facts: Facts, created: int, context: int) -> dict[str, Any]:
    told = {key: value for key, value in asdict(facts).items() if key != "name" and value is not None}
    return {
        "id": facts.name,
        "object": "model",
        "created": created,
        "owned_by": "standby",
        "max_model_len": context,
        **told,
    }


class _Completions:
    """Raw ASGI, so that a client that leaves is noticed even while its sequence is paused and says nothing."""

    def __init__(self, name: str, prompter: Prompter, loop: StepLoop) -> None:
        self._name = name
        self._prompter = prompter
        self._loop = loop

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            ask = read_ask(await request.body())
            sequence = self._loop.submit(ask, self._prompter.prompt(ask.turns))
        except Bad as bad:
            await _bad(bad)(scope, receive, send)
            return
        answer = _Answer(self._name, ask, sequence)
        work = asyncio.ensure_future(answer.stream(send) if ask.stream else answer.whole(send))
        gone = asyncio.ensure_future(_gone(receive))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
        finally:
            self._loop.cancel(sequence)
            for task in (work, gone):
                task.cancel()


async def _gone(receive: Callable[[], Awaitable[Message]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class _Answer:
    """One answer on its way to the client, in the words of chat-completions."""

    def __init__(self, name: str, ask: Ask, sequence: Sequence) -> None:
        self._ask = ask
        self._sequence = sequence
        self._base: dict[str, Any] = {
            "id": f"chatcmpl-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": name,
        }

    async def stream(self, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        first = True
        while True:
            pieces = await self._pieces_or_none()
            if pieces is None:
                await _body(send, b": waiting\n\n", more=True)
                continue
            for piece in pieces:
                await _body(send, self._chunk(piece, first=first), more=True)
                first = False
            if pieces[-1].finish is not None:
                break
        if self._ask.usage_at_end and pieces[-1].finish not in ERRORS:
            usage = {"usage": self._usage(pieces[-1].completion_tokens)}
            await _body(send, self._event({"object": "chat.completion.chunk", "choices": [], **usage}), more=True)
        await _body(send, b"data: [DONE]\n\n", more=False)

    async def whole(self, send: Send) -> None:
        text = ""
        while True:
            pieces = await self._pieces()
            text += "".join(piece.text for piece in pieces)
            if pieces[-1].finish is not None:
                break
        last = pieces[-1]
        status, body = ERRORS[last.finish] if last.finish in ERRORS else (200, self._completion(text, last))
        headers = [(b"content-type", JSON.encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await _body(send, msgspec.json.encode(body), more=False)

    async def _pieces(self) -> list[Piece]:
        """Wait for one piece and take all that are there."""
        queue = self._sequence.pieces
        pieces = [await queue.get()]
        while not queue.empty():
            pieces.append(queue.get_nowait())
        return pieces

    async def _pieces_or_none(self) -> list[Piece] | None:
        """The same, or None after a while: a paused sequence says nothing, but it is alive."""
        try:
            async with asyncio.timeout(KEEP_ALIVE_S):
                return await self._pieces()
        except TimeoutError:
            return None

    def _chunk(self, piece: Piece, *, first: bool) -> bytes:
        if piece.finish in ERRORS:
            return self._event(ERRORS[piece.finish][1])
        delta = {"role": "assistant", "content": piece.text} if first else {"content": piece.text}
        choice = {"index": 0, "delta": delta, "finish_reason": piece.finish}
        if piece.finish is not None:
            choice["stop_reason"] = piece.stop
        body: dict[str, Any] = {"object": "chat.completion.chunk", "choices": [choice]}
        if self._ask.usage_always:
            body["usage"] = self._usage(piece.completion_tokens)
        return self._event(body)

    def _completion(self, text: str, last: Piece) -> dict[str, Any]:
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": last.finish, "stop_reason": last.stop}
        usage = self._usage(last.completion_tokens)
        return {**self._base, "object": "chat.completion", "choices": [choice], "usage": usage}

    def _usage(self, completion: int) -> dict[str, Any]:
        prompt = len(self._sequence.prompt)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": self._sequence.cached},
        }

    def _event(self, body: dict[str, Any]) -> bytes:
        return b"data: " + msgspec.json.encode({**self._base, **body}) + b"\n\n"


async def _body(send: Send, data: bytes, *, more: bool) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": more})


def _bad(bad: Bad) -> Response:
    error = {"type": "invalid_request_error", "code": bad.code, "message": bad.message}
    return _json(400, {"error": error})


def _json(status: int, body: dict[str, Any]) -> Response:
    return Response(msgspec.json.encode(body), status_code=status, media_type=JSON)

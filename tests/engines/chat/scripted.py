"""An engine on a real socket that answers as a test says, and what adapters are asked."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from aiohttp import web

from standby.engines.chat import Chat
from standby.records import Rules
from standby.wire.messages import CountParams, MessageParams, decode_count_params, decode_params

Connect = Callable[..., Awaitable[Chat]]
Answer = Callable[[web.Request, dict[str, Any]], Awaitable[web.StreamResponse]]
MODELS = {"data": [{"id": "little-model", "created": 5, "max_model_len": 100}]}


class Script:
    """An engine that answers as the test says and keeps what it was sent."""

    def __init__(self) -> None:
        """Answer one token."""
        self.sent: list[dict[str, Any]] = []
        """Bodies of chat requests."""
        self.asked: list[tuple[str, Any]] = []
        """Path and body of everything else."""
        self.answer: Answer = stream(chunk("Hi"), chunk("", finish="stop"), usage(3, 2))
        self.pages: dict[str, Any] = {"/v1/models": MODELS, "/tokenize": tokenize}
        """What other paths answer: JSON, bytes, an `Answer`, or a function of the body; 404 for the rest."""
        self.url = ""
        self.peers: set[Any] = set()
        """Connections that chat requests came over."""
        self.left = asyncio.Event()
        """Somebody went away before the end of an answer."""

    async def start(self, *, port: int = 0) -> web.AppRunner:
        """Listen."""
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_route("*", "/{path:.*}", self._page)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port, reuse_address=True).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1/"
        return runner

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = json.loads(await request.read())
        self.sent.append(body)
        self.peers.add(request.transport.get_extra_info("peername") if request.transport else None)
        try:
            return await self.answer(request, body)
        except (asyncio.CancelledError, ConnectionError):
            self.left.set()
            raise

    async def _page(self, request: web.Request) -> web.StreamResponse:
        text = await request.read()
        body = json.loads(text) if text else None
        self.asked.append((request.path, body))
        found = self.pages.get(request.path)
        if found is None:
            return web.json_response({"detail": "Not Found"}, status=404)
        if isinstance(found, bytes):
            return web.Response(body=found, content_type="text/plain")
        if not callable(found):
            return web.json_response(found)
        if inspect.iscoroutinefunction(found):
            answered: web.StreamResponse = await found(request, body)
            return answered
        return web.json_response(found(body))


def tokenize(body: dict[str, Any]) -> dict[str, Any]:
    """Count characters, as vLLM's route would tokens."""
    return {"count": sum(len(turn["content"]) for turn in body["messages"])}


def chunk(text: str, *, finish: str | None = None, **more: Any) -> dict[str, Any]:
    """Make a chunk."""
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish, **more}]}


def usage(prompt: int, output: int, cached: int = 0) -> dict[str, Any]:
    """Make the chunk with the counts."""
    details = {"cached_tokens": cached}
    counts = {"prompt_tokens": prompt, "completion_tokens": output, "prompt_tokens_details": details}
    return {"choices": [], "usage": counts}


def stream(
    *chunks: dict[str, Any] | bytes, done: bool = True, hang: bool = False, every_s: float | None = None
) -> Answer:
    """Answer with these chunks (bytes go out as they are), then end properly, break off, or say nothing more."""

    async def answer(request: web.Request, _: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for one in chunks:
            await response.write(one if isinstance(one, bytes) else b"data: " + json.dumps(one).encode() + b"\n\n")
            if every_s is not None:
                await asyncio.sleep(every_s)
        if hang:
            await asyncio.Event().wait()
        if done:
            await response.write(b"data: [DONE]\n\n")
        else:
            assert request.transport is not None
            request.transport.close()
        return response

    return answer


def forever(piece: bytes, *, every_s: float = 0.01) -> Answer:
    """Answer with the same bytes again and again."""

    async def answer(request: web.Request, _: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        while True:
            await response.write(piece)
            await asyncio.sleep(every_s)

    return answer


def status(code: int, body: Any = None, **headers: str) -> Answer:
    """Answer with an error."""

    async def answer(_: web.Request, __: dict[str, Any]) -> web.StreamResponse:
        return web.json_response(body or {}, status=code, headers=headers)

    return answer


def page(body: bytes, kind: str) -> Answer:
    """Answer 200 with something else than a stream."""

    async def answer(_: web.Request, __: dict[str, Any]) -> web.StreamResponse:
        return web.Response(body=body, content_type=kind)

    return answer


def ask(text: str = "Hello", **more: Any) -> MessageParams:
    """Make params."""
    body = {"model": "little-model", "max_tokens": 10, "messages": [{"role": "user", "content": text}], **more}
    return decode_params(msgspec.json.encode(body), rules=Rules(), batch=False)


def count(content: Any = "Hello", **more: Any) -> CountParams:
    """Make the params of a count."""
    body = {"model": "little-model", "messages": [{"role": "user", "content": content}], **more}
    return decode_count_params(msgspec.json.encode(body), rules=Rules())

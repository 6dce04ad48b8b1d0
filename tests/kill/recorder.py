"""An engine that outlives the server and writes down every attempt: chat-completions over HTTP.

It runs in a thread of the test's process, so a killed server cannot take its memory along. What it answers is fixed;
how long it takes is set, so that work is in flight when the server dies.
"""

from __future__ import annotations

import asyncio
import json
import random
import threading
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from tests.harness import free_port, item
from tests.history import Dispatch, History

MODEL = "recorder"
LIVE = "live"


def ask(token: str, custom_id: str, **params: Any) -> dict[str, Any]:
    """Write an item whose text tells the recorder which one it is."""
    return item(custom_id, f"{token}/{custom_id}", **params)


class Recorder:
    """The engine; a context manager. `url` is what `--engine` takes."""

    def __init__(self, history: History, *, seconds: float = 0.0, seed: int = 0) -> None:
        """Take `seconds` for an answer, give or take a half."""
        self.history = history
        self.seconds = seconds
        self.port = free_port()
        self.live = 0
        self.working = 0
        self._dice = random.Random(seed)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        """Base URL in the manner of OpenAI."""
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> Self:
        """Listen."""
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(30)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close all connections and end the thread."""
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)
        self._loop.close()

    async def _listen(self) -> None:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._complete)
        app.router.add_get("/v1/models", _models)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()

    async def _close(self) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        began = self.history.clock()
        body = await request.json()
        token, _, custom_id = _text(body["messages"][-1]).partition("/")
        is_answered = False
        self.working += 1
        try:
            await asyncio.sleep(self.seconds * self._dice.uniform(0.5, 1.5))
            answer = await _answer(request, body, f"done {token}/{custom_id}")
            is_answered = True
        except ConnectionResetError:
            answer = web.Response()  # nobody is there to read it
        finally:
            self.working -= 1
            if custom_id:
                ended = self.history.clock()
                self.history.add(
                    Dispatch(began=began, ended=ended, token=token, custom_id=custom_id, answered=is_answered)
                )
            else:
                self.live += 1
        return answer


def _text(message: dict[str, Any]) -> str:
    content = message["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


async def _models(request: web.Request) -> web.Response:
    known = {"id": MODEL, "object": "model", "created": 1, "owned_by": "standby-tests", "max_model_len": 8192}
    return web.json_response({"object": "list", "data": [known]})


async def _answer(request: web.Request, body: dict[str, Any], text: str) -> web.StreamResponse:
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    known = {"id": "chatcmpl-1", "created": 1, "model": body.get("model", MODEL)}
    if not body.get("stream"):
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        return web.json_response({**known, "object": "chat.completion", "choices": [choice], "usage": usage})
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    chunk = {**known, "object": "chat.completion.chunk"}
    first = {"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": None}
    last = {"index": 0, "delta": {}, "finish_reason": "stop"}
    for event in ({"choices": [first]}, {"choices": [last]}, {"choices": [], "usage": usage}):
        await response.write(b"data: " + json.dumps({**chunk, **event}).encode() + b"\n\n")
    await response.write(b"data: [DONE]\n\n")
    await response.write_eof()
    return response

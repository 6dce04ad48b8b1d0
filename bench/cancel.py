"""How soon a cancel stops the work: an engine that notes when it was asked, and a client that cancels in mid-batch."""

from __future__ import annotations

import asyncio
import json
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path

from aiohttp import web

from bench.measure import spread
from bench.rows import Row
from tests.harness import (
    NoAnswer,
    ServerProcess,
    call,
    cancel,
    create,
    free_port,
    item,
    retrieve,
    wait_ended,
    wait_until,
)

SLOTS = 32
ANSWER_S = 0.05
BEFORE = 300
"""Requests that the engine gets before the cancel."""


class Engine:
    """A chat-completions server that answers after a while and remembers the moment of every request."""

    def __init__(self, port: int) -> None:
        """Be about to listen there."""
        self.port = port
        self.asked: list[float] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Listen, in a thread of its own."""
        self._thread.start()
        wait_until(self._listens, 10, "the engine does not listen")

    def stop(self) -> None:
        """End the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _listens(self) -> bool:
        try:
            return call(f"http://127.0.0.1:{self.port}", "GET", "/v1/models").status == HTTPStatus.OK
        except NoAnswer:
            return False

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        app = web.Application(client_max_size=1 << 26)
        app.add_routes([web.get("/v1/models", _models), web.post("/v1/chat/completions", self._answer)])
        runner = web.AppRunner(app)
        self._loop.run_until_complete(runner.setup())
        self._loop.run_until_complete(web.TCPSite(runner, "127.0.0.1", self.port).start())
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())
        self._loop.close()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(time.monotonic())
        await request.read()
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await asyncio.sleep(ANSWER_S)
        for delta, finish in (({"role": "assistant", "content": "ok"}, None), ({}, "stop")):
            choice = {"index": 0, "delta": delta, "finish_reason": finish}
            await response.write(b"data: " + json.dumps({"id": "x", "choices": [choice]}).encode() + b"\n\n")
        await response.write(b"data: [DONE]\n\n")
        return response


async def _models(request: web.Request) -> web.Response:
    del request
    return web.json_response({"object": "list", "data": [{"id": "m", "object": "model", "created": 1}]})


@contextmanager
def _engine() -> Iterator[Engine]:
    engine = Engine(free_port())
    engine.start()
    try:
        yield engine
    finally:
        engine.stop()


def cancel_rows(runs: int, *, items: int) -> list[Row]:
    """Cancel `runs` batches in the middle: when was the engine last asked, when had the batch ended?"""
    last, ended, sizes = [], [], []
    config: dict[str, dict[str, object]] = {"engine": {"slots": SLOTS, "api": "chat"}, "log": {"level": "warning"}}
    with tempfile.TemporaryDirectory() as name, _engine() as engine:
        data = Path(name) / "data"
        with ServerProcess(data, engine=f"http://127.0.0.1:{engine.port}", config=config) as server:
            for _ in range(runs):
                engine.asked.clear()
                batch = create(server, [item(f"i{n}", model="m") for n in range(items)])
                wait_until(lambda: len(engine.asked) >= BEFORE, 30, "the batch does not run")
                cancel(server, batch["id"])
                answered = time.monotonic()
                wait_ended(server, batch["id"])
                ended.append(1000 * (time.monotonic() - answered))
                last.append(1000 * (engine.asked[-1] - answered))
                sizes.append(retrieve(server, batch["id"])["request_counts"]["canceled"])
    if not min(sizes):
        raise AssertionError("a batch was over before its cancel")
    return [
        Row(
            name=f"cancel {runs} batches of {items:,} in the middle, {SLOTS} at once: last dispatch after the answer",
            ours=spread(last, " ms", 0),
            against=f"all canceled batches ended {spread(ended, ' ms', 0)} after it",
            ratio="",
            target="≤ 250 ms",
            is_met=max(last) <= 250,
        )
    ]

"""Records what an engine says on the wire, and says it again without the engine.

A recording is one request of the Messages API, the bytes that went between the adapter and the engine for it (with the
borders of the chunks they came in), and what the adapter made of them. `tools/record_engines.py` writes recordings,
`test_transcripts.py` plays them.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from aiohttp import web

from standby.config import EngineSettings
from standby.engines.base import Engine
from standby.engines.chat import Chat
from standby.errors import EngineError, InvalidParams
from standby.records import Rules
from standby.wire.messages import decode_count_params, decode_params
from tests.engines.suite_prompts import MARKER
from tests.engines.suite_tools import QUESTION, TOOLS, conversation

FOLDER = Path(__file__).parent / "transcripts"
KEPT = ("content-type", "retry-after")
"""Response headers that a recording keeps."""
MODEL = "claude-anything"
FORM = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Köln", "Łódź"]}, "big": {"type": "boolean"}},
    "required": ["city", "big"],
    "additionalProperties": False,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """One thing to ask."""

    params: Mapping[str, Any]
    is_count: bool = False
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Laid over the adapter's body on its way to the engine, to have it refused; not when it is played again."""
    twice: bool = False
    """Ask once before, unrecorded, so that the engine's cache has the prompt."""


def ask(text: Any = "Name two colours.", **more: Any) -> dict[str, Any]:
    """Write the body of a create."""
    body = {"model": MODEL, "max_tokens": 12, "temperature": 0, "messages": [{"role": "user", "content": text}], **more}
    return {name: value for name, value in body.items() if value is not None}


def count(text: str, **more: Any) -> dict[str, Any]:
    """Write the body of a token count."""
    return {"model": MODEL, "messages": [{"role": "user", "content": text}], **more}


LONG = "The harbour is quiet at night. " * 40
SCENES: dict[str, Scene] = {
    "text": Scene(params=ask()),
    "turns": Scene(
        params=ask(
            system="Be brief.",
            messages=[
                {"role": "user", "content": "My name is Ada."},
                {"role": "assistant", "content": "Hello Ada."},
                {"role": "user", "content": "Who am I?"},
            ],
        )
    ),
    "stop": Scene(params=ask("Count: 1, 2, 3, 4, 5, 6, 7, 8", stop_sequences=["never", "o"], max_tokens=24)),
    "schema": Scene(
        params=ask("A city?", max_tokens=48, output_config={"format": {"type": "json_schema", "schema": FORM}})
    ),
    "tool_forced": Scene(
        params=ask(QUESTION, tools=TOOLS, tool_choice={"type": "tool", "name": "get_weather"}, max_tokens=96)
    ),
    "tool_auto": Scene(params=ask(QUESTION, tools=TOOLS, max_tokens=24)),
    "tool_results": Scene(params=ask(messages=conversation("Sunny."), tools=TOOLS)),
    "cached": Scene(
        params=ask(system=[{"type": "text", "text": LONG, "cache_control": MARKER}], max_tokens=2), twice=True
    ),
    "count": Scene(params=count("Grüße aus Köln 🙂"), is_count=True),
    "too_long": Scene(params=ask("river " * 9000)),
    "unknown_model": Scene(params=ask(), changes={"model": "nobody-serves-this"}),
    "bad_field": Scene(params=ask(), changes={"temperature": "hot"}),
    "priority": Scene(params=ask(max_tokens=2), changes={"priority": 10}),
}
"""By the names of the files."""


async def outcome(engine: Engine, scene: Scene) -> dict[str, Any]:
    """Ask, and write down what came of it; ids that are made up on the way are numbered."""
    raw = msgspec.json.encode(scene.params)
    events: list[Any] = []
    try:
        if scene.is_count:
            return {"count": await engine.count_tokens(decode_count_params(raw, rules=Rules()))}
        async for event in engine.stream(decode_params(raw, rules=Rules(), batch=False)):
            events.append(msgspec.to_builtins(event))  # noqa: PERF401 - what came before a failure is kept
    except InvalidParams as error:
        return {"events": numbered(events), "refused": [error.status, error.message]}
    except EngineError as error:
        return {"events": numbered(events), "failure": [error.failure.name, error.message]}
    return {"events": numbered(events)}


def numbered(events: list[Any]) -> Any:
    """Replace ids by their number."""
    seen: dict[str, str] = {}

    def number(match: re.Match[str]) -> str:
        return seen.setdefault(match[0], f"{match[1]}_{len(seen) + 1}")

    return json.loads(re.sub(r"\b(msg|toolu)_[0-9A-Za-z]+", number, json.dumps(events)))


@dataclass
class Tape:
    """What went over the wire: pages that were fetched, and answers to what was posted, in order."""

    pages: dict[str, Any] = field(default_factory=dict)
    answers: list[dict[str, Any]] = field(default_factory=list)
    changes: Mapping[str, Any] = field(default_factory=dict)
    is_on: bool = False


class Recorder:
    """A server between an adapter and an engine that keeps what passes."""

    def __init__(self, *, url: str, uds: str | None, hide: Mapping[str, str]) -> None:
        """Keep the engine's address; `hide` maps texts that no recording may have to others."""
        self._url = url
        self._uds = uds
        self._hide = hide
        self.tape = Tape()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        """Yield the address to point an adapter at."""
        connector: aiohttp.BaseConnector = (
            aiohttp.UnixConnector(self._uds, force_close=True) if self._uds else aiohttp.TCPConnector(force_close=True)
        )
        self._session = aiohttp.ClientSession(self._url, connector=connector)
        async with self._session, served(self._pass) as url:
            yield url

    async def _pass(self, request: web.Request) -> web.StreamResponse:
        sent = await request.read()
        body = {**json.loads(sent), **self.tape.changes} if sent else None
        data = None if body is None else json.dumps(body).encode()
        headers = {"content-type": "application/json"} if sent else {}
        async with self._session.request(request.method, request.path_qs, data=data, headers=headers) as answer:
            kept = {name: answer.headers[name] for name in KEPT if name in answer.headers}
            response = web.StreamResponse(status=answer.status, headers=kept)
            await response.prepare(request)
            said: dict[str, Any] = {"status": answer.status, "headers": kept, "chunks": []}
            self._keep(request, body, said)  # now, with chunks to come: an adapter may hang up before the end
            async for chunk, _ in answer.content.iter_chunks():
                said["chunks"].append(self._shown(chunk))
                await response.write(chunk)
        return response

    def _keep(self, request: web.Request, body: Any, answer: dict[str, Any]) -> None:
        if request.method == "GET":
            self.tape.pages[request.path] = answer
        elif self.tape.is_on:
            self.tape.answers.append({"path": request.path, "request": shortened(body), **answer})

    def _shown(self, chunk: bytes) -> str:
        """Write bytes as text of the same length: a border may part a character."""
        text = chunk.decode("latin-1")
        for secret, other in self._hide.items():
            text = text.replace(secret, other)
        return text


def trimmed(page: dict[str, Any]) -> dict[str, Any]:
    """Leave histograms, comments and the interpreter's own numbers out of a metrics page."""
    rows = "".join(page["chunks"]).splitlines()
    kept = [row for row in rows if not re.match(r"#|python_|process_|http_|\w+_(bucket|created|sum|count)\b", row)]
    return {**page, "chunks": ["\n".join(kept) + "\n"]}


def shortened(body: Any) -> Any:
    """Cut very long texts of a request, which nobody reads."""
    if isinstance(body, dict):
        return {name: shortened(value) for name, value in body.items()}
    if isinstance(body, list):
        return [shortened(value) for value in body]
    return f"{body[:200]}… ({len(body)} characters)" if isinstance(body, str) and len(body) > 2000 else body


class Player:
    """A server that says what a recording says."""

    def __init__(self, pages: Mapping[str, Any]) -> None:
        """Serve these pages."""
        self._pages = pages
        self.answers: list[dict[str, Any]] = []
        """What is posted next is answered with the first one left of its path."""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer as the engine did, chunk by chunk."""
        await request.read()
        said = self._pages.get(request.path) if request.method == "GET" else self._next(request.path)
        if said is None:
            return web.json_response({"error": {"message": "not recorded"}}, status=404)
        response = web.StreamResponse(status=said["status"], headers=said["headers"])
        await response.prepare(request)
        for chunk in said["chunks"]:
            await response.write(chunk.encode("latin-1"))
            await asyncio.sleep(0)
        return response

    def _next(self, path: str) -> dict[str, Any] | None:
        place = next((n for n, answer in enumerate(self.answers) if answer["path"] == path), None)
        return None if place is None else self.answers.pop(place)


@asynccontextmanager
async def served(handler: Any) -> AsyncIterator[str]:
    """Serve every path on a loopback port; yield the URL."""
    app = web.Application(client_max_size=1 << 26)
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def adapter(url: str) -> AsyncIterator[Engine]:
    """Connect the adapter, with nothing told but the address; it tries no priorities, which would be posts."""
    engine = Chat(EngineSettings(priority="off"), base_url=url)
    await engine.start()
    try:
        yield engine
    finally:
        await engine.close()

"""The adapter for Messages servers against scripted ones: what is sent, what is read, what each failure becomes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
import pytest
from aiohttp import web

from standby.config import EngineSettings
from standby.engines.base import Context, Engine
from standby.engines.messages import Either, Messages
from standby.errors import EngineError, Failure, InvalidParams
from standby.records import Rules
from standby.wire.messages import (
    CacheCreation,
    CountParams,
    MessageParams,
    MessageStart,
    OtherBlock,
    TextBlock,
    accumulate,
    decode_count_params,
    decode_params,
)
from tests.engines.asking import Told
from tests.engines.suite import is_idle

Answer = Callable[[web.Request, dict[str, Any]], Awaitable[web.StreamResponse]]
USAGE: dict[str, Any] = {
    "input_tokens": 3,
    "cache_creation_input_tokens": 5,
    "cache_read_input_tokens": 7,
    "cache_creation": {"ephemeral_5m_input_tokens": 1, "ephemeral_1h_input_tokens": 4},
    "output_tokens": 1,
    "service_tier": "standard",
}
START: dict[str, Any] = {
    "type": "message_start",
    "message": {
        "id": "msg_up",
        "type": "message",
        "role": "assistant",
        "model": "claude-a-20260101",
        "content": [],
        "stop_reason": None,
        "usage": USAGE,
    },
}
TEXT: list[dict[str, Any]] = [
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "ping"},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi"}},
    {"type": "content_block_stop", "index": 0},
]
END: list[dict[str, Any]] = [
    {
        "type": "message_delta",
        "delta": {"stop_reason": "end_turn", "stop_sequence": None},
        "usage": {"output_tokens": 9, "server_tool_use": {"web_search_requests": 2, "web_fetch_requests": 0}},
    },
    {"type": "message_stop"},
]
WHOLE = [START, *TEXT, *END]
THINKS = {"type": "enabled", "budget_tokens": 1024}
LIST: dict[str, Any] = {
    "data": [
        {
            "type": "model",
            "id": "claude-a-20260101",
            "display_name": "Claude A",
            "created_at": "2026-01-01T00:00:00Z",
            "max_input_tokens": 1000,
            "max_tokens": 100,
            "capabilities": {"image_input": {"supported": True}, "thinking": {"supported": False}},
        },
        {"type": "model", "id": "claude-b", "display_name": "Claude B", "created_at": "2026-02-01T00:00:00Z"},
    ],
    "has_more": False,
}


class Upstream:
    """A Messages server that answers as the test says and keeps what it was sent."""

    def __init__(self) -> None:
        """Answer well."""
        self.sent: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.asked: list[str] = []
        self.answer: Answer = stream(*WHOLE)
        self.models: dict[str, Any] | int = LIST
        self.counts: Answer = status(200, {"input_tokens": 42})
        self.left = asyncio.Event()

    async def start(self) -> tuple[web.AppRunner, str]:
        """Listen."""
        app = web.Application()
        app.router.add_post("/v1/messages", self._messages)
        app.router.add_post("/v1/messages/count_tokens", self._count)
        app.router.add_get("/v1/models", self._list)
        app.router.add_get("/v1/models/{name}", self._model)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return runner, f"http://127.0.0.1:{runner.addresses[0][1]}/v1/"

    async def _messages(self, request: web.Request) -> web.StreamResponse:
        return await self._take(request, self.answer)

    async def _count(self, request: web.Request) -> web.StreamResponse:
        return await self._take(request, self.counts)

    async def _take(self, request: web.Request, answer: Answer) -> web.StreamResponse:
        body = json.loads(await request.read())
        self.sent.append(body)
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        try:
            return await answer(request, body)
        except (asyncio.CancelledError, ConnectionError):
            self.left.set()
            raise

    async def _list(self, request: web.Request) -> web.Response:
        self.asked.append(request.query_string)
        if isinstance(self.models, int):
            return web.json_response({"detail": "Not Found"}, status=self.models)
        if "after_id" in request.query:
            return web.json_response({"data": [{**LIST["data"][1], "id": "claude-c"}], "has_more": False})
        return web.json_response(self.models)

    async def _model(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        self.asked.append(name)
        if name == "claude-a":
            return web.json_response(LIST["data"][0])
        error = {"type": "not_found_error", "message": f"model: {name}"}
        return web.json_response({"type": "error", "error": error}, status=404)


def stream(*events: dict[str, Any], hang: bool = False, cut: bool = False) -> Answer:
    """Answer with these events, then end, say nothing more, or break off."""

    async def answer(request: web.Request, _: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        for event in events:
            await response.write(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())
        if hang:
            await asyncio.Event().wait()
        if cut:
            assert request.transport is not None
            request.transport.close()
        return response

    return answer


def status(code: int, body: Any = None, **headers: str) -> Answer:
    """Answer with a status and a JSON body."""

    async def answer(_: web.Request, __: dict[str, Any]) -> web.StreamResponse:
        return web.json_response(body, status=code, headers=headers)

    return answer


def error(type_: str, message: str = "Because.", **details: str) -> dict[str, Any]:
    """Make an error body in the contract's shape."""
    found: dict[str, Any] = {"type": type_, "message": message}
    if details:
        found["details"] = details
    return {"type": "error", "error": found, "request_id": "req_1"}


def ask(model: str = "claude-a-20260101", rules: Rules | None = None, **more: Any) -> MessageParams:
    """Make params."""
    body = {"model": model, "max_tokens": 10, "messages": [{"role": "user", "content": "Hello"}], **more}
    return decode_params(msgspec.json.encode(body), rules=rules or Rules(), batch=False)


def count(rules: Rules | None = None) -> CountParams:
    """Make the params of a count."""
    body = {"model": "claude-b", "messages": [{"role": "user", "content": "Hello"}]}
    return decode_count_params(msgspec.json.encode(body), rules=rules or Rules())


@pytest.fixture
def upstream() -> Upstream:
    """Make a server."""
    return Upstream()


@pytest.fixture
async def connect(upstream: Upstream) -> AsyncIterator[Callable[..., Awaitable[Messages]]]:
    """Connect adapters to it."""
    runner, url = await upstream.start()
    made: list[Messages] = []

    async def make(**settings: Any) -> Messages:
        engine = Messages(EngineSettings(**settings), base_url=url)
        await engine.start()
        made.append(engine)
        return engine

    yield make
    for engine in made:
        await engine.close()
    await runner.cleanup()


Connect = Callable[..., Awaitable[Messages]]


async def test_everything_that_was_sent_goes_on(upstream: Upstream, connect: Connect) -> None:
    """All params as they were, streamed, to the real model; betas in their header, the key in its own."""
    more = {
        "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
        "stop_sequences": ["x"],
        "metadata": {"user_id": "u"},
        "thinking": {"type": "adaptive"},
        "tools": [{"name": "t", "input_schema": {"type": "object"}}, {"type": "web_search_20250305", "name": "s"}],
        "output_config": {"effort": "low"},
        "context_management": {"edits": []},
        "service_tier": "auto",
    }
    engine = await connect(api_key="sk-1", temperature=0.5)
    params = ask("claude-a", Rules(betas=("one", "two"), user_profile_id="up_1"), betas=["three"], **more)
    await engine.generate(params)
    assert upstream.sent == [
        {
            "model": "claude-a-20260101",
            "max_tokens": 10,
            "messages": [{"role": "user", "content": "Hello"}],
            "stream": True,
            "user_profile_id": "up_1",
            **more,
        }
    ]
    headers = upstream.headers[0]
    assert headers["anthropic-beta"] == "one,two,three"
    assert headers["anthropic-version"] == "2023-06-01"
    assert headers["x-api-key"] == "sk-1"
    assert "authorization" not in headers


async def test_a_set_temperature_is_for_requests_that_name_none(upstream: Upstream, connect: Connect) -> None:
    """One that samples or thinks is left alone."""
    engine = await connect(temperature=0.5)
    asked: tuple[dict[str, Any], ...] = ({}, {"temperature": 1}, {"top_k": 3}, {"thinking": THINKS})
    for more in asked:
        await engine.generate(ask(max_tokens=2000, **more))
    assert [body.get("temperature") for body in upstream.sent] == [0.5, 1, None, None]


async def test_the_answer_is_the_upstreams(connect: Connect) -> None:
    """Its id, its model, its whole usage; pings stay behind."""
    message = await (await connect()).generate(ask())
    assert (message.id, message.model, message.stop_reason) == ("msg_up", "claude-a-20260101", "end_turn")
    assert message.content == [TextBlock(text="Hi")]
    usage = message.usage
    assert (usage.input_tokens, usage.cache_creation_input_tokens, usage.cache_read_input_tokens) == (3, 5, 7)
    assert usage.cache_creation == CacheCreation(ephemeral_5m_input_tokens=1, ephemeral_1h_input_tokens=4)
    assert (usage.output_tokens, usage.server_tool_use) == (9, {"web_search_requests": 2, "web_fetch_requests": 0})


async def test_what_llamacpp_says_its_own_way_is_put_right(upstream: Upstream, connect: Connect) -> None:
    """An id that is none of this API's, and a stop sequence that hit but is called the end of the turn."""
    foreign = {**START, "message": {**START["message"], "id": "chatcmpl-1"}}
    hit = {**END[0], "delta": {"stop_reason": "end_turn", "stop_sequence": "x"}}
    upstream.answer = stream(foreign, *TEXT, hit, END[1])
    message = await (await connect()).generate(ask(stop_sequences=["x"]))
    assert message.id.startswith("msg_")
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", "x")


async def test_events_are_passed_on_as_they_come(upstream: Upstream, connect: Connect) -> None:
    """The first before the last is sent, unknown blocks included."""
    block = {"type": "web_search_tool_result", "tool_use_id": "s", "content": []}
    upstream.answer = stream(START, {"type": "content_block_start", "index": 0, "content_block": block}, hang=True)
    engine = await connect()
    events = engine.stream(ask())
    first, second = await anext(events), await anext(events)
    assert isinstance(first, MessageStart)
    assert second.content_block == OtherBlock(block)  # type: ignore[union-attr]
    assert engine.load().live == 1
    await events.aclose()
    async with asyncio.timeout(10):
        await upstream.left.wait()
    assert is_idle(engine)


async def test_warming_the_cache_does_not_stream(upstream: Upstream, connect: Connect) -> None:
    """`max_tokens: 0` is refused with `stream`, so it is sent whole; the events are made here."""
    upstream.answer = status(200, {**START["message"], "stop_reason": "max_tokens"})
    engine = await connect()
    message = await engine.generate(ask(max_tokens=0))
    assert (message.content, message.stop_reason) == ([], "max_tokens")
    assert accumulate([event async for event in engine.stream(ask(max_tokens=0))]) == message
    assert "stream" not in upstream.sent[0]


async def test_the_engine_counts(upstream: Upstream, connect: Connect) -> None:
    """With the betas of the call; where there is no such route the model's engine cannot count."""
    engine = await connect()
    assert await engine.count_tokens(count(Rules(betas=("one",)))) == 42
    assert upstream.headers[0]["anthropic-beta"] == "one"
    assert "betas" not in upstream.sent[0]
    upstream.counts = status(404, {"detail": "Not Found"})
    with pytest.raises(InvalidParams, match="cannot count"):
        await engine.count_tokens(count())
    assert engine.ready()


async def test_models_are_those_of_the_server(upstream: Upstream, connect: Connect) -> None:
    """All pages, newest first, with limits and abilities."""
    upstream.models = {**LIST, "has_more": True, "last_id": "claude-b"}
    models = await (await connect()).models()
    assert [model.id for model in models] == ["claude-b", "claude-c", "claude-a-20260101"]
    last = models[-1]
    assert (last.max_input_tokens, last.max_output_tokens, last.features) == (1000, 100, frozenset({"image_input"}))
    assert last.created_us == 1_767_225_600_000_000


async def test_names_are_the_servers_to_resolve(upstream: Upstream, connect: Connect) -> None:
    """Once each; the default alias does not turn an unknown Claude model into whichever is newest."""
    engine = await connect()
    assert await engine.resolve("claude-b") == "claude-b"
    assert [await engine.resolve("claude-a") for _ in range(3)] == ["claude-a-20260101"] * 3
    assert upstream.asked == ["limit=1000", "claude-a"]
    with pytest.raises(InvalidParams) as caught:
        await engine.resolve("claude-z")
    assert (caught.value.status, caught.value.message) == (404, "model: claude-z")
    named = await connect(aliases=("gpt-*=claude-b", "*"))
    assert (await named.resolve("gpt-5"), await named.resolve("claude-z")) == ("claude-b", "claude-a-20260101")


async def test_a_list_of_chat_completions_will_do(upstream: Upstream, connect: Connect) -> None:
    """As llama.cpp and vLLM have it: aliases are ours to resolve then."""
    upstream.models = {"object": "list", "data": [{"id": "qwen", "object": "model", "created": 5, "max_model_len": 99}]}
    engine = await connect()
    assert await engine.resolve("claude-anything") == "qwen"
    assert [(one.id, one.max_input_tokens) for one in await engine.models()] == [("qwen", 99)]


async def test_a_server_without_a_list_serves_what_is_set(upstream: Upstream, connect: Connect) -> None:
    """The one model of the settings, or whatever name fits an alias."""
    upstream.models = 404
    assert await (await connect(model_name="mine")).resolve("claude-x") == "mine"
    engine = await connect()
    assert engine.ready()
    assert (await engine.models(), await engine.resolve("claude-x")) == ([], "claude-x")
    with pytest.raises(InvalidParams):
        await engine.resolve("other")


@pytest.mark.parametrize(
    ("answer", "failure", "words"),
    [
        (status(429, error("rate_limit_error"), **{"retry-after": "7"}), Failure.OVERLOADED, "overloaded"),
        (status(529, error("overloaded_error")), Failure.OVERLOADED, "overloaded"),
        (status(503, None), Failure.OVERLOADED, "overloaded"),
        (status(429, error("rate_limit_error", error_code="enforced_spend_limit_reached")), Failure.UNREACHABLE, "key"),
        (status(401, error("authentication_error")), Failure.UNREACHABLE, "authentication_error"),
        (status(402, error("billing_error")), Failure.UNREACHABLE, "billing_error"),
        (status(403, error("permission_error")), Failure.UNREACHABLE, "permission_error"),
        (
            status(400, error("invalid_request_error", "You have reached your specified API usage limits.")),
            Failure.UNREACHABLE,
            "account",
        ),
        (status(404, {"detail": "Not Found"}), Failure.UNREACHABLE, "URL"),
        (status(404, error("not_found_error", "Not found")), Failure.UNREACHABLE, "URL"),
        (status(500, error("api_error", "secret prompt")), Failure.BROKEN, "the engine failed"),
        (status(502, "bad gateway"), Failure.UNREACHABLE, "502"),
        (status(504, error("timeout_error")), Failure.TIMEOUT, "gave up waiting"),
        (status(408, None), Failure.TIMEOUT, "gave up waiting"),
        (status(409, error("conflict_error")), Failure.BROKEN, "failed"),
        (status(302, None, location="/x"), Failure.UNREACHABLE, "302"),
        (status(200, {"a": 1}), Failure.BROKEN, "stream"),
        (stream(START, *TEXT, cut=True), Failure.BROKEN, "broke off|before it was done"),
        (stream(START, *TEXT), Failure.BROKEN, "before it was done"),
        (stream(START, *TEXT, {"type": "message_stop"}), Failure.BROKEN, "not those of a message"),
        (stream(*TEXT, *END), Failure.BROKEN, "not those of a message"),
        (stream(START, {"type": "content_block_start", "index": 0}), Failure.BROKEN, "cannot be read"),
        (stream(START, error("overloaded_error")), Failure.OVERLOADED, "overloaded"),
        (stream(START, error("api_error", "secret prompt")), Failure.BROKEN, "failed"),
        (stream(START, error("timeout_error")), Failure.TIMEOUT, "gave up"),
        (stream(START, error("rate_limit_error")), Failure.OVERLOADED, "overloaded"),
    ],
)
async def test_failures(upstream: Upstream, connect: Connect, answer: Answer, failure: Failure, words: str) -> None:
    """Each is of its kind, quotes no prompt, and can be tried again."""
    upstream.answer = answer
    engine = await connect()
    with pytest.raises(EngineError, match=words) as caught:
        await engine.generate(ask())
    assert caught.value.failure is failure
    assert "secret" not in caught.value.message
    assert is_idle(engine)


async def test_retry_after_is_kept(upstream: Upstream, connect: Connect) -> None:
    """Whoever tries again waits that long."""
    upstream.answer = status(529, error("overloaded_error"), **{"retry-after": "7"})
    with pytest.raises(EngineError) as caught:
        await (await connect()).generate(ask())
    assert caught.value.retry_after_s == 7


@pytest.mark.parametrize(
    ("answer", "code", "type_", "message"),
    [
        (status(400, error("invalid_request_error", "max_tokens: no")), 400, "invalid_request_error", "max_tokens: no"),
        (status(404, error("not_found_error", "model: x")), 404, "not_found_error", "model: x"),
        (status(404, error("not_found_error", "File not found: f")), 404, "not_found_error", "File not found: f"),
        (status(413, error("request_too_large", "Too large")), 413, "request_too_large", "Too large"),
        (status(413, None), 413, "request_too_large", "the engine refuses the request (413, no reason given)"),
        (status(422, {"detail": []}), 400, "invalid_request_error", "the engine refuses the request (422, no reason"),
        (stream(START, error("invalid_request_error", "too long")), 400, "invalid_request_error", "too long"),
        (status(400, error("invalid_request_error", "a" * 900 + "\nrest")), 400, "invalid_request_error", "a" * 500),
    ],
)
async def test_the_requests_own_faults(
    upstream: Upstream, connect: Connect, answer: Answer, code: int, type_: str, message: str
) -> None:
    """They keep the upstream's type and words: it speaks the contract."""
    upstream.answer = answer
    engine = await connect()
    with pytest.raises(InvalidParams) as caught:
        await engine.generate(ask())
    assert (caught.value.status, caught.value.type) == (code, type_)
    assert caught.value.message.startswith(message)
    assert len(caught.value.message) <= 500
    assert engine.ready()


async def test_a_silent_engine_is_given_up(upstream: Upstream, connect: Connect) -> None:
    """Between tokens, and at the deadline; the work there is stopped."""
    upstream.answer = stream(START, *TEXT, hang=True)
    with pytest.raises(EngineError, match="stalled") as caught:
        await (await connect(stall_timeout_s=0.1)).generate(ask())
    assert caught.value.failure is Failure.TIMEOUT
    async with asyncio.timeout(10):
        await upstream.left.wait()


async def test_an_engine_that_refuses_the_key_is_looked_at_again(upstream: Upstream, connect: Connect) -> None:
    """It is not ready until it answers."""
    engine = await connect()
    upstream.answer = status(401, error("authentication_error"))
    with pytest.raises(EngineError):
        await engine.generate(ask())
    assert not engine.ready()
    upstream.answer = stream(*WHOLE)
    async with asyncio.timeout(20):
        while not engine.ready():  # noqa: ASYNC110 - engines have no event to wait for
            await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("models", "expected"),
    [
        (LIST, "messages"),
        ({"data": [], "has_more": False, "first_id": None, "last_id": None}, "messages"),
        ({"object": "list", "data": [{"id": "qwen", "object": "model"}]}, "chat"),
        ({"object": "list", "data": []}, "chat"),
        (404, "chat"),
    ],
)
async def test_the_list_of_models_tells_the_language(upstream: Upstream, models: Any, expected: str) -> None:
    """Of the contract's shape, or of chat-completions'."""
    upstream.models = models
    runner, url = await upstream.start()
    made: list[str] = []

    def maker(name: str) -> Callable[[], Engine]:
        def make() -> Engine:
            made.append(name)
            return Messages(EngineSettings(), base_url=url)

        return make

    engine = Either(EngineSettings(), base_url=url, name="x", chat=maker("chat"), messages=maker("messages"))
    assert not engine.ready()
    await engine.start()
    assert made == [expected]
    assert engine.ready()
    await engine.close()
    await runner.cleanup()


async def test_an_engine_that_is_down_at_the_start_is_decided_when_it_answers(upstream: Upstream) -> None:
    """Until then requests fail so that they are tried again."""
    upstream.models = 503
    runner, url = await upstream.start()

    def make() -> Engine:
        return Messages(EngineSettings(), base_url=url)

    engine = Either(EngineSettings(), base_url=url, name="x", chat=make, messages=make)
    await engine.start()
    with pytest.raises(EngineError) as caught:
        await engine.generate(ask())
    assert caught.value.failure is Failure.UNREACHABLE
    upstream.models = LIST
    async with asyncio.timeout(20):
        while not engine.ready():  # noqa: ASYNC110 - engines have no event to wait for
            await asyncio.sleep(0.02)
    assert (await engine.generate(ask())).id == "msg_up"
    await engine.close()
    await runner.cleanup()


async def test_a_watch_is_told_of_each_delta(upstream: Upstream, connect: Callable[..., Awaitable[Messages]]) -> None:
    """Such servers count at the end only: one token a delta, none for the beginning of a block or a ping."""
    upstream.answer = stream(START, *TEXT[:3], TEXT[2], TEXT[3], *END)
    told = Told()
    await (await connect()).generate(ask(), context=Context(watch=told))
    assert told.counts == [1, 1]


@pytest.mark.parametrize(
    ("start", "end", "prompts"),
    [
        ({"input_tokens": 10}, {"output_tokens": 9}, []),
        ({"input_tokens": 10, "cache_read_input_tokens": None}, {"output_tokens": 9}, []),
        ({"input_tokens": 10, "cache_read_input_tokens": 0}, {"output_tokens": 9}, [(10, 0)]),
        ({"input_tokens": 10, "cache_read_input_tokens": 30}, {"output_tokens": 9}, [(40, 30)]),
        ({"input_tokens": 0}, {"input_tokens": 4, "cache_read_input_tokens": 6, "output_tokens": 9}, [(10, 6)]),
    ],
)
async def test_reads_are_told_only_by_a_server_that_names_them(
    upstream: Upstream,
    connect: Callable[..., Awaitable[Messages]],
    start: dict[str, Any],
    end: dict[str, Any],
    prompts: list[tuple[int, int]],
) -> None:
    """A count that is left out is read as 0, but says nothing of a cache."""
    began = {"type": "message_start", "message": {**START["message"], "usage": start}}
    ended = [{**END[0], "usage": end}, END[1]]
    upstream.answer = stream(began, *TEXT, *ended)
    told = Told()
    await (await connect()).generate(ask(), context=Context(watch=told))
    assert told.prompts == prompts


async def test_a_picture_that_a_server_fails_on_is_the_requests_fault(
    upstream: Upstream, connect: Callable[..., Awaitable[Messages]]
) -> None:
    """With llama.cpp it is a 500; the item would be tried until its batch expires."""
    message = "image input is not supported - hint: you may need to provide the mmproj"
    upstream.answer = status(500, {"error": {"code": 500, "message": message, "type": "server_error"}})
    with pytest.raises(InvalidParams, match="messages: the model behind this name takes no images"):
        await (await connect()).generate(ask())

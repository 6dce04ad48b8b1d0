"""The embedded engine at its edges: structured answers by an independent judge, the end of the context, odd texts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from jsonschema import Draft202012Validator

from standby.wire.grammar.compile import check_schema
from tests.engines.conftest import RunningHost
from tests.engines.hostclient import HostClient, encoded, text_of
from tests.wire.grammar.test_answers_are_valid import SCHEMAS, TREE

pytestmark = pytest.mark.real
WEATHER = {
    "type": "object",
    "properties": {
        "essay": {"type": "string"},
        "day": {"type": "string", "format": "date"},
        "place": {"type": "string", "pattern": "^[A-Z]{2}-\\d{3}$"},
        "degrees": {"type": "number", "minimum": -90, "maximum": 60},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 8}, "minItems": 2, "maxItems": 3},
    },
    "required": ["essay", "day", "place", "degrees", "tags"],
}
SEARCH = {"type": "object", "properties": {"query": {"type": "string", "minLength": 40}}, "required": ["query"]}
CALLS = {
    "anyOf": [
        {
            "type": "object",
            "properties": {"name": {"const": name}, "arguments": arguments},
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for name, arguments in (("get_weather", WEATHER), ("search", SEARCH))
    ]
}


@pytest.fixture
async def host(openvino_host: RunningHost) -> AsyncIterator[HostClient]:
    """Talk to the session's host, and leave it idle."""
    async with HostClient(openvino_host.uds) as client:
        await client.wait_idle()
        yield client
        await client.wait_idle()


def form(schema: dict[str, Any]) -> dict[str, Any]:
    """Ask for a structured answer."""
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}


def judge(schema: dict[str, Any], answer: dict[str, Any]) -> None:
    """Let an independent validator judge an answer."""
    choice = answer["choices"][0]
    found = json.loads(choice["message"]["content"])
    Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER).validate(found)
    assert choice["finish_reason"] == "stop"


@pytest.mark.parametrize(("seed", "tokens"), [(1, 160), (2, 110)])
async def test_a_forced_call_is_valid_however_the_model_rambles(host: HostClient, seed: int, tokens: int) -> None:
    """Sampled at a high temperature, with strings that nobody bounds and hardly enough tokens."""
    asked = {"text": "Tell me all about the weather.", "temperature": 1.5, "seed": seed, "max_tokens": tokens}
    answer = await host.ask(**asked, response_format=form(CALLS), priority=seed % 2 * 10)
    judge(CALLS, answer)
    assert answer["usage"]["completion_tokens"] <= tokens


def test_answers_to_schemas_of_all_kinds_are_valid(openvino_host: RunningHost) -> None:
    """Schemas that nobody chose, through the engine: what passes the door compiles, and the answer is valid."""

    @settings(max_examples=8, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(SCHEMAS)
    def judged(schema: dict[str, Any]) -> None:
        whole = {**schema, "$defs": {"tree": TREE}}
        if check_schema(whole) is None:
            judge(whole, asyncio.run(ask(whole)))

    async def ask(schema: dict[str, Any]) -> dict[str, Any]:
        async with HostClient(openvino_host.uds) as client:
            return await client.ask(text="Go.", max_tokens=200, temperature=1.0, seed=3, response_format=form(schema))

    judged()


async def test_the_context_ends_where_the_refusal_says(host: HostClient) -> None:
    """A prompt that leaves one token gets one, whatever max_tokens says; a longer one is told both numbers."""
    models = json.loads(await (await host._session.get("/v1/models")).read())
    most = models["data"][0]["max_model_len"] - 1
    frame = await host.count("")
    fits = "word " * ((most - frame) // (await host.count("word " * 101) - await host.count("word ")) * 100)
    fits += "a " * (most - await host.count(fits) - 1)
    while (tokens := await host.count(fits)) > most:
        fits = fits[:-2]
    while tokens < most:
        fits += "!\n"[tokens % 2]
        tokens = await host.count(fits)
    assert tokens == most
    last = await host.ask(text=fits, max_tokens=100_000, ignore_eos=True)
    assert last["usage"]["prompt_tokens"] == most
    assert (last["usage"]["completion_tokens"], last["choices"][0]["finish_reason"]) == (1, "length")
    refused = await host.ask(text=fits + " and more", max_tokens=1)
    over = await host.count(fits + " and more")
    assert refused["error"]["code"] == "context_length_exceeded"
    assert refused["error"]["message"] == f"prompt is too long: {over} tokens > {most} maximum"


@pytest.mark.parametrize(
    "text", ["e\u0301 a\u0308", "مرحبا بالعالم", "👩‍👩‍👧‍👦🏳️‍🌈", "你好世界。", "\u0000\u202e\ufeff"]
)
async def test_every_script_goes_in_and_comes_out_whole(host: HostClient, text: str) -> None:
    """A structured answer of one constant is that constant, character by character, streamed and not."""
    asked = {"text": text, "max_tokens": 90, "response_format": form({"const": text})}
    whole = (await host.ask(**asked))["choices"][0]["message"]["content"]
    chunks = [chunk async for chunk in host.stream(**asked)]
    assert json.loads(whole) == text
    assert text_of(chunks) == whole


async def test_a_lone_surrogate_is_refused(host: HostClient) -> None:
    """It is no text: 400, and nothing else happens."""
    body = encoded("SURROGATE", max_tokens=1).replace(b"SURROGATE", b"\\ud83d")
    async with host._session.post("/v1/chat/completions", data=body) as response:
        assert response.status == 400
        assert json.loads(await response.read())["error"]["type"] == "invalid_request_error"


async def test_stop_may_be_an_empty_list_but_no_empty_text(host: HostClient) -> None:
    """The list means none; an empty text would stop everything."""
    assert (await host.ask(max_tokens=1, stop=[]))["status"] == 200
    assert (await host.ask(max_tokens=1, stop=[""]))["error"]["message"].startswith("stop:")


@pytest.mark.parametrize(
    ("turn", "place"),
    [
        ({"role": "tool", "content": "x"}, "role"),
        ({"role": "system", "content": "x"}, "messages[1].role"),
        ({"role": "assistant", "content": "x", "tool_calls": []}, "tool_calls"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}, "content"),
    ],
)
async def test_what_the_model_cannot_be_told_is_refused_by_name(
    host: HostClient, turn: dict[str, Any], place: str
) -> None:
    """Calls and their results go in as text, by Standby's own convention; here they are named, never dropped."""
    refused = await host.ask(messages=[{"role": "user", "content": "Hi."}, turn], max_tokens=1)
    assert refused["status"] == 400
    assert place in refused["error"]["message"]


async def test_the_host_tells_what_it_is(host: HostClient) -> None:
    """Slots, context, cache, threads, version and the speeds that it measured at its start."""
    told = json.loads(await (await host._session.get("/v1/models")).read())["data"][0]
    assert told["slots"] == 8
    assert told["kv_tokens"] > told["max_model_len"] > 0
    assert told["threads"] >= 1
    assert told["version"].startswith("standby ")
    assert told["prefill_tokens_s"] > told["decode_tokens_s"] > 0

"""Who an engine is, what it can do, and whether batches may be put behind live requests there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web

from standby.config import EngineSettings
from standby.engines.base import CacheProfile, Model
from standby.engines.chat import Chat, resolve_name
from standby.engines.chat.recognise import CACHES, conclude, features_of
from standby.engines.chat.told import Told, llamacpp_told, sglang_told, vllm_told
from standby.errors import InvalidParams
from standby.wire.chat.dialect import DIALECTS, GENERIC, HOST, LLAMACPP, OLLAMA, OPENAI, SGLANG, VLLM, Dialect
from tests.engines.chat.scripted import Connect, Script, ask, count, status, stream, usage
from tests.engines.suite import until

PROPS = {
    "default_generation_settings": {"n_ctx": 2048},
    "total_slots": 3,
    "modalities": {"vision": True, "audio": False},
    "build_info": "b11549",
}
INFO = {
    "version": "0.6.1",
    "max_running_requests": 48,
    "context_length": 9000,
    "disable_radix_cache": False,
    "enable_priority_scheduling": True,
    "schedule_low_priority_values_first": False,
    "default_priority_value": None,
    "tool_call_parser": None,
}
SHOWN = {"capabilities": ["completion", "tools", "vision"]}
METRICS = b'vllm:cache_config_info{block_size="16",enable_prefix_caching="%s",engine="0"} 1.0\n'


def listing(owner: str, **more: Any) -> dict[str, Any]:
    """List one model."""
    return {"data": [{"id": "m", "created": 5, "owned_by": owner, **more}]}


ENGINES: list[tuple[dict[str, Any], str, int, CacheProfile, int, str]] = [
    ({"/v1/models": listing("standby", max_model_len=500, slots=32)}, "host", 32, CACHES["host"], 500, ""),
    (
        {"/v1/models": listing("vllm", max_model_len=500), "/version": {"version": "0.32.0"}},
        *("vllm", 8, CacheProfile.SHARED_AT_ONCE, 500, "0.32.0"),
    ),
    (
        {"/v1/models": listing("vllm"), "/metrics": METRICS % b"False"},
        *("vllm", 8, CacheProfile.NONE, 0, ""),
    ),
    (
        {"/v1/models": listing("my-org"), "/version": {"version": "0.32.0"}, "/metrics": METRICS % b"True"},
        *("vllm", 8, CacheProfile.SHARED_AT_ONCE, 0, "0.32.0"),
    ),
    (
        {"/v1/models": listing("sglang"), "/get_server_info": INFO},
        *("sglang", 48, CacheProfile.SHARED_AFTER_FIRST_TOKEN, 9000, "0.6.1"),
    ),
    (
        {"/v1/models": listing("my-org"), "/server_info": {**INFO, "disable_radix_cache": True}},
        *("sglang", 48, CacheProfile.NONE, 9000, "0.6.1"),
    ),
    (
        {"/v1/models": listing("llamacpp", meta={"n_ctx_train": 8192}), "/props": PROPS},
        *("llamacpp", 3, CacheProfile.PER_SLOT, 2048, "b11549"),
    ),
    ({"/v1/models": listing("my-org"), "/props": PROPS}, "llamacpp", 3, CacheProfile.PER_SLOT, 2048, "b11549"),
    (
        {
            "/v1/models": listing("library"),
            "/api/version": {"version": "0.14.0"},
            "/api/show": SHOWN,
            "/api/ps": {"models": [{"model": "m", "context_length": 4096}]},
        },
        *("ollama", 8, CacheProfile.PER_SLOT, 4096, "0.14.0"),
    ),
    (
        {"/v1/models": listing("me"), "/api/version": {"version": "0.14.0"}},
        "ollama",
        8,
        CacheProfile.PER_SLOT,
        0,
        "0.14.0",
    ),
    ({"/v1/models": listing("my-org", context_length=77)}, "generic", 8, CACHES["generic"], 77, ""),
    ({"/v1/models": listing("my-org"), "/version": {"version": "9"}}, "generic", 8, CACHES["generic"], 0, ""),
    ({"/v1/models": {"data": []}}, "generic", 8, CACHES["generic"], 0, ""),
]


@pytest.mark.parametrize(("pages", "name", "slots", "cache", "context", "version"), ENGINES)
async def test_an_engine_is_recognised_by_what_only_it_says(
    script: Script,
    connect: Connect,
    pages: dict[str, Any],
    name: str,
    slots: int,
    cache: CacheProfile,
    context: int,
    version: str,
) -> None:
    """By the owner of its models, else by its pages; slots, cache and context are its own where it tells them."""
    script.pages = pages
    engine = await connect(priority="off")
    known = engine.known
    assert known is not None
    assert (engine.dialect.name, engine.profile.slots, engine.profile.cache) == (name, slots, cache)
    assert (known.version, [model.max_input_tokens for model in known.models]) == (
        version,
        [context] if pages["/v1/models"]["data"] else [],
    )
    assert engine.load().slots == slots


async def test_nothing_is_generated_to_recognise_an_engine(script: Script, connect: Connect) -> None:
    """Only pages are read, unless a priority has to be tried."""
    for name in DIALECTS:
        await connect(DIALECTS[name], priority="off")
    await connect()
    assert script.sent == []


async def test_settings_win_over_what_the_engine_says(script: Script, connect: Connect) -> None:
    """Dialect, cache, slots, tools, images."""
    script.pages = {"/v1/models": listing("vllm"), "/props": PROPS}
    settings = {"slots": 5, "cache": "none", "tools": "off", "images": "off", "dialect": "llamacpp"}
    engine = await connect(**settings)
    profile, known = engine.profile, engine.known
    assert known is not None
    assert (engine.dialect.name, engine.dialect.tools, engine.dialect.images) == ("llamacpp", "off", "off")
    assert (profile.slots, profile.cache) == (5, CacheProfile.NONE)
    assert {known.how[name] for name in ("slots", "cache", "tools", "images", "dialect")} == {"set"}


@pytest.mark.parametrize(
    ("told", "setting", "expected"),
    [(None, "auto", "any"), (False, "auto", "off"), (True, "auto", "any"), (False, "on", "data"), (True, "off", "off")],
)
def test_eyes_are_told_or_set(told: bool | None, setting: str, expected: str) -> None:  # noqa: FBT001
    """A model without eyes gets no images, unless the operator knows better."""
    known = conclude(LLAMACPP, Told(images=told), [], EngineSettings(images=setting))
    assert known.dialect.images == expected
    assert ("image_input" in features_of(known.dialect)) is (expected != "off")


def test_an_engine_without_a_tool_parser_is_helped() -> None:
    """SGLang says whether it has one; without one we make the calls ourselves."""
    assert conclude(SGLANG, sglang_told(INFO), [], EngineSettings()).dialect.tools == "schema"
    assert (
        conclude(SGLANG, sglang_told({**INFO, "tool_call_parser": "qwen"}), [], EngineSettings()).dialect.tools
        == "native"
    )
    assert conclude(SGLANG, sglang_told({}), [], EngineSettings()).dialect.tools == SGLANG.tools


def test_features_are_named_as_models_show_them() -> None:
    """What a dialect can do, in the words of the list of models."""
    assert features_of(OPENAI) == {"structured_outputs", "image_input", "pdf_input", "thinking"}
    assert features_of(HOST) == {"structured_outputs"}


def policy(name: str) -> dict[str, Any]:
    """Tell what vLLM's `/server_info` does of its scheduler."""
    return {"vllm_config": {"scheduler_config": {"policy": name, "max_num_seqs": 256}}}


Order = Callable[[int], int]
"""Which of two waiting requests an engine takes first: the one with the smaller value."""
LOWER_FIRST: Order = int
HIGHER_FIRST: Order = int.__neg__
WORST = 2**63
RULES: list[tuple[Dialect, Told, EngineSettings, Order, int]] = [
    # dialect, what it said, settings, the engine's own rule, what a request without a priority counts as there
    (HOST, Told(), EngineSettings(), LOWER_FIRST, 0),
    (VLLM, Told(), EngineSettings(priority="on"), LOWER_FIRST, 0),
    (VLLM, vllm_told({}, policy("priority"), b""), EngineSettings(), LOWER_FIRST, 0),
    (SGLANG, sglang_told({**INFO, "default_priority_value": 0}), EngineSettings(), HIGHER_FIRST, 0),
    (SGLANG, sglang_told({**INFO, "default_priority_value": 7}), EngineSettings(), HIGHER_FIRST, 7),
    (
        SGLANG,
        sglang_told({**INFO, "default_priority_value": 7, "schedule_low_priority_values_first": True}),
        *(EngineSettings(), LOWER_FIRST, 7),
    ),
]


@pytest.mark.parametrize(("dialect", "told", "settings", "rule", "unset"), RULES)
def test_batches_are_behind_live_traffic_by_the_engines_own_rule(
    dialect: Dialect, told: Told, settings: EngineSettings, rule: Order, unset: int
) -> None:
    """Behind our live requests, and behind those of others that carry no priority."""
    priorities = conclude(dialect, told, [], settings).dialect.priorities
    assert priorities is not None
    live, batch = priorities
    assert rule(live) < rule(batch)
    assert rule(unset) < rule(batch)


UNSENT: list[tuple[Dialect, Told, EngineSettings]] = [
    (VLLM, Told(), EngineSettings()),  # not before it was tried
    (VLLM, Told(), EngineSettings(priority="off")),
    (VLLM, vllm_told({}, policy("fcfs"), b""), EngineSettings()),
    (HOST, Told(), EngineSettings(priority="off")),
    (SGLANG, Told(), EngineSettings()),  # it does not say
    (SGLANG, sglang_told(INFO), EngineSettings()),  # an unset priority ranks lowest there: below our batches
    (SGLANG, sglang_told({**INFO, "default_priority_value": 0, "enable_priority_scheduling": False}), EngineSettings()),
    (LLAMACPP, Told(), EngineSettings(priority="on")),  # has none
    (OLLAMA, Told(), EngineSettings(priority="on")),
    (OPENAI, Told(), EngineSettings(priority="on")),
    (GENERIC, Told(), EngineSettings(priority="on")),
]


@pytest.mark.parametrize(("dialect", "told", "settings"), UNSENT)
def test_no_priority_is_sent_where_it_could_do_harm(dialect: Dialect, told: Told, settings: EngineSettings) -> None:
    """Where it is refused, ignored, forbidden, or would put batches in front of plain live requests."""
    assert conclude(dialect, told, [], settings).dialect.priorities is None


def test_sglangs_trap_is_real() -> None:
    """With its rule for a missing priority, the numbers that look right would do the opposite."""
    live, batch = SGLANG.ranks or (0, 0)
    assert HIGHER_FIRST(live) < HIGHER_FIRST(batch)
    plain = -WORST
    assert HIGHER_FIRST(batch) < HIGHER_FIRST(plain)


REFUSAL = {"error": {"message": "Got priority 10 but Priority scheduling is not enabled.", "code": 400}}


async def vllm(_: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    """Refuse a priority as vLLM does without `--scheduling-policy priority`: 0 alone passes."""
    if body.get("priority", 0) != 0:
        return web.json_response(REFUSAL, status=400)
    return await stream({"choices": [{"delta": {"content": "Hi"}, "finish_reason": "stop"}]}, usage(3, 2))(_, body)


async def tried(engine: Chat) -> None:
    """Wait until the priority was tried."""
    await until(lambda: engine.known is not None and engine.known.how["priority"] == "tried")


async def test_a_priority_is_tried_once_and_then_sent(script: Script, connect: Connect) -> None:
    """VLLM that takes it gets it on every request from then on."""
    script.pages["/v1/models"] = listing("vllm")
    engine = await connect()
    assert engine.ready()
    await tried(engine)
    assert [(body["max_tokens"], body["priority"]) for body in script.sent] == [(1, 10)]
    await engine.generate(ask(model="m"), live=False)
    await engine.generate(ask(model="m"), live=True)
    assert [body["priority"] for body in script.sent[1:]] == [10, 0]


async def test_a_priority_that_vllm_refuses_is_never_sent(script: Script, connect: Connect) -> None:
    """Without its flag vLLM answers 400: no request may fail by that."""
    script.pages["/v1/models"] = listing("vllm")
    script.answer = vllm
    engine = await connect()
    await tried(engine)
    for live in (False, True):
        await engine.generate(ask(model="m"), live=live)
    assert [body.get("priority") for body in script.sent] == [10, None, None]


async def test_a_request_survives_a_policy_that_changed(script: Script, connect: Connect) -> None:
    """An engine that was restarted without its flag: the same request goes again without a priority."""
    script.pages["/v1/models"] = listing("vllm")
    engine = await connect(priority="on")
    script.answer = vllm
    message = await engine.generate(ask(model="m"), live=False)
    await engine.generate(ask(model="m"), live=False)
    assert message.stop_reason == "end_turn"
    assert [body.get("priority") for body in script.sent] == [10, None, None]


async def test_an_engine_that_is_busy_leaves_the_question_open(script: Script, connect: Connect) -> None:
    """An overloaded engine has not refused a priority; none is sent until it has taken one."""
    script.pages["/v1/models"] = listing("vllm")
    good, script.answer = script.answer, status(503)
    engine = await connect()
    await until(lambda: len(script.sent) == 1)
    script.answer = good
    await engine.generate(ask(model="m"), live=False)
    assert "priority" not in script.sent[1]
    assert engine.known is not None
    assert engine.known.priority == "try"
    assert await engine.try_priority()


async def test_work_is_not_kept_waiting_by_a_trial(script: Script, connect: Connect) -> None:
    """An engine that does not answer the trial is ready all the same."""
    script.pages["/v1/models"] = listing("vllm")
    script.answer = stream(hang=True)
    engine = await asyncio.wait_for(connect(), 10)
    assert engine.ready()


SERVED = [
    Model(id=name, display_name=name, created_us=0, max_input_tokens=0, max_output_tokens=0)
    for name in ("big", "small")
]


@pytest.mark.parametrize(
    ("name", "aliases", "expected"),
    [
        ("small", ("*=big",), "small"),
        ("claude-haiku-4-5", ("claude-*",), "big"),
        ("claude-haiku-4-5", ("claude-haiku-*=small", "claude-*"), "small"),
        ("claude-opus-5", ("claude-haiku-*=small", "claude-*=big"), "big"),
        ("claude-opus-5", ("claude-* = elsewhere", "claude-*"), "big"),
        ("gpt-9", ("claude-*",), None),
        ("claude-opus-5", ("claude-*=elsewhere",), None),
        ("claude-opus-5", ("claude-*=",), None),
        ("claude-opus-5", (), None),
    ],
)
def test_aliases_name_models(name: str, aliases: tuple[str, ...], expected: str | None) -> None:
    """A served name is itself; else the first alias that fits and whose model is served; else it is unknown."""
    if expected is not None:
        assert resolve_name(name, SERVED, aliases) == expected
        return
    with pytest.raises(InvalidParams) as caught:
        resolve_name(name, SERVED, aliases)
    assert (caught.value.status, caught.value.message) == (404, f"model: {name}")


async def test_several_models_at_one_endpoint(script: Script, connect: Connect) -> None:
    """Newest first; each request names the one that it resolves to."""
    entries = [{"id": "old", "created": 1}, {"id": "new", "created": 9}]
    script.pages["/v1/models"] = {"data": entries}
    engine = await connect(aliases=("claude-haiku-*=old", "claude-*"))
    assert [model.id for model in await engine.models()] == ["new", "old"]
    for name in ("claude-haiku-4-5", "claude-opus-5", "old"):
        assert (await engine.generate(ask(model=name))).model in {"new", "old"}
    assert [body["model"] for body in script.sent] == ["old", "new", "old"]


@pytest.mark.parametrize("listed", [{"data": 5}, {"data": [{}]}, [], "no", {"models": []}])
async def test_a_list_that_is_none_is_not_ready(script: Script, connect: Connect, listed: Any) -> None:
    """Whatever answers there is no engine."""
    script.pages["/v1/models"] = listed
    assert not (await connect()).ready()


IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}
TOOL = {"name": "weather", "input_schema": {"type": "object"}}


async def test_tools_count(script: Script, connect: Connect) -> None:
    """VLLM's own route gets the tools that the prompt will hold."""
    engine = await connect(VLLM, priority="off")
    await engine.count_tokens(count(tools=[TOOL]))
    path, body = script.asked[-1]
    assert (path, [tool["function"]["name"] for tool in body["tools"]]) == ("/tokenize", ["weather"])


async def test_llamacpp_writes_the_template_and_splits_it(script: Script, connect: Connect) -> None:
    """In two steps, with the special tokens that the template wrote."""
    script.pages["/apply-template"] = {"prompt": "<user>Hello"}
    script.pages["/tokenize"] = {"tokens": [1, 2, 3]}
    assert await (await connect(LLAMACPP)).count_tokens(count()) == 3
    assert script.asked[-1] == ("/tokenize", {"content": "<user>Hello", "add_special": True, "parse_special": True})


@pytest.mark.parametrize(("dialect", "content"), [(SGLANG, "Hello"), (VLLM, [IMAGE, {"type": "text", "text": "?"}])])
async def test_what_no_route_counts_is_measured(
    script: Script, connect: Connect, dialect: Dialect, content: Any
) -> None:
    """Images, and SGLang's prompts: one token is generated, and the engine's own count of the prompt taken."""
    script.answer = stream({"choices": [{"delta": {"content": "a"}, "finish_reason": "length"}]}, usage(321, 1))
    engine = await connect(dialect, priority="off")
    assert await engine.count_tokens(count(content)) == 321
    assert [body["max_tokens"] for body in script.sent] == [1]


def test_the_size_of_the_cache_is_read() -> None:
    """Blocks and their size from vLLM, tokens from others; nothing where they are silent."""
    line = b'vllm:cache_config_info{block_size="128",num_gpu_blocks="364",num_cpu_blocks="None"} 1.0\n'
    assert vllm_told({}, {}, line).kv_tokens == 46592
    assert vllm_told({}, {}, METRICS % b"True").kv_tokens == 0
    assert sglang_told({**INFO, "max_total_num_tokens": 5000}).kv_tokens == 5000
    assert llamacpp_told({"default_generation_settings": {"n_ctx": 512}}).kv_tokens == 512
    assert conclude(HOST, Told(), [{"id": "m", "kv_tokens": 4096}], EngineSettings()).kv_tokens == 4096

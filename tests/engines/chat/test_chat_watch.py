"""Whoever watches an answer is told of its tokens as they come; a prompt goes to the slot that has its beginning."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from aiohttp import web

from standby.engines.base import CacheProfile, Context
from standby.engines.chat import Chat
from standby.errors import EngineError
from standby.wire.chat.dialect import GENERIC, HOST, LLAMACPP
from standby.wire.messages import accumulate
from tests.engines.asking import Told
from tests.engines.chat.scripted import MODELS, Answer, Connect, Script, ask, chunk, stream, usage

PROPS = {"total_slots": 2, "default_generation_settings": {"n_ctx": 100}}


async def watched(engine: Chat, *, streams: bool, **more: Any) -> list[int]:
    """Return what the watch of one answer was told."""
    told = Told()
    context = Context(watch=told)
    if streams:
        [event async for event in engine.stream(ask(**more), context=context)]
    else:
        await engine.generate(ask(**more), context=context)
    return told.counts


@pytest.mark.parametrize("streams", [False, True])
async def test_chunks_count_where_the_engine_does_not(script: Script, connect: Connect, *, streams: bool) -> None:
    """One token a chunk of text, thinking or call, and none for the others."""
    call = {"index": 0, "id": "c", "function": {"name": "weather", "arguments": "{}"}}
    script.answer = stream(
        {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]},
        {"choices": [{"index": 0, "delta": {"reasoning_content": "Hm"}}]},
        chunk("Hi"),
        {"choices": [{"index": 0, "delta": {"tool_calls": [call]}}]},
        chunk("", finish="tool_calls"),
        usage(3, 12),
    )
    tools = [{"name": "weather", "input_schema": {"type": "object"}}]
    assert await watched(await connect(GENERIC), streams=streams, tools=tools) == [1, 1, 1]


@pytest.mark.parametrize("streams", [False, True])
async def test_the_engines_count_goes_first(script: Script, connect: Connect, *, streams: bool) -> None:
    """A chunk of three tokens is three; tokens without text count when the text comes."""
    counts = {"prompt_tokens": 4, "prompt_tokens_details": {"cached_tokens": 0}}
    said = [("Hi", 1), (" there, you", 4), ("", 5), ("ü", 6), ("", 6)]
    chunks = [{**chunk(text), "usage": {**counts, "completion_tokens": output}} for text, output in said]
    script.answer = stream(*chunks, {**chunk("", finish="stop"), "usage": {**counts, "completion_tokens": 7}})
    assert await watched(await connect(HOST), streams=streams) == [1, 3, 2]


@pytest.mark.parametrize("streams", [False, True])
async def test_what_was_reused_is_told_at_the_end_marked_or_not(
    script: Script, connect: Connect, *, streams: bool
) -> None:
    """Once an answer, as the engine counts, while usage shows nothing of it where nobody marked anything."""
    counts = {"prompt_tokens": 40, "prompt_tokens_details": {"cached_tokens": 32}}
    chunks = [{**chunk(text), "usage": {**counts, "completion_tokens": n}} for n, text in enumerate(("Hi", " you"), 1)]
    script.answer = stream(*chunks, {**chunk("", finish="stop"), "usage": {**counts, "completion_tokens": 2}})
    engine, told = await connect(HOST), Told()
    if streams:
        events = [event async for event in engine.stream(ask(), context=Context(watch=told))]
        read = accumulate(events).usage.cache_read_input_tokens
    else:
        read = (await engine.generate(ask(), context=Context(watch=told))).usage.cache_read_input_tokens
    assert (told.prompts, read) == ([(40, 32)], 0)


async def test_an_engine_that_told_once_reused_nothing_where_it_is_silent(script: Script, connect: Connect) -> None:
    """As older releases of vLLM, which name cached tokens only if there are some; one that never does tells nothing."""
    silent = {"choices": [], "usage": {"prompt_tokens": 40, "completion_tokens": 1}}
    engine, told = await connect(GENERIC), Told()
    for last in (silent, usage(40, 1, 16), silent):
        script.answer = stream(chunk("Hi"), chunk("", finish="stop"), last)
        await engine.generate(ask(), context=Context(watch=told))
    assert told.prompts == [(40, 16), (40, 0)]


async def test_a_broken_answer_tells_nothing_of_its_prompt(script: Script, connect: Connect) -> None:
    """What it found in the cache counts with the attempt that is kept."""
    script.answer = stream({**usage(40, 1, 32), **chunk("Hi")}, done=False)
    engine, told = await connect(HOST), Told()
    with pytest.raises(EngineError):
        await engine.generate(ask(), context=Context(watch=told))
    assert (told.counts, told.prompts) == ([1], [])


async def test_a_slot_is_asked_for_where_there_are_slots(script: Script, connect: Connect) -> None:
    """Only engines with a cache per slot are told, and only of slots that they have."""
    for dialect, cache, slot, sent in (
        (LLAMACPP, "auto", 1, 1),
        (LLAMACPP, "auto", 2, None),
        (LLAMACPP, "auto", None, None),
        (LLAMACPP, "shared_at_once", 1, None),
        (GENERIC, "per_slot", 1, None),
    ):
        engine = await connect(dialect, cache=cache, slots=2)
        await engine.generate(ask(), context=Context(slot=slot))
        assert script.sent[-1].get("id_slot") == sent


def slots_of(*, kept: bool) -> Answer:
    """Answer as a server of two slots, which either keeps idle slots or empties them when work begins in another."""
    slots: dict[int, str] = {}

    async def answer(request: Any, body: dict[str, Any]) -> Any:
        slot, prompt = body.get("id_slot", 0), body["messages"][-1]["content"]
        cached = 40 if slots.get(slot) == prompt else 0
        if not kept:
            slots.clear()
        slots[slot] = prompt
        return await stream(chunk("Hi"), chunk("", finish="stop"), usage(50, 1, cached))(request, body)

    return answer


@pytest.mark.parametrize("kept", [True, False])
async def test_a_server_is_tried_once_before_a_slot_is_asked_for(
    script: Script, connect: Connect, *, kept: bool
) -> None:
    """One that empties idle slots would find nothing in them; it chooses by itself."""
    script.pages |= {"/props": PROPS, "/v1/models": {"data": [{**MODELS["data"][0], "owned_by": "llamacpp"}]}}
    script.answer = slots_of(kept=kept)
    engine = await connect()
    assert (engine.profile.cache, engine.profile.slots) == (CacheProfile.PER_SLOT, 2)
    for _ in range(2):
        await engine.generate(ask(), context=Context(slot=1))
    assert len(script.sent) == 3 + 2
    assert [sent.get("id_slot") for sent in script.sent[3:]] == ([1, 1] if kept else [None, None])


async def test_a_server_that_cannot_be_tried_is_told_no_slot(script: Script, connect: Connect) -> None:
    """It refuses `id_slot`: the request goes out without one."""
    script.pages |= {"/props": PROPS, "/v1/models": {"data": [{**MODELS["data"][0], "owned_by": "llamacpp"}]}}
    plain = script.answer

    async def refuse(request: Any, body: dict[str, Any]) -> Any:
        if "id_slot" in body:
            return web.json_response({"error": {"message": "unknown field"}}, status=400)
        return await plain(request, body)

    script.answer = refuse
    engine = await connect()
    await engine.generate(ask(), context=Context(slot=0))
    assert "id_slot" not in script.sent[-1]


async def test_an_answer_is_the_same_with_and_without_events(script: Script, connect: Connect) -> None:
    """Whoever wants no events gets what they add up to, usage included."""
    thoughts = [{"choices": [{"index": 0, "delta": {"reasoning_content": text}}]} for text in ("Hm", ", well")]
    counted = {**chunk("H"), "usage": usage(3, 3, 2)["usage"]}
    script.answer = stream(*thoughts, counted, chunk("i"), chunk("", finish="length"), usage(3, 12, 2))
    engine = await connect(GENERIC)
    params = ask(thinking={"type": "adaptive"}, max_tokens=12)
    whole, events = await engine.generate(params), [event async for event in engine.stream(params)]
    assert msgspec.structs.replace(whole, id="") == msgspec.structs.replace(accumulate(events), id="")
    assert len(whole.content) == 2

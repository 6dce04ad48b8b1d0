"""The adapter against scripted engines on a real socket: what each failure becomes, what is sent, what is read."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from standby.config import EngineSettings
from standby.engines.chat import Chat
from standby.errors import EngineError, Failure, InvalidParams
from standby.wire.chat.dialect import GENERIC, HOST, LLAMACPP, VLLM
from standby.wire.messages import MessageParams
from tests.engines.chat.scripted import Connect, Script, ask, chunk, count, stream, usage
from tests.engines.suite import check_order, is_idle, text_of


async def failure(engine: Chat, params: MessageParams | None = None, **more: Any) -> EngineError:
    """Return how a request fails."""
    with pytest.raises(EngineError) as caught:
        await engine.generate(params or ask(), **more)
    assert is_idle(engine)
    return caught.value


async def test_closing_the_stream_leaves_the_engine(script: Script, connect: Connect) -> None:
    """The engine sees its client go."""
    script.answer = stream(chunk("Hi"), usage(3, 1), hang=True)
    engine = await connect()
    events = engine.stream(ask())
    await anext(events)
    assert engine.load().live == 1
    await events.aclose()
    await asyncio.wait_for(script.left.wait(), 10)
    assert is_idle(engine)


async def test_nobody_there_is_unreachable() -> None:
    """A port that nobody listens on; the engine says it is not ready."""
    engine = Chat(EngineSettings(), base_url="http://127.0.0.1:1", dialect=GENERIC)
    await engine.start()
    assert not engine.ready()
    assert (await failure(engine)).failure is Failure.UNREACHABLE
    await engine.close()


async def test_system_turns_and_blocks_are_sent(script: Script, connect: Connect) -> None:
    """System first, blocks joined, consecutive turns of one role merged."""
    turns = [
        {"role": "user", "content": "one"},
        {"role": "user", "content": [{"type": "text", "text": "two"}, {"type": "text", "text": "three"}]},
        {"role": "assistant", "content": "four"},
        {"role": "user", "content": "five"},
    ]
    await (await connect()).generate(ask(messages=turns, system=[{"type": "text", "text": "zero"}], temperature=0.5))
    sent = script.sent[0]
    assert [(t["role"], t["content"]) for t in sent["messages"]] == [
        ("system", "zero"),
        ("user", "one\n\ntwo\n\nthree"),
        ("assistant", "four"),
        ("user", "five"),
    ]
    assert sent["stream"] is True
    assert (sent["max_tokens"], sent["temperature"], sent["model"]) == (10, 0.5, "little-model")


async def test_a_schema_is_sent(script: Script, connect: Connect) -> None:
    """As `response_format`."""
    schema = {"type": "object", "properties": {}, "additionalProperties": False}
    await (await connect()).generate(ask(output_config={"format": {"type": "json_schema", "schema": schema}}))
    sent = script.sent[0]["response_format"]
    assert (sent["type"], sent["json_schema"]["schema"]) == ("json_schema", schema)


@pytest.mark.parametrize("live", [True, False])
async def test_the_priority_goes_only_to_an_engine_that_takes_it(
    script: Script, connect: Connect, *, live: bool
) -> None:
    """Our host takes it, lower is sooner; for others it stays out."""
    await (await connect(HOST)).generate(ask(), live=live)
    await (await connect(VLLM)).generate(ask(), live=live)
    assert script.sent[0]["priority"] == (0 if live else 10)
    assert "priority" not in script.sent[1]


async def test_an_assistant_turn_is_continued_where_the_engine_can(script: Script, connect: Connect) -> None:
    """The engine is told to; one that cannot is not asked."""
    turns = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "tw"}]
    await (await connect(VLLM)).generate(ask(messages=turns))
    assert script.sent[0]["continue_final_message"] is True
    with pytest.raises(InvalidParams, match="messages"):
        await (await connect(GENERIC)).generate(ask(messages=turns))


REFUSED = [
    ({"thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 2000}, "thinking.type"),
    ({"container": "c"}, "container"),
    ({"top_k": 5}, "top_k"),
]


@pytest.mark.parametrize(("more", "field"), REFUSED)
async def test_what_cannot_be_expressed_is_refused_by_name(connect: Connect, more: dict[str, Any], field: str) -> None:
    """Never dropped silently; nothing is sent."""
    with pytest.raises(InvalidParams) as caught:
        await (await connect(GENERIC)).generate(ask(**more))
    assert caught.value.message.startswith(f"{field}:")


async def test_a_stop_that_the_engine_names_is_passed_on(script: Script, connect: Connect) -> None:
    """Some engines say which one they found."""
    script.answer = stream(chunk("Hi "), chunk("", finish="stop", stop_reason="END"), usage(3, 3))
    message = await (await connect(VLLM)).generate(ask(stop_sequences=["END"]))
    assert script.sent[0]["stop"] == ["END"]
    assert (message.stop_reason, message.stop_sequence, text_of(message)) == ("stop_sequence", "END", "Hi ")


async def test_a_stop_that_nobody_names_is_found_here(script: Script, connect: Connect) -> None:
    """Across chunks; the rest of the stream is not read and its connection closed."""
    timings = {"timings": {"cache_n": 0, "prompt_n": 3, "predicted_n": 2}}
    script.answer = stream(chunk("Hi E") | timings, chunk("ND and more"), hang=True)
    message = await (await connect(LLAMACPP)).generate(ask(stop_sequences=["END"]))
    assert "stop" not in script.sent[0]
    assert (message.stop_reason, message.stop_sequence, text_of(message)) == ("stop_sequence", "END", "Hi ")
    assert (message.usage.input_tokens, message.usage.output_tokens) == (3, 2)
    await asyncio.wait_for(script.left.wait(), 10)


MARKED = [{"type": "text", "text": "Hello", "cache_control": {"type": "ephemeral"}}]


@pytest.mark.parametrize(("content", "expected"), [("Hello", (30, 0, 0)), (MARKED, (0, 10, 20))])
async def test_cached_tokens_are_reads_only_for_who_asked(
    script: Script, connect: Connect, content: Any, expected: tuple[int, int, int]
) -> None:
    """With a `cache_control` marker they are reads and the rest up to it was written; without one all is input."""
    script.answer = stream(chunk("Hi"), chunk("", finish="stop"), usage(30, 2, cached=20))
    found = (await (await connect()).generate(ask(messages=[{"role": "user", "content": content}]))).usage
    assert (found.input_tokens, found.cache_creation_input_tokens, found.cache_read_input_tokens) == expected


@pytest.mark.parametrize(
    ("finish", "output", "reason"),
    [
        ("stop", 2, "end_turn"),
        ("length", 10, "max_tokens"),
        ("length", 4, "model_context_window_exceeded"),
        ("content_filter", 4, "refusal"),
    ],
)
async def test_reasons_for_the_end(script: Script, connect: Connect, finish: str, output: int, reason: str) -> None:
    """Each finish reason has its stop reason; a full context is told from a reached limit."""
    script.answer = stream(chunk("Hi"), chunk("", finish=finish), usage(3, output))
    assert (await (await connect()).generate(ask())).stop_reason == reason


async def test_a_model_that_says_nothing_gives_an_empty_answer(script: Script, connect: Connect) -> None:
    """One token that ends the turn is an answer without text, and its stream is well formed."""
    script.answer = stream(chunk("", finish="stop"), usage(3, 1))
    engine = await connect()
    assert (await engine.generate(ask())).content == []
    check_order([event async for event in engine.stream(ask())])


async def test_warming_the_cache_answers_nothing(script: Script, connect: Connect) -> None:
    """`max_tokens: 0` computes the prompt and gives no token."""
    script.answer = stream(chunk("Hi", finish="length"), usage(3, 1))
    message = await (await connect()).generate(ask(max_tokens=0))
    assert (message.content, message.usage.output_tokens, message.usage.input_tokens) == ([], 0, 3)
    assert script.sent[0]["max_tokens"] == 1


async def test_an_engine_is_recognised_by_its_list_of_models(script: Script, connect: Connect) -> None:
    """An engine names itself as the owner, and its own way of counting is used."""
    script.pages["/v1/models"] = {"data": [{"id": "little-model", "owned_by": "vllm", "max_model_len": 100}]}
    assert await (await connect()).count_tokens(count("12345")) == 5


async def test_an_engine_that_cannot_count_says_so(connect: Connect) -> None:
    """Instead of guessing."""
    with pytest.raises(InvalidParams, match="cannot count tokens"):
        await (await connect(GENERIC)).count_tokens(count())


async def test_aliases_resolve_to_the_real_model(connect: Connect) -> None:
    """A pattern of the settings, and nothing else."""
    engine = await connect(aliases=("claude-haiku-*",))
    assert await engine.resolve("claude-haiku-4-5") == "little-model"
    with pytest.raises(InvalidParams) as caught:
        await engine.resolve("claude-opus-5")
    assert (caught.value.status, caught.value.message) == (404, "model: claude-opus-5")


@pytest.mark.parametrize(("setting", "asked", "sent"), [(-1.0, None, None), (0.0, None, 0.0), (0.0, 0.7, 0.7)])
async def test_the_set_temperature_is_for_requests_that_name_none(
    script: Script, connect: Connect, setting: float, asked: float | None, sent: float | None
) -> None:
    """A request's own temperature wins; -1 leaves the choice to the engine."""
    engine = await connect(GENERIC, temperature=setting)
    given: dict[str, Any] = {} if asked is None else {"temperature": asked}
    await engine.generate(ask(**given))

    assert script.sent[0].get("temperature") == sent

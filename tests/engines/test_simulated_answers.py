from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from standby.config import SimulatorSettings
from standby.emulation.cue import Cue
from standby.engines.base import Context
from standby.engines.simulated import Simulated
from standby.engines.simulated.chains import chain_of
from standby.engines.simulated.models import MAX_INPUT
from standby.engines.simulated.tokens import count_prompt, count_text, pieces_of
from standby.errors import InvalidParams
from standby.wire.messages import MessageParams, TextBlock, ThinkingBlock, ToolUseBlock, accumulate
from tests.engines.simulating import ask, count, started
from tests.engines.suite import text_of
from tests.engines.test_simulated_cues import CLOCK, WEATHER, Script

TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=40)
SPOKEN = st.text(st.sampled_from("ab é南\n 1.,"), min_size=1, max_size=30).filter(str.strip)
MARK = {"type": "ephemeral"}


def block(text: str, *, is_marked: bool) -> dict[str, Any]:
    """Make a block of text, with or without a breakpoint."""
    return {"type": "text", "text": text, **({"cache_control": MARK} if is_marked else {})}


REQUESTS = st.fixed_dictionaries(
    {
        "max_tokens": st.sampled_from([1, 2, 7, 30, 4000]),
        "messages": st.builds(lambda text: [{"role": "user", "content": text}], SPOKEN),
    },
    optional={
        "stop_sequences": st.lists(st.sampled_from(["a", " b", "the", "e "]), min_size=1, max_size=2),
        "tools": st.just([WEATHER, CLOCK]),
        "thinking": st.sampled_from(
            [{"type": "adaptive"}, {"type": "adaptive", "display": "omitted"}, {"type": "disabled"}]
        ),
        "output_config": st.sampled_from([{"effort": "low"}, {"effort": "max"}]),
        "system": SPOKEN,
    },
)
CUES = st.builds(
    Cue,
    text=st.none() | SPOKEN,
    stop=st.sampled_from(["", "end_turn", "max_tokens", "pause_turn", "refusal", "model_context_window_exceeded"]),
)


@given(request=REQUESTS, cue=CUES, answer=st.sampled_from(["lorem", "echo", "{model}: {prompt} ({input_tokens})"]))
@settings(deadline=None, max_examples=150)
async def test_a_stream_is_the_answer_taken_apart(request: dict[str, Any], cue: Cue, answer: str) -> None:
    """Whatever is asked and scripted, the events add up to the message; usage and the end are the same."""
    engine = await started(Simulated(SimulatorSettings(answer=answer), script=Script(cue)))
    whole = await engine.generate(ask(**request))
    streamed = accumulate([event async for event in engine.stream(ask(**request))])
    assert replace(streamed, id=whole.id) == whole
    assert whole.usage.output_tokens <= request["max_tokens"]
    assert (whole.stop_sequence is not None) == (whole.stop_reason == "stop_sequence")


@given(
    request=REQUESTS, where=st.sets(st.sampled_from(["system", "tools", "first", "last", "top"])), long=st.booleans()
)
@settings(deadline=None, max_examples=30)
async def test_caching_never_changes_the_answer(request: dict[str, Any], where: set[str], *, long: bool) -> None:
    """Breakpoints change what is read and written, never what is said or how long the prompt is, hit or miss."""
    text = "lake " * (3000 if long else 3)

    def asked(*, is_marked: bool) -> MessageParams:
        marks = where if is_marked else set()
        tool = {**WEATHER, "cache_control": MARK} if "tools" in marks else WEATHER
        first = {"role": "user", "content": [block("Hi", is_marked="first" in marks)]}
        last = {"role": "user", "content": [block(text, is_marked=False), block("Now?", is_marked="last" in marks)]}
        more = {"cache_control": MARK} if "top" in marks and len(marks) < 5 else {}
        system = [block(text, is_marked="system" in marks)]
        turns = [first, {"role": "assistant", "content": "Yes."}, last]
        return ask(**{**request, "messages": turns, "system": system, "tools": [tool], **more})

    engine = await started(Simulated(SimulatorSettings()))
    bare = await engine.generate(asked(is_marked=False))
    for _ in range(2):
        cached = await engine.generate(asked(is_marked=True))
        usage = cached.usage
        assert (cached.content, cached.stop_reason) == (bare.content, bare.stop_reason)
        assert bare.usage.input_tokens == (
            usage.input_tokens + usage.cache_creation_input_tokens + usage.cache_read_input_tokens
        )
    assert (usage.cache_read_input_tokens > 0) == (long and bool(where - {"tools"}))


async def test_a_cache_is_a_workspaces_own_and_holds_once_its_answer_began() -> None:
    """What one workspace wrote another cannot read; it can be read as soon as the first token is there."""
    engine = await started(Simulated(SimulatorSettings()))
    params = ask(system=[block("lake " * 3000, is_marked=True)])
    events = engine.stream(params, context=Context(workspace_id="one"))
    await anext(events)
    ours = await engine.generate(params, context=Context(workspace_id="one"))
    theirs = await engine.generate(params, context=Context(workspace_id="two"))
    assert ours.usage.cache_read_input_tokens == theirs.usage.cache_creation_input_tokens == 3000
    await events.aclose()


@pytest.mark.parametrize(
    ("thinking", "more", "has_thought"),
    [
        ({"type": "adaptive"}, {}, True),
        ({"type": "adaptive"}, {"output_config": {"effort": "low"}}, False),
        ({"type": "enabled", "budget_tokens": 1024}, {"max_tokens": 2000}, True),
        ({"type": "disabled"}, {}, False),
        (None, {}, False),
        ({"type": "between_tools"}, {}, False),
        ({"type": "adaptive"}, {"tools": [WEATHER], "tool_choice": {"type": "any"}}, False),
    ],
    ids=str,
)
async def test_it_thinks_when_it_is_asked_to(
    thinking: dict[str, Any] | None, more: dict[str, Any], *, has_thought: bool
) -> None:
    """Thinking comes first, is signed, and is counted apart and in the whole."""
    engine = await started(Simulated(SimulatorSettings()))
    message = await engine.generate(ask(thinking=thinking, **more))
    first, details = message.content[0], message.usage.output_tokens_details
    assert isinstance(first, ThinkingBlock) == has_thought == (details is not None)
    if isinstance(first, ThinkingBlock):
        assert details is not None
        assert first.signature
        assert details.thinking_tokens == count_text(first.thinking) == message.usage.output_tokens - 24


async def test_thinking_that_is_not_shown_is_signed_and_paid_for() -> None:
    """With `display` omitted the block is empty but for its signature, which is that of the same thinking."""
    engine = await started(Simulated(SimulatorSettings()))
    shown = await engine.generate(ask(thinking={"type": "adaptive"}))
    hidden = await engine.generate(ask(thinking={"type": "adaptive", "display": "omitted"}))
    seen, empty = shown.content[0], hidden.content[0]
    assert isinstance(seen, ThinkingBlock)
    assert isinstance(empty, ThinkingBlock)
    assert (empty.thinking, empty.signature) == ("", seen.signature)
    assert shown.usage == hidden.usage


async def test_thinking_between_tools_follows_a_result() -> None:
    """It thinks about what a tool gave, and not before."""
    engine = await started(Simulated(SimulatorSettings()))
    call = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "sunny"}
    turns = [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": [call]},
        {"role": "user", "content": [result]},
    ]
    message = await engine.generate(ask(messages=turns, tools=[WEATHER], thinking={"type": "between_tools"}))
    assert isinstance(message.content[0], ThinkingBlock)


async def test_it_echoes() -> None:
    """It says what the last turn says, results of tools included."""
    engine = await started(Simulated(SimulatorSettings(answer="echo")))
    assert text_of(await engine.generate(ask("  Hello,\n wörld! "))) == "  Hello,\n wörld! "


async def test_it_fills_a_template_in() -> None:
    """Each placeholder stands for its part of the request; braces that are none, also in the prompt, are left alone."""
    template = "{custom_id} asked {model} '{prompt}' after '{system}' in {input_tokens} tokens {else} {"
    engine = await started(Simulated(SimulatorSettings(answer=template)))
    params = ask("say {model}", system="Be brief.")
    said = text_of(await engine.generate(params, context=Context(batch_id="b", custom_id="doc-7")))
    tokens = await engine.count_tokens(count("say {model}", system="Be brief."))
    wanted = f"doc-7 asked {params.model} 'say {{model}}' after 'Be brief.' in {tokens} tokens {{else}} {{"
    assert said == wanted


async def test_a_schema_goes_before_the_template() -> None:
    """Where JSON is asked for, JSON is said; the older beta name of the field works too."""
    engine = await started(Simulated(SimulatorSettings(answer="echo")))
    form = {"type": "json_schema", "schema": {"type": "object", "properties": {"n": {"const": 3}}}}
    message = await engine.generate(ask(output_config={"format": form}))
    assert msgspec.json.decode(text_of(message)) == {"n": 3}
    older = replace(ask(), output_format=form)
    assert msgspec.json.decode(text_of(await engine.generate(older))) == {"n": 3}


async def test_a_call_that_is_cut_short_is_no_call() -> None:
    """With too few tokens for its input a call ends with `max_tokens`, and has no input."""
    engine = await started(Simulated(SimulatorSettings()))
    params = ask(tools=[WEATHER], tool_choice={"type": "any"}, max_tokens=2)
    message = await engine.generate(params)
    (call,) = message.content
    assert isinstance(call, ToolUseBlock)
    assert (call.input, message.stop_reason, message.usage.output_tokens) == ({}, "max_tokens", 2)


async def test_an_answer_ends_where_the_context_ends() -> None:
    """A prompt that leaves too little room is answered as far as it goes; one that leaves none is refused."""
    engine = await started(Simulated(SimulatorSettings()))
    overhead = await engine.count_tokens(count("lake")) - 1
    full = "lake " * (MAX_INPUT - overhead - 5)
    message = await engine.generate(ask(full))
    assert (message.stop_reason, message.usage.output_tokens) == ("model_context_window_exceeded", 5)
    assert (await engine.generate(ask(full, max_tokens=5))).stop_reason == "max_tokens"
    with pytest.raises(InvalidParams, match=f"prompt is too long: {MAX_INPUT} tokens > {MAX_INPUT} maximum"):
        await engine.generate(ask(full + "lake " * 5))


@given(text=TEXTS)
def test_pieces_are_the_text(text: str) -> None:
    """Nothing is lost between the tokens of a text."""
    assert "".join(pieces_of(text)) == text


def test_words_count_as_one_token_or_a_few() -> None:
    """English comes to a bit more than a token a word, other scripts to about one a character."""
    text = "The quick brown fox jumps over the extraordinarily lazy dog, who could not care less about it."
    assert 1.1 < count_text(text) / len(text.split()) < 1.6
    assert count_text("南京市长江大桥") in range(6, 10)
    assert count_text("lake " * 5000) == 5000
    assert count_text("x" * 2000) == 334


SOURCES = [
    {"type": "base64", "media_type": "application/pdf", "data": "AAAA"},
    {"type": "url", "url": "https://example.com/a.pdf"},
    {"type": "text", "media_type": "text/plain", "data": "plain words here"},
    {"type": "content", "content": "words"},
]
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
CONTENTS = st.lists(
    st.one_of(
        SPOKEN.map(lambda text: block(text, is_marked=False)),
        st.just(IMAGE),
        st.builds(lambda source: {"type": "document", "source": source, "title": "T"}, st.sampled_from(SOURCES)),
    ),
    min_size=1,
    max_size=4,
)


@given(contents=st.lists(CONTENTS, min_size=1, max_size=3), size=st.sampled_from([1, 4, 16]))
@settings(deadline=None)
def test_the_blocks_of_a_prompt_hold_its_tokens(contents: list[list[dict[str, Any]]], size: int) -> None:
    """What a prefix cache sees adds up to the count, and longer prompts begin with the chain of shorter ones."""
    params = ask(messages=[{"role": "user", "content": content} for content in contents], tools=[WEATHER], system="S.")
    chain = chain_of(params, size)
    total = count_prompt(params)
    assert [upto for _, upto in chain] == sorted(upto for _, upto in chain)
    assert total - size < chain[-1][1] <= total
    turns = [*params.messages, *ask("more").messages]
    assert chain_of(replace(params, messages=turns), size)[: len(chain)] == chain
    other = chain_of(replace(params, system="T."), size)
    assert chain[-1][0] != other[-1][0]


async def test_documents_and_images_are_taken() -> None:
    """Every kind of source counts tokens, and is answered."""
    engine = await started(Simulated(SimulatorSettings()))
    content = [{"type": "document", "source": source} for source in SOURCES]
    message = await engine.generate(ask(messages=[{"role": "user", "content": [*content, IMAGE]}]))
    assert message.usage.input_tokens > 3 * 1500
    assert isinstance(message.content[0], TextBlock)
    assert re.fullmatch(r"[a-z ]+", text_of(message))

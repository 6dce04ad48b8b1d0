from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from standby.errors import EngineError, Failure
from standby.wire.chat.chunks import read_chunk
from standby.wire.chat.dialect import GENERIC, HOST, LLAMACPP, OPENAI, SGLANG, VLLM, Dialect
from standby.wire.chat.reply import Writing
from standby.wire.chat.thinking import signature_of
from standby.wire.messages import (
    ContentBlockDelta,
    ContentBlockStart,
    InputJsonDelta,
    MessageParams,
    MessageStart,
    TextBlock,
    ThinkingBlock,
    ToolUseBlock,
    accumulate,
)
from tests.engines.suite import check_order
from tests.wire.chats import CALLED, CLOCK, WEATHER, answer, ask, call, counts, delta, events, gathered, nameless

TOOLS = [WEATHER, CLOCK]
THINKS = {"type": "adaptive"}
DONE = [delta("tool_calls"), counts()]


def failure(params: MessageParams, chunks: list[Any], dialect: Dialect = VLLM) -> EngineError:
    """Return how an answer fails."""
    with pytest.raises(EngineError) as caught:
        answer(params, chunks, dialect)
    return caught.value


def test_text_comes_as_it_is_said() -> None:
    """In one block, with all counts; the first event tells the prompt's."""
    chunks = [delta(role="assistant", content=""), delta(content="Hel"), delta(content="lo"), delta("stop"), counts()]
    message = answer(ask(), chunks)
    assert message.content == [TextBlock(text="Hello")]
    assert (message.stop_reason, message.stop_sequence, message.stop_details) == ("end_turn", None, None)
    assert (message.usage.input_tokens, message.usage.output_tokens, message.model) == (9, 5, "engine-model")
    start = events(ask(), [counts(9, 0), *chunks])[0]
    assert isinstance(start, MessageStart)
    assert (start.message.usage.input_tokens, start.message.usage.output_tokens) == (9, 0)


def test_a_whole_completion_is_read_as_one_chunk() -> None:
    """A server that does not stream is understood too."""
    spoken = {
        "role": "assistant",
        "content": "Hi",
        "reasoning_content": "hm",
        "tool_calls": [{"id": "call_abcdef", "function": {"name": "clock", "arguments": "{}"}}],
    }
    body = {
        "object": "chat.completion",
        "choices": [{"index": 0, "message": spoken, "finish_reason": "tool_calls"}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 5},
    }
    message = answer(ask(tools=TOOLS, thinking=THINKS), [body])
    assert [type(block) for block in message.content] == [ThinkingBlock, TextBlock, ToolUseBlock]
    assert message.stop_reason == "tool_use"


THOUGHTS: list[list[dict[str, Any]]] = [
    [delta(reasoning="a"), delta(reasoning="b")],
    [delta(reasoning_content="a"), delta(reasoning_content="b")],
    [delta(reasoning="a", reasoning_content="a"), delta(reasoning="b", reasoning_content="b")],
    [delta(content=[{"type": "thinking", "thinking": [{"type": "text", "text": "ab"}]}])],
]


@pytest.mark.parametrize("thoughts", THOUGHTS)
def test_thinking_is_a_block_of_its_own(thoughts: list[dict[str, Any]]) -> None:
    """Under each of its names, once where an engine says it twice; signed, and counted."""
    counted = counts(completion_tokens_details={"reasoning_tokens": 3})
    chunks = [*thoughts, delta(content=[{"type": "text", "text": "Hi"}]), delta("stop"), counted]
    message = answer(ask(thinking=THINKS), chunks)
    assert message.content == [ThinkingBlock(thinking="ab", signature=signature_of("ab")), TextBlock(text="Hi")]
    assert message.usage.output_tokens_details is not None
    assert message.usage.output_tokens_details.thinking_tokens == 3


def test_thinking_can_be_left_out_or_unasked() -> None:
    """`omitted` keeps the block without its text; not asked for, there is none, and its tokens are counted."""
    chunks = [delta(reasoning="ab"), delta(content="Hi"), delta("stop"), counts(reasoning_tokens=3)]
    omitted = answer(ask(thinking={"type": "adaptive", "display": "omitted"}), chunks)
    assert omitted.content == [ThinkingBlock(thinking="", signature=signature_of("ab")), TextBlock(text="Hi")]
    for asked in (None, {"type": "disabled"}):
        message = answer(ask(thinking=asked), chunks)
        assert message.content == [TextBlock(text="Hi")]
        assert message.usage.output_tokens == 5
        assert message.usage.output_tokens_details is not None


def test_calls_come_with_their_ids_and_whole_inputs() -> None:
    """Text and thinking before them keep their places; the input comes as one piece of JSON."""
    chunks = [
        delta(reasoning="hm"),
        delta(content="I look."),
        call(0, id="call_12345678", name="weather"),
        call(0, arguments='{"city"'),
        call(0, arguments=': "Oslo"}'),
        call(1, id="call_87654321", name="clock", arguments="{}"),
        *DONE,
    ]
    found = events(ask(tools=TOOLS, thinking=THINKS), chunks)
    check_order(found)
    message = answer(ask(tools=TOOLS, thinking=THINKS), chunks)
    assert message.content[1:] == [
        TextBlock(text="I look."),
        ToolUseBlock(id="call_12345678", name="weather", input={"city": "Oslo"}),
        ToolUseBlock(id="call_87654321", name="clock", input={}),
    ]
    assert message.stop_reason == "tool_use"
    deltas = [event.delta for event in found if isinstance(event, ContentBlockDelta)]
    pieces = [one.partial_json for one in deltas if isinstance(one, InputJsonDelta)]
    assert [json.loads(piece) for piece in pieces] == [{"city": "Oslo"}]


MIXED: list[list[dict[str, Any]]] = [
    # pieces of two calls in turns
    [
        call(0, id="call_a0000", name="weather", arguments='{"ci'),
        call(1, id="call_b0000", name="clock", arguments="{"),
        call(0, arguments='ty": "Oslo"}'),
        call(1, arguments="}"),
    ],
    # all numbered 0, told apart by their ids
    [
        call(0, id="call_a0000", name="weather", arguments='{"city": "Oslo"}'),
        call(0, id="call_b0000", name="clock", arguments="{}"),
    ],
    # all numbered 0 and without ids
    [call(0, name="weather", arguments='{"city": "Oslo"}'), call(0, name="clock", arguments="{}")],
    # no numbers at all
    [call(None, name="weather", arguments='{"city": "Oslo"}'), call(None, name="clock", arguments="{}")],
    [
        call(None, id="call_a0000", name="weather", arguments='{"city"'),
        call(None, arguments=': "Oslo"}'),
        call(None, id="call_b0000", name="clock"),
    ],
    # the name and the id again in every piece
    [
        call(0, id="call_a0000", name="weather", arguments='{"city": '),
        call(0, id="call_a0000", name="weather", arguments='"Oslo"}'),
        call(1, id="call_b0000", name="clock", arguments=""),
    ],
    # an input that is an object already
    [call(0, name="weather", arguments={"city": "Oslo"}), call(1, name="clock", arguments={})],
    # white space and empty content between
    [
        delta(content="\n\n"),
        call(0, name="weather", arguments='{"city": "Oslo"}'),
        delta(content="\n"),
        call(1, name="clock"),
        delta(content=""),
    ],
    # the name comes after the id
    [call(0, id="call_a0000"), call(0, name="weather", arguments='{"city": "Oslo"}'), call(1, name="clock")],
]


@pytest.mark.parametrize("chunks", MIXED)
def test_calls_are_told_apart_however_an_engine_sends_them(chunks: list[dict[str, Any]]) -> None:
    """Two calls, in order, each with its own id; one block open at a time."""
    check_order(events(ask(tools=TOOLS), [*chunks, *DONE]))
    found = answer(ask(tools=TOOLS), [*chunks, *DONE]).content
    assert [(block.name, block.input) for block in found if isinstance(block, ToolUseBlock)] == [
        ("weather", {"city": "Oslo"}),
        ("clock", {}),
    ]
    assert len(found) == 2
    assert len({block.id for block in found if isinstance(block, ToolUseBlock)}) == 2


def test_ids_are_unique_in_the_whole_conversation() -> None:
    """Engines that number their calls anew in each answer would make the next request invalid."""
    asked = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": [{**CALLED, "id": "call_0"}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "call_0", "content": "rain"}]},
    ]
    chunks = [
        call(0, id="call_0", name="clock"),
        call(1, id="call_1", name="clock"),
        call(2, id="call_1", name="clock"),
        *DONE,
    ]
    found = [
        block.id
        for block in answer(ask(messages=asked, tools=TOOLS), chunks).content
        if isinstance(block, ToolUseBlock)
    ]
    assert len({*found, "call_0"}) == 4
    assert found[1] == "call_1"
    assert found[0].startswith("toolu_")


def test_one_call_at_most_means_one() -> None:
    """Also from an engine without the switch."""
    choice = {"type": "auto", "disable_parallel_tool_use": True}
    chunks = [call(0, name="clock"), call(1, name="weather", arguments='{"city": "Oslo"}'), *DONE]
    found = answer(ask(tools=TOOLS, tool_choice=choice), chunks).content
    assert [block.name for block in found if isinstance(block, ToolUseBlock)] == ["clock"]


BROKEN: list[list[dict[str, Any]]] = [
    [call(0, name="clock", arguments="[1]"), *DONE],
    [call(0, name="clock", arguments='"x"'), *DONE],
    [call(0, name="clock", arguments='{"a": '), *DONE],
    [call(0, name="clock", arguments='{"a": 1} and more'), *DONE],
    [call(0, name="launch", arguments="{}"), *DONE],
    [call(0, arguments="{}"), *DONE],
    [delta(content="I call."), *DONE],
    [delta(content="Hi")],
    [delta(content="Hi"), delta("abort"), counts()],
    [delta(content="Hi"), delta("error"), counts()],
]


@pytest.mark.parametrize("chunks", BROKEN)
def test_an_answer_that_makes_no_sense_is_a_failed_attempt(chunks: list[dict[str, Any]]) -> None:
    """No JSON object as input, a tool that was not offered, no name, no call, no reason to end, or a bad one."""
    assert failure(ask(tools=TOOLS), chunks).failure is Failure.BROKEN


def test_a_call_that_was_cut_has_no_input() -> None:
    """And the answer says that it was cut; a call without a name is none."""
    chunks = [call(0, name="clock"), call(1, name="weather", arguments='{"ci'), delta("length"), counts(output=3000)]
    message = answer(ask(tools=TOOLS), chunks)
    assert message.stop_reason == "max_tokens"
    assert [(block.name, block.input) for block in message.content if isinstance(block, ToolUseBlock)] == [
        ("clock", {}),
        ("weather", {}),
    ]
    assert answer(ask(tools=TOOLS), [call(0, id="c"), delta("length"), counts(output=3000)]).content == []


def test_calls_count_whatever_the_engine_says_of_them() -> None:
    """A call of a named tool ends with `stop` on vLLM."""
    assert answer(ask(tools=TOOLS), [call(0, name="clock"), delta("stop"), counts()]).stop_reason == "tool_use"


@pytest.mark.parametrize(
    ("finish", "output", "reason"),
    [
        ("stop", 5, "end_turn"),
        ("eos", 5, "end_turn"),
        ("STOP", 5, "end_turn"),
        ("end_turn", 5, "end_turn"),
        ("length", 3000, "max_tokens"),
        ("length", 5, "model_context_window_exceeded"),
        ("model_length", 5, "model_context_window_exceeded"),
        ("content_filter", 5, "refusal"),
    ],
)
def test_each_finish_has_its_reason(finish: str, output: int, reason: str) -> None:
    """A full context is told from a reached limit by the count."""
    assert answer(ask(), [delta(content="Hi"), delta(finish), counts(output=output)]).stop_reason == reason


def test_a_refusal_has_its_words_in_the_details() -> None:
    """And no content."""
    message = answer(ask(), [delta(refusal="I can"), delta(refusal="not."), delta("stop"), counts()])
    assert (message.content, message.stop_reason) == ([], "refusal")
    assert message.stop_details == {"type": "refusal", "category": None, "explanation": "I cannot."}
    filtered = answer(ask(), [delta("content_filter"), counts()])
    assert (filtered.stop_details or {})["explanation"] is None


@pytest.mark.parametrize("key", ["stop_reason", "matched_stop"])
def test_the_stop_that_an_engine_names_counts_if_the_client_named_it(key: str) -> None:
    """Others are the engine's own: the end of a turn by name, or by the number of its token."""
    last = delta("stop")
    for named, found in (("END", "END"), ("<|im_end|>", None), (151645, None)):
        chunks = [delta(content="Hi "), {"choices": [{**last["choices"][0], key: named}]}, counts()]
        message = answer(ask(stop_sequences=["END"]), chunks, SGLANG)
        assert message.stop_sequence == found
        assert message.stop_reason == ("stop_sequence" if found else "end_turn")


def test_a_stop_is_found_here_where_no_engine_names_it() -> None:
    """The rest is not wanted if the counts are known; else it is read for the counts, and left out."""
    timings = {"timings": {"cache_n": 4, "prompt_n": 5, "predicted_n": 2}}
    chunks = [delta(content="Hi E") | timings, delta(content="ND and"), delta(content=" more"), delta("stop"), counts()]
    message = answer(ask(stop_sequences=["END"]), chunks, LLAMACPP)
    assert (message.content, message.stop_sequence, message.usage.output_tokens) == ([TextBlock(text="Hi ")], "END", 2)
    message = answer(ask(stop_sequences=["END"]), chunks, OPENAI)
    assert (message.content, message.stop_sequence, message.usage.output_tokens) == ([TextBlock(text="Hi ")], "END", 5)


def test_text_that_could_begin_a_stop_is_given_when_a_call_follows() -> None:
    """Nothing is lost, and the order is kept."""
    chunks = [delta(content="the EN"), call(0, name="clock"), *DONE]
    found = answer(ask(tools=TOOLS, stop_sequences=["END"]), chunks).content
    assert [type(block) for block in found] == [TextBlock, ToolUseBlock]
    assert isinstance(found[0], TextBlock)
    assert found[0].text == "the EN"


MARKED = [{"type": "text", "text": "Hello", "cache_control": {"type": "ephemeral"}}]
CACHED: list[dict[str, Any]] = [
    counts(30, 2, prompt_tokens_details={"cached_tokens": 20}),
    counts(30, 2, prompt_cache_hit_tokens=20),
    counts(30, 2, cached_tokens=20),
    counts(30, 2) | {"timings": {"cache_n": 20, "prompt_n": 10, "predicted_n": 2}},
    {"choices": [], "timings": {"cache_n": 20, "prompt_n": 10, "predicted_n": 2}},
]


@pytest.mark.parametrize("last", CACHED)
def test_cached_tokens_are_read_wherever_they_stand(last: dict[str, Any]) -> None:
    """They are reads for a request that marks its prompt, and plain input for another."""
    chunks = [delta(content="Hi"), delta("stop"), last]
    usage = answer(ask(MARKED), chunks).usage
    assert usage.cache_read_input_tokens == 20
    assert usage.input_tokens + usage.cache_creation_input_tokens == 10
    usage = answer(ask(), chunks).usage
    assert (usage.input_tokens, usage.cache_read_input_tokens) == (30, 0)


@pytest.mark.parametrize("ttl", ["5m", "1h"])
@pytest.mark.parametrize(
    "early", [{}, {"prompt_tokens_details": None}, {"prompt_tokens_details": {"cached_tokens": 20}}]
)
def test_the_prompt_adds_up_whenever_its_cached_part_is_told(ttl: str, early: dict[str, Any]) -> None:
    """An engine that tells it at the end only changes what the first event said; every token counts once."""
    marked = [{"type": "text", "text": "Hello", "cache_control": {"type": "ephemeral", "ttl": ttl}}]
    first = delta(content="Hi") | {"usage": {"prompt_tokens": 30, "completion_tokens": 1, **early}}
    for begin in (first, delta(content="Hi")):
        last = counts(30, 2, prompt_tokens_details={"cached_tokens": 20})
        usage = answer(ask(marked), [begin, delta("stop"), last]).usage
        assert (usage.input_tokens, usage.cache_read_input_tokens, usage.cache_creation_input_tokens) == (0, 20, 10)
        written = usage.cache_creation
        assert getattr(written, f"ephemeral_{ttl}_input_tokens") == 10
        assert written.ephemeral_5m_input_tokens + written.ephemeral_1h_input_tokens == 10


ERRORS: list[tuple[Any, Failure]] = [
    ({"error": {"message": "out of memory"}}, Failure.BROKEN),
    ({"error": "out of memory"}, Failure.BROKEN),
    ({"error": {"code": "invalid_schema"}}, Failure.INVALID),
    ({"error": {"type": "BadRequestError", "code": 400}}, Failure.INVALID),
    ({"object": "error", "message": "too long", "code": 400}, Failure.INVALID),
    ({"error": {"type": "invalid_request_error", "code": None}}, Failure.INVALID),
    ({"error": {"n_prompt_tokens": 900, "n_ctx": 512, "code": 400}}, Failure.INVALID),
    ({"error": {"code": 503}}, Failure.OVERLOADED),
    ({"error": {"type": "rate_limit_error"}}, Failure.OVERLOADED),
    ({"error": {"code": "504"}}, Failure.TIMEOUT),
]


@pytest.mark.parametrize(("body", "kind"), ERRORS)
def test_an_error_in_the_stream_is_of_its_kind(body: Any, kind: Failure) -> None:
    """Whatever was said before it; the engine's words, which may hold the prompt, are not repeated."""
    found = failure(ask(), [delta(content="Hi"), body])
    assert found.failure is kind
    assert "memory" not in found.message


def test_an_answer_without_tokens_is_a_failed_attempt() -> None:
    """One token that says nothing is an answer without content."""
    assert failure(ask(), [delta("stop"), counts(output=0)]).failure is Failure.EMPTY
    assert answer(ask(), [delta("stop"), counts(output=1)]).content == []


def test_warming_the_cache_answers_nothing() -> None:
    """`max_tokens: 0` computes the prompt."""
    message = answer(ask(max_tokens=0), [delta(content="Hi"), delta("length"), counts(9, 1)])
    assert (message.content, message.stop_reason, message.usage.output_tokens) == ([], "max_tokens", 0)
    assert message.usage.input_tokens == 9


@pytest.mark.parametrize("data", [b"", b"[1]", b"{", b'{"choices": 3}', b'{"choices": [{"delta": {"content": 3}}]}'])
def test_what_is_no_chunk_is_a_fault(data: bytes) -> None:
    """And said as one."""
    with pytest.raises(ValueError, match=r".+"):
        read_chunk(data)


@pytest.mark.parametrize("body", [{}, {"choices": []}, {"choices": [{"delta": None}]}, {"usage": None, "x": 1}])
def test_a_chunk_that_says_nothing_is_nothing(body: Any) -> None:
    """Signs of life, and fields that nobody knows."""
    assert read_chunk(msgspec.json.encode(body)) == read_chunk(b"{}")


def test_a_block_starts_as_soon_as_it_is_known() -> None:
    """A client sees that a tool is being called while its input is written."""
    writing = Writing(ask(tools=TOOLS), model="m", dialect=GENERIC)
    found = writing.take(read_chunk(msgspec.json.encode(call(0, id="call_12345678", name="weather"))))
    block = ToolUseBlock(id="call_12345678", name="weather", input={})
    assert found[1:] == [ContentBlockStart(index=0, content_block=block)]


TEXTS = st.text(st.sampled_from('ab <>{}"\n'), max_size=6)
CHUNKS = st.one_of(
    TEXTS.map(lambda text: delta(content=text)),
    TEXTS.map(lambda text: delta(content=text)),
    TEXTS.map(lambda text: delta(reasoning=text)),
    st.builds(lambda text, thought: delta(content=text, reasoning_content=thought), TEXTS, TEXTS),
    st.builds(lambda text, output: {**delta(content=text), **_usage(output)}, TEXTS, st.integers(0, 9)),
    st.builds(lambda text, finish: delta(finish, content=text), TEXTS, st.sampled_from(["stop", "length"])),
    st.sampled_from([{"content": '{"tool":'}, {"content": ' "clock", "input": {}}'}]).map(lambda said: delta(**said)),
    st.sampled_from([call(0, id="call_1", name="clock"), call(0, arguments="{}"), call(1, name="weather")]),
    st.integers(0, 9).map(lambda output: counts(9, output)),
    st.just(delta(refusal="No.")),
    st.just({**delta("stop"), "choices": [{"index": 0, "delta": {}, "finish_reason": "stop", "stop_reason": "a"}]}),
)
REQUESTS: list[dict[str, Any]] = [
    {},
    {"thinking": THINKS},
    {"stop_sequences": ["ba", "<"]},
    {"tools": TOOLS, "thinking": THINKS},
    {"tools": TOOLS, "stop_sequences": ["a"]},
    {"tools": TOOLS, "tool_choice": {"type": "any"}},
    {"max_tokens": 0},
]


def _usage(output: int) -> dict[str, Any]:
    return {"usage": {"prompt_tokens": 9, "completion_tokens": output}}


@given(
    st.lists(CHUNKS, max_size=12),
    st.sampled_from(REQUESTS),
    st.sampled_from([VLLM, LLAMACPP, HOST, GENERIC]),
    st.sampled_from([[], [delta("stop"), counts()]]),
)
def test_a_message_is_the_same_without_its_events(
    chunks: list[Any], more: dict[str, Any], dialect: Dialect, ending: list[Any]
) -> None:
    """Whatever an engine sends, in whatever order; and what fails fails alike."""
    found: list[Any] = []
    for way in (lambda *given: accumulate(events(*given)), gathered):
        try:
            found.append(nameless(way(ask(**more), [*chunks, *ending], dialect)))
        except EngineError as error:
            found.append((error.failure, error.message))
    assert found[0] == found[1]

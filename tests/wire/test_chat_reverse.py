from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from standby.errors import InvalidParams
from standby.records import Rules
from standby.wire.chat.completion import chunks_of, completion_of
from standby.wire.chat.dialect import VLLM
from standby.wire.chat.reverse import params_of
from standby.wire.chat.thinking import signature_of
from standby.wire.messages import (
    ContentBlock,
    Message,
    OutputDetails,
    TextBlock,
    ThinkingBlock,
    ToolUseBlock,
    Usage,
    decode_params,
)
from tests.wire.chats import CLOCK, IMAGE, LINKED, WEATHER, answer, ask, sent
from tests.wire.strategies import json_objects

ALL = replace(VLLM, system_anywhere=True, files=True, thinking_back="reasoning_content", forces_by_strict=False)
"""An engine that takes everything, and as it is said."""
SCHEMA = {"type": "object", "properties": {}, "additionalProperties": False}
said = st.text(min_size=1).filter(lambda text: bool(text.strip()) and not text.startswith("Error: "))
ids = st.uuids().map(lambda one: f"toolu_{one.hex}")


def text(words: str) -> dict[str, Any]:
    """Make a text block."""
    return {"type": "text", "text": words}


@st.composite
def conversations(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Make turns in normal form: users and assistants take turns, every call has its result."""
    turns: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for _ in range(draw(st.integers(1, 3))):
        pictures = draw(st.lists(st.sampled_from([IMAGE, LINKED]), max_size=2))
        words = draw(said)
        if pictures or results:
            more = [*pictures, text(words)] if draw(st.booleans()) else [text(words), *pictures]
            turns.append({"role": "user", "content": results + (more if draw(st.booleans()) or not results else [])})
        else:
            turns.append({"role": "user", "content": words})
        calls = draw(st.lists(st.builds(_call, ids, st.sampled_from(["weather", "clock"]), json_objects), max_size=2))
        results = [
            _result(call["id"], draw(st.sampled_from([""]) | said), is_error=draw(st.booleans())) for call in calls
        ]
        thought = draw(st.none() | said)
        blocks = [{"type": "thinking", "thinking": thought, "signature": signature_of(thought)}] if thought else []
        words = draw(said)
        if calls or thought:
            turns.append({"role": "assistant", "content": [*blocks, text(words), *calls]})
        else:
            turns.append({"role": "assistant", "content": words})
    last = draw(said)
    turns.append({"role": "user", "content": results or last})
    return turns


def _call(id_: str, name: str, given: dict[str, Any]) -> dict[str, Any]:
    return {"type": "tool_use", "id": id_, "name": name, "input": given}


def _result(id_: str, content: str, *, is_error: bool) -> dict[str, Any]:
    result = {"type": "tool_result", "tool_use_id": id_, "content": content}
    return {**result, "is_error": True} if is_error else result


CHOICES: list[dict[str, Any]] = [
    {"type": "auto"},
    {"type": "auto", "disable_parallel_tool_use": True},
    {"type": "any"},
    {"type": "any", "disable_parallel_tool_use": True},
    {"type": "tool", "name": "clock"},
    {"type": "none"},
]
optional = {
    "system": said,
    "temperature": st.floats(0, 1),
    "top_p": st.floats(0, 1),
    "top_k": st.integers(1, 100),
    "metadata": st.fixed_dictionaries({"user_id": st.text(min_size=1)}),
    "output_config": st.fixed_dictionaries(
        {"effort": st.sampled_from(["low", "medium", "high", "xhigh"])},
        optional={"format": st.just({"type": "json_schema", "schema": SCHEMA})},
    ),
    "tools": st.just([WEATHER, {**CLOCK, "strict": True}]),
}
normal_params = st.fixed_dictionaries(
    {
        "model": st.just("engine-model"),
        "max_tokens": st.integers(1, 10**6),
        "messages": conversations(),
        "thinking": st.sampled_from([{"type": "adaptive"}, {"type": "disabled"}]),
    },
    optional=optional,
)


@given(body=normal_params, choice=st.none() | st.sampled_from(CHOICES))
def test_params_in_normal_form_come_back_as_they_were(body: dict[str, Any], choice: Any) -> None:
    """Through a chat request and back nothing is lost and nothing is added."""
    if choice is not None and "tools" in body:
        body = {**body, "tool_choice": choice}
    assert params_of(sent(ask(**body), ALL)) == body


@given(stops=st.lists(said, min_size=1, max_size=3), begun=said)
def test_stops_and_a_begun_answer_come_back(stops: list[str], begun: str) -> None:
    """Where the engine looks for the stops."""
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": begun}]
    body = {"model": "engine-model", "max_tokens": 5, "messages": turns, "stop_sequences": stops}
    assert params_of(sent(ask(**body), ALL)) == {**body, "thinking": {"type": "disabled"}}


documents: st.SearchStrategy[dict[str, Any]] = st.builds(
    lambda data, more: (
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": data}} | more
    ),
    st.text(),
    st.fixed_dictionaries({}, optional={"title": st.text(), "context": st.text()}),
)
pdfs = st.just(
    {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "aGk="}, "title": "a"}
)
searches = st.builds(
    lambda words, title: {"type": "search_result", "title": title, "source": "s", "content": [text(words)]},
    said,
    st.text(),
)
marked = st.builds(lambda words: {**text(words), "cache_control": {"type": "ephemeral"}}, said)
texts = said.map(text)
images = st.sampled_from([IMAGE, LINKED])
user_blocks = texts | images | documents | searches | pdfs


@st.composite
def messy(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Make turns that are valid and in no normal form."""
    turns: list[dict[str, Any]] = []
    if draw(st.booleans()):
        turns.append({"role": "user", "content": [draw(marked)]})
    for _ in range(draw(st.integers(1, 3))):
        turns += [
            {"role": "user", "content": draw(st.lists(user_blocks, min_size=1, max_size=4))}
            for _ in range(draw(st.integers(1, 2)))
        ]
        if draw(st.booleans()):
            turns.append({"role": "system", "content": draw(said)})
        calls = draw(st.lists(st.builds(_call, ids, st.just("clock"), json_objects), max_size=3))
        thoughts = [
            {"type": "thinking", "thinking": words, "signature": "s"} for words in draw(st.lists(said, max_size=2))
        ]
        blocks = [*draw(st.lists(texts, min_size=1, max_size=2)), *thoughts, *calls]
        turns.append({"role": "assistant", "content": draw(st.permutations(blocks))})
        content = st.none() | st.just("") | said | st.lists(texts | images | documents, min_size=1, max_size=3)
        results = [
            {
                "type": "tool_result",
                "tool_use_id": call["id"],
                "content": draw(content),
                "is_error": draw(st.booleans()),
            }
            for call in calls
        ]
        more = draw(st.lists(user_blocks, min_size=1, max_size=2))
        turns.append({"role": "user", "content": draw(st.permutations([*results, *more]))})
    return turns


@given(turns=messy(), system=st.lists(texts, max_size=2))
def test_what_an_engine_reads_survives_the_way_back(turns: list[dict[str, Any]], system: list[dict[str, Any]]) -> None:
    """Params in any form become a normal form that says the same to an engine, to the letter."""
    body = {"system": system, "tools": [CLOCK]} if system else {"tools": [CLOCK]}
    first = sent(ask(messages=turns, **body), ALL)
    back = decode_params(msgspec.json.encode(params_of(first)), rules=Rules(), batch=False)
    assert sent(back, ALL) == first


@st.composite
def answers(draw: st.DrawFn) -> tuple[dict[str, Any], Message]:
    """Make what was asked for and an answer to it, in normal form."""
    asked: dict[str, Any] = {"max_tokens": 100}
    content: list[ContentBlock] = []
    kind = draw(st.sampled_from(["text", "stop", "tools", "refusal"]))
    reason: Any = draw(st.sampled_from(["end_turn", "max_tokens", "model_context_window_exceeded"]))
    stop = details = None
    thought = draw(st.none() | st.integers(0, 50)) if kind == "tools" else None
    if kind == "tools":
        asked |= {"tools": [WEATHER, CLOCK], "thinking": {"type": "adaptive"}}
        words = draw(st.none() | said)
        content += [ThinkingBlock(thinking=words, signature=signature_of(words))] if words else []
    if kind != "refusal":
        words = draw(said)
        content.append(TextBlock(text=words))
    if kind == "stop":
        reason, stop = "stop_sequence", draw(said)
        asked["stop_sequences"] = [stop]
    if kind == "tools":
        calls = draw(st.lists(st.builds(_call, ids, st.sampled_from(["weather", "clock"]), json_objects), max_size=3))
        content += [ToolUseBlock(id=call["id"], name=call["name"], input=call["input"]) for call in calls]
        reason = "tool_use" if calls else reason
    if kind == "refusal":
        reason, details = "refusal", {"type": "refusal", "category": None, "explanation": draw(said)}
    usage = Usage(
        input_tokens=draw(st.integers(0, 10**6)),
        output_tokens=100 if reason == "max_tokens" else draw(st.integers(51, 99)),
        output_tokens_details=None if thought is None else OutputDetails(thinking_tokens=thought),
    )
    message = Message(
        id="msg_1",
        model="engine-model",
        content=content,
        stop_reason=reason,
        stop_sequence=stop,
        stop_details=details,
        usage=usage,
    )
    return asked, message


@given(pair=answers())
def test_an_answer_comes_back_from_a_completion(pair: tuple[dict[str, Any], Message]) -> None:
    """Content, reasons and counts; only the id is another."""
    asked, message = pair
    back = answer(ask(**asked), [completion_of(message)])
    assert msgspec.structs.replace(back, id="msg_1") == message


@given(pair=answers(), piece=st.integers(0, 7))
def test_an_answer_comes_back_from_chunks(pair: tuple[dict[str, Any], Message], piece: int) -> None:
    """Wherever they are cut."""
    asked, message = pair
    back = answer(ask(**asked), chunks_of(message, piece=piece))
    assert msgspec.structs.replace(back, id="msg_1") == message


def test_a_completion_has_what_clients_of_chat_read() -> None:
    """Content is null if there is none, arguments are a string, cached tokens are part of the prompt's."""
    block = ToolUseBlock(id="toolu_1", name="clock", input={})
    usage = Usage(input_tokens=1, cache_read_input_tokens=2, cache_creation_input_tokens=3, output_tokens=4)
    message = Message(id="msg_1", model="m", content=[block], stop_reason="tool_use", usage=usage)
    found = completion_of(message, created=7)
    assert (found["object"], found["created"], found["id"]) == ("chat.completion", 7, "msg_1")
    choice = found["choices"][0]
    assert (choice["finish_reason"], choice["message"]["content"]) == ("tool_calls", None)
    assert choice["message"]["tool_calls"][0]["function"] == {"name": "clock", "arguments": "{}"}
    assert found["usage"] == {
        "prompt_tokens": 6,
        "completion_tokens": 4,
        "total_tokens": 10,
        "prompt_tokens_details": {"cached_tokens": 2},
    }


def chat(content: Any = "Hi", **more: Any) -> dict[str, Any]:
    """Make the body of a chat request."""
    return {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": content}], **more}


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"max_completion_tokens": 9}, {"max_tokens": 9}),
        ({"stop": "END"}, {"stop_sequences": ["END"]}),
        ({"user": "u"}, {"metadata": {"user_id": "u"}}),
        ({"safety_identifier": "u"}, {"metadata": {"user_id": "u"}}),
        ({"reasoning_effort": "minimal"}, {"output_config": {"effort": "low"}}),
        ({"reasoning_effort": "none"}, {"thinking": {"type": "disabled"}}),
        ({"response_format": {"type": "text"}}, {}),
        ({"parallel_tool_calls": False}, {}),
        ({"n": 1, "frequency_penalty": 0.0, "logprobs": False, "logit_bias": None, "seed": 3, "store": True}, {}),
    ],
)
def test_fields_of_a_chat_request_become_params(more: dict[str, Any], expected: dict[str, Any]) -> None:
    """And nothing else is added."""
    assert params_of(chat(**more)) == {**params_of(chat()), **expected}


def test_parallel_calls_switched_off_need_no_choice() -> None:
    """The model still decides."""
    tools = [{"type": "function", "function": {"name": "clock"}}]
    found = params_of(chat(tools=tools, parallel_tool_calls=False))
    assert found["tools"] == [CLOCK]
    assert found["tool_choice"] == {"type": "auto", "disable_parallel_tool_use": True}


def test_developers_are_the_system() -> None:
    """And parts of text are blocks."""
    turns = [
        {"role": "developer", "content": [text("a"), text("b")]},
        {"role": "system", "content": "c"},
        {"role": "user", "content": [text("d")]},
    ]
    found = params_of(chat(messages=turns))
    assert (found["system"], found["messages"]) == ("a\n\nb\n\nc", [{"role": "user", "content": "d"}])


def test_a_request_without_a_limit_takes_the_one_given() -> None:
    """The Messages API wants one."""
    body = chat()
    del body["max_tokens"]
    assert params_of(body, max_tokens=7)["max_tokens"] == 7
    with pytest.raises(InvalidParams, match=r"^max_tokens: Field required"):
        params_of(body)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"n": 2}, "n"),
    ({"logprobs": True}, "logprobs"),
    ({"frequency_penalty": 0.5}, "frequency_penalty"),
    ({"logit_bias": {"1": 2}}, "logit_bias"),
    ({"functions": []}, "functions"),
    ({"audio": {}}, "audio"),
    ({"guided_json": {}}, "guided_json"),
    ({"response_format": {"type": "json_object"}}, "response_format"),
    ({"tool_choice": {"type": "custom"}, "tools": []}, "tool_choice"),
    ({"tools": [{"type": "custom"}]}, "tools.0.type"),
    ({"tools": ["x"]}, "tools.0"),
    ({"reasoning_effort": "extreme"}, "reasoning_effort"),
    ({"chat_template_kwargs": {"style": "x"}}, "chat_template_kwargs.style"),
    ({"messages": "x"}, "messages"),
    ({"messages": [{"role": "function", "content": "x"}]}, "messages.0.role"),
    ({"messages": [{"role": "user", "content": "x", "name": "Bo"}]}, "messages.0.name"),
    ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "messages.0.content.0.type"),
    (
        {"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]}]},
        "messages.0.content.0.type",
    ),
    (
        {
            "messages": [
                {"role": "tool", "tool_call_id": "c", "content": [{"type": "image_url", "image_url": {"url": "u"}}]}
            ]
        },
        "messages.0.content",
    ),
    (
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"arguments": "["}}]}]},
        "messages.0.tool_calls.0.function.arguments",
    ),
    ({"messages": [{"role": "assistant", "function_call": {}}]}, "messages.0.function_call"),
]


@pytest.mark.parametrize(("more", "path"), REFUSED, ids=[path for _, path in REFUSED])
def test_what_the_messages_api_cannot_express_is_refused_by_its_path(more: dict[str, Any], path: str) -> None:
    """A line of an OpenAI batch is never sent as something else than it says."""
    with pytest.raises(InvalidParams) as caught:
        params_of(chat(**more))
    assert caught.value.message.partition(": ")[0] == path

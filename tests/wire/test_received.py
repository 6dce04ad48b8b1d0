"""Answers of other servers, read without losing anything."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from standby.wire.messages import (
    CacheCreation,
    Message,
    OtherBlock,
    OtherDelta,
    Ping,
    TextBlock,
    ToolUseBlock,
    accumulate,
    encode_message,
)
from standby.wire.received import read_answer, read_event
from standby.wire.sse import encode_event
from tests.wire.strategies import divided, messages

START = {"type": "message_start", "message": {"id": "msg_1", "model": "m", "content": [], "usage": {}}}
END = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 2}}


def read(*events: dict[str, Any]) -> Message:
    """Read events, with a start and an end around them, into a message."""
    ended = any(event["type"] == "message_delta" for event in events)
    whole = [START, *events, *([] if ended else [END]), {"type": "message_stop"}]
    return accumulate(event for raw in whole if (event := read_event(json.dumps(raw).encode())) is not None)


def block(start: dict[str, Any], *deltas: dict[str, Any], index: int = 0) -> list[dict[str, Any]]:
    """Make the events of one block."""
    return [
        {"type": "content_block_start", "index": index, "content_block": start},
        *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": index},
    ]


@given(messages)
def test_what_we_write_is_read_back(message: Message) -> None:
    """A whole message; `test_events` does the same with its events."""
    message = divided(message)
    assert read_answer(encode_message(message)) == message


def test_blocks_of_server_tools_are_kept_as_they_are() -> None:
    """With the input that came in pieces, and whatever keys they have."""
    result = {
        "type": "web_search_tool_result",
        "tool_use_id": "srvtoolu_1",
        "content": [{"type": "web_search_result", "url": "https://example.com", "encrypted_content": "x"}],
        "caller": {"type": "direct"},
    }
    use = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {}}
    pieces = [{"type": "input_json_delta", "partial_json": part} for part in ("", '{"query": ', '"sea"}')]
    message = read(*block(use, *pieces), *block(result, index=1))
    assert message.content == [OtherBlock({**use, "input": {"query": "sea"}}), OtherBlock(result)]
    assert json.loads(encode_message(message))["content"][1] == result


def test_a_known_block_with_more_keys_keeps_them() -> None:
    """A tool call with its caller goes on as it came, its input put together."""
    use = {"type": "tool_use", "id": "t", "name": "n", "input": {}, "caller": {"type": "direct"}}
    message = read(*block(use, {"type": "input_json_delta", "partial_json": '{"a":1}'}))
    assert message.content == [OtherBlock({**use, "input": {"a": 1}})]


def test_citations_are_kept() -> None:
    """Beside the text that they belong to."""
    citation = {"type": "char_location", "cited_text": "sea", "document_index": 0}
    text = {"type": "text_delta", "text": "The sea."}
    deltas: list[dict[str, Any]] = [text, {"type": "citations_delta", "citation": citation}]
    assert read(*block({"type": "text", "text": ""}, *deltas)).content == [
        TextBlock(text="The sea.", citations=[citation])
    ]


def test_deltas_of_later_kinds_grow_what_they_name() -> None:
    """Texts and lists are added to, other values are replaced."""
    start = {"type": "compaction", "content": "", "list": [1], "flag": False}
    message = read(
        *block(start, {"type": "compaction_delta", "content": "Long"}, {"type": "compaction_delta", "content": " ago"})
    )
    assert message.content == [OtherBlock({**start, "content": "Long ago"})]
    later = {"type": "new_delta", "list": [2], "flag": True}
    assert read(*block(start, later)).content == [OtherBlock({**start, "list": [1, 2], "flag": True})]
    assert read_event(json.dumps({"type": "content_block_delta", "index": 0, "delta": later}).encode()) is not None


def test_a_known_block_with_a_delta_that_is_not_ours_keeps_both() -> None:
    """The text and what came beside it."""
    message = read(*block({"type": "text", "text": "a"}, {"type": "text_delta", "text": "b", "logprob": -1}))
    assert message.content == [OtherBlock({"type": "text", "text": "ab", "citations": None, "logprob": -1})]


def test_what_an_engine_leaves_out_is_empty() -> None:
    """Counts that are null or missing are 0, a call without an input has an empty one, unknown events are skipped."""
    message = read({"type": "novelty"}, {"type": "ping"}, *block({"type": "tool_use", "id": "t", "name": "n"}))
    assert message.content == [ToolUseBlock(id="t", name="n", input={})]
    answer = {"id": "msg_1", "model": "m", "content": [], "usage": {"input_tokens": 3, "cache_read_input_tokens": None}}
    usage = read_answer(json.dumps(answer).encode()).usage
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.cache_creation) == (3, 0, CacheCreation())
    assert read_event(b'{"type":"ping"}') == Ping()
    assert read_event(b'{"type":"novelty"}') is None


def test_cache_writes_that_are_not_divided_were_for_five_minutes() -> None:
    """Whether they are told at the start or only at the end."""
    answer = {"id": "msg_1", "model": "m", "content": [], "usage": {"cache_creation_input_tokens": 9}}
    assert read_answer(json.dumps(answer).encode()).usage.cache_creation == CacheCreation(ephemeral_5m_input_tokens=9)
    late = {**END, "usage": {"output_tokens": 1, "cache_creation_input_tokens": 5}}
    assert read(late).usage.cache_creation == CacheCreation(ephemeral_5m_input_tokens=5)


def test_the_whole_usage_is_read() -> None:
    """Writes by lifetime, reads, thinking, uses of server tools."""
    usage = {
        "input_tokens": 1,
        "cache_creation_input_tokens": 5,
        "cache_read_input_tokens": 4,
        "cache_creation": {"ephemeral_5m_input_tokens": 2, "ephemeral_1h_input_tokens": 3},
        "output_tokens": 6,
        "service_tier": "standard",
        "inference_geo": "us",
        "server_tool_use": {"web_search_requests": 2, "web_fetch_requests": 0},
        "output_tokens_details": {"thinking_tokens": 5},
        "speed": "standard",
    }
    answer = {"id": "msg_1", "model": "m", "content": [], "stop_reason": "refusal", "usage": usage}
    answer["stop_details"] = {"type": "refusal", "category": None, "explanation": None}
    message = read_answer(json.dumps(answer).encode())
    assert msgspec.to_builtins(message.usage) == usage
    assert message.stop_details == answer["stop_details"]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b'"ping"',
        b'{"type":"message_start"}',
        b'{"type":"content_block_start","index":0,"content_block":{}}',
        b'{"type":"content_block_delta","index":"x","delta":{"type":"text_delta","text":"a"}}',
        b'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":1}}',
        b'{"type":"message_delta","delta":{"stop_reason":"whim"},"usage":{}}',
        b'{"type":"error","error":"no"}',
        b'{"type":"message_start","message":{"id":"m","model":"m","usage":[1]}}',
        b"[" * 100_000,
    ],
)
def test_what_cannot_be_read_is_a_value_error_that_quotes_nothing(data: bytes) -> None:
    """The adapter turns it into a broken attempt."""
    with pytest.raises(ValueError, match="cannot be read"):
        read_event(data)


@given(
    st.binary(max_size=40)
    | st.recursive(st.none() | st.text(max_size=5), st.lists, max_leaves=5).map(
        lambda found: json.dumps({"type": "message_start", "message": found}).encode()
    )
)
def test_no_bytes_break_the_reader(data: bytes) -> None:
    """Whatever comes, it is an event, nothing, or a `ValueError`."""
    try:
        read_event(data)
    except ValueError:
        return


def test_deltas_that_are_not_ours_are_written_as_they_came() -> None:
    """Live clients see what the engine sent."""
    raw = {"type": "content_block_delta", "index": 0, "delta": {"type": "compaction_delta", "content": "x"}}
    event = read_event(json.dumps(raw).encode())
    assert event is not None
    assert json.loads(encode_event(event).split(b"data: ")[1]) == raw
    assert OtherDelta(raw["delta"]) == raw["delta"]  # type: ignore[call-overload]

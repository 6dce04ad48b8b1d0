from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from standby.errors import InvalidParams
from standby.records import Rules
from standby.wire.messages import (
    MessageParams,
    PromptParams,
    TextParam,
    ToolResultParam,
    check_cap,
    decode_count_params,
    decode_params,
    encode_params,
)
from tests.wire.strategies import any_json

OLD, NEW = Rules(), Rules(version="2026-10-21")
TEXT = {"type": "text", "text": "x"}
TOOL = {"name": "weather", "input_schema": {"type": "object"}}
CALL = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {}}
RESULT = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "sunny"}
PICTURE = {"type": "image", "source": {"type": "base64", "media_type": "image/bmp", "data": "AAAA"}}
FILE = {"type": "document", "source": {"type": "file", "file_id": "file_1"}}
THINK = {"type": "enabled", "budget_tokens": 1024}
JSON_FORM = {"format": {"type": "json_schema", "schema": {}}}
IMAGE_TYPES = "'image/jpeg', 'image/png', 'image/gif' or 'image/webp'"
TOO_LATE = (
    "cache_control.ttl: a ttl='1h' cache_control block must not come after a ttl='5m' cache_control block. "
    "Note that blocks are processed in the following order: `tools`, `system`, `messages`."
)
CITED = [{"type": "char_location", "cited_text": "x", "document_index": 0, "start_char_index": 0, "end_char_index": 1}]


def marked(ttl: str | None = None, block: dict[str, Any] = TEXT) -> dict[str, Any]:
    """Put a cache breakpoint on a block."""
    return {**block, "cache_control": {"type": "ephemeral"} if ttl is None else {"type": "ephemeral", "ttl": ttl}}


def user(*blocks: Any) -> dict[str, Any]:
    """Make a turn of the user."""
    return {"role": "user", "content": list(blocks)}


def assistant(*blocks: Any) -> dict[str, Any]:
    """Make a turn of the assistant."""
    return {"role": "assistant", "content": list(blocks)}


def body(**more: Any) -> dict[str, Any]:
    """Make a body that is good but for `more`; `...` as a value leaves the key out."""
    whole = {"model": "claude-opus-5-5", "max_tokens": 100, "messages": [{"role": "user", "content": "Hi"}], **more}
    return {key: value for key, value in whole.items() if value is not ...}


def refused(raw: Any, *, rules: Rules = OLD, batch: bool = True, beta: bool = False) -> str:
    """Decode what must be refused and return the words."""
    data = raw if isinstance(raw, bytes) else json.dumps(raw).encode()
    with pytest.raises(InvalidParams) as caught:
        decode_params(data, rules=rules, batch=batch, beta=beta)
    assert (caught.value.status, caught.value.type) == (400, "invalid_request_error")
    return caught.value.message


def accepted(raw: dict[str, Any], *, rules: Rules = OLD, batch: bool = True, beta: bool = False) -> MessageParams:
    """Decode what must be taken."""
    return decode_params(json.dumps(raw).encode(), rules=rules, batch=batch, beta=beta)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"messages": ...}, "messages: Field required"),
        ({"messages": []}, "messages: at least one message is required"),
        ({"model": ...}, "model: Field required"),
        ({"model": ""}, "model: String should have at least 1 character"),
        ({"max_tokens": ...}, "max_tokens: Field required"),
        ({"max_tokens": 0}, "max_tokens: must be greater than or equal to 1"),
        ({"max_tokens": -5}, "max_tokens: must be greater than or equal to 1"),
        ({"max_tokens": "5"}, "max_tokens: Input should be a valid integer"),
        ({"max_tokens": 5.5}, "max_tokens: Input should be a valid integer"),
        ({"stream": True}, "`stream=True` is not supported in the Message Batches API"),
        ({"speed": "fast"}, "`speed` is not supported in the Message Batches API"),
        ({"foo": 1}, "foo: Extra inputs are not permitted"),
        ({"messages": [user({**TEXT, "foo": 1})]}, "messages.0.content.0.foo: Extra inputs are not permitted"),
        ({"messages": "Hi"}, "messages: Input should be a valid list"),
        ({"messages": [user(TEXT), "Hi"]}, "messages.1: Input should be a valid dictionary"),
        ({"messages": [{"role": "user"}]}, "messages.0.content: Field required"),
        (
            {"messages": [{"role": "robot", "content": "x"}]},
            "messages.0.role: Input should be 'user', 'assistant' or 'system'",
        ),
        ({"messages": [{"role": "user", "content": 7}]}, "messages.0.content: Input should be a valid string or list"),
        (
            {"messages": [user({"type": "hologram"})]},
            "messages.0.content.0.type: Input tag found using 'type' does not match any of the expected tags",
        ),
        (
            {"messages": [user({"type": "compaction", "content": "x"})]},
            "messages.0.content.0.type: Input tag found using 'type' does not match any of the expected tags",
        ),
        ({"messages": [user({"text": "x"})]}, "messages.0.content.0.type: Field required"),
        ({"messages": [user({"type": "text"})]}, "messages.0.content.0.text: Field required"),
        ({"messages": [user({"type": "text", "text": ""})]}, "messages: text content blocks must be non-empty"),
        ({"system": [{"type": "text", "text": ""}]}, "system: text content blocks must be non-empty"),
        (
            {"messages": [{"role": "user", "content": ""}]},
            "messages.0: all messages must have non-empty content except for the optional final assistant message",
        ),
        ({"temperature": 1.1}, "temperature: range: 0..1"),
        ({"temperature": -0.1}, "temperature: range: 0..1"),
        ({"top_p": 2}, "top_p: range: 0..1"),
        ({"top_k": -1}, "top_k: must be greater than or equal to 0"),
        ({"stop_sequences": ["a", " \n"]}, "stop_sequences: each stop sequence must contain non-whitespace"),
        (
            {"thinking": {"type": "dreaming"}},
            "thinking.type: Input tag found using 'type' does not match any of the expected tags",
        ),
        (
            {"thinking": {"type": "enabled", "budget_tokens": 1023}},
            "thinking.enabled.budget_tokens: Input should be greater than or equal to 1024",
        ),
        ({"thinking": THINK, "max_tokens": 1024}, "`max_tokens` must be greater than `thinking.budget_tokens`."),
        (
            {"thinking": THINK, "max_tokens": 2000, "temperature": 0.5},
            "`temperature` may only be set to 1 when thinking is enabled.",
        ),
        (
            {"thinking": THINK, "max_tokens": 2000, "tools": [TOOL], "tool_choice": {"type": "any"}},
            "Thinking may not be enabled when tool_choice forces tool use.",
        ),
        ({"tool_choice": {"type": "any"}}, "tool_choice: Tool choice may only be specified while providing tools."),
        (
            {"tools": [TOOL], "tool_choice": {"type": "tool", "name": "gone"}},
            "Tool 'gone' not found in provided tools",
        ),
        ({"tools": [{"input_schema": {"type": "object"}}]}, "tools.0.name: Field required"),
        ({"tools": [{"name": "a"}]}, "tools.0.input_schema: Field required"),
        ({"tools": [{"name": "a", "input_schema": {}}]}, "tools.0.input_schema.type: Field required"),
        (
            {"tools": [{"name": "a", "input_schema": {"type": "array"}}]},
            "tools.0.input_schema.type: Input should be 'object'",
        ),
        ({"tools": [{**TOOL, "name": "a b"}]}, "tools.0.name: String should match pattern '^[a-zA-Z0-9_-]{1,128}$'"),
        ({"tools": [{**TOOL, "name": "a\n"}]}, "tools.0.name: String should match pattern '^[a-zA-Z0-9_-]{1,128}$'"),
        ({"tools": [TOOL, TOOL]}, "tools: Tool names must be unique."),
        ({"tools": [{**TOOL, "max_uses": 3}]}, "tools.0.max_uses: Extra inputs are not permitted"),
        (
            {"tools": [{"type": "teleport_20260101", "name": "teleport"}]},
            "tools.0: Input tag found using 'type' does not match any of the expected tags",
        ),
        (
            {"messages": [user(PICTURE)]},
            "messages.0.content.0.source.media_type: Input should be " + IMAGE_TYPES,
        ),
        ({"messages": [user(CALL)]}, "messages.0.content.0: `tool_use` blocks can only be in `assistant` messages"),
        (
            {"messages": [assistant(CALL), assistant(RESULT)]},
            "messages.1.content.0: `tool_result` blocks can only be in `user` messages",
        ),
        (
            {"messages": [{"role": "system", "content": [FILE]}]},
            "messages.0.content.0: `document` blocks are not allowed in `system` messages",
        ),
        ({"cache_control": {"type": "forever"}}, "cache_control.type: Input should be 'ephemeral'"),
        ({"system": [marked("2h")]}, "system.0.cache_control.ttl: Input should be '5m' or '1h'"),
        ({"mcp_servers": []}, "mcp_servers: Extra inputs are not permitted"),
        ({"fallbacks": "default"}, "fallbacks: Extra inputs are not permitted"),
        ({"output_config": {"format": {"type": "xml"}}}, "output_config.format.type: Input should be 'json_schema'"),
        (
            {"output_config": {"effort": "extreme"}},
            "output_config.effort: Input should be 'low', 'medium', 'high', 'xhigh' or 'max'",
        ),
    ],
)  # fmt: skip
def test_a_fault_is_named_in_the_contracts_words(changes: dict[str, Any], message: str) -> None:
    """Each fault of contract 2.7.3, 3.1 and 3.3 has its own path and wording."""
    assert refused(body(**changes)) == message


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        (
            [user(TEXT), assistant(TEXT, CALL), user(TEXT)],
            "messages.1: `tool_use` ids were found without `tool_result` blocks immediately after: toolu_1.",
        ),
        (
            [user(TEXT), assistant(CALL)],
            "messages.1: `tool_use` ids were found without `tool_result` blocks immediately after: toolu_1.",
        ),
        (
            [user(TEXT), assistant(CALL), user(TEXT), assistant(TEXT), user(RESULT)],
            "messages.1: `tool_use` ids were found without `tool_result` blocks immediately after: toolu_1.",
        ),
        ([user(RESULT)], "messages.0.content.0: unexpected `tool_use_id` found in `tool_result` blocks: toolu_1."),
        (
            [assistant(CALL), user(RESULT), assistant(TEXT), user(RESULT)],
            "messages.3.content.0: unexpected `tool_use_id` found in `tool_result` blocks: toolu_1.",
        ),
        (
            [assistant(CALL), user(RESULT, RESULT)],
            "messages.1.content.1: each tool_use must have a single result. Found multiple",
        ),
        ([assistant(CALL, CALL), user(RESULT)], "messages.0.content.1: `tool_use` ids must be unique"),
    ],
)  # fmt: skip
def test_a_call_and_its_result_belong_together(turns: list[Any], message: str) -> None:
    """Every tool call is answered in the next turn, once, and nothing else is."""
    assert refused(body(messages=turns)).startswith(message)


@pytest.mark.parametrize(
    "turns",
    [
        [user(TEXT), assistant(CALL), user(RESULT)],
        [assistant(CALL), assistant({**CALL, "id": "b"}), user(RESULT), user({**RESULT, "tool_use_id": "b"})],
        [user(TEXT), assistant(CALL), {"role": "system", "content": "Note."}, user(RESULT, TEXT)],
    ],
)  # fmt: skip
def test_consecutive_turns_of_one_role_count_as_one(turns: list[Any]) -> None:
    """Results may be spread over turns that the service merges."""
    assert len(accepted(body(messages=turns)).messages) == len(turns)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"system": [marked()] * 3, "messages": [user(marked(), marked())]},
            "A maximum of 4 blocks with cache_control may be provided. Found 5.",
        ),
        (
            {"system": [marked()] * 4, "cache_control": {"type": "ephemeral"}},
            "A maximum of 4 blocks with cache_control may be provided. Found 5.",
        ),
        (
            {"tools": [marked("5m", TOOL)], "system": [marked("1h")]},
            "system.0." + TOO_LATE,
        ),
        (
            {"messages": [user(marked()), assistant(TEXT), user(TEXT, marked("1h"))]},
            "messages.2.content.1.cache_control.ttl: a ttl='1h' cache_control block must not come after",
        ),
        (
            {"messages": [assistant(CALL), user({**RESULT, "content": [marked(), marked("1h")]})]},
            "messages.1.content.0.content.1.cache_control.ttl: a ttl='1h' cache_control block must not come after",
        ),
        (
            {"system": [marked()], "cache_control": {"type": "ephemeral", "ttl": "1h"}},
            "cache_control.ttl: a ttl='1h' cache_control block must not come after",
        ),
        (
            {"messages": [user(marked("5m"))], "cache_control": {"type": "ephemeral", "ttl": "1h"}},
            "cache_control.ttl: differs from the cache_control of the last block",
        ),
    ],
)  # fmt: skip
def test_cache_breakpoints_keep_their_rules(changes: dict[str, Any], message: str) -> None:
    """At most four, the long ones first, the automatic one included (contract 9.1)."""
    assert refused(body(**changes)).startswith(message)


def test_the_automatic_breakpoint_on_a_marked_block_is_no_further_one() -> None:
    """Three explicit breakpoints and the automatic one on the last of them are three (contract 9.1, rule 4)."""
    params = body(
        system=[marked()] * 3, messages=[user(marked()), assistant(THOUGHT)], cache_control={"type": "ephemeral"}
    )
    assert accepted(params).cache_control is not None


THOUGHT = {"type": "thinking", "thinking": "hm", "signature": "s"}


@pytest.mark.parametrize("name", ["temperature", "top_p", "top_k"])
def test_the_new_version_knows_no_sampling(name: str) -> None:
    """Sampling parameters are refused under 2026-10-21 even at their default, and fine before it."""
    assert refused(body(**{name: 1}), rules=NEW).startswith(f"{name}: ")
    assert getattr(accepted(body(**{name: 1})), name) == 1


@pytest.mark.parametrize(
    ("turns", "path"),
    [
        ([user(TEXT), assistant(FILE), user(TEXT)], "messages.1.content.0"),
        ([user({**TEXT, "citations": CITED})], "messages.0.content.0.citations"),
    ],
)
def test_the_new_version_refuses_more_blocks(turns: list[Any], path: str) -> None:
    """Documents of the assistant and citations of the user are gone with 2026-10-21."""
    assert refused(body(messages=turns), rules=NEW).startswith(path)
    assert accepted(body(messages=turns))


def test_warming_is_for_live_requests_only() -> None:
    """`max_tokens: 0` is taken live, and only where it could answer nothing (contract 9.1, rule 13)."""
    assert accepted(body(max_tokens=0), batch=False).max_tokens == 0
    forced = {"tools": [TOOL], "tool_choice": {"type": "any"}}
    for extra in ({"stream": True}, {"thinking": THINK}, {"output_config": JSON_FORM}, forced):
        assert refused(body(max_tokens=0, **extra), batch=False).startswith("max_tokens: must be")
    assert refused(body(max_tokens=-1), batch=False) == "max_tokens: must be greater than or equal to 0"


def test_streaming_and_speed_are_for_live_requests() -> None:
    """What a batch refuses, a live request may say."""
    params = accepted(body(stream=True, speed="fast"), batch=False)
    assert (params.stream, params.speed) == (True, "fast")
    assert accepted(body(stream=False, speed="standard")).stream is False


def test_beta_parameters_need_a_beta() -> None:
    """Beta parameters are taken with any beta header, or where the path says so."""
    extra = {
        "mcp_servers": [{"type": "url", "url": "u", "name": "n"}],
        "thread": {"type": "create"},
        "fallbacks": "default",
    }
    assert accepted(body(**extra), beta=True).thread == {"type": "create"}
    assert accepted(body(**extra), rules=Rules(betas=("thing-2026-01-01",))).fallbacks == "default"
    blocks = [
        {"type": "compaction", "content": "earlier"},
        {"type": "fallback", "from": {"model": "a"}, "to": {"model": "b"}},
    ]
    assert accepted(body(messages=[user(TEXT), assistant(*blocks), user(TEXT)]), beta=True)


def test_what_the_headers_said_stands_in_the_params() -> None:
    """Betas and the user profile of the create, for an engine that passes them on; each beta once."""
    rules = Rules(betas=("one", "two"), user_profile_id="uprof_1")
    params = accepted(body(betas=["two", "three"]), rules=rules)
    assert (params.betas, params.user_profile_id) == (["one", "two", "three"], "uprof_1")
    assert accepted(body()).betas is None


def test_a_user_profile_must_agree_with_the_header() -> None:
    """An item of another profile than its batch's is refused."""
    rules = Rules(user_profile_id="uprof_1")
    assert accepted(body(user_profile_id="uprof_1"), rules=rules)
    assert refused(body(user_profile_id="uprof_2"), rules=rules).startswith("user_profile_id: ")


def test_the_cap_is_the_models() -> None:
    """`max_tokens` above what the model can answer is refused with both numbers."""
    params = accepted(body(max_tokens=8193))
    check_cap(params, "small", 8193)
    check_cap(params, "untold", 0)
    with pytest.raises(InvalidParams) as caught:
        check_cap(params, "small", 8192)
    assert caught.value.message == (
        "max_tokens: 8193 > 8192, which is the maximum allowed number of output tokens for small"
    )


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"   ",
        b"{",
        b"\xef\xbb\xbf{}",
        b"\xff\xfe{}",
        b'{"model":"\xff"}',
        b'{"model":"\\ud800"}',
        b'{"model":NaN}',
        b"{} {}",
        b"[" * 1_000_000,
        b'{"messages":' * 100_000,
        b'{"tools":[{"name":"x","input_schema":' + b'{"a":' * 900 + b"1" + b"}" * 900 + b"}]}",
    ],
)
def test_what_is_no_json_is_refused(raw: bytes) -> None:
    """Broken text, broken characters and endless depth are one kind of refusal."""
    assert refused(raw).startswith("The request body is not valid JSON: ")


@pytest.mark.parametrize("raw", [b"[]", b"null", b"7", b'"x"', b"true"])
def test_a_body_is_an_object(raw: bytes) -> None:
    """JSON that is no object is refused as such."""
    assert refused(raw) == "Input should be a valid dictionary"


def test_of_a_doubled_key_the_last_one_counts() -> None:
    """As with most readers of JSON; nothing breaks."""
    raw = b'{"model":"a","model":"b","max_tokens":1,"messages":[{"role":"user","content":"x"}]}'
    assert decode_params(raw, rules=OLD, batch=True).model == "b"


def test_a_number_of_many_digits_is_a_number() -> None:
    """It is too large for a model, not for the reader."""
    params = accepted(body(max_tokens=10**60))
    with pytest.raises(InvalidParams, match="which is the maximum"):
        check_cap(params, "m", 10)


def test_a_number_without_end_is_refused() -> None:
    """No float holds it, so there is a refusal and no infinity."""
    raw = json.dumps(body()).replace('"max_tokens": 100', '"max_tokens": 100, "temperature": 1e999').encode()
    assert refused(raw) == "temperature: Number is out of range"


def test_values_are_not_repeated_in_refusals() -> None:
    """A refusal names the place and never shows what stood there."""
    secret = "my-secret-prompt"
    for changes in (
        {"messages": [{"role": secret, "content": "x"}]},
        {"messages": [user({"type": secret})]},
        {"max_tokens": secret},
        {"tools": [{"type": secret, "name": "x"}]},
        {"tools": [{**TOOL, "name": f"{secret} "}]},
        {"output_config": {"effort": secret}},
    ):
        assert secret not in refused(body(**changes))


GOOD = body(
    system=[marked("1h")],
    tools=[TOOL, {"type": "web_search_20250305", "name": "web_search", "max_uses": 3}],
    tool_choice={"type": "auto", "disable_parallel_tool_use": True},
    thinking={"type": "adaptive", "display": "omitted"},
    output_config={"effort": "low", **JSON_FORM},
    metadata={"user_id": "u"},
    messages=[
        user(TEXT, {**FILE, "citations": {"enabled": True}}),
        assistant(THOUGHT, CALL),
        user({**RESULT, "content": [TEXT, {"type": "image", "source": {"type": "url", "url": "u"}}]}, marked()),
    ],
)


def test_params_survive_writing_and_reading() -> None:
    """What is written again reads as the same params, markers, tools and nested blocks included."""
    params = accepted(GOOD)
    again = decode_params(encode_params(params), rules=OLD, batch=True)
    assert again == params
    last = params.messages[2].content
    assert isinstance(last[0], ToolResultParam)
    assert isinstance(last[1], TextParam)


def test_a_token_count_takes_the_prompt_and_nothing_else() -> None:
    """`max_tokens` is no part of a count."""
    raw = {
        key: GOOD[key] for key in ("model", "messages", "system", "tools", "thinking", "tool_choice", "output_config")
    }
    params = decode_count_params(json.dumps(raw).encode(), rules=OLD)
    assert isinstance(params, PromptParams)
    with pytest.raises(InvalidParams, match="max_tokens: Extra inputs are not permitted"):
        decode_count_params(json.dumps(GOOD | {"metadata": None}).encode(), rules=OLD)
    with pytest.raises(InvalidParams, match="messages: at least one message is required"):
        decode_count_params(b'{"model":"m","messages":[]}', rules=OLD)


def only_invalid(decode: Callable[[], object]) -> None:
    """Let nothing but a refusal through."""
    try:
        decode()
    except InvalidParams as refusal:
        refusal.message.encode()


@given(st.binary() | st.text().map(str.encode))
def test_any_bytes_are_read_or_refused(raw: bytes) -> None:
    """No bytes raise anything but `InvalidParams`."""
    only_invalid(lambda: decode_params(raw, rules=OLD, batch=True))
    only_invalid(lambda: decode_count_params(raw, rules=OLD))


def paths_of(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """List the place of every value inside a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, child in inner for found in paths_of(child, (*path, key)))]


PATHS = [path for path in paths_of(GOOD) if path]


@given(st.sampled_from(PATHS), any_json, st.sampled_from([OLD, NEW]), st.booleans())
def test_a_good_body_with_one_odd_value_is_read_or_refused(
    path: tuple[Any, ...],
    value: Any,
    rules: Rules,
    batch: bool,  # noqa: FBT001
) -> None:
    """Any value at any place raises nothing but `InvalidParams`, and what is taken can be written again."""
    changed = deepcopy(GOOD)
    spot: Any = changed
    for key in path[:-1]:
        spot = spot[key]
    spot[path[-1]] = value
    raw = msgspec.json.encode(changed)
    only_invalid(lambda: encode_params(decode_params(raw, rules=rules, batch=batch)))

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from standby.errors import InvalidParams
from standby.wire.chat.dialect import (
    BY_OWNER,
    DIALECTS,
    GENERIC,
    HOST,
    LLAMACPP,
    OLLAMA,
    OPENAI,
    SGLANG,
    VLLM,
    Dialect,
)
from tests.wire.chats import CALLED, CLOCK, IMAGE, LINKED, WEATHER, ask, sent, turns

EVERY = pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)


@EVERY
def test_a_plain_request_is_plain_everywhere(dialect: Dialect) -> None:
    """System, turns, a limit and streaming are common ground."""
    body = sent(ask(system="Be brief.", temperature=0.5, top_p=0.9), dialect)
    assert body["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    assert (body["model"], body["stream"], body["temperature"], body["top_p"]) == ("engine-model", True, 0.5, 0.9)
    assert body[dialect.max_tokens] == 3000
    assert body["stream_options"]["include_usage"] is True


def test_the_limit_has_the_name_that_the_engine_knows() -> None:
    """OpenAI's newer models refuse `max_tokens`."""
    assert "max_tokens" not in sent(ask(), OPENAI)
    assert sent(ask(), OPENAI)["max_completion_tokens"] == 3000
    assert sent(ask(max_tokens=0), VLLM)["max_tokens"] == 1


def test_turns_of_one_role_are_one_turn() -> None:
    """Blocks and consecutive turns are joined, two line ends between; system blocks too."""
    params = ask(
        system=[{"type": "text", "text": "one"}, {"type": "text", "text": "two"}],
        messages=[
            {"role": "user", "content": "a"},
            {"role": "user", "content": [{"type": "text", "text": "b"}, {"type": "text", "text": "c"}]},
            {"role": "assistant", "content": "d"},
            {"role": "assistant", "content": "e"},
            {"role": "user", "content": "f"},
        ],
    )
    assert [(turn["role"], turn["content"]) for turn in turns(params)] == [
        ("system", "one\n\ntwo"),
        ("user", "a\n\nb\n\nc"),
        ("assistant", "d\n\ne"),
        ("user", "f"),
    ]


LATE_SYSTEM = [
    {"role": "user", "content": "a"},
    {"role": "system", "content": "From now on: French."},
    {"role": "user", "content": "b"},
]


def test_a_system_turn_in_the_middle_goes_where_it_may() -> None:
    """In place on an engine that takes it there, else refused by name; at the beginning it is the system prompt."""
    assert [turn["role"] for turn in turns(ask(messages=LATE_SYSTEM), OPENAI)] == ["user", "system", "user"]
    with pytest.raises(InvalidParams, match=r"^messages\.1\.role: "):
        sent(ask(messages=LATE_SYSTEM), VLLM)
    first = [{"role": "system", "content": "B"}, {"role": "user", "content": "a"}]
    assert turns(ask(messages=first, system="A"))[0] == {"role": "system", "content": "A\n\nB"}


BEGUN = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


def test_a_last_assistant_turn_is_continued_where_the_engine_can() -> None:
    """Each in its own way; refused by name where it would be answered instead of continued."""
    assert sent(ask(messages=BEGUN), VLLM)["continue_final_message"] is True
    assert sent(ask(messages=BEGUN), VLLM)["add_generation_prompt"] is False
    assert sent(ask(messages=BEGUN), SGLANG)["continue_final_message"] is True
    assert turns(ask(messages=BEGUN), LLAMACPP)[-1] == {"role": "assistant", "content": "b"}
    for dialect in (OPENAI, OLLAMA, GENERIC):
        with pytest.raises(InvalidParams, match=r"^messages\.1\.role: "):
            sent(ask(messages=BEGUN), dialect)


def test_an_empty_beginning_is_none() -> None:
    """A last assistant turn that says nothing is left out, everywhere."""
    params = ask(messages=[{"role": "user", "content": "a"}, {"role": "assistant", "content": ""}])
    assert turns(params, OPENAI) == [{"role": "user", "content": "a"}]
    assert "continue_final_message" not in sent(params, VLLM)


def test_thinking_is_off_for_an_answer_that_was_begun() -> None:
    """llama.cpp refuses both together."""
    body = sent(ask(messages=BEGUN, thinking={"type": "adaptive"}), LLAMACPP)
    assert body["chat_template_kwargs"]["enable_thinking"] is False


def test_stops_go_to_an_engine_that_names_the_one_that_hit() -> None:
    """Where calls or thinking may come, they are found here: engines find them there too, the API does not."""
    stops = ["END"]
    assert sent(ask(stop_sequences=stops), VLLM)["stop"] == stops
    assert "stop" not in sent(ask(stop_sequences=stops), LLAMACPP)
    assert "stop" not in sent(ask(stop_sequences=stops, tools=[WEATHER]), VLLM)
    assert "stop" not in sent(ask(stop_sequences=stops, thinking={"type": "adaptive"}), VLLM)


SCHEMA = {"type": "object", "properties": {}, "additionalProperties": False}


@pytest.mark.parametrize(
    "asked",
    [
        {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
        {"output_format": {"type": "json_schema", "schema": SCHEMA}},
    ],
)
def test_a_schema_is_sent_as_the_response_format(asked: dict[str, Any]) -> None:
    """The beta's name of it too."""
    form = sent(ask(**asked))["response_format"]
    assert (form["type"], form["json_schema"]["schema"], form["json_schema"]["strict"]) == ("json_schema", SCHEMA, True)


def test_the_priority_follows_its_meaning() -> None:
    """Behind live traffic is a higher number on vLLM and a lower one on SGLang."""
    vllm, sglang = VLLM.with_priority(), SGLANG.with_priority()
    assert sent(ask(), vllm, live=True)["priority"] < sent(ask(), vllm, live=False)["priority"]
    assert sent(ask(), sglang, live=True)["priority"] > sent(ask(), sglang, live=False)["priority"]
    assert sent(ask(), HOST, live=True)["priority"] < sent(ask(), HOST, live=False)["priority"]


@pytest.mark.parametrize("live", [True, False])
@EVERY
def test_a_priority_is_sent_with_all_requests_or_with_none(dialect: Dialect, *, live: bool) -> None:
    """SGLang ranks a request without one below every batch; vLLM refuses one that it was not started for."""
    assert ("priority" in sent(ask(), dialect, live=live)) is (dialect is HOST)
    assert ("priority" in sent(ask(), dialect.with_priority(), live=live)) is (dialect.ranks is not None)


def test_the_user_goes_to_engines_that_take_one() -> None:
    """`metadata.user_id` is `user`."""
    assert sent(ask(metadata={"user_id": "u-1"}), VLLM)["user"] == "u-1"
    assert "user" not in sent(ask(metadata={"user_id": None}), VLLM)
    assert "user" not in sent(ask(metadata={"user_id": "u-1"}), OLLAMA)


def test_top_k_goes_to_engines_that_take_it() -> None:
    """0 is none."""
    assert sent(ask(top_k=5), VLLM)["top_k"] == 5
    assert "top_k" not in sent(ask(top_k=0), VLLM)


ENABLED = {"type": "enabled", "budget_tokens": 2000}


@pytest.mark.parametrize("asked", [None, {"type": "disabled"}])
def test_a_model_that_can_think_does_not_unless_asked(asked: Any) -> None:
    """As in the API; a hybrid model would otherwise spend the whole limit on thinking."""
    for dialect in (VLLM, SGLANG, LLAMACPP):
        assert sent(ask(thinking=asked), dialect)["chat_template_kwargs"]["enable_thinking"] is False
    assert sent(ask(thinking=asked), OLLAMA)["reasoning_effort"] == "none"
    assert "reasoning_effort" not in sent(ask(thinking=asked), OPENAI)


def test_thinking_is_asked_for_in_the_engines_own_words() -> None:
    """A switch of the template, or an effort that the budget comes to."""
    for dialect in (VLLM, SGLANG, LLAMACPP):
        for asked in (ENABLED, {"type": "adaptive"}):
            assert sent(ask(thinking=asked), dialect)["chat_template_kwargs"]["enable_thinking"] is True
    assert sent(ask(thinking=ENABLED), LLAMACPP)["thinking_budget_tokens"] == 2000
    for budget, effort in ((2000, "low"), (9000, "medium"), (20000, "high")):
        params = ask(thinking={"type": "enabled", "budget_tokens": budget}, max_tokens=30000)
        assert sent(params, OPENAI)["reasoning_effort"] == effort
        assert sent(params, OLLAMA)["reasoning_effort"] == effort
    assert "reasoning_effort" not in sent(ask(thinking={"type": "adaptive"}), OPENAI)


def test_thinking_between_tools_is_on_behind_a_result_only() -> None:
    """Not for the first answer."""
    asked = {"type": "between_tools"}
    talk = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": [CALLED]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "rain"}]},
    ]
    assert sent(ask(thinking=asked, tools=[WEATHER]))["chat_template_kwargs"]["enable_thinking"] is False
    assert sent(ask(messages=talk, thinking=asked, tools=[WEATHER]))["chat_template_kwargs"]["enable_thinking"] is True


@EVERY
def test_thinking_as_much_as_needed_is_taken_everywhere(dialect: Dialect) -> None:
    """An engine that cannot think needs none; only `enabled` demands it."""
    sent(ask(thinking={"type": "adaptive"}), dialect)
    if dialect.thinking is None:
        with pytest.raises(InvalidParams, match=r"^thinking\.type: "):
            sent(ask(thinking=ENABLED), dialect)


@pytest.mark.parametrize(
    ("dialect", "asked", "expected"),
    [
        (OPENAI, "low", "low"),
        (OPENAI, "max", "xhigh"),
        (OLLAMA, "xhigh", None),
        (VLLM, "high", "high"),
        (LLAMACPP, "high", None),
        (HOST, "high", None),
    ],
)
def test_an_effort_goes_to_engines_that_know_efforts(dialect: Dialect, asked: str, expected: str | None) -> None:
    """The nearest that there is; thinking that is off has none."""
    found = sent(ask(output_config={"effort": asked}), dialect).get("reasoning_effort")
    assert found == ("none" if dialect is OLLAMA else expected)


def test_an_effort_goes_before_a_budget() -> None:
    """Who names both means the effort."""
    params = ask(thinking=ENABLED, output_config={"effort": "max"})
    assert sent(params, OLLAMA)["reasoning_effort"] == "high"
    assert sent(params, OPENAI)["reasoning_effort"] == "xhigh"


def test_thinking_of_earlier_turns_goes_back_where_the_engine_takes_it() -> None:
    """And is left out elsewhere; what is redacted always is."""
    turn = [
        {"type": "thinking", "thinking": "hm", "signature": "s"},
        {"type": "redacted_thinking", "data": "x"},
        {"type": "text", "text": "Hi"},
    ]
    talk = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": turn},
        {"role": "user", "content": "b"},
    ]
    plain = {"role": "assistant", "content": "Hi"}
    assert turns(ask(messages=talk), VLLM)[1] == {**plain, "reasoning": "hm"}
    assert turns(ask(messages=talk), LLAMACPP)[1] == {**plain, "reasoning_content": "hm"}
    assert turns(ask(messages=talk), OPENAI)[1] == plain


PDF = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "aGk="}}
CITED = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "a"}}
FILED = {"type": "image", "source": {"type": "file", "file_id": "file_1"}}
SEARCH = {"type": "web_search_20250305", "name": "web_search"}
SEARCHED = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {}}
NO_IMAGES = replace(VLLM, images="off")
NO_TOOLS = replace(VLLM, tools="off")


def result(*content: Any, **more: Any) -> list[dict[str, Any]]:
    """Make a conversation with the result of a call."""
    block = {"type": "tool_result", "tool_use_id": "toolu_1", "content": list(content), **more}
    return [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": [CALLED]},
        {"role": "user", "content": [block]},
    ]


REFUSED: list[tuple[Dialect, dict[str, Any], str]] = [
    (NO_IMAGES, {"content": [IMAGE]}, "messages.0.content.0.type"),
    (OLLAMA, {"content": [IMAGE, LINKED]}, "messages.0.content.1.source.type"),
    (OPENAI, {"content": [FILED]}, "messages.0.content.0.source.type"),
    (VLLM, {"content": [{**IMAGE, "transformations": {"a": 1}}]}, "messages.0.content.0.transformations"),
    (NO_IMAGES, {"messages": result(IMAGE)}, "messages.2.content.0.content.0.type"),
    (VLLM, {"messages": result({"type": "tool_reference", "tool_name": "x"})}, "messages.2.content.0.content.0.type"),
    (VLLM, {"content": [PDF]}, "messages.0.content.0.source.type"),
    (
        OPENAI,
        {"content": [{"type": "document", "source": {"type": "url", "url": "https://a.b/c.pdf"}}]},
        "messages.0.content.0.source.type",
    ),
    (
        OPENAI,
        {"content": [{"type": "document", "source": {"type": "file", "file_id": "f"}}]},
        "messages.0.content.0.source.type",
    ),
    (
        NO_IMAGES,
        {"content": [{"type": "document", "source": {"type": "content", "content": [IMAGE]}}]},
        "messages.0.content.0.source.content.0.type",
    ),
    (VLLM, {"content": [{**CITED, "citations": {"enabled": True}}]}, "messages.0.content.0.citations.enabled"),
    (VLLM, {"content": [SEARCHED]}, "messages.0.content.0.type"),
    (VLLM, {"content": [{"type": "container_upload", "file_id": "f"}]}, "messages.0.content.0.type"),
    (VLLM, {"content": [{"type": "compaction", "content": "c"}]}, "messages.0.content.0.type"),
    (NO_TOOLS, {"tools": [WEATHER]}, "tools"),
    (NO_TOOLS, {"messages": result()}, "messages.1.content.0.type"),
    (VLLM, {"tools": [WEATHER, SEARCH]}, "tools.1.type"),
    (VLLM, {"tools": [{**WEATHER, "defer_loading": True}]}, "tools.0.defer_loading"),
    (VLLM, {"tools": [{**WEATHER, "allowed_callers": ["code_execution"]}]}, "tools.0.allowed_callers"),
    (GENERIC, {"tools": [CLOCK, {**WEATHER, "strict": True}]}, "tools.1.strict"),
    (HOST, {"tools": [{**WEATHER, "strict": True}]}, "tools.0.strict"),
    (
        HOST,
        {"tools": [WEATHER], "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
        "output_config.format",
    ),
    (GENERIC, {"thinking": ENABLED}, "thinking.type"),
    (VLLM, {"thinking": {"type": "adaptive", "block_binding": {"a": 1}}}, "thinking.block_binding"),
    (OPENAI, {"top_k": 5}, "top_k"),
    (VLLM, {"container": "c"}, "container"),
    (VLLM, {"inference_geo": "us"}, "inference_geo"),
    (VLLM, {"speed": "fast"}, "speed"),
    (VLLM, {"context_management": {}}, "context_management"),
    (VLLM, {"mcp_servers": []}, "mcp_servers"),
    (VLLM, {"fallbacks": []}, "fallbacks"),
    (VLLM, {"output_config": {"task_budget": {"total": 1}}}, "output_config.task_budget"),
    (VLLM, {"output_format": {"type": "grammar"}}, "output_format.type"),
]


@pytest.mark.parametrize(("dialect", "asked", "path"), REFUSED, ids=[f"{d.name}-{p}" for d, _, p in REFUSED])
def test_what_an_engine_cannot_express_is_refused_by_its_path(
    dialect: Dialect, asked: dict[str, Any], path: str
) -> None:
    """Never dropped silently, and the message names the very field."""
    with pytest.raises(InvalidParams) as caught:
        sent(ask(**asked), dialect)
    assert caught.value.message.partition(": ")[0] == path


@EVERY
def test_hints_are_taken_everywhere(dialect: Dialect) -> None:
    """What changes no promised answer refuses nothing, on any engine."""
    marked = {"type": "text", "text": "Hello", "cache_control": {"type": "ephemeral"}}
    hints = {
        "cache_control": {"type": "ephemeral"},
        "service_tier": "standard_only",
        "inference_geo": "global",
        "metadata": {"user_id": "u"},
        "diagnostics": {},
        "output_config": {"effort": "low"},
        "speed": "standard",
        "stream": False,
        "user_profile_id": "p",
        "thinking": {"type": "disabled"},
    }
    assert turns(ask([marked], **hints), dialect) == [{"role": "user", "content": "Hello"}]


def test_engines_are_known_by_the_owner_of_their_models() -> None:
    """`/v1/models` says who serves."""
    assert (BY_OWNER["sglang"], BY_OWNER["vllm"], BY_OWNER["llamacpp"]) == (SGLANG, VLLM, LLAMACPP)
    assert (BY_OWNER["library"], BY_OWNER["standby"], BY_OWNER["openai"]) == (OLLAMA, HOST, OPENAI)

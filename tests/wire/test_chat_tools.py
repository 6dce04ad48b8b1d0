from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from standby.errors import EngineError, Failure
from standby.wire.chat.calls import Call, CallFinder, as_text
from standby.wire.chat.dialect import GENERIC, HOST, LLAMACPP, OLLAMA, OPENAI, SGLANG, VLLM, Dialect
from standby.wire.grammar.compile import check_schema
from standby.wire.messages import ContentBlock, Message, TextBlock, ToolUseBlock
from tests.wire.chats import CLOCK, WEATHER, answer, ask, counts, delta, sent
from tests.wire.strategies import json_objects


def test_tools_are_functions() -> None:
    """Name, description and schema as they are; examples are part of the description."""
    tool = {**WEATHER, "input_examples": [{"city": "Oslo"}], "strict": True, "eager_input_streaming": True}
    function = sent(ask(tools=[tool]), VLLM)["tools"][0]["function"]
    assert function == {
        "name": "weather",
        "description": 'Tell the weather.\n\nExamples of its input:\n{"city":"Oslo"}',
        "parameters": WEATHER["input_schema"],
        "strict": True,
    }
    assert "description" not in sent(ask(tools=[CLOCK]), VLLM)["tools"][0]["function"]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, None),
        ({"type": "auto"}, "auto"),
        ({"type": "any"}, "required"),
        ({"type": "tool", "name": "clock"}, {"type": "function", "function": {"name": "clock"}}),
        ({"type": "none"}, "none"),
    ],
)
@pytest.mark.parametrize("dialect", [VLLM, SGLANG, OPENAI, GENERIC])
def test_each_choice_has_its_name(dialect: Dialect, choice: Any, expected: Any) -> None:
    """Of engines that obey it."""
    body = sent(ask(tools=[WEATHER, CLOCK], tool_choice=choice), dialect)
    assert body.get("tool_choice") == expected
    assert "response_format" not in body


def test_a_demanded_call_is_strict_where_only_that_keeps_it_to_its_schema() -> None:
    """On vLLM; a call that the model decides on stays as it was asked for."""
    forced = sent(ask(tools=[WEATHER], tool_choice={"type": "any"}), VLLM)
    assert forced["tools"][0]["function"]["strict"] is True
    assert "strict" not in sent(ask(tools=[WEATHER]), VLLM)["tools"][0]["function"]
    assert "strict" not in sent(ask(tools=[WEATHER], tool_choice={"type": "any"}), OPENAI)["tools"][0]["function"]


def test_parallel_calls_can_be_switched_off() -> None:
    """Where the engine has the switch; Ollama has none, and its further calls are left out of the answer."""
    params = ask(tools=[WEATHER], tool_choice={"type": "auto", "disable_parallel_tool_use": True})
    assert sent(params, VLLM)["parallel_tool_calls"] is False
    assert "parallel_tool_calls" not in sent(params, OLLAMA)
    assert "parallel_tool_calls" not in sent(ask(tools=[WEATHER]), VLLM)


FORCED = [(HOST, True), (LLAMACPP, True), (OLLAMA, True), (replace(LLAMACPP, tools="native"), True), (VLLM, False)]


@pytest.mark.parametrize(("dialect", "by_schema"), FORCED)
def test_a_demanded_call_is_forced_by_a_schema_where_the_engine_does_not_obey(
    dialect: Dialect, *, by_schema: bool
) -> None:
    """Tools are then described in the system prompt instead."""
    body = sent(ask(tools=[WEATHER], tool_choice={"type": "any"}, system="S"), dialect)
    assert ("grammar" if dialect.grammar else "response_format") in body or not by_schema
    assert ("tools" in body) is not by_schema
    system = body["messages"][0]["content"]
    assert ("<tools>" in system) is by_schema


def test_the_description_of_tools_comes_first_and_is_always_the_same() -> None:
    """So that it is cached across choices; what depends on the choice stands behind the system prompt."""
    choices: list[Any] = [None, {"type": "none"}, {"type": "any"}, {"type": "auto", "disable_parallel_tool_use": True}]
    systems = [
        sent(ask(tools=[WEATHER], tool_choice=choice, system="S"), HOST)["messages"][0]["content"] for choice in choices
    ]
    heads = {system.partition("\n\nS\n\n")[0] for system in systems}
    assert len(heads) == 1
    assert '{"name":"weather","description":"Tell the weather."' in heads.pop()
    assert len({system.partition("\n\nS\n\n")[2] for system in systems}) == len(choices)


def schema_of(tools: list[dict[str, Any]], **choice: Any) -> dict[str, Any]:
    """Return the schema that forces a call."""
    body = sent(ask(tools=tools, tool_choice=choice or {"type": "any"}), HOST)
    found: dict[str, Any] = body["response_format"]["json_schema"]["schema"]
    return found


def test_a_call_of_any_tool_is_a_union() -> None:
    """Of one tool it is that call alone."""
    both = schema_of([WEATHER, CLOCK])
    assert [branch["properties"]["name"] for branch in both["anyOf"]] == [{"const": "weather"}, {"const": "clock"}]
    one = schema_of([WEATHER, CLOCK], type="tool", name="clock")
    assert one["properties"] == {"name": {"const": "clock"}, "arguments": {"type": "object"}}
    assert one["required"] == ["name", "arguments"]


TREE = {
    "name": "tree",
    "input_schema": {
        "type": "object",
        "properties": {"left": {"$ref": "#"}, "leaf": {"$ref": "#/$defs/leaf"}, "old": {"$ref": "#/definitions/leaf"}},
        "$defs": {"leaf": {"type": "object", "properties": {"up": {"$ref": "#/$defs/leaf"}}}},
        "definitions": {"leaf": {"type": "string"}},
    },
}
NAMED = {
    "name": "named",
    "input_schema": {
        "type": "object",
        "properties": {"$ref": {"type": "string"}, "leaf": {"$ref": "#/$defs/leaf"}},
        "$defs": {"leaf": {"const": {"$ref": "#/$defs/leaf"}}},
    },
}


def test_definitions_and_references_move_with_their_schema() -> None:
    """Tools with definitions of one name do not meet; a property or a value that looks like a reference is none."""
    schema = schema_of([TREE, NAMED])
    tree, named = schema["anyOf"]
    shared = schema["$defs"]
    assert tree["properties"]["arguments"] == {"$ref": "#/$defs/t0"}
    assert shared["t0"]["properties"] == {
        "left": {"$ref": "#/$defs/t0"},
        "leaf": {"$ref": "#/$defs/t0_leaf"},
        "old": {"$ref": "#/$defs/t0d_leaf"},
    }
    assert shared["t0_leaf"]["properties"] == {"up": {"$ref": "#/$defs/t0_leaf"}}
    assert shared["t0d_leaf"] == {"type": "string"}
    assert named["properties"]["arguments"]["properties"] == {
        "$ref": {"type": "string"},
        "leaf": {"$ref": "#/$defs/t1_leaf"},
    }
    assert shared["t1_leaf"] == {"const": {"$ref": "#/$defs/leaf"}}


def test_the_schema_of_a_call_can_be_enforced_by_our_own_engine() -> None:
    """Which knows little more than what is used here."""
    assert check_schema(schema_of([WEATHER, CLOCK, TREE])) is None


CALL = as_text("weather", {"city": "Oslo"})


def found_in(text: str, cuts: list[int]) -> list[str | Call]:
    """Feed a text cut at these places; return what was found, neighbouring texts joined."""
    finder = CallFinder(frozenset({"weather"}))
    places = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    given = [text[start:end] for start, end in pairwise(places)]
    pieces = [piece for part in given for piece in finder.feed(part)] + list(finder.finish())
    joined: list[str | Call] = []
    for piece in pieces:
        if joined and isinstance(piece, str) and isinstance(joined[-1], str):
            joined[-1] += piece
        else:
            joined.append(piece)
    return joined


OSLO = Call(name="weather", input={"city": "Oslo"})
NO_INPUT = '<tool_call>{"name":"weather","arguments":[1]}</tool_call>'
TEXTS: list[tuple[str, list[str | Call]]] = [
    ("Hello.\n", ["Hello.\n"]),
    (CALL, [OSLO]),
    (f"I look.\n\n{CALL}\n{CALL}\n", ["I look.", OSLO, OSLO]),
    (CALL.removesuffix("</tool_call>"), [OSLO]),
    ("<tool_call>not JSON</tool_call> so", ["<tool_call>not JSON</tool_call> so"]),
    (as_text("other", {}), [as_text("other", {})]),
    ('<tool_call>{"name": "weather"', ['<tool_call>{"name": "weather"']),
    ("a <tool_ca b </tool_call> c", ["a <tool_ca b </tool_call> c"]),
    ("</tool_call>" + CALL, ["</tool_call>", OSLO]),
    (
        '<tool_call>{"name":"weather","arguments":[1]}</tool_call>',
        ['<tool_call>{"name":"weather","arguments":[1]}</tool_call>'],
    ),
]


@pytest.mark.parametrize(("text", "expected"), TEXTS)
@given(cuts=st.lists(st.integers(0, 200), max_size=6))
def test_calls_are_found_in_text_wherever_it_is_cut(text: str, expected: list[str | Call], cuts: list[int]) -> None:
    """What is no valid call of an offered tool stays text."""
    assert found_in(text, cuts) == expected


def contents(message: Message) -> list[ContentBlock]:
    """Return the blocks, calls without their made-up ids."""
    for block in message.content:
        assert not isinstance(block, ToolUseBlock) or block.id.startswith("toolu_")
    return [
        ToolUseBlock(id="", name=block.name, input=block.input) if isinstance(block, ToolUseBlock) else block
        for block in message.content
    ]


OSLO_BLOCK = ToolUseBlock(id="", name="weather", input={"city": "Oslo"})


def test_a_call_in_the_text_becomes_a_block() -> None:
    """On an engine whose model was told the convention."""
    pieces = [delta(content=part) for part in ("I look.\n<tool", "_call>" + CALL.removeprefix("<tool_call>"))]
    message = answer(ask(tools=[WEATHER]), [*pieces, delta("stop"), counts()], HOST)
    assert (message.stop_reason, contents(message)) == ("tool_use", [TextBlock(text="I look."), OSLO_BLOCK])


def test_a_forced_call_becomes_a_block() -> None:
    """The whole text is the call."""
    params = ask(tools=[WEATHER], tool_choice={"type": "any"})
    said = '{"name": "weather", "arguments": {"city": "Oslo"}}'
    message = answer(params, [*(delta(content=letter) for letter in said), delta("stop"), counts()], HOST)
    assert (message.stop_reason, contents(message)) == ("tool_use", [OSLO_BLOCK])


@given(arguments=json_objects, cut=st.integers(0, 400))
def test_a_forced_call_is_valid_unless_it_was_cut(arguments: dict[str, Any], cut: int) -> None:
    """Then the answer says so, and the call that was begun has no input."""
    said = json.dumps({"name": "weather", "arguments": arguments})
    params = ask(tools=[WEATHER], tool_choice={"type": "tool", "name": "weather"}, max_tokens=5)
    message = answer(params, [delta(content=said[:cut]), delta("length"), counts(output=5)], HOST)
    if cut >= len(said):
        assert (message.stop_reason, contents(message)) == (
            "tool_use",
            [ToolUseBlock(id="", name="weather", input=json.loads(said)["arguments"])],
        )
    else:
        assert message.stop_reason == "max_tokens"
        assert contents(message) in ([], [ToolUseBlock(id="", name="weather", input={})])


@pytest.mark.parametrize(
    ("said", "dialect"),
    [
        ("I will not.", HOST),
        ('{"name": "other", "arguments": {}}', HOST),
        ("It is sunny.", VLLM),
    ],
)
def test_an_answer_without_the_demanded_call_is_a_failed_attempt(said: str, dialect: Dialect) -> None:
    """It is tried again, and never given as an answer."""
    params = ask(tools=[WEATHER], tool_choice={"type": "any"})
    with pytest.raises(EngineError) as caught:
        answer(params, [delta(content=said), delta("stop"), counts()], dialect)
    assert caught.value.failure is Failure.BROKEN


def test_stop_sequences_do_not_hit_inside_calls() -> None:
    """Only in text."""
    params = ask(tools=[WEATHER], stop_sequences=["Oslo"])
    message = answer(params, [delta(content=CALL), delta("stop"), counts()], HOST)
    assert (message.stop_reason, contents(message)) == ("tool_use", [OSLO_BLOCK])
    message = answer(params, [delta(content="In Oslo " + CALL), delta("stop"), counts()], HOST)
    assert (message.stop_sequence, contents(message)) == ("Oslo", [TextBlock(text="In ")])


def test_no_call_is_found_where_none_may_be_made() -> None:
    """With `tool_choice: none` the convention is text."""
    params = ask(tools=[WEATHER], tool_choice={"type": "none"})
    assert contents(answer(params, [delta(content=CALL), delta("stop"), counts()], HOST)) == [TextBlock(text=CALL)]

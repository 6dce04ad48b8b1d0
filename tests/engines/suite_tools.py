"""Tools: called, forced, forbidden, and their results sent back."""

from __future__ import annotations

from typing import Any

import pytest

from standby.engines.base import Engine
from standby.wire.messages import (
    ContentBlockDelta,
    ContentBlockStart,
    InputJsonDelta,
    Message,
    ToolUseBlock,
    accumulate,
)
from tests.engines.asking import (
    Asking,
    assistant,
    calls_of,
    check_order,
    closed,
    collect,
    fits,
    prompt_tokens,
    text_of,
    user,
)
from tests.engines.features import Feature, shows

WEATHER = {
    "name": "get_weather",
    "description": "Tell the weather of a place.",
    "input_schema": closed(place={"type": "string", "enum": ["Paris", "Rome"]}, metric={"type": "boolean"}),
}
TIME = {
    "name": "get_time",
    "description": "Tell the time of a zone.",
    "input_schema": closed(zone={"type": "string", "enum": ["UTC", "CET"]}),
}
TOOLS = [WEATHER, TIME]
SCHEMAS: dict[str, dict[str, Any]] = {"get_weather": WEATHER["input_schema"], "get_time": TIME["input_schema"]}  # type: ignore[dict-item]
QUESTION = "What is the weather in Paris? Use a tool."


class Tools(Asking):
    """Tools, from both sides."""

    @shows(Feature.TOOL_AUTO)
    @pytest.mark.parametrize("choice", [None, {"type": "auto"}])
    async def test_with_tools_it_answers_or_calls(self, engine: Engine, choice: dict[str, Any] | None) -> None:
        """Left to itself the model writes text, or calls that fit, and the stop reason says which."""
        message = await engine.generate(self.ask(QUESTION, tools=TOOLS, tool_choice=choice, max_tokens=96))
        assert message.content
        assert (message.stop_reason == "tool_use") == bool(calls_of(message))
        check_calls(message)

    @shows(Feature.TOOL_AUTO)
    async def test_tools_are_part_of_the_prompt(self, engine: Engine) -> None:
        """What they cost is counted as it is charged."""
        asked = {"tools": TOOLS, "tool_choice": {"type": "auto"}}
        usage = (await engine.generate(self.ask(QUESTION, **asked))).usage
        assert prompt_tokens(usage) == await engine.count_tokens(self.count(QUESTION, **asked))

    @shows(Feature.TOOL_AUTO)
    async def test_no_tool_is_called_where_none_may_be(self, engine: Engine) -> None:
        """`none` leaves the tools in sight and out of reach."""
        message = await engine.generate(self.ask(QUESTION, tools=TOOLS, tool_choice={"type": "none"}))
        assert not calls_of(message)
        assert text_of(message)
        assert message.stop_reason in {"end_turn", "max_tokens"}

    @shows(Feature.TOOL_FORCED)
    @pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "get_time"}])
    async def test_a_forced_tool_is_called_with_input_that_fits(self, engine: Engine, choice: dict[str, Any]) -> None:
        """The answer is a call whose input fits the tool's schema."""
        message = await engine.generate(self.ask(QUESTION, tools=TOOLS, tool_choice=choice, max_tokens=128))
        assert message.stop_reason == "tool_use"
        assert calls_of(message)
        check_calls(message)
        assert choice.get("name") in {None, *(call.name for call in calls_of(message))}

    @shows(Feature.TOOL_FORCED)
    async def test_a_call_is_streamed_as_events(self, engine: Engine) -> None:
        """The block opens with an id, the name and no input; the input comes as JSON in pieces."""
        choice = {"type": "tool", "name": "get_weather"}
        events = await collect(engine.stream(self.ask(QUESTION, tools=TOOLS, tool_choice=choice, max_tokens=128)))
        check_order(events)
        starts = [event for event in events if isinstance(event, ContentBlockStart)]
        block = next(event for event in starts if isinstance(event.content_block, ToolUseBlock))
        assert isinstance(block.content_block, ToolUseBlock)
        assert (block.content_block.name, block.content_block.input) == ("get_weather", {})
        pieces = [event for event in events if isinstance(event, ContentBlockDelta) and event.index == block.index]
        assert pieces
        assert all(isinstance(piece.delta, InputJsonDelta) for piece in pieces)
        message = accumulate(events)
        assert message.stop_reason == "tool_use"
        check_calls(message)

    @shows(Feature.TOOL_SERIAL)
    @pytest.mark.parametrize("choice", ["any", "auto"])
    async def test_at_most_one_call_where_parallel_ones_are_switched_off(self, engine: Engine, choice: str) -> None:
        """`disable_parallel_tool_use` is kept."""
        choice_of = {"type": choice, "disable_parallel_tool_use": True}
        text = "Tell the weather in Paris, the weather in Rome and the time in UTC. Use tools."
        message = await engine.generate(self.ask(text, tools=TOOLS, tool_choice=choice_of, max_tokens=128))
        assert len(calls_of(message)) == 1 if choice == "any" else len(calls_of(message)) <= 1

    @shows(Feature.TOOL_RESULTS)
    @pytest.mark.parametrize("auto", [True, False])
    async def test_results_of_calls_are_read(self, engine: Engine, *, auto: bool) -> None:
        """Calls and results, several, text beside them and errors among them, are part of the prompt."""
        turns = conversation("It is sunny and 21 degrees in Paris. " * 12)
        short = conversation("Sunny.")
        more: dict[str, Any] = {"tools": TOOLS, "tool_choice": {"type": "auto" if auto else "none"}}
        message = await engine.generate(self.ask(messages=turns, **more))
        assert message.content
        check_calls(message)
        tokens = await engine.count_tokens(self.count(messages=turns, **more))
        assert prompt_tokens(message.usage) == tokens
        assert tokens > await engine.count_tokens(self.count(messages=short, **more))

    @shows(Feature.TOOL_RESULTS)
    async def test_results_without_tools_are_read(self, engine: Engine) -> None:
        """A conversation that used tools goes on without them."""
        message = await engine.generate(self.ask(messages=conversation("Sunny.")))
        assert text_of(message)


def conversation(result: str) -> list[dict[str, Any]]:
    """Make turns: a question, two calls with their ids, their results, one of them an error."""
    calls = [
        {"type": "text", "text": "Let me look."},
        {"type": "tool_use", "id": "toolu_01A", "name": "get_weather", "input": {"place": "Paris", "metric": True}},
        {"type": "tool_use", "id": "toolu_01B", "name": "get_time", "input": {"zone": "UTC"}},
    ]
    results = [
        {"type": "tool_result", "tool_use_id": "toolu_01B", "is_error": True, "content": "no clock"},
        {"type": "tool_result", "tool_use_id": "toolu_01A", "content": [{"type": "text", "text": result}]},
        {"type": "text", "text": "Answer in one sentence."},
    ]
    return [user("What is the weather in Paris, and what time is it?"), assistant(calls), user(results)]


def check_calls(message: Message) -> None:
    """Every call has an id of its own, a tool that exists, and input that fits its schema."""
    calls = calls_of(message)
    assert len({call.id for call in calls}) == len(calls)
    for call in calls:
        assert call.id
        assert fits(call.input, SCHEMAS[call.name]), call.name

"""llama.cpp keeps to our grammars, which say all that a schema says; it would ignore some of it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from jsonschema import Draft202012Validator

from standby.config import EngineSettings
from standby.engines.base import CacheProfile
from standby.engines.chat import Chat
from standby.errors import InvalidParams
from standby.records import Rules
from standby.wire.messages import Message, TextBlock, ToolUseBlock, decode_params
from tests.engines.conftest import RunningHost

pytestmark = pytest.mark.real

PERSON = {
    "type": "object",
    "properties": {
        "born": {"type": "string", "format": "date"},
        "id": {"type": "string", "pattern": "^[A-Z]{2}-\\d{4}$"},
        "home": {
            "type": "object",
            "properties": {"city": {"enum": ["Köln", "Łódź"]}, "share": {"type": "number", "minimum": 0, "maximum": 1}},
            "required": ["city", "share"],
        },
    },
    "required": ["born", "id", "home"],
    "additionalProperties": False,
}
COUNTED = {"type": "array", "items": {"type": "string", "maxLength": 5000}, "minItems": 1, "maxItems": 3000}
TOOLS: list[dict[str, Any]] = [
    {"name": "remember", "input_schema": PERSON},
    {
        "name": "call",
        "input_schema": {
            "type": "object",
            "properties": {"at": {"type": "string", "format": "time"}},
            "required": ["at"],
        },
    },
]


@pytest.fixture
async def engine(llamacpp_host: RunningHost) -> AsyncIterator[Chat]:
    """Connect to the session's server."""
    engine = Chat(EngineSettings(), uds=llamacpp_host.uds, slots=llamacpp_host.slots, cache=CacheProfile.PER_SLOT)
    await engine.start()
    yield engine
    await engine.close()


async def ask(engine: Chat, **more: Any) -> Message:
    """Ask for what the model itself would hardly write in any form."""
    body = {"model": "claude-anything", "max_tokens": 400, "temperature": 0, **more}
    body["messages"] = [{"role": "user", "content": "Invent a person."}]
    return await engine.generate(decode_params(msgspec.json.encode(body), rules=Rules(), batch=False))


def valid(schema: dict[str, Any], value: Any) -> bool:
    """Judge a value by a validator that is not ours."""
    return bool(Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER).is_valid(value))


async def test_an_answer_keeps_to_all_that_the_schema_says(engine: Chat) -> None:
    """Formats, patterns, values and bounds, nested."""
    message = await ask(engine, output_config={"format": {"type": "json_schema", "schema": PERSON}})
    (block,) = message.content
    assert isinstance(block, TextBlock)
    assert (message.stop_reason, valid(PERSON, json.loads(block.text))) == ("end_turn", True)


async def test_counts_beyond_what_llamacpp_repeats_in_one_place_are_taken(engine: Chat) -> None:
    """It refuses a grammar that repeats something 2000 times."""
    message = await ask(engine, output_config={"format": {"type": "json_schema", "schema": COUNTED}}, max_tokens=8)
    (block,) = message.content
    assert isinstance(block, TextBlock)
    assert block.text.startswith('["')


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "call"}], ids=["any", "named"])
async def test_a_demanded_call_keeps_to_the_schema_of_its_tool(engine: Chat, choice: dict[str, Any]) -> None:
    """Of whichever tool it is."""
    message = await ask(engine, tools=TOOLS, tool_choice=choice)
    (block,) = message.content
    assert isinstance(block, ToolUseBlock)
    schema = next(tool["input_schema"] for tool in TOOLS if tool["name"] == block.name)
    assert (message.stop_reason, valid(schema, block.input)) == ("tool_use", True)
    assert block.name == choice.get("name", block.name)


async def test_a_schema_that_cannot_be_kept_is_refused_before_it_is_sent(engine: Chat) -> None:
    """With the path of what is at fault."""
    schema = {"type": "object", "properties": {"a": {"not": {}}}}
    with pytest.raises(InvalidParams, match=r"^output_config\.format\.schema\.properties\.a\.not: "):
        await ask(engine, output_config={"format": {"type": "json_schema", "schema": schema}})

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from standby.errors import InvalidParams
from standby.wire.chat.dialect import GENERIC, HOST, LLAMACPP, VLLM, Dialect
from tests.wire.chats import CLOCK, WEATHER, ask, sent

DAY = {"type": "object", "properties": {"day": {"type": "string", "format": "date"}}, "required": ["day"]}
BAD = {"type": "object", "properties": {"a": {"type": "array", "items": {"not": {}}}}}


def form(schema: dict[str, Any]) -> dict[str, Any]:
    """Ask for an answer that fits a schema."""
    return {"output_config": {"format": {"type": "json_schema", "schema": schema}}}


def test_llamacpp_gets_a_grammar_of_ours_instead_of_the_schema() -> None:
    """It would ignore `format`; it refuses a grammar beside `response_format` or `tools`."""
    body = sent(ask(**form(DAY)), LLAMACPP)
    assert '"\\"day\\"" ": "' in body["grammar"]
    assert "string" not in body["grammar"]
    assert not {"response_format", "tools"} & body.keys()


@pytest.mark.parametrize("dialect", [HOST, VLLM, GENERIC])
def test_other_engines_get_the_schema(dialect: Dialect) -> None:
    """Our host compiles it itself."""
    body = sent(ask(**form(DAY)), dialect)
    assert "grammar" not in body
    assert body["response_format"]["json_schema"]["schema"] == DAY


def test_an_engine_that_is_to_think_gets_the_schema() -> None:
    """A grammar would hold from the first token on, and leave no thinking."""
    assert "response_format" in sent(ask(**form(DAY), thinking={"type": "adaptive"}), LLAMACPP)
    assert "grammar" in sent(ask(**form(DAY), thinking={"type": "disabled"}), LLAMACPP)
    assert "grammar" in sent(ask(**form(DAY), thinking={"type": "adaptive"}), replace(LLAMACPP, thinking=None))


def test_a_demanded_call_is_a_grammar_of_the_tools_that_may_be_called() -> None:
    """Any of them, or the one."""
    tools = [WEATHER, CLOCK]
    both = sent(ask(tools=tools, tool_choice={"type": "any"}), LLAMACPP)["grammar"]
    assert all(f'\\"{tool["name"]}\\"' in both for tool in tools)
    one = sent(ask(tools=tools, tool_choice={"type": "tool", "name": "clock"}), LLAMACPP)["grammar"]
    assert '\\"clock\\"' in one
    assert '\\"weather\\"' not in one


@pytest.mark.parametrize(
    ("asked", "place"),
    [
        (form(BAD), "output_config.format.schema.properties.a.items.not: "),
        ({"output_format": {"type": "json_schema", "schema": BAD}}, "output_format.schema.properties.a.items.not: "),
        (
            {"tools": [CLOCK, {"name": "bad", "input_schema": BAD}], "tool_choice": {"type": "any"}},
            "tools.1.input_schema.properties.a.items.not: ",
        ),
    ],
)
def test_what_cannot_be_kept_is_refused_with_its_path(asked: dict[str, Any], place: str) -> None:
    """As our own host refuses it."""
    with pytest.raises(InvalidParams) as refused:
        sent(ask(**asked), LLAMACPP)
    assert refused.value.message.startswith(place)


def test_a_tool_that_may_not_be_called_is_not_held_against_the_request() -> None:
    """Only what would have to be kept."""
    tools = [CLOCK, {"name": "bad", "input_schema": BAD}]
    assert "grammar" in sent(ask(tools=tools, tool_choice={"type": "tool", "name": "clock"}), LLAMACPP)
    assert "grammar" not in sent(ask(tools=tools), LLAMACPP)

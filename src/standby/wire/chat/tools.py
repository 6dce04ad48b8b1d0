"""Tools and the choice among them, for engines that call tools themselves. Pure; raises `InvalidParams`."""

from __future__ import annotations

from typing import Any, Literal, assert_never

import msgspec

from standby.errors import invalid
from standby.wire.chat.dialect import Dialect
from standby.wire.chat.parts import BETWEEN
from standby.wire.messages import (
    PromptParams,
    Tool,
    ToolChoice,
    ToolChoiceAny,
    ToolChoiceAuto,
    ToolChoiceNone,
    ToolChoiceTool,
)


def mode_of(params: PromptParams, dialect: Dialect) -> Literal["native", "schema", "off"]:
    """Say who makes the calls of this request."""
    if dialect.tools == "native" and is_forced(params) and not dialect.forces:
        return "schema"
    return dialect.tools


def is_forced(params: PromptParams) -> bool:
    """Whether the answer has to be a call."""
    return isinstance(params.tool_choice, (ToolChoiceAny, ToolChoiceTool))


def is_single(params: PromptParams) -> bool:
    """Whether the answer may have one call at most."""
    return bool(getattr(params.tool_choice, "disable_parallel_tool_use", None))


def names_of(params: PromptParams) -> frozenset[str]:
    """Return the names that may be called."""
    if isinstance(params.tool_choice, ToolChoiceNone):
        return frozenset()
    if isinstance(params.tool_choice, ToolChoiceTool):
        return frozenset({params.tool_choice.name})
    return frozenset(tool.name for tool in params.tools or () if tool.name is not None)


def check_tools(params: PromptParams, dialect: Dialect) -> None:
    """Refuse what cannot be kept, each by its path."""
    if not params.tools:
        return
    mode = mode_of(params, dialect)
    if mode == "off":
        raise invalid("tools: the engine behind this model does not support tools")
    strict = dialect.strict if mode == "native" else is_forced(params)
    for number, tool in enumerate(params.tools):
        _check(tool, f"tools.{number}", strict=strict)


def _check(tool: Tool, at: str, *, strict: bool) -> None:
    if not tool.is_custom:
        raise invalid(f"{at}.type: the engine behind this model does not support `{tool.type}`, only tools of your own")
    if tool.defer_loading:
        raise invalid(f"{at}.defer_loading: the engine behind this model cannot search for tools")
    if tool.allowed_callers is not None and "direct" not in tool.allowed_callers:
        raise invalid(f"{at}.allowed_callers: the engine behind this model calls tools directly only")
    if tool.strict and not strict:
        raise invalid(
            f"{at}.strict: the engine behind this model cannot keep calls to the schema unless `tool_choice` is "
            "`any` or `tool`"
        )


def tool_fields(params: PromptParams, dialect: Dialect) -> dict[str, Any]:
    """Write `tools`, `tool_choice` and `parallel_tool_calls`."""
    if not params.tools:
        return {}
    strict = True if dialect.forces_by_strict and is_forced(params) else None
    fields: dict[str, Any] = {"tools": [_tool(tool, strict=strict) for tool in params.tools]}
    if params.tool_choice is not None:
        fields["tool_choice"] = _choice(params.tool_choice)
    if is_single(params) and dialect.parallel:
        fields["parallel_tool_calls"] = False
    return fields


def _tool(tool: Tool, *, strict: bool | None) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name, "parameters": tool.input_schema}
    if description := description_of(tool):
        function["description"] = description
    strict = tool.strict if strict is None else strict
    if strict is not None:
        function["strict"] = strict
    return {"type": "function", "function": function}


def description_of(tool: Tool) -> str:
    """Return what the model reads about a tool: its description, and its examples if there are any."""
    shown = [msgspec.json.encode(example).decode() for example in tool.input_examples or ()]
    examples = "\n".join(["Examples of its input:", *shown]) if shown else ""
    return BETWEEN.join(text for text in (tool.description, examples) if text)


def _choice(choice: ToolChoice) -> Any:
    match choice:
        case ToolChoiceAuto():
            return "auto"
        case ToolChoiceAny():
            return "required"
        case ToolChoiceTool(name=name):
            return {"type": "function", "function": {"name": name}}
        case ToolChoiceNone():
            return "none"
        case _:
            assert_never(choice)

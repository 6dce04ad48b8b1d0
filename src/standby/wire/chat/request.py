"""Messages to chat-completions and back, first version: text, system, turns, stop, JSON Schema, usage. Pure.

What cannot be expressed raises `InvalidParams` that names the field. Three hints have no effect and that is
within their meaning: `thinking: adaptive` (think as much as needed: not at all), `output_config.effort`, `metadata`.

Cached tokens become `cache_read_input_tokens` only if the request carries a `cache_control` marker;
without one, all prompt tokens are `input_tokens`, as in the API (contract 9.2).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from standby.errors import invalid
from standby.wire.chat.dialect import Dialect
from standby.wire.messages import (
    JsonFormat,
    MessageParams,
    PromptParams,
    TextParam,
    ThinkingEnabled,
    ToolChoiceNone,
    Turn,
)

BETWEEN = "\n\n"
"""Between two text blocks of one turn, and between turns that are merged."""


def chat_body(
    params: MessageParams, *, model: str, dialect: Dialect, live: bool, temperature: float | None = None
) -> dict[str, Any]:
    """Write the body of `/v1/chat/completions`, always streaming; raises `InvalidParams`."""
    _refuse(params)
    body: dict[str, Any] = {
        "model": model,
        "messages": chat_turns(params),
        "max_tokens": max(1, params.max_tokens),
        "stream": True,
        **dialect.extra,
        **_sampling(params, dialect, temperature),
        **_format(params),
    }
    if params.stop_sequences and dialect.says_stop:
        body["stop"] = params.stop_sequences
    if body["messages"][-1]["role"] == "assistant":
        if dialect.prefill is None:
            raise invalid("messages: the engine behind this model cannot go on with a last assistant turn")
        body.update(dialect.prefill)
    if dialect.priorities is not None:
        body["priority"] = dialect.priorities[0 if live else 1]
    return body


def chat_turns(params: PromptParams) -> list[dict[str, str]]:
    """Write system and turns as chat messages, consecutive turns of one role merged; raises `InvalidParams`."""
    _refuse_prompt(params)
    turns: list[dict[str, str]] = []
    if params.system:
        turns.append({"role": "system", "content": _text(params.system, "system")})
    for number, turn in enumerate(params.messages):
        if turn.role == "system":
            raise invalid(f"messages.{number}.role: the engine behind this model takes `system` only as a parameter")
        text = _text(turn.content, f"messages.{number}.content")
        if turns and turns[-1]["role"] == turn.role:
            turns[-1]["content"] += BETWEEN + text
        else:
            turns.append({"role": turn.role, "content": text})
    return turns


def has_marker(params: PromptParams) -> bool:
    """Whether the request asks for prompt caching anywhere."""
    return params.cache_control is not None or any(
        getattr(part, "cache_control", None) is not None for part in _parts(params)
    )


def _sampling(params: MessageParams, dialect: Dialect, default: float | None) -> dict[str, Any]:
    temperature = default if params.temperature is None else params.temperature
    given: dict[str, Any] = {"temperature": temperature, "top_p": params.top_p}
    if params.top_k is not None:
        if not dialect.top_k:
            raise invalid("top_k: the engine behind this model does not take it")
        given["top_k"] = params.top_k or None
    return {name: value for name, value in given.items() if value is not None}


def _format(params: MessageParams) -> dict[str, Any]:
    form = params.output_config.format if params.output_config else None
    schema = form.schema if isinstance(form, JsonFormat) else (params.output_format or {}).get("schema")
    if schema is None:
        return {}
    json_schema = {"name": "answer", "schema": schema, "strict": True}
    return {"response_format": {"type": "json_schema", "json_schema": json_schema}}


def _refuse(params: MessageParams) -> None:
    for name in ("container", "fallbacks", "thread"):
        if getattr(params, name) is not None:
            raise invalid(f"{name}: the engine behind this model does not support it")


def _refuse_prompt(params: PromptParams) -> None:
    if params.tools:
        raise invalid("tools: the engine behind this model does not support tools yet")
    if params.tool_choice is not None and not isinstance(params.tool_choice, ToolChoiceNone):
        raise invalid("tool_choice: the engine behind this model does not support tools yet")
    if isinstance(params.thinking, ThinkingEnabled):
        raise invalid("thinking.type: the engine behind this model does not support `enabled` thinking")
    if params.speed == "fast":
        raise invalid("speed: the engine behind this model does not support `fast`")
    for name in ("compaction", "context_management", "mcp_servers"):
        if getattr(params, name) is not None:
            raise invalid(f"{name}: the engine behind this model does not support it")
    if params.output_format is not None and params.output_format.get("type") != "json_schema":
        raise invalid("output_format.type: must be `json_schema`")


def _text(content: str | Iterable[Any], at: str) -> str:
    if isinstance(content, str):
        return content
    return BETWEEN.join(_block(block, f"{at}.{number}") for number, block in enumerate(content))


def _block(block: Any, at: str) -> str:
    if not isinstance(block, TextParam):
        kind = type(block).__struct_config__.tag
        raise invalid(f"{at}.type: the engine behind this model does not support `{kind}` blocks")
    return block.text


def _parts(params: PromptParams) -> Iterator[Any]:
    yield from params.tools or ()
    if not isinstance(params.system, str):
        yield from params.system or ()
    for turn in params.messages:
        yield from _blocks(turn)


def _blocks(turn: Turn) -> Iterable[Any]:
    return () if isinstance(turn.content, str) else turn.content

"""Messages to chat-completions and back, first version: text, system, turns, stop, JSON Schema, usage. Pure.

What cannot be expressed raises `InvalidParams` that names the field. Three hints have no effect and that is
within their meaning: `thinking: adaptive` (think as much as needed: not at all), `output_config.effort`, `metadata`.

Cached tokens become `cache_read_input_tokens` only if the request carries a `cache_control` marker;
without one, all prompt tokens are `input_tokens`, as in the API (contract 9.2).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from standby.errors import invalid
from standby.wire.messages import (
    JsonFormat,
    MessageParams,
    PromptParams,
    TextParam,
    ThinkingEnabled,
    ToolChoiceNone,
    Turn,
    Usage,
)

BETWEEN = "\n\n"
"""Between two text blocks of one turn, and between turns that are merged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """What a kind of engine takes and tells beyond the common ground."""

    name: str
    says_stop: bool = False
    """Whether the last chunk names the stop string that was found (`stop_reason`)."""
    prefill: Mapping[str, Any] | None = None
    """What to send so that it goes on with a last assistant turn; None if it cannot."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Fields of every request."""
    priorities: tuple[int, int] | None = None
    """`priority` of live and of batch requests; None if it must not be sent."""
    counts: Literal["host", "llamacpp", "vllm", "none"] = "none"
    top_k: bool = True


_USAGE = {"stream_options": {"include_usage": True, "continuous_usage_stats": True}}
HOST = Dialect(name="host", says_stop=True, prefill={}, extra=_USAGE, priorities=(0, 10), counts="host")
LLAMACPP = Dialect(
    name="llamacpp",
    prefill={},
    extra={"stream_options": {"include_usage": True}, "timings_per_token": True, "return_progress": True},
    counts="llamacpp",
)
VLLM = Dialect(
    name="vllm",
    says_stop=True,
    prefill={"continue_final_message": True, "add_generation_prompt": False},
    extra=_USAGE,
    counts="vllm",
)
GENERIC = Dialect(name="chat", extra={"stream_options": {"include_usage": True}}, top_k=False)
BY_OWNER = {"standby": HOST, "llamacpp": LLAMACPP, "vllm": VLLM}


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


def usage_of(prompt: int, cached: int, output: int, *, marked: bool) -> Usage:
    """Turn an engine's counts into usage."""
    read = min(cached, prompt) if marked else 0
    return Usage(input_tokens=prompt - read, cache_read_input_tokens=read, output_tokens=output)


class Chunk(msgspec.Struct, frozen=True, kw_only=True):
    """What one chunk of a stream says."""

    text: str = ""
    finish: str | None = None
    stop: str | None = None
    prompt: int | None = None
    cached: int = 0
    output: int | None = None
    is_error: bool = False
    is_refusal: bool = False
    """The error is the request's own fault."""


def read_chunk(data: bytes) -> Chunk:
    """Read the data of one event; `ValueError` if it is no chunk."""
    try:
        body = msgspec.json.decode(data, type=_Chunk)
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from None
    if body.error is not None:
        code = body.error.get("code") if isinstance(body.error, dict) else None
        return Chunk(is_error=True, is_refusal=code == "invalid_schema")
    choice = body.choices[0] if body.choices else _Choice()
    prompt, cached, output = _counts(body)
    stop = choice.stop_reason if isinstance(choice.stop_reason, str) else None
    text = choice.delta.content or ""
    return Chunk(text=text, finish=choice.finish_reason, stop=stop, prompt=prompt, cached=cached, output=output)


class _Delta(msgspec.Struct, frozen=True):
    content: str | None = None


class _Choice(msgspec.Struct, frozen=True):
    delta: _Delta = _Delta()
    finish_reason: str | None = None
    stop_reason: str | int | None = None


class _Details(msgspec.Struct, frozen=True):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct, frozen=True):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: _Details | None = None


class _Timings(msgspec.Struct, frozen=True):
    cache_n: int = 0
    prompt_n: int = 0
    predicted_n: int = 0


class _Chunk(msgspec.Struct, frozen=True):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    timings: _Timings | None = None
    error: Any = None


def _counts(body: _Chunk) -> tuple[int | None, int, int | None]:
    if body.usage is not None:
        details = body.usage.prompt_tokens_details or _Details()
        return body.usage.prompt_tokens, details.cached_tokens or 0, body.usage.completion_tokens
    if body.timings is not None and body.timings.predicted_n:
        timings = body.timings
        return timings.prompt_n + timings.cache_n, timings.cache_n, timings.predicted_n
    return None, 0, None


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

"""Thinking and effort as an engine's own knobs. Pure; raises `InvalidParams`."""

from __future__ import annotations

import hashlib
from typing import Any

from standby.errors import invalid
from standby.wire.chat.dialect import Dialect
from standby.wire.messages import (
    PromptParams,
    ThinkingAdaptive,
    ThinkingBetweenTools,
    ThinkingDisabled,
    ThinkingEnabled,
    ToolResultParam,
)

SOME, MUCH = 4096, 16384
"""Up to how many tokens a budget is a low or a medium effort, on engines that know efforts only."""


def asks_for_thinking(params: PromptParams) -> bool:
    """Whether thinking belongs into the answer; what a model thinks unasked is counted but not shown."""
    return params.thinking is not None and not isinstance(params.thinking, ThinkingDisabled)


def is_omitted(params: PromptParams) -> bool:
    """Whether thinking blocks come without their text."""
    return getattr(params.thinking, "display", None) == "omitted"


def thinking_fields(params: PromptParams, dialect: Dialect, *, prefilled: bool) -> dict[str, Any]:
    """Write what makes the model think as asked; an answer that was begun for it (`prefilled`) has no thinking."""
    if getattr(params.thinking, "block_binding", None) is not None:
        raise invalid("thinking.block_binding: the engine behind this model does not support it")
    if dialect.thinking is None:
        if isinstance(params.thinking, ThinkingEnabled):
            raise invalid("thinking.type: the engine behind this model does not support `enabled` thinking")
        return {}
    fields = dict(_knobs(params, dialect, prefilled=prefilled))
    effort = _effort(params, dialect, fields)
    if effort:
        fields["reasoning_effort"] = effort
    if isinstance(params.thinking, ThinkingEnabled) and dialect.budget:
        fields[dialect.budget] = params.thinking.budget_tokens
    return fields


def _knobs(params: PromptParams, dialect: Dialect, *, prefilled: bool) -> Any:
    assert dialect.thinking is not None
    match params.thinking:
        case ThinkingEnabled():
            return dialect.thinking.on
        case ThinkingAdaptive() if not prefilled:
            return dialect.thinking.adaptive
        case ThinkingBetweenTools() if _is_between_tools(params):
            return dialect.thinking.adaptive
        case _:
            return dialect.thinking.off


def _is_between_tools(params: PromptParams) -> bool:
    """Whether the last turn answers a call."""
    content = params.messages[-1].content
    return not isinstance(content, str) and any(isinstance(block, ToolResultParam) for block in content)


def _effort(params: PromptParams, dialect: Dialect, fields: dict[str, Any]) -> str:
    """Choose among the engine's efforts: the one that was asked for, or its most, or what a budget comes to."""
    if not dialect.efforts or fields.get("reasoning_effort") == "none":
        return ""
    asked = params.output_config.effort if params.output_config else None
    if asked is None and isinstance(params.thinking, ThinkingEnabled) and "reasoning_effort" in fields:
        budget = params.thinking.budget_tokens
        asked = "low" if budget <= SOME else "medium" if budget <= MUCH else "high"
    if asked is None:
        return ""
    return asked if asked in dialect.efforts else dialect.efforts[-1]


def signature_of(thinking: str) -> str:
    """Sign thinking, for clients that want a signature; it proves nothing but that the text is whole."""
    return "standby-" + hashlib.sha256(thinking.encode(errors="surrogatepass")).hexdigest()[:32]

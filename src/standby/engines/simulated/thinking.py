"""Thinking: whether a request wants it, and what it looks like. Pure."""

from __future__ import annotations

import base64
import hashlib

from standby.wire.messages import (
    MessageParams,
    ThinkingAdaptive,
    ThinkingBetweenTools,
    ThinkingEnabled,
    ToolChoiceAny,
    ToolChoiceTool,
    ToolResultParam,
)

THOUGHTS = 16
"""Tokens of thinking at the default effort."""
_BY_EFFORT = {"low": 0, "medium": THOUGHTS // 2, "high": THOUGHTS, "xhigh": 2 * THOUGHTS, "max": 4 * THOUGHTS}


def thinking_tokens(params: MessageParams) -> int:
    """Return how many tokens this request is thought about; 0 for not at all."""
    effort = params.output_config.effort if params.output_config is not None else None
    match params.thinking:
        case ThinkingEnabled(budget_tokens=budget):
            return min(budget, max(_BY_EFFORT[effort or "high"], 1))
        case ThinkingAdaptive():
            # like the service: no thinking before a call that must come, and none where little effort is asked for
            return 0 if isinstance(params.tool_choice, ToolChoiceAny | ToolChoiceTool) else _BY_EFFORT[effort or "high"]
        case ThinkingBetweenTools():
            return _BY_EFFORT[effort or "high"] if _follows_a_tool(params) else 0
        case _:
            return 0


def is_shown(params: MessageParams) -> bool:
    """Whether the text of the thinking is sent; otherwise only its signature is."""
    return getattr(params.thinking, "display", None) != "omitted"


def signature_of(thinking: str, seed: bytes) -> str:
    """Sign thinking, so that it can be sent back."""
    return base64.b64encode(hashlib.blake2b(thinking.encode(), key=seed, digest_size=48).digest()).decode()


def _follows_a_tool(params: MessageParams) -> bool:
    content = params.messages[-1].content
    return isinstance(content, list) and any(isinstance(block, ToolResultParam) for block in content)

"""A prompt as the simulator sees it: its text without cache breakpoints, and its tokens. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

import msgspec

from standby.engines.simulated.tokens import count_prompt
from standby.wire.messages import ContentParam, PromptParams, TextParam, ToolResultParam, Turn

_encode = msgspec.json.Encoder().encode
_MARKER = re.compile(rb',"cache_control":\{[^{}]*\}')


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What the answer depends on: the model and all that makes the prompt."""

    text: bytes
    tokens: int
    is_marked: bool = False
    """Whether it may have a cache breakpoint."""


def read_prompt(params: PromptParams) -> Prompt:
    """Read the prompt of a request."""
    text = _encode((params.tools, params.system, params.messages))
    has_marker = b'"cache_control"' in text
    if has_marker:
        text = _MARKER.sub(b"", text)
    return Prompt(
        text=params.model.encode() + text,
        tokens=count_prompt(params),
        is_marked=has_marker or params.cache_control is not None,
    )


def last_text(params: PromptParams) -> str:
    """Return the text of the last turn."""
    return _text_of(params.messages[-1]) if params.messages else ""


def system_text(params: PromptParams) -> str:
    """Return the text of the system prompt."""
    if not params.system:
        return ""
    return params.system if isinstance(params.system, str) else "\n".join(block.text for block in params.system)


def _text_of(turn: Turn) -> str:
    if isinstance(turn.content, str):
        return turn.content
    return "\n".join(text for block in turn.content if (text := _block_text(block)))


def _block_text(block: ContentParam) -> str:
    match block:
        case TextParam():
            return block.text
        case ToolResultParam(content=str() as text):
            return text
        case ToolResultParam(content=list() as parts):
            return "\n".join(part.text for part in parts if isinstance(part, TextParam))
        case _:
            return ""

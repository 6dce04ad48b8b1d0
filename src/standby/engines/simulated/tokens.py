"""Tokens as the simulator counts them: stable, word-like, cheap. Pure.

A token is a word, or six characters of a longer one; every character that takes more than one byte weighs about one
more. Whitespace weighs nothing. English text comes to 1.3 tokens a word, as it does for real.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import msgspec

from standby.wire.messages import (
    ContentParam,
    ContentSource,
    DocumentParam,
    ImageParam,
    PromptParams,
    TextParam,
    TextSource,
    Tool,
    ToolResultContent,
    ToolResultParam,
    Turn,
)

WORD = 6
"""Most characters of one token."""
MEDIA = 1_500
"""Tokens of an image, or of a document whose text is not at hand, whatever its size."""
PROMPT = 4
"""Tokens that every prompt has."""
TURN = 3
"""Tokens around each turn."""
TOOLS = 300
"""Tokens that come with tools, whatever they are (the documentation says 290 to 530 by model)."""
LONG = range(512, 1 << 16)
"""Lengths of texts whose count is remembered: such a one is likely to be a system prompt that comes again."""

_SMALL = tuple(-(-length // WORD) for length in range(256))
_PIECE = re.compile(r"\s*(?:[!-~]{1,6}|[^\s!-~])|\s+")
_encode = msgspec.json.Encoder().encode


def count_prompt(params: PromptParams) -> int:
    """Count the tokens of a whole prompt; the parts below add up to it."""
    tokens = PROMPT + count_tools(params.tools) + count_system(params.system)
    for turn in params.messages:
        tokens += count_turn(turn)
    return tokens


def count_tools(tools: list[Tool] | None) -> int:
    """Count all tools together."""
    return TOOLS + sum(map(count_tool, tools)) if tools else 0


def count_tool(tool: Tool) -> int:
    """Count one tool, without what comes with the first."""
    return _count_json(_shown(tool))


def count_system(system: str | list[TextParam] | None) -> int:
    """Count the system prompt."""
    if not system:
        return 0
    return count_text(system) if isinstance(system, str) else sum(count_text(block.text) for block in system)


def count_turn(turn: Turn) -> int:
    """Count a turn."""
    if isinstance(turn.content, str):
        return TURN + count_text(turn.content)
    return TURN + sum(map(count_block, turn.content))


def count_block(block: ContentParam | ToolResultContent) -> int:
    """Count one block of a turn."""
    match block:
        case TextParam():
            return count_text(block.text)
        case ImageParam():
            return MEDIA
        case DocumentParam():
            return count_text(block.title or "") + count_text(block.context or "") + _count_document(block)
        case ToolResultParam():
            return count_text(block.tool_use_id) + _count_content(block.content)
        case _:
            return _count_json(_shown(block))


def count_text(text: str) -> int:
    """Count the tokens of a text."""
    return _count_long(text) if len(text) in LONG else _count_text(text)


@lru_cache(maxsize=128)
def _count_long(text: str) -> int:
    return _count_text(text)


def _count_text(text: str) -> int:
    words = text.split()
    if not text.isascii():
        return sum(map(weight, words))
    try:
        return sum(map(_SMALL.__getitem__, map(len, words)))
    except IndexError:
        return sum(map(weight, words))


def weight(word: str) -> int:
    """Count the tokens of one word, which has no whitespace."""
    return -(-len(word) // WORD) + (0 if word.isascii() else (len(word.encode()) - len(word)) // 2)


def pieces_of(text: str) -> list[str]:
    """Cut a text into its tokens, each with the whitespace before it; joined they are the text again."""
    return _PIECE.findall(text)


def _count_document(document: DocumentParam) -> int:
    match document.source:
        case TextSource(data=text):
            return count_text(text)
        case ContentSource(content=content):
            return _count_content(content)
        case _:
            return MEDIA


def _count_content(content: str | Iterable[ContentParam | ToolResultContent] | None) -> int:
    if content is None:
        return 0
    return count_text(content) if isinstance(content, str) else sum(map(count_block, content))


def _count_json(value: Any) -> int:
    """Count JSON by its bytes: it has few spaces."""
    return -(-len(_encode(value)) // 4)


def _shown(part: msgspec.Struct) -> dict[str, Any]:
    """Return what the model sees of a part: all but the cache breakpoint."""
    return {
        name: value
        for name in part.__struct_fields__
        if name != "cache_control" and (value := getattr(part, name)) is not None
    }

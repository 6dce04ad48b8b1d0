"""A prompt cut into blocks for a prefix cache: equal hashes are equal prefixes. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from standby.engines.simulated.tokens import MEDIA, PROMPT, TOOLS, TURN, count_block, count_tool, weight
from standby.wire.messages import (
    ContentSource,
    DocumentParam,
    ImageParam,
    PromptParams,
    TextParam,
    TextSource,
    ToolResultParam,
)

Chain = tuple[tuple[int, int], ...]
"""Of each block the hash of the prompt up to its end, and the tokens up to there."""

_encode = msgspec.json.Encoder().encode


def chain_of(params: PromptParams, block: int) -> Chain:
    """Cut a prompt (tools, system, messages; no cache breakpoints) into blocks of at least `block` tokens.

    Where a prompt ends inside a block, that block is left out. Hashes hold inside one process.
    """
    chain: list[tuple[int, int]] = []
    digest, tokens, due = hash(params.model), 0, block
    for word, size in _words(params):
        digest, tokens = hash((digest, word)), tokens + size
        if tokens >= due:
            chain.append((digest, tokens))
            due = tokens - tokens % block + block
    return tuple(chain)


def _words(params: PromptParams) -> Iterator[tuple[object, int]]:
    """Go through a prompt token by token, or in larger pieces with their tokens."""
    yield "prompt", PROMPT
    if params.tools:
        yield "tools", TOOLS
        for tool in params.tools:
            yield from _json_words(msgspec.structs.replace(tool, cache_control=None), count_tool(tool))
    for block in _as_blocks(params.system or ()):
        yield from _block_words(block)
    for turn in params.messages:
        yield turn.role, TURN
        for block in _as_blocks(turn.content):
            yield from _block_words(block)


def _block_words(block: Any) -> Iterator[tuple[object, int]]:
    match block:
        case TextParam(text=text):
            yield from _text_words(text)
        case ImageParam(source=source):
            yield hash(_encode(source)), MEDIA
        case DocumentParam():
            yield from _document_words(block)
        case ToolResultParam(tool_use_id=name, content=content):
            yield from _text_words(name)
            for part in _as_blocks(content or ()):
                yield from _block_words(part)
        case _:
            if getattr(block, "cache_control", None) is not None:
                block = msgspec.structs.replace(block, cache_control=None)
            yield from _json_words(block, count_block(block))


def _document_words(document: DocumentParam) -> Iterator[tuple[object, int]]:
    yield from _text_words(document.title or "")
    yield from _text_words(document.context or "")
    match document.source:
        case TextSource(data=text):
            yield from _text_words(text)
        case ContentSource(content=content):
            for part in _as_blocks(content):
                yield from _block_words(part)
        case source:
            yield hash(_encode(source)), MEDIA


def _text_words(text: str) -> Iterator[tuple[object, int]]:
    return ((word, weight(word)) for word in text.split())


def _json_words(value: Any, tokens: int) -> Iterator[tuple[object, int]]:
    """Cut JSON into as many pieces as it has tokens."""
    data = _encode(value)
    size = max(1, -(-len(data) // max(tokens, 1)))
    pieces = [data[start : start + size] for start in range(0, len(data), size)]
    for number, piece in enumerate(pieces):
        yield piece, 1 if number < len(pieces) - 1 else max(0, tokens - len(pieces) + 1)


def _as_blocks(content: str | Iterable[Any]) -> Iterable[Any]:
    return (TextParam(text=content),) if isinstance(content, str) else content

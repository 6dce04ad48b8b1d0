"""A Message as a chat completion, whole or in chunks. Pure.

What a completion cannot say is gone: citations, redacted thinking, the split of cache writes by lifetime, and the order
of blocks: thinking, text and calls stand apart. Several text blocks are one text. `stop_reason` beside `finish_reason`
names the stop sequence, as vLLM does; a full context is a `length` like a reached limit; `pause_turn` is a `stop`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from standby.wire.messages import Message, StopReason, TextBlock, ThinkingBlock, ToolUseBlock, Usage

_FINISHES: dict[StopReason | None, str | None] = {
    None: None,
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content_filter",
}


def completion_of(message: Message, *, created: int = 0) -> dict[str, Any]:
    """Write a Message as a chat completion, as plain JSON values; `created` is its time in seconds."""
    calls = [_call(block) for block in message.content if isinstance(block, ToolUseBlock)]
    answer: dict[str, Any] = {"role": "assistant", "content": _text(message) or None, "refusal": _refusal(message)}
    if thinking := _thinking(message):
        answer["reasoning_content"] = thinking
    if calls:
        answer["tool_calls"] = calls
    choice = {"index": 0, "message": answer, "logprobs": None, **_ending(message)}
    return {**_head(message, "chat.completion", created), "choices": [choice], "usage": _usage(message.usage)}


def chunks_of(message: Message, *, piece: int = 0, created: int = 0) -> Iterator[dict[str, Any]]:
    """Write a Message as chunks, text in pieces of `piece` characters (0: whole); the last one has the usage."""
    head = _head(message, "chat.completion.chunk", created)
    for delta in ({"role": "assistant", "content": ""}, *_deltas(message, piece)):
        yield {**head, "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}]}
    yield {**head, "choices": [{"index": 0, "delta": {}, "logprobs": None, **_ending(message)}]}
    yield {**head, "choices": [], "usage": _usage(message.usage)}


def _deltas(message: Message, piece: int) -> Iterator[dict[str, Any]]:
    yield from ({"reasoning_content": text} for text in _pieces(_thinking(message), piece))
    yield from ({"content": text} for text in _pieces(_text(message), piece))
    calls = (block for block in message.content if isinstance(block, ToolUseBlock))
    for index, block in enumerate(calls):
        call = _call(block)
        arguments = call["function"].pop("arguments")
        yield {"tool_calls": [{"index": index, **call, "function": {**call["function"], "arguments": ""}}]}
        for text in _pieces(arguments, piece):
            yield {"tool_calls": [{"index": index, "function": {"arguments": text}}]}
    if refusal := _refusal(message):
        yield {"refusal": refusal}


def _head(message: Message, kind: str, created: int) -> dict[str, Any]:
    return {"id": message.id, "object": kind, "created": created, "model": message.model}


def _ending(message: Message) -> dict[str, Any]:
    ending: dict[str, Any] = {"finish_reason": _FINISHES[message.stop_reason]}
    return ending if message.stop_sequence is None else {**ending, "stop_reason": message.stop_sequence}


def _text(message: Message) -> str:
    return "".join(block.text for block in message.content if isinstance(block, TextBlock))


def _thinking(message: Message) -> str:
    return "".join(block.thinking for block in message.content if isinstance(block, ThinkingBlock))


def _refusal(message: Message) -> str | None:
    return None if message.stop_reason != "refusal" else (message.stop_details or {}).get("explanation")


def _call(block: ToolUseBlock) -> dict[str, Any]:
    arguments = msgspec.json.encode(block.input).decode()
    return {"id": block.id, "type": "function", "function": {"name": block.name, "arguments": arguments}}


def _usage(usage: Usage) -> dict[str, Any]:
    prompt = usage.input_tokens + usage.cache_creation_input_tokens + usage.cache_read_input_tokens
    found: dict[str, Any] = {
        "prompt_tokens": prompt,
        "completion_tokens": usage.output_tokens,
        "total_tokens": prompt + usage.output_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cache_read_input_tokens},
    }
    if usage.output_tokens_details is not None:
        found["completion_tokens_details"] = {"reasoning_tokens": usage.output_tokens_details.thinking_tokens}
    return found


def _pieces(text: str, piece: int) -> Iterator[str]:
    step = piece if piece > 0 else max(1, len(text))
    yield from (text[start : start + step] for start in range(0, len(text), step))

"""Counting the tokens of a prompt, with the engine's own tokenizer and template."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any

import msgspec

from standby.engines.chat.connection import Connection
from standby.engines.chat.failures import read
from standby.engines.patience import ALIVE_S, Limits, Patience
from standby.errors import EngineError, Failure, invalid
from standby.wire.chat.dialect import SGLANG, Dialect
from standby.wire.chat.request import chat_prompt
from standby.wire.messages import CountParams

COUNT_S = 60.0


async def count_prompt(connection: Connection, params: CountParams, *, model: str, dialect: Dialect) -> int:
    """Count the tokens of a prompt; `InvalidParams` if the engine has no way to tell."""
    body = chat_prompt(params, dialect=dialect)
    if dialect.name == SGLANG.name or has_images(body["messages"]):
        return await _measure(connection, {"model": model, **body})
    match dialect.counts:
        case "host":
            return _number(await connection.ask("/count_tokens", body), "tokens")
        case "vllm":
            return _number(await connection.ask("/tokenize", {"model": model, **body}), "count")
        case "llamacpp":
            return await _llamacpp(connection, body)
        case "none":
            raise invalid(f"model: the engine behind {model} cannot count tokens")


def has_images(turns: list[dict[str, Any]]) -> bool:
    """Whether a turn carries an image: the routes that count leave its tokens out."""
    parts = (part for turn in turns if isinstance(turn.get("content"), list) for part in turn["content"])
    return any(isinstance(part, dict) and part.get("type") == "image_url" for part in parts)


async def _llamacpp(connection: Connection, body: dict[str, Any]) -> int:
    """Write the prompt in the model's template, then split it."""
    written = await connection.ask("/apply-template", body)
    prompt = written.get("prompt") if isinstance(written, dict) else None
    split = await connection.ask("/tokenize", {"content": prompt, "add_special": True, "parse_special": True})
    tokens = split.get("tokens") if isinstance(split, dict) else None
    if not isinstance(tokens, list):
        raise EngineError(Failure.BROKEN, "the engine's count of tokens cannot be read")
    return len(tokens)


async def _measure(connection: Connection, body: dict[str, Any]) -> int:
    """Let the engine compute the prompt and one token, and take its own count: exact, with images and tools."""
    asked = {**body, "max_tokens": 1, "stream": True, "stream_options": {"include_usage": True}}
    limits = Limits(first_s=COUNT_S, stall_s=COUNT_S, alive_s=ALIVE_S, total_s=COUNT_S)
    counted = 0
    async with aclosing(connection.events(msgspec.json.encode(asked), Patience(limits, None))) as received:
        async for data in received:
            counted = read(data).prompt or counted
    if not counted:
        raise EngineError(Failure.BROKEN, "the engine tells no count of tokens")
    return counted


def _number(answer: Any, name: str) -> int:
    found = answer.get(name) if isinstance(answer, dict) else None
    if not isinstance(found, int):
        raise EngineError(Failure.BROKEN, "the engine's count of tokens cannot be read")
    return found

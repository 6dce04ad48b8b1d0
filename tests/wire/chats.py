"""Requests and streams for the tests of the translation to chat-completions and back."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from standby.records import Rules
from standby.wire.chat.dialect import VLLM, Dialect
from standby.wire.chat.reply import Whole, Writing, read_chunk
from standby.wire.chat.request import chat_body
from standby.wire.messages import Event, Message, MessageParams, ToolUseBlock, accumulate, decode_params

WEATHER = {
    "name": "weather",
    "description": "Tell the weather.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
CLOCK = {"name": "clock", "input_schema": {"type": "object"}}
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}
LINKED = {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}}
CALLED = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Oslo"}}


def ask(content: Any = "Hello", **more: Any) -> MessageParams:
    """Make params, checked as the API checks them; betas are on."""
    body = {"model": "m", "max_tokens": 3000, "messages": [{"role": "user", "content": content}], **more}
    return decode_params(msgspec.json.encode(body), rules=Rules(), batch=False, beta=True)


def sent(params: MessageParams, dialect: Dialect = VLLM, *, live: bool = True) -> dict[str, Any]:
    """Return the body that the engine gets, by way of its bytes."""
    body = chat_body(params, model="engine-model", dialect=dialect, live=live)
    found: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(body))
    return found


def turns(params: MessageParams, dialect: Dialect = VLLM) -> list[dict[str, Any]]:
    """Return the chat messages."""
    found: list[dict[str, Any]] = sent(params, dialect)["messages"]
    return found


def delta(finish: str | None = None, **said: Any) -> dict[str, Any]:
    """Make a chunk that says something."""
    return {"choices": [{"index": 0, "delta": said, "finish_reason": finish}]}


def call(index: int | None = 0, *, id: str = "", name: str = "", arguments: Any = "") -> dict[str, Any]:  # noqa: A002
    """Make a chunk with a piece of a call."""
    one: dict[str, Any] = {"id": id or None, "function": {"name": name or None, "arguments": arguments}}
    return delta(tool_calls=[one if index is None else {"index": index, **one}])


def counts(prompt: int = 9, output: int = 5, **more: Any) -> dict[str, Any]:
    """Make the chunk with the counts."""
    return {"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": output, **more}}


def events(params: MessageParams, chunks: Iterable[Any], dialect: Dialect = VLLM) -> list[Event]:
    """Return the events that an engine's chunks become."""
    writing = Writing(params, model="engine-model", dialect=dialect)
    found: list[Event] = []
    for chunk in chunks:
        found += writing.take(read_chunk(msgspec.json.encode(chunk)))
        if writing.is_over:
            break
    return found + writing.end()


def answer(params: MessageParams, chunks: Iterable[Any], dialect: Dialect = VLLM) -> Message:
    """Return the message that an engine's chunks become; whoever wants no events must get the same."""
    message = accumulate(events(params, chunks := list(chunks), dialect))
    assert nameless(gathered(params, chunks, dialect)) == nameless(message)
    return message


def gathered(params: MessageParams, chunks: Iterable[Any], dialect: Dialect = VLLM) -> Message:
    """Return the message that an engine's chunks become where nobody reads events."""
    whole = Whole(writing := Writing(params, model="engine-model", dialect=dialect))
    for chunk in chunks:
        whole.take(read_chunk(msgspec.json.encode(chunk)))
        if writing.is_over:
            break
    return whole.end()


def nameless(message: Message) -> Message:
    """Take away what is drawn by chance: the ids of the message and of calls that the engine named not."""
    content = [
        msgspec.structs.replace(block, id="toolu")
        if isinstance(block, ToolUseBlock) and block.id.startswith("toolu_")
        else block
        for block in message.content
    ]
    return msgspec.structs.replace(message, id="msg", content=content)

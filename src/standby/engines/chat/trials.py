"""Small requests that show what an engine really does, whatever it says of itself."""

from __future__ import annotations

import secrets
import time
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import msgspec

from standby.engines.chat.connection import Connection
from standby.engines.chat.failures import read
from standby.engines.patience import Limits, Patience
from standby.wire.chat.chunks import Chunk
from standby.wire.chat.dialect import Dialect
from standby.wire.chat.schemas import schema_fields

LIMITS = Limits(first_s=300.0, stall_s=60.0, alive_s=300.0, total_s=300.0)
WORDS = ("the", "harbour", "was", "quiet", "and", "small", "boats", "lay", "still", "upon", "grey", "water")
FEWEST = 8
"""Tokens from which a speed can be told."""
LONG = 400
"""Words of the prompt that is sent twice."""
PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAACAAAAAgCAIAAAD8GO2jAAAAJ0lEQVR4nO3NMQEAAAgDoJnc6FLB"
    "zx8oQKt6k7tZlUgkEolEIpFIvhY9yQFBHmC6NQAAAABJRU5ErkJggg=="
)
SCHEMA = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "green"]}, "size": {"type": "integer"}},
    "required": ["colour", "size"],
    "additionalProperties": False,
}
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tell the weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Rome", "Oslo"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


@dataclass(slots=True, kw_only=True)
class Reply:
    """What an engine answered."""

    text: str = ""
    stop: str = ""
    called: bool = False
    arguments: str = ""
    prompt: int = 0
    cached: int | None = None
    output: int = 0
    first_s: float = 0.0
    rest_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cached:
    """What the same long prompt showed when it was sent twice."""

    first: Reply
    second: Reply

    @property
    def prefill_tokens_s(self) -> float | None:
        """Prompt tokens computed a second; None if there were too few to tell."""
        computed = self.first.prompt - (self.first.cached or 0)
        return computed / self.first.first_s if computed >= FEWEST and self.first.first_s > 0 else None

    @property
    def decode_tokens_s(self) -> float | None:
        """Answer tokens a second, of one request alone; None if there were too few to tell."""
        made = self.first.output - 1
        return made / self.first.rest_s if made >= FEWEST and self.first.rest_s > 0 else None


class Trials:
    """Sends small requests to one model."""

    def __init__(self, connection: Connection, dialect: Dialect, model: str) -> None:
        """Try `model`, in its engine's dialect."""
        self._connection = connection
        self._dialect = dialect
        self._model = model

    async def ask(self, turns: list[dict[str, Any]] | str, *, tokens: int = 8, **fields: Any) -> Reply:
        """Send one request as it stands and read its answer; raises `EngineError`."""
        messages = [{"role": "user", "content": turns}] if isinstance(turns, str) else turns
        body = {
            "model": self._model,
            "messages": messages,
            self._dialect.max_tokens: tokens,
            "temperature": 0,
            "stream": True,
            **self._dialect.extra,
            **fields,
        }
        reply, began = Reply(), time.monotonic()
        events = self._connection.events(msgspec.json.encode(body), Patience(LIMITS, None))
        async with aclosing(events) as received:
            async for data in received:
                if _take(reply, read(data)) and not reply.first_s:
                    reply.first_s = time.monotonic() - began
        reply.rest_s = time.monotonic() - began - reply.first_s
        return reply

    async def cached(self, *, words: int = LONG) -> Cached:
        """Send a long prompt that nobody has sent before, twice."""
        prompt = " ".join([secrets.token_hex(8), *(WORDS[n % len(WORDS)] for n in range(words))])
        return Cached(first=await self.ask(prompt, tokens=32), second=await self.ask(prompt, tokens=2))

    async def keeps_slots(self) -> bool:
        """Read a prompt into one slot, another into a second, and see whether the first slot still has its own."""
        prompt, other = (" ".join([secrets.token_hex(8), *WORDS, *WORDS]) for _ in range(2))
        await self.ask(prompt, tokens=1, id_slot=0)
        await self.ask(other, tokens=1, id_slot=1)
        again = await self.ask(prompt, tokens=1, id_slot=0)
        return (again.cached or 0) > len(WORDS)

    async def obeys_schema(self) -> bool:
        """Ask for JSON that a model would hardly write of its own accord, in the way in which it will be asked for."""
        reply = await self.ask("Say hello.", tokens=64, **schema_fields(SCHEMA, self._dialect, name="answer"))
        found = _json(reply.text)
        return isinstance(found, dict) and set(found) == {"colour", "size"} and found["colour"] in {"red", "green"}

    async def calls_tools(self) -> bool:
        """Demand a call of a tool; vLLM keeps to its schema only if it is `strict`."""
        tool = {**TOOL, "function": {**TOOL["function"], "strict": True}} if self._dialect.strict else TOOL
        reply = await self.ask("Say hello.", tokens=64, tools=[tool], tool_choice="required")
        return reply.called and isinstance(_json(reply.arguments), dict)

    async def sees(self) -> bool:
        """Send a small picture; an engine that takes it has more prompt than without."""
        plain = await self.ask("What is this?", tokens=1)
        parts = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": PIXEL}}]
        return (await self.ask([{"role": "user", "content": parts}], tokens=1)).prompt > plain.prompt

    async def prefills(self) -> bool:
        """Begin the answer: a turn that goes on adds its own token or two, one that is closed its markers as well."""
        turns = [{"role": "user", "content": "Count to nine."}]
        plain = await self.ask(turns, tokens=1)
        begun = [*turns, {"role": "assistant", "content": "1"}]
        reply = await self.ask(begun, tokens=1, **(self._dialect.prefill or {}))
        return 0 < reply.prompt - plain.prompt <= 2

    async def names_stops(self) -> bool:
        """Stop at what every answer has, and see whether the engine says at which."""
        reply = await self.ask("Tell me about the sea.", tokens=32, stop=["e", " ", "a"])
        return bool(reply.stop)


def _take(reply: Reply, chunk: Chunk) -> bool:
    """Take one chunk; says whether it carries a token."""
    reply.text += chunk.text
    reply.stop = chunk.stop or reply.stop
    for call in chunk.calls:
        reply.called = True
        reply.arguments += call.arguments
    if chunk.prompt is not None:
        reply.prompt, reply.output = chunk.prompt, chunk.output
        reply.cached = reply.cached if chunk.cached is None else chunk.cached
    return bool(chunk.text or chunk.thinking or chunk.calls)


def _json(text: str | bytes) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None

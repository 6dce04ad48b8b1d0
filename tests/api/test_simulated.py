from __future__ import annotations

import msgspec
import pytest

from standby.config import SimulatorSettings
from standby.engines.simulated import Simulated
from standby.wire.messages import accumulate
from standby.wire.received import read_event
from tests.api.client import Client
from tests.api.test_messages import events_in
from tests.api.world import World, message


@pytest.fixture
async def client(world: World) -> Client:
    """A caller of a server whose engine is the simulator."""
    engine = Simulated(SimulatorSettings())
    await engine.start()
    world.changes["engine"] = engine
    return world.client()


async def test_events_add_up_to_the_whole_answer(client: Client) -> None:
    """The events of a stream put together are the Message that the same request gets whole."""
    whole = (await client.post("/v1/messages", message())).ok()
    events = events_in(await client.post("/v1/messages", message(stream=True)))

    read = [read_event(msgspec.json.encode(data)) for _, data in events]
    streamed = accumulate([event for event in read if event is not None])

    assert None not in read
    shown = msgspec.to_builtins(streamed)
    for answer in (whole, shown):
        del answer["id"]
    assert shown == whole


async def test_models_and_counts(client: Client) -> None:
    """Every listed model can be retrieved, asked and counted with."""
    for model in (await client.get("/v1/models?limit=1000")).ok()["data"]:
        assert (await client.get(f"/v1/models/{model['id']}")).ok() == model
        answer = (await client.post("/v1/messages", message(model=model["id"]))).ok()
        body = {"model": model["id"], "messages": message()["messages"]}
        count = (await client.post("/v1/messages/count_tokens", body)).ok()["input_tokens"]
        assert answer["model"] == model["id"]
        assert count == answer["usage"]["input_tokens"]

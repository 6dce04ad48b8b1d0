"""What engines reused is kept with the results that stand, once each, whatever happened on the way."""

from __future__ import annotations

from typing import Any

import pytest

from standby.config import SimulatorSettings
from standby.engines.base import NO_CONTEXT, Context
from standby.engines.simulated import Simulated
from standby.errors import EngineError, Failure
from standby.records import Reuse
from standby.wire.messages import Message, MessageParams
from tests.scheduler.conftest import House, item

SHARED = "The rules of the house are long and the same for all. " * 60


class Wasteful(Simulated):
    """Works every item out twice: the first answer is whole, told of, and then lost."""

    async def generate(
        self,
        params: MessageParams,
        *,
        deadline_us: int | None = None,
        live: bool = False,
        context: Context = NO_CONTEXT,
    ) -> Message:
        """Answer, the second time."""
        message = await super().generate(params, deadline_us=deadline_us, live=live, context=context)
        if context.attempt == 1:
            raise EngineError(Failure.BROKEN, "The answer was lost.")
        return message


async def taken(house: House, engine: Simulated) -> None:
    """Let this engine do the work."""
    await engine.start()
    house.engine = engine
    house.worker = house.new_worker()


@pytest.mark.parametrize("kind", [Simulated, Wasteful])
async def test_each_result_counts_once_by_the_attempt_that_stands(house: House, kind: type[Simulated]) -> None:
    """The prompts told are those of the rows; an attempt that was lost adds nothing, but warms the cache."""
    await taken(house, kind(SimulatorSettings(profile="vllm", slots=8, answer_tokens=4)))
    batch = await house.until_ended(await house.submit([item(f"i{n}", text=f"{SHARED}{n}") for n in range(24)]))

    usages = [row["message"]["usage"] for row in (await house.rows(batch.id)).values()]
    told = await house.store.reuse_of(batch.id)
    assert batch.counts.succeeded == len(usages) == 24
    assert told.prompt == sum(usage["input_tokens"] for usage in usages)
    assert {usage["cache_read_input_tokens"] for usage in usages} == {0}
    assert 0.9 < told.reused / told.prompt < 1


async def test_what_fails_for_ever_tells_nothing(house: House) -> None:
    """An item without an answer has no prompt to speak of."""
    house.engine.fault = lambda *_: EngineError(Failure.INVALID, "no")
    batch = await house.until_ended(await house.submit([item("a"), item("b")]))

    assert batch.counts.errored == 2
    assert await house.store.reuse_of(batch.id) == Reuse()


async def test_an_engine_that_does_not_tell_leaves_nothing(house: House) -> None:
    """Unknown is not nothing reused: no prompt is told of."""
    await taken(house, Silent(SimulatorSettings(profile="vllm", slots=8)))
    batch = await house.until_ended(await house.submit([item(f"i{n}", text=f"{SHARED}{n}") for n in range(3)]))

    assert batch.counts.succeeded == 3
    assert await house.store.reuse_of(batch.id) == Reuse()


class Silent(Simulated):
    """Shows nobody what it does."""

    async def generate(self, params: MessageParams, **how: Any) -> Message:
        """Answer unwatched."""
        return await super().generate(params, **{**how, "context": NO_CONTEXT})

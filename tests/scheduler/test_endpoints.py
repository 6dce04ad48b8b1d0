"""Items of several models through real servers that die and come back, and clients that leave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from standby.config import BatchSettings, EngineSettings, SimulatorSettings, WorkerSettings
from standby.engines.base import NO_CONTEXT, Context, Model
from standby.engines.pool import Pool
from standby.engines.simulated import Simulated
from standby.errors import EngineError, Failure
from standby.records import Load
from standby.scheduler.admission import FixedWindow
from standby.wire.messages import Message, MessageParams
from tests.scheduler.conftest import House

SETTINGS = EngineSettings(breaker_pause_s=1.0)


class Site(Simulated):
    """A simulator that serves one model, and can be switched off like a machine."""

    def __init__(self, model: str) -> None:
        """Be on."""
        super().__init__(SimulatorSettings(slots=4))
        self.model = model
        self.is_on = True
        self.attempts = 0
        self.most = 0
        self.now = 0

    def ready(self) -> bool:
        """Whether it is on."""
        return self.is_on and super().ready()

    async def models(self) -> list[Model]:
        """One."""
        return [Model(id=self.model, display_name=self.model, created_us=0, max_input_tokens=0, max_output_tokens=0)]

    async def resolve(self, model: str) -> str:
        """Only that one."""
        if model != self.model:
            return await super().resolve("nobody-serves-this")
        return model

    async def generate(
        self,
        params: MessageParams,
        *,
        deadline_us: int | None = None,
        live: bool = False,
        context: Context = NO_CONTEXT,
    ) -> Message:
        """Answer under a name that the simulator knows, unless it is off."""
        self.attempts += 1
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await asyncio.sleep(0)
            if not self.is_on:
                raise EngineError(Failure.UNREACHABLE, "off")
            return await super().generate(params, deadline_us=deadline_us, live=live, context=context)
        finally:
            self.now -= 1

    def load(self) -> Load:
        """Its slots."""
        return Load(slots=4)


@pytest.fixture
async def sites(tmp_path: Path) -> AsyncIterator[tuple[House, Site, Site]]:
    """A house with two endpoints."""
    house = House(tmp_path, batch=BatchSettings(grace_s=5), worker=WorkerSettings(commit_ms=0))
    one, two = Site("claude-opus-4-5-20251101"), Site("claude-haiku-4-5-20251001")
    house.engine = Pool(  # type: ignore[assignment]
        [("one", one), ("two", two)],
        [SETTINGS, SETTINGS],
        clock=house.now_us,
        most_batch=lambda _, load: FixedWindow(window=0, live_slots=1).allowed(load),
    )
    house.worker = house.new_worker()
    await house.open()
    try:
        yield house, one, two
    finally:
        await house.close()


Make = Callable[..., dict[str, Any]]


async def test_each_item_runs_where_its_model_is_served(sites: tuple[House, Site, Site], make_item: Make) -> None:
    """In one batch of two models, beside one that nobody serves; no endpoint gets more than its slots less one."""
    house, one, two = sites
    items = [make_item(f"i{n}", text=f"t{n}", model=(one, two)[n % 2].model) for n in range(40)]
    items.append(make_item("bad", model="gpt-x"))

    batch = await house.until_ended(await house.submit(items))

    rows = await house.rows(batch.id)
    assert (batch.counts.succeeded, batch.counts.errored) == (40, 1)
    assert rows["bad"]["error"]["error"] == {"type": "not_found_error", "message": "model: gpt-x"}
    assert {rows[entry["custom_id"]]["message"]["model"] == entry["params"]["model"] for entry in items[:-1]} == {True}
    assert (one.attempts, two.attempts) == (20, 20)
    assert max(one.most, two.most) <= 3


async def test_an_endpoint_that_dies_and_comes_back_fails_no_item(
    sites: tuple[House, Site, Site], make_item: Make
) -> None:
    """The other model goes on meanwhile, its items wait without being tried, and all succeed in the end."""
    house, one, two = sites
    items = [make_item(f"i{n}", text=f"t{n}", model=(one, two)[n % 2].model) for n in range(200)]
    batch_id = await house.submit(items)
    await house.until(lambda batch: batch.counts.succeeded >= 20, batch_id)

    two.is_on = False
    await house.until(lambda _: one.attempts == 100, batch_id)
    before = two.attempts
    for _ in range(100):
        await house.turn()
    assert two.attempts == before
    batch = await house.store.get_batch(house.workspace, batch_id)
    assert batch.counts.errored == 0
    assert batch.counts.processing > 0

    two.is_on = True
    batch = await house.until_ended(batch_id)
    assert batch.counts.succeeded == 200


async def test_a_batch_for_an_endpoint_that_is_down_keeps_no_other_batch_out(
    sites: tuple[House, Site, Site], make_item: Make
) -> None:
    """However many of its items wait."""
    house, one, two = sites
    await house.submit([make_item("first", model=two.model), make_item("other", model=one.model)])
    await house.until(lambda _: two.attempts == 1, (await house.submit([make_item("again", model=one.model)])))
    two.is_on = False
    waiting = await house.submit([make_item(f"i{n}", text=f"t{n}", model=two.model) for n in range(5000)])
    for _ in range(200):
        await house.turn()
    quick = await house.until_ended(await house.submit([make_item("a", model=one.model)]))
    assert quick.counts.succeeded == 1
    assert (await house.store.get_batch(house.workspace, waiting)).counts.processing == 5000


async def test_a_sick_endpoint_is_not_hammered(sites: tuple[House, Site, Site], make_item: Make) -> None:
    """An engine that answers every request with "overloaded" sees few of them, whatever waits; it loses no item."""
    house, one, _ = sites
    one.fault = lambda *_: EngineError(Failure.OVERLOADED, "busy")
    batch_id = await house.submit([make_item(f"i{n}", text=f"t{n}", model=one.model) for n in range(60)])
    began = house.now_us()
    for _ in range(600):
        await house.turn()
    seconds = (house.now_us() - began) / 1e6
    assert one.attempts <= (60 + 10 + 2 * seconds) / 0.9
    one.fault = None
    assert (await house.until_ended(batch_id)).counts.succeeded == 60


async def test_an_endpoint_that_breaks_in_a_row_gets_a_pause(sites: tuple[House, Site, Site], make_item: Make) -> None:
    """Its items wait for it without using up their attempts."""
    house, one, _ = sites
    # the house's clock runs ahead of the real one, by which items wait for their next attempt
    loop = asyncio.get_running_loop()
    house.worker.later = lambda wait_s, work: loop.call_later(min(wait_s, 0.01), work)
    one.fault = lambda *_: EngineError(Failure.UNREACHABLE, "the key is wrong")
    batch_id = await house.submit([make_item(f"i{n}", text=f"t{n}", model=one.model) for n in range(60)])
    for _ in range(300):
        await house.turn()
    assert one.attempts < 20
    one.fault = None
    assert (await house.until_ended(batch_id)).counts.succeeded == 60

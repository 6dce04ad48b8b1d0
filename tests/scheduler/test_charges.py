"""Whatever happens on the way, what is charged is the price of what was committed, once an item (I11)."""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections import Counter
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from standby.config import BatchSettings, WorkerSettings
from standby.errors import Conflict, EngineError, Failure
from standby.pricing.book import PriceBook
from standby.pricing.rates import prompt_of
from standby.records import BatchId, Tokens
from standby.scheduler.inspection import inspect
from standby.scheduler.worker import Worker
from standby.states import BatchState
from standby.wire.messages import MessageParams
from tests.scheduler.conftest import House, item

MODELS = ("claude-haiku-4-5", "claude-haiku-5-5", "claude-nobody-9")
"""One with a flat price, one with a step, one whose price nobody knows."""
WINDOW_S = 600.0
ACTIONS = ("turn", "turn", "turn", "more", "crash", "zombie", "second", "cancel", "expire", "wait")


@dataclass(slots=True)
class Story:
    """A house, the workers in it, and dice."""

    house: House
    dice: random.Random
    batches: list[BatchId] = field(default_factory=list)
    workers: list[Worker] = field(default_factory=list)
    zombies: list[Worker] = field(default_factory=list)

    async def play(self, actions: list[str]) -> None:
        """Do one thing after another, then let everything end."""
        self.house.engine.fault = self._fault
        self.workers = [self.house.worker]
        await self.more()
        for action in actions:
            await getattr(self, action)()
        await self.end()

    async def turn(self) -> None:
        """One pass of somebody."""
        await self.house.turn(self.dice.choice(self.workers))

    async def more(self) -> None:
        """One more batch."""
        number = len(self.batches)
        items = [
            item(
                f"b{number}-{n}",
                model=self.dice.choice(MODELS),
                text=f"{number} {n} " + "word " * self.dice.randrange(9),
            )
            for n in range(self.dice.randint(1, 24))
        ]
        items.append(item(f"b{number}-bad", max_tokens=0))
        self.batches.append(await self.house.submit(items))

    async def crash(self) -> None:
        """A worker is gone in the middle of everything; another one takes its place."""
        lost = self.workers.pop(self.dice.randrange(len(self.workers)))
        for held in [held for runs in lost._held.values() for held in runs]:
            held.abandon()
        await self.house.store.release_runs(holder=lost.holder)
        self.workers.append(self.house.new_worker())

    async def zombie(self) -> None:
        """A worker stands still until its leases are over, and comes back later with what it had."""
        self.zombies.append(self.workers.pop(self.dice.randrange(len(self.workers))))
        self.house.pass_s(self.house.worker_settings.lease_s + 1)
        self.workers.append(self.house.new_worker())

    async def second(self) -> None:
        """A second server works on the same store."""
        self.workers.append(self.house.new_worker())

    async def cancel(self) -> None:
        """Somebody cancels."""
        with suppress(Conflict):  # it may have ended by now
            await self.house.store.cancel_batch(
                self.house.workspace, self.dice.choice(self.batches), now_us=self.house.now_us()
            )

    async def expire(self) -> None:
        """The window of what is there closes."""
        self.house.pass_s(WINDOW_S)

    async def wait(self) -> None:
        """Back-offs end."""
        await asyncio.sleep(0.002)
        self.house.pass_s(5)

    async def end(self) -> None:
        """The dead come back once, then everything ends."""
        self.house.engine.fault = None
        for worker in [*self.zombies, *self.workers]:
            await self.house.turn(worker)
        for batch_id in self.batches:
            for _ in range(2000):
                batch = await self.house.store.get_batch(self.house.workspace, batch_id)
                if batch.state is BatchState.ENDED:
                    break
                for worker in [*self.zombies, *self.workers]:
                    await self.house.turn(worker)
                await asyncio.sleep(0.001)
            else:
                raise AssertionError("a batch never ended")

    def _fault(self, _: MessageParams, __: int) -> EngineError | None:
        kinds = (Failure.OVERLOADED, Failure.BROKEN, Failure.TIMEOUT, Failure.EMPTY)
        if self.dice.random() < 0.25:
            return EngineError(self.dice.choice(kinds), "The dice said so.")
        return None


async def charged_as_committed(story: Story) -> None:
    """Compare every batch's bills with its rows, priced one by one, and the prompts that were told of with theirs."""
    house, prices = story.house, PriceBook()
    for batch_id in story.batches:
        batch = await house.store.get_batch(house.workspace, batch_id)
        charge, unpriced, requests = Counter[str](), Counter[str](), Counter[str]()
        prompts = 0
        for result in (await house.rows(batch_id)).values():
            if result["type"] == "succeeded":
                model, usage = result["message"]["model"], result["message"]["usage"]
                price = prices.price(model, house.now_us())
                requests[model] += 1
                prompts += prompt_of(_tokens(usage))
                unpriced[model] += price is None
                charge[model] += price.charge(_tokens(usage), is_batch=True) if price else 0
        bills = {bill.model: bill for bill in await house.store.bills_of(batch_id)}
        assert sum(requests.values()) == batch.counts.succeeded
        assert {model: bill.requests for model, bill in bills.items()} == dict(requests)
        assert {model: bill.charge_pico for model, bill in bills.items()} == {m: charge[m] for m in requests}
        assert {model: bill.unpriced for model, bill in bills.items()} == {m: unpriced[m] for m in requests}
        assert (await house.store.reuse_of(batch_id)).prompt == prompts
    assert await house.store.check() == []
    assert await inspect(house.store, house.blobs) == []


def _tokens(usage: dict[str, Any]) -> Tokens:
    written = usage["cache_creation"]
    return Tokens(
        input=usage["input_tokens"],
        write_5m=written["ephemeral_5m_input_tokens"],
        write_1h=written["ephemeral_1h_input_tokens"],
        read=usage["cache_read_input_tokens"],
        output=usage["output_tokens"],
    )


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(actions=st.lists(st.sampled_from(ACTIONS), max_size=30), seed=st.integers(0, 2**32))
@pytest.mark.timeout(300)
def test_what_is_charged_is_what_was_committed(actions: list[str], seed: int) -> None:
    """Results, retries, crashes, zombies, second servers, cancels and expiries in any order: one charge an item."""
    asyncio.run(_play(actions, seed))


async def _play(actions: list[str], seed: int) -> None:
    with tempfile.TemporaryDirectory(prefix="standby-charges-") as folder:
        work: Coroutine[Any, Any, None] = _in_house(Path(folder), actions, seed)
        await work


async def _in_house(folder: Path, actions: list[str], seed: int) -> None:
    worker = WorkerSettings(commit_ms=0, commit_items=5, lease_s=2)
    house = House(folder, batch=BatchSettings(window_s=WINDOW_S, grace_s=1), worker=worker)
    await house.open()
    try:
        story = Story(house, random.Random(seed))
        await story.play(actions)
        await charged_as_committed(story)
    finally:
        await house.close()

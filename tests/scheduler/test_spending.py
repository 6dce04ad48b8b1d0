"""Batches of a workspace that may spend no more: they wait, and go on when there is money again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from standby.pricing.book import PriceBook
from standby.records import DAY
from standby.scheduler.quota import Quota, SpendLimit, pico_of_dollars
from standby.states import Outcome
from tests.scheduler.conftest import House

MODEL = "claude-haiku-4-5"


def limited(house: House, dollars: float) -> Quota:
    """Let every workspace spend so much a day, and the worker know it."""
    quota = Quota(SpendLimit(day_pico=pico_of_dollars(dollars)))
    house.worker = house.new_worker(quota=quota, prices=PriceBook())
    return quota


async def read(house: House, quota: Quota) -> int:
    """Read the ledger as the server does every second; return what was spent today."""
    now_us = house.now_us()
    day = now_us // DAY
    mark = quota.mark()
    rows = await house.store.usage(by=(), workspace_id=house.workspace, since_day=day)
    spent = sum(row.bill.charge_pico for row in rows)
    quota.saw_spent(house.workspace, day, spent, spent, mark=mark)
    return spent


async def test_a_batch_pauses_at_the_limit_and_goes_on_the_next_day(
    house: House, make_item: Callable[..., Any]
) -> None:
    """What was done is kept, spending ends beyond the limit by one item at most, and nothing is tried meanwhile."""
    quota = limited(house, 0.001)
    batch_id = await house.submit([make_item(f"i{n}", text=f"t{n}", model=MODEL, max_tokens=300) for n in range(60)])
    await read(house, quota)

    for _ in range(400):
        await house.turn()
    spent = await read(house, quota)
    batch = await house.store.get_batch(house.workspace, batch_id)
    one = spent / max(1, batch.counts.succeeded)
    for _ in range(50):
        await house.turn()
    later = await house.store.get_batch(house.workspace, batch_id)

    limit = pico_of_dollars(0.001)
    assert 0 < batch.counts.succeeded < 60
    assert limit - 3 * one <= spent <= limit + 2 * one
    assert later.counts == batch.counts
    assert quota.standing(house.workspace, house.now_us()).reserved_pico == 0

    quota.set_limits({house.workspace: SpendLimit()})
    ended = await house.until_ended(batch_id)
    assert ended.counts.succeeded == 60
    assert await read(house, quota) > limit


async def test_another_workspace_goes_on_meanwhile(house: House, make_item: Callable[..., Any]) -> None:
    """Only the one that reached its limit waits."""
    quota = limited(house, 0.0)
    quota.set_limits({house.workspace: SpendLimit(day_pico=1)})
    quota.saw_spent(house.workspace, house.now_us() // DAY, 2, 2)
    other = await house.store.create_workspace("other", now_us=house.now_us())
    waits = await house.submit([make_item(f"i{n}", text=f"t{n}", model=MODEL) for n in range(2000)])
    mine, house.workspace = house.workspace, other.id
    goes = await house.submit([make_item(f"i{n}", text=f"u{n}", model=MODEL) for n in range(20)])

    ended = await house.until_ended(goes)

    assert ended.counts.succeeded == 20
    batch = await house.store.get_batch(mine, waits)
    assert batch.counts.processing == 2000


async def test_what_expires_at_the_limit_costs_nothing(house: House, make_item: Callable[..., Any]) -> None:
    """The window closes as for any other batch."""
    quota = limited(house, 0.0)
    quota.set_limits({house.workspace: SpendLimit(day_pico=1)})
    quota.saw_spent(house.workspace, house.now_us() // DAY, 2, 2)
    batch_id = await house.submit([make_item("a", model=MODEL)])
    await house.turn()

    house.pass_s(house.batch_settings.window_s + 1)
    ended = await house.until_ended(batch_id)

    assert ended.counts.expired == 1
    assert (await house.rows(batch_id))["a"]["type"] == Outcome.EXPIRED
    assert not await house.store.bills_of(batch_id)

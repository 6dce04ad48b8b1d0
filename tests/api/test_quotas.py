from __future__ import annotations

import asyncio
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from standby.config import load_settings
from standby.errors import Failure
from standby.pricing.book import OwnPrice, PriceBook
from standby.records import DAY, BatchId, OwnLimits, WorkspaceId
from standby.scheduler.quota import next_day_us, next_month_us
from tests.api.client import Client, Leaving
from tests.api.world import MODEL, World, create_body, engine_fault, message

BATCHES = "/v1/messages/batches"
MESSAGES = "/v1/messages"
USAGE = "/standby/v1/usage"
PRICES = {MODEL.id: OwnPrice(input=Decimal(4), output=Decimal(20))}
ANSWER_PICO = 9 * 4_000_000 + 4 * 20_000_000
"""The tests' engine answers every request with 9 tokens in and 4 out."""
ANSWER = ANSWER_PICO / 1e12
REACHED = "You have reached your specified workspace API usage limits. You will regain access on "


def limited(world: World, **limits: Any) -> Client:
    """Make a client of a server whose model has a price, with these limits for everybody."""
    world.prices = PriceBook(PRICES)
    world.settings = replace(world.settings, limits=replace(world.settings.limits, **limits))
    world.__post_init__()
    return world.client()


async def default_of(world: World) -> WorkspaceId:
    """Find the only workspace."""
    return (await world.store.list_workspaces())[0].id


async def test_the_day_s_limit(world: World) -> None:
    """What is reached refuses creates and live requests in the contract's words; reading and ending go on."""
    client = limited(world, spend_per_day=ANSWER)
    batch_id = (await client.post(BATCHES, create_body(2))).ok()["id"]
    (await client.post(MESSAGES, message())).ok()
    await world.till.run_once()

    for path, body in ((BATCHES, create_body(1)), (MESSAGES, message()), (MESSAGES, message(stream=True))):
        words = (await client.post(path, body)).error(400, "invalid_request_error")
        assert words == f"{REACHED}2026-05-29 at 00:00 UTC."
    (await client.get(f"{BATCHES}/{batch_id}")).ok()
    (await client.get(BATCHES)).ok()
    (await client.post(f"{MESSAGES}/count_tokens", {k: v for k, v in message().items() if k != "max_tokens"})).ok()
    (await client.post(f"{BATCHES}/{batch_id}/cancel", {})).ok()
    await world.end(batch_id)
    assert (await client.get(f"{BATCHES}/{batch_id}/results")).status == 200
    (await client.send("DELETE", f"{BATCHES}/{batch_id}")).ok()

    world.clock.now_us = next_day_us(world.clock.now_us)
    (await client.post(MESSAGES, message())).ok()


async def test_the_month_s_limit(world: World) -> None:
    """A new day does not open what the month closed; the answer names the first of the next month."""
    client = limited(world, spend_per_month=ANSWER, spend_per_day=ANSWER)
    (await client.post(MESSAGES, message())).ok()
    await world.till.run_once()

    assert (await client.post(MESSAGES, message())).error(400, "invalid_request_error") == (
        f"{REACHED}2026-06-01 at 00:00 UTC."
    )
    world.clock.now_us = next_day_us(world.clock.now_us)
    await world.spending.run_once()
    (await client.post(MESSAGES, message())).error(400, "invalid_request_error")
    world.clock.now_us = next_month_us(world.clock.now_us)
    (await client.post(MESSAGES, message())).ok()


async def test_a_limit_of_one_workspace(world: World) -> None:
    """What one workspace may do stands before what all may, holds within a reading, and concerns nobody else."""
    mine, owner = await world.key("mine")
    theirs, _ = await world.key("theirs")
    client = limited(world)
    await world.store.set_limits(owner.id, OwnLimits(spend_per_day=ANSWER_PICO))
    await world.spending.run_once()
    for key in (mine, theirs):
        (await client.post(MESSAGES, message(), headers={"x-api-key": key})).ok()
    await world.till.run_once()

    (await client.post(MESSAGES, message(), headers={"x-api-key": mine})).error(400, "invalid_request_error")
    (await client.post(MESSAGES, message(), headers={"x-api-key": theirs})).ok()
    await world.store.set_limits(owner.id, OwnLimits(spend_per_day=2 * ANSWER_PICO))
    await world.spending.run_once()
    (await client.post(MESSAGES, message(), headers={"x-api-key": mine})).ok()


async def test_a_restart_forgets_nothing(world: World) -> None:
    """A new server reads from the ledger what its predecessor spent, and nothing of what was in flight."""
    client = limited(world, spend_per_day=ANSWER)
    (await client.post(MESSAGES, message())).ok()
    await world.till.run_once()
    again = limited(world)
    (await again.post(MESSAGES, message())).error(400, "invalid_request_error")
    assert (await again.get(USAGE)).ok()["limits"]["spend_per_day"]["reserved_pico"] == 0


async def test_requests_in_flight_hold_the_rest(world: World) -> None:
    """While one that may use up the rest is in flight, another is told to come again: the limit is not reached."""
    client = limited(world, spend_per_day=2 * ANSWER)
    world.engine.hangs_after = 0
    first = asyncio.create_task(client.post(MESSAGES, message(), leaving=Leaving(after_pieces=0)))
    second = asyncio.create_task(client.post(MESSAGES, message(max_tokens=4000)))
    await asyncio.wait_for(world.engine.begun.wait(), 5)
    refused = await asyncio.wait_for(client.post(MESSAGES, message(max_tokens=4000)), 5)

    refused.error(429, "rate_limit_error")
    assert refused.headers["retry-after"] == "1"
    for task in (first, second):
        task.cancel()
    await asyncio.gather(first, second, return_exceptions=True)
    assert (await client.get(USAGE)).ok()["limits"]["spend_per_day"]["reserved_pico"] == 0


@pytest.mark.parametrize("is_stream", [False, True])
async def test_what_fails_reserves_nothing(world: World, *, is_stream: bool) -> None:
    """Failures before an answer, between events and of a client that leaves give back what was reserved."""
    client = limited(world, spend_per_day=1.0)
    world.engine.fault = engine_fault(Failure.BROKEN)
    await client.post(MESSAGES, message(stream=is_stream))
    world.engine.events_before_fault = 3
    await client.post(MESSAGES, message(stream=is_stream))
    world.engine.fault, world.engine.hangs_after = None, 4
    world.engine.begun.clear()
    leaving = Leaving()
    last = asyncio.create_task(client.post(MESSAGES, message(stream=is_stream), leaving=leaving))
    await asyncio.wait_for(world.engine.begun.wait(), 5)
    leaving.now.set()
    await asyncio.wait_for(last, 5)

    day = (await client.get(USAGE)).ok()["limits"]["spend_per_day"]
    assert (day["spent_pico"], day["reserved_pico"], day["left_pico"]) == (0, 0, 10**12)


async def test_usage_says_where_a_workspace_stands(world: World) -> None:
    """Limit, spent, reserved until the ledger has it, left, and when it begins anew."""
    client = limited(world, spend_per_day=1.0, enqueued_items=9)
    await client.post(BATCHES, create_body(3))
    await client.post(MESSAGES, message(stream=True))
    before = (await client.get(USAGE)).ok()["limits"]
    await world.till.run_once()
    after = (await client.get(USAGE)).ok()["limits"]

    assert before["spend_per_day"]["reserved_pico"] > 0
    assert after["spend_per_day"] == {
        "limit_pico": 10**12,
        "spent_pico": ANSWER_PICO,
        "reserved_pico": 0,
        "left_pico": 10**12 - ANSWER_PICO,
        "ends_at": "2026-05-29T00:00:00.000000Z",
    }
    assert after["spend_per_month"]["limit_pico"] is None
    assert after["enqueued_items"] == {"limit": 9, "waiting": 3}
    assert after["enqueued_tokens"]["waiting"] > 0


async def test_unknown_prices_count_nothing_and_are_said(world: World) -> None:
    """A request without a known price moves no limit; how many there were is shown beside."""
    client = limited(world, spend_per_day=1e-12)
    world.prices = PriceBook()
    world.__post_init__()
    client = world.client()
    for _ in range(3):
        (await client.post(MESSAGES, message())).ok()
        await world.till.run_once()

    limits = (await client.get(USAGE)).ok()["limits"]
    assert limits["unpriced_requests_this_month"] == 3
    assert limits["spend_per_day"]["spent_pico"] == 0


async def test_creates_at_once_do_not_pass_together(world: World) -> None:
    """Of ten creates for which there is room for three, three are taken, whichever they are."""
    client = limited(world, enqueued_items=7)
    answers = await asyncio.gather(*(client.post(BATCHES, create_body(2)) for _ in range(10)))

    assert sorted(answer.status for answer in answers) == [200] * 3 + [429] * 7
    assert (await world.store.queue_of(await default_of(world))).items == 6
    assert len([place for place in (world.folder / "batches").iterdir() if place.is_dir()]) == 3


async def test_enqueued_tokens(world: World) -> None:
    """Prompt tokens wait until their items have results, a cancel ends, or a batch expires; then there is room."""
    client = limited(world)
    owner = await default_of(world)
    first = (await client.post(BATCHES, create_body(4))).ok()["id"]
    tokens = (await world.store.plan_of(BatchId(first))).prompt_tokens
    assert tokens > 0
    assert (await world.store.queue_of(owner)).tokens == tokens
    await world.store.set_limits(owner, OwnLimits(enqueued_tokens=tokens + 1))

    words = (await client.post(BATCHES, create_body(4))).error(429, "rate_limit_error")
    assert f"{tokens} are waiting, {tokens} more were sent, and the maximum is {tokens + 1}" in words
    (await client.post(f"{BATCHES}/{first}/cancel", {})).ok()
    await world.end(first)
    assert (await world.store.queue_of(owner)).tokens == 0

    second = (await client.post(BATCHES, create_body(4))).ok()["id"]
    world.clock.now_us += DAY
    await world.end(second)
    (await client.send("DELETE", f"{BATCHES}/{second}")).ok()
    assert (await world.store.queue_of(owner)).tokens == 0
    (await client.post(BATCHES, create_body(4))).ok()


async def test_a_retry_finds_what_was_taken(world: World) -> None:
    """An answer that was lost is found again, although its batch filled the queue or the limit was reached since."""
    client = limited(world, enqueued_items=2, spend_per_day=ANSWER)
    key = {"idempotency-key": "one"}
    first = (await client.post(BATCHES, create_body(2), headers=key)).ok()["id"]
    assert (await client.post(BATCHES, create_body(2), headers=key)).ok()["id"] == first
    (await client.post(MESSAGES, message())).ok()
    await world.till.run_once()

    assert (await client.post(BATCHES, create_body(2), headers=key)).ok()["id"] == first
    other = await client.post(BATCHES, create_body(1), headers={"idempotency-key": "two"})
    other.error(400, "invalid_request_error")


async def test_refusals_are_counted(world: World) -> None:
    """The metrics tell which limit refused."""
    client = limited(world, enqueued_items=1, spend_per_day=ANSWER)
    await client.post(BATCHES, create_body(2))
    await client.post(MESSAGES, message())
    await world.till.run_once()
    await client.post(MESSAGES, message())

    text = (await client.get("/metrics")).body.decode()
    assert 'standby_limit_refusals_total{limit="enqueued_items"} 1.0' in text
    assert 'standby_limit_refusals_total{limit="spend"} 1.0' in text


async def test_the_cost_of_a_batch_shows_its_bound(world: World) -> None:
    """Beside what a cache reused stands the most that it could, by the plan."""
    client = limited(world)
    batch_id = await world.ended(client, 3)
    facts = await world.store.plan_of(BatchId(batch_id))
    reuse = (await client.get(f"/standby/v1/batches/{batch_id}/cost")).ok()["reuse"]
    bound = round(facts.shared_tokens / facts.prompt_tokens, 4)
    assert reuse == {"engine_share": None, "bound": bound, "read_share": 0.0}


def test_dollars_are_read_exactly() -> None:
    """A limit is what was written, to the pico-dollar."""
    settings = load_settings(environ={"STANDBY_LIMITS_SPEND_PER_DAY": "0.1"})
    assert settings.limits.spend_per_day == 0.1

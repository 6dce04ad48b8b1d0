from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest

from standby.api.till import Till
from standby.errors import Failure
from standby.pricing.book import OwnPrice, PriceBook
from standby.records import DAY
from standby.store.sqlite import SqliteStore
from tests.api.client import Leaving
from tests.api.world import MODEL, START_US, World, engine_fault, message

MESSAGES = "/v1/messages"
USAGE = "/standby/v1/usage"
PRICES = {MODEL.id: OwnPrice(input=Decimal(4), output=Decimal(20))}
ANSWER_PICO = 9 * 4_000_000 + 4 * 20_000_000
"""The tests' engine answers every request with 9 tokens in and 4 out."""
TODAY = datetime.fromtimestamp(START_US / 1e6, tz=UTC).date()


@pytest.fixture
def priced(world: World) -> World:
    """A world in which the tests' model has a price."""
    world.prices = PriceBook(PRICES)
    world.till = Till(store=world.store, prices=world.prices, clock=world.clock, settle=world.spending.settle)
    return world


async def used(world: World, query: str = "", **more: Any) -> list[dict[str, Any]]:
    """Write what is in the till and ask for the sums."""
    await world.till.run_once()
    rows: list[dict[str, Any]] = (await world.client(**more).get(USAGE + query)).ok()["data"]
    return rows


async def test_a_live_answer_is_charged_once(priced: World) -> None:
    """Whole and streamed answers cost the same, at the standard price; the till writes each only once."""
    client = priced.client()
    await client.post(MESSAGES, message())
    await client.post(MESSAGES, message(stream=True))
    (row,) = await used(priced)
    assert (row["requests"], row["input_tokens"], row["output_tokens"]) == (2, 18, 8)
    assert (row["cost_pico"], row["uncached_batch_pico"]) == (2 * ANSWER_PICO, ANSWER_PICO)
    assert await used(priced) == [row]


async def test_what_failed_is_not_charged(priced: World) -> None:
    """A refusal, a failure before and one between events cost nothing."""
    client = priced.client()
    await client.post(MESSAGES, message(max_tokens="many"))
    priced.engine.fault = engine_fault(Failure.BROKEN)
    await client.post(MESSAGES, message())
    priced.engine.events_before_fault = 3
    await client.post(MESSAGES, message(stream=True))
    assert await used(priced) == []


async def test_a_client_that_leaves_in_the_middle_is_not_charged(priced: World) -> None:
    """Only a complete answer is charged."""
    priced.engine.hangs_after = 4
    await priced.client().post(MESSAGES, message(stream=True), leaving=Leaving(after_pieces=3))
    assert await used(priced) == []


async def test_a_write_that_failed_is_made_again(priced: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Charges that the store did not take stay in the till, together with new ones."""
    client = priced.client()
    await client.post(MESSAGES, message())

    async def refuses(*_: Any, **__: Any) -> None:
        raise OSError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(SqliteStore, "charge_live", refuses)
        with pytest.raises(OSError, match="full"):
            await priced.till.run_once()
    await client.post(MESSAGES, message())
    (row,) = await used(priced)
    assert (row["requests"], row["cost_pico"]) == (2, 2 * ANSWER_PICO)


async def test_unknown_prices_are_null(world: World) -> None:
    """A model without a price costs null, and its requests are counted as unpriced."""
    await world.client().post(MESSAGES, message())
    (row,) = await used(world)
    assert (row["cost_pico"], row["unpriced_requests"], row["input_tokens"]) == (None, 1, 9)


async def test_usage_is_of_the_caller_s_workspace_and_grouped(priced: World) -> None:
    """Nobody sees another's sums; keys, models, days and kinds are told apart on demand."""
    ours, _ = await priced.key()
    theirs, _ = await priced.key("other")
    await priced.client(key=ours).post(MESSAGES, message())
    await priced.client(key=theirs).post(MESSAGES, message())
    await priced.client(key=theirs).post(MESSAGES, message())
    (row,) = await used(priced, "?by=model,day,kind,key", key=ours)
    assert (row["model"], row["day"], row["kind"], row["requests"]) == (MODEL.id, TODAY.isoformat(), "live", 1)
    assert row["key"]
    (row,) = await used(priced, key=theirs)
    assert row["requests"] == 2
    assert "model" not in row


async def test_usage_is_cut_by_days(priced: World) -> None:
    """`since` is the first day, `until` the day after the last."""
    await priced.client().post(MESSAGES, message())
    await priced.till.run_once()
    priced.clock.now_us += DAY
    await priced.client().post(MESSAGES, message())
    tomorrow = date.fromordinal(TODAY.toordinal() + 1)
    assert [row["day"] for row in await used(priced, "?by=day")] == [TODAY.isoformat(), tomorrow.isoformat()]
    assert [row["day"] for row in await used(priced, f"?by=day&since={tomorrow}")] == [tomorrow.isoformat()]
    assert [row["day"] for row in await used(priced, f"?by=day&until={tomorrow}")] == [TODAY.isoformat()]
    assert [row["day"] for row in await used(priced, "?by=day&since=0d")] == [
        tomorrow.isoformat()
    ]  # by the server's clock


@pytest.mark.parametrize(
    ("query", "named"),
    [("by=colour", "by: 'colour'"), ("since=yesterday", "since: must be"), ("until=2026-13-01", "until: must be")],
)
async def test_a_bad_question_is_named(world: World, query: str, named: str) -> None:
    """A parameter that cannot be read is a 400 that says which."""
    answer = await world.client().get(f"{USAGE}?{query}")
    assert answer.error(400, "invalid_request_error").startswith(named)


async def test_a_batch_shows_what_it_cost(priced: World) -> None:
    """Sums, savings, the mean, and the dearest items; what did not succeed costs 0."""
    client = priced.client()
    batch_id = await priced.ended(client, 3)
    report = (await client.get(f"/standby/v1/batches/{batch_id}/cost?top=2")).ok()
    assert report["request_counts"]["succeeded"] == 3
    assert (
        report["standard_pico"] - report["saved_by_batch_pico"] - report["saved_by_cache_pico"] == report["cost_pico"]
    )
    assert report["mean_item_pico"] == report["cost_pico"] // 3
    assert report["not_charged"]["errored"] == {"items": 0, "cost_pico": 0}
    assert len(report["items"]) == 2
    assert [one["cost_pico"] for one in report["items"]] == [report["cost_pico"] // 3] * 2
    assert report["cost_pico"] == 3 * (2 * 2_000_000 + 3 * 10_000_000)


async def test_the_cost_of_a_batch_is_its_workspace_s(priced: World) -> None:
    """Another workspace's batch is 404, and a bad `top` a 400."""
    path = f"/standby/v1/batches/{await priced.ended(priced.client(), 1)}/cost"
    key, _ = await priced.key("other")
    (await priced.client(key=key).get(path)).error(404, "not_found_error")
    own, _ = await priced.key()
    assert (await priced.client(key=own).get(f"{path}?top=many")).error(400, "invalid_request_error").startswith("top:")

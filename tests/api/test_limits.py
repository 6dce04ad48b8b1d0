from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from standby.api.limits import MINUTE, take
from standby.records import SECOND
from tests.api.client import Client
from tests.api.world import World, create_body, message

BATCHES = "/v1/messages/batches"
NOW = 1_780_000_000 * SECOND


def with_limits(world: World, **limits: int) -> Client:
    """Make a client of a server with limits."""
    world.settings = replace(world.settings, limits=replace(world.settings.limits, **limits))
    return world.client()


@given(st.integers(1, 5000), st.lists(st.integers(0, 3 * SECOND), max_size=200))
def test_bucket_against_a_plain_count(per_minute: int, gaps: list[int]) -> None:
    """A bucket allows exactly as long as a continuously refilled count of tokens has one to give."""
    tokens, full_at, now = per_minute * (interval := MINUTE // per_minute), 0, NOW
    capacity = tokens
    for gap in gaps:
        now += gap
        tokens = min(capacity, tokens + gap)
        full_at, verdict = take(full_at, per_minute=per_minute, now_us=now)
        assert verdict.is_allowed == (tokens >= interval)
        tokens -= interval if verdict.is_allowed else 0
        assert verdict.remaining == tokens // interval
        assert verdict.reset_us == now + capacity - tokens
        assert verdict.is_allowed == (verdict.retry_after_s == 0)


@given(st.integers(1, 5000), st.integers(0, 10**18))
def test_clock_set_back(per_minute: int, full_at: int) -> None:
    """However wrong the clock was, nobody waits longer than a minute."""
    _, verdict = take(full_at, per_minute=per_minute, now_us=NOW)

    assert verdict.retry_after_s <= 60
    assert NOW <= verdict.reset_us <= NOW + MINUTE
    assert 0 <= verdict.remaining < per_minute


async def test_no_limit_no_headers(client: Client) -> None:
    """Without a limit nothing is said about limits."""
    assert not [name for name in (await client.get(BATCHES)).headers if "ratelimit" in name]


async def test_batch_limit(world: World) -> None:
    """Requests count down; the one too many is 429 with whole seconds, and after them it goes on."""
    client = with_limits(world, batch_requests_per_minute=3)

    seen = [await client.get(BATCHES) for _ in range(3)]
    refused = await client.get(BATCHES)
    world.clock.now_us += int(refused.headers["retry-after"]) * SECOND

    assert [answer.headers["anthropic-ratelimit-requests-remaining"] for answer in seen] == ["2", "1", "0"]
    assert seen[0].headers["anthropic-ratelimit-requests-limit"] == "3"
    assert seen[0].headers["anthropic-ratelimit-requests-reset"] == "2026-05-28T20:27:00.000000Z"
    refused.error(429, "rate_limit_error")
    assert refused.headers["retry-after"] == "20"
    assert refused.headers["anthropic-ratelimit-requests-remaining"] == "0"
    (await client.get(BATCHES)).ok()


async def test_pools_are_apart(world: World) -> None:
    """Batch and live requests have limits of their own, and headers of their own (item 27)."""
    client = with_limits(world, batch_requests_per_minute=1, live_requests_per_minute=5)
    (await client.get(BATCHES)).ok()
    (await client.get(BATCHES)).error(429, "rate_limit_error")

    live = await client.post("/v1/messages", message())

    live.ok()
    assert live.headers["anthropic-ratelimit-requests-limit"] == "5"
    assert "anthropic-ratelimit-requests-limit" not in (await client.get("/v1/models")).headers


async def test_workspaces_are_apart(world: World) -> None:
    """One workspace that uses up its limit takes nothing from another."""
    mine, _ = await world.key("mine")
    theirs, _ = await world.key("theirs")
    client = with_limits(world, batch_requests_per_minute=1)

    (await client.get(BATCHES, headers={"x-api-key": mine})).ok()
    (await client.get(BATCHES, headers={"x-api-key": mine})).error(429, "rate_limit_error")
    (await client.get(BATCHES, headers={"x-api-key": theirs})).ok()


async def test_strangers_use_up_nothing(world: World) -> None:
    """Calls with a wrong key do not count for anybody."""
    secret, _ = await world.key("mine")
    client = with_limits(world, batch_requests_per_minute=1)
    for _ in range(5):
        (await client.get(BATCHES, headers={"x-api-key": "wrong"})).error(401, "authentication_error")

    (await client.get(BATCHES, headers={"x-api-key": secret})).ok()


async def test_full_queue(world: World) -> None:
    """A create on a full queue is 429 that names the limit, the current number and the maximum; results make room."""
    client = with_limits(world, enqueued_items=5)
    batch_id = (await client.post(BATCHES, create_body(5))).ok()["id"]

    refused = await client.post(BATCHES, create_body(1))
    words = refused.error(429, "rate_limit_error")
    await world.work(batch_id)

    assert "5 are waiting" in words
    assert "the maximum is 5" in words
    assert int(refused.headers["retry-after"]) > 0
    (await client.post(BATCHES, create_body(1))).ok()

"""What the scheduler says of itself, over HTTP."""

from __future__ import annotations

import pytest

from standby.records import BatchView, EndpointView, Eta, SchedulerView
from tests.api.client import Client
from tests.api.world import World, create_body

BATCHES = "/v1/messages/batches"
ENDPOINT = EndpointView(
    name="gpu",
    engine="vllm",
    cache="shared_at_once",
    is_ready=True,
    slots=256,
    live=3,
    batch=90,
    most_batch=94,
    gap_s=0.0281234,
    target_gap_s=0.03,
    why="the time between tokens is near its target",
)


async def test_the_schedulers_view_is_served_as_it_is(world: World, client: Client) -> None:
    """Seconds between tokens are shown as milliseconds."""
    world.explain.view = SchedulerView(
        endpoints=(ENDPOINT,), batches=2, in_flight=90, held_runs=4, cost_tokens_per_s=1234.56, pressure=0.25
    )

    seen = (await client.get("/standby/v1/scheduler")).ok()

    assert (seen["batches"], seen["in_flight"], seen["held_runs"]) == (2, 90, 4)
    assert (seen["cost_tokens_per_s"], seen["pressure"]) == (1234.6, 0.25)
    assert seen["endpoints"] == [
        {
            "name": "gpu",
            "engine": "vllm",
            "cache": "shared_at_once",
            "is_ready": True,
            "slots": 256,
            "live_in_flight": 3,
            "batch_in_flight": 90,
            "most_batch": 94,
            "inter_token_ms": 28.12,
            "target_inter_token_ms": 30.0,
            "why": "the time between tokens is near its target",
        }
    ]


async def test_the_scheduler_is_shown_to_keys_only(world: World) -> None:
    """Once keys are defined, a stranger learns nothing of endpoints."""
    await world.key("mine")
    (await world.client(key="wrong").get("/standby/v1/scheduler")).error(401, "authentication_error")


async def test_a_batch_that_has_work_left_says_when_it_will_end_and_why_it_waits(world: World, client: Client) -> None:
    """The scheduler's estimate replaces the mean; its range is seconds from now."""
    batch_id = (await client.post(BATCHES, create_body(600))).ok()["id"]
    now_us = world.clock()
    world.explain.batches[batch_id] = BatchView(
        in_flight=7,
        held_runs=1,
        items_per_s=2.5,
        eta=Eta(early_us=now_us + 10_000_000, likely_us=now_us + 20_000_000, late_us=now_us + 40_000_000),
        pressure=0.4,
        is_urgent=False,
        will_miss=False,
        waits="other batches have their turn",
    )

    seen = (await client.get(f"/standby/v1/batches/{batch_id}")).ok()

    assert (seen["eta_s"], seen["eta_range_s"]) == (20.0, [10.0, 40.0])
    assert (seen["in_flight"], seen["recent_items_per_s"], seen["pressure"]) == (7, 2.5, 0.4)
    assert (seen["is_urgent"], seen["will_miss"], seen["waits"]) == (False, False, "other batches have their turn")


async def test_reuse_stands_beside_its_bound(world: World, client: Client) -> None:
    """The bound is what the plan's order shares; what was reused comes from the results."""
    prefix = "The same beginning of every prompt. " * 60
    body = create_body(20)
    for number, entry in enumerate(body["requests"]):
        entry["params"]["messages"] = [{"role": "user", "content": f"{prefix}{number}"}]
    batch_id = (await client.post(BATCHES, body)).ok()["id"]

    seen = (await client.get(f"/standby/v1/batches/{batch_id}")).ok()
    await world.work(batch_id)
    done = (await client.get(f"/standby/v1/batches/{batch_id}")).ok()

    assert seen["reuse"]["engine_share"] is seen["reuse"]["billed_share"] is seen["reuse"]["cached_share"] is None
    assert seen["reuse"]["bound"] == pytest.approx(19 / 20, abs=0.05)
    assert seen["reuse"]["groups"] == 1
    assert done["reuse"]["engine_share"] is None
    assert done["reuse"]["billed_share"] == done["reuse"]["cached_share"] == 0.0

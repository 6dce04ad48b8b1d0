"""Who waits beside others, through the real worker in virtual time: a small batch beside a large one, equal tenants.

An engine of the vLLM profile; nothing but batches runs.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from bench.house import House, Plan, opened, seeded
from bench.rows import Row
from bench.traffic import Jobs
from bench.virtual import VirtualLoop, run_virtually
from standby.config import SimulatorSettings
from standby.records import BatchId
from standby.scheduler.held import cost_of
from standby.states import BatchState

T = TypeVar("T")
SLOTS = 128
LARGE, SMALL = 100_000, 50
BESIDE = Jobs(prefix=256, suffix=96)
"""Prompts short enough for 100,000 of them in one body."""
SETTLE_S = 30.0
"""The large batch runs alone for so long before the small one comes, and tenants before minutes are counted."""
LOOK_S = 0.05
TENANTS = (
    Jobs(items=2_000, mean=300.0, deviation=200.0, group=10),
    Jobs(items=2_000, mean=100.0, deviation=50.0, group=1),
    Jobs(items=2_000, mean=300.0, deviation=100.0, group=50, prefix=1_024),
)
"""What each tenant has to do: they want the same, in items of different kinds."""


def tenants_rows(*, small: int = 1) -> list[Row]:
    """Measure both."""
    return [_beside_row(LARGE // small), _tenants_row(4 if small == 1 else 2)]


def _beside_row(large: int) -> Row:
    alone_s, beside_s = small_batch(0), small_batch(large)
    ratio = beside_s / alone_s
    return Row(
        name=f"a batch of {SMALL} beside one of {large:,}, vllm",
        ours=f"{beside_s:.1f} s",
        against=f"{alone_s:.1f} s alone",
        ratio=f"{ratio:.2f}x",
        target="≤ 3x",
        is_met=ratio <= 3,
    )


def _tenants_row(minutes: int) -> Row:
    shares = tenants(minutes)
    worst = min(map(jain, shares))
    means = [statistics.mean(minute[place] for minute in shares) for place in range(len(TENANTS))]
    return Row(
        name=f"three equal tenants with different items, {minutes} minutes, vllm",
        ours=", ".join(f"{mean:,.0f}" for mean in means) + " cost tokens a minute",
        against="",
        ratio=f"{worst:.3f} (Jain, the worst minute)",
        target="≥ 0.95",
        is_met=worst >= 0.95,
    )


def jain(shares: Sequence[float]) -> float:
    """Return Jain's index of fairness: 1 if all have the same, 1/n if one has all."""
    return sum(shares) ** 2 / (len(shares) * sum(share * share for share in shares))


def small_batch(large: int, *, seed: int = 1) -> float:
    """Return how long a small batch takes beside one of so many items, in seconds."""

    async def run(house: House) -> float:
        if large:
            await house.submit(replace(BESIDE, items=large).batch(0, seed))
            await asyncio.sleep(SETTLE_S)
        begun_s = house.loop.time()
        await _ended(house, await house.submit(replace(BESIDE, items=SMALL).batch(1, seed)))
        return house.loop.time() - begun_s

    return _in_house(run, seed)


def tenants(minutes: int, *, seed: int = 1) -> list[list[float]]:
    """Return the cost tokens that each tenant was given, minute by minute."""

    async def run(house: House) -> list[list[float]]:
        for number, jobs in enumerate(TENANTS):
            owner = (await house.store.create_workspace(f"tenant{number}", now_us=house.loop.now_us())).id
            items = jobs.batch(number, seed)
            for item in items:
                item["custom_id"] = f"{number}-{item['custom_id']}"
            await house.submit(items, workspace=owner)
        await asyncio.sleep(SETTLE_S + 60.0 * minutes)
        return [_given(house, SETTLE_S + 60.0 * minute) for minute in range(minutes)]

    return _in_house(run, seed)


def _given(house: House, from_s: float) -> list[float]:
    """Add up what attempts cost that ended, and what is out of those that go on, spread over the time they took."""
    given = [0.0] * len(TENANTS)
    for attempt in house.attempts:
        end_s = attempt.end_s or house.loop.time()
        inside = min(end_s, from_s + 60.0) - max(attempt.start_s, from_s)
        if inside > 0:
            cost = cost_of(attempt.prompt - attempt.cached, attempt.cached, attempt.tokens)
            given[int(attempt.custom_id[0])] += cost * inside / (end_s - attempt.start_s)
    return given


def _in_house(run: Callable[[House], Awaitable[T]], seed: int) -> T:
    plan = Plan(engines=(SimulatorSettings(profile="vllm", slots=SLOTS),), seed=seed)

    async def main(loop: VirtualLoop) -> T:
        with seeded(seed) as root:
            async with opened(House(root, loop, plan)) as house:
                return await run(house)

    return run_virtually(main)


async def _ended(house: House, batch_id: BatchId) -> None:
    while (await house.store.get_batch(house.workspace, batch_id)).state is not BatchState.ENDED:  # noqa: ASYNC110
        await asyncio.sleep(LOOK_S)

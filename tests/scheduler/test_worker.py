"""The worker with all that it is made of, in virtual time: live traffic first, ends in time, prefixes computed once."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from itertools import groupby

import pytest

from bench.traffic import Live
from standby.config import BatchSettings, WorkerSettings
from standby.engines.simulated.profiles import PROFILES as KINDS
from standby.engines.simulated.tokens import PROMPT, TURN
from standby.records import SECOND
from standby.scheduler.dispatch import YIELD_BELOW
from standby.scheduler.gates import SPILL_US
from standby.scheduler.held import hold
from standby.scheduler.kin import UNGROUPED
from tests.scheduler.virtual_house import PROFILES, Seen, World, live, play, short

TICK_S = 0.25
"""What is decided shows after this time: a look at the store, and a pass."""
GRACE_S = 1.0


def cut(seen: Iterable[Seen]) -> list[Seen]:
    """Return the attempts that did not come to their end."""
    return [one for one in seen if not one.is_whole]


# -- live requests first


async def _burst(house: World) -> tuple[list[Seen], Counter[str], int]:
    batch_id = await house.create(short(900, mean=150.0).batch(0, 1))
    await asyncio.sleep(20.0)
    async with live(house, Live(burst_s=25.0, idle_s=0.5, phase_s=8.0, cycles=2)) as asked:
        await asyncio.sleep(32.0)
    await house.ended(batch_id)
    counts = await house.whole(batch_id)
    await house.at_rest()
    return house.seen, counts, len(asked)


@pytest.mark.parametrize("profile", ["vllm", "remote"])
def test_a_burst_stops_the_newest_items_once_and_within_its_budget(profile: str) -> None:
    """Items that gave way to live requests were the newest, did so once, came again, and cost at most their budget."""
    seen, counts, asked = play(_burst, profile, slots=48)
    stopped = cut(seen)
    assert asked > 200
    assert stopped
    assert counts == {"succeeded": 900}
    assert max(Counter(one.custom_id for one in stopped).values()) == 1
    assert Counter(one.custom_id for one in seen if one.is_whole).most_common(1)[0][1] == 1
    assert sum(one.tokens for one in stopped) <= 0.06 * sum(one.tokens for one in seen)
    again = {one.custom_id: one.end_s for one in stopped}
    for one in stopped:
        younger = [
            other
            for other in seen
            if one.start_s < other.start_s < one.end_s < other.end_s and other.custom_id not in again
        ]
        assert not younger, "an older item was stopped instead"
        assert one.tokens < YIELD_BELOW


async def _alone(house: World) -> list[Seen]:
    batch_id = await house.create(short(120, prefix=200).batch(0, 1))
    await house.ended(batch_id)
    assert await house.whole(batch_id) == {"succeeded": 120}
    await house.at_rest()
    return house.seen


@pytest.mark.parametrize("profile", PROFILES)
def test_without_live_requests_nothing_is_ever_stopped(profile: str) -> None:
    """Every item is attempted once, and that attempt comes to its end."""
    seen = play(_alone, profile, slots=8)
    assert len(seen) == 120
    assert not cut(seen)


async def _filled(house: World) -> int:
    batch_id = await house.create(short(1000, mean=150.0).batch(0, 1))
    await house.ended(batch_id)
    assert await house.whole(batch_id) == {"succeeded": 1000}
    await house.at_rest()
    ends = sorted(one.end_s for one in house.seen)
    starts = sorted(one.start_s for one in house.seen)
    return max(number - bisect_right(ends, start_s) for number, start_s in enumerate(starts, start=1))


def test_runs_of_few_items_fill_an_engine_of_many_slots() -> None:
    """A thousand items are runs of 16; 32 of them, as many as are held of full ones, would leave slots empty."""
    worker = WorkerSettings(admission="fixed", live_slots=0)
    assert play(_filled, "remote", slots=700, worker=worker) == 700


# -- cancel and expiry


async def _cancel(house: World) -> tuple[list[Seen], float, float]:
    batch_id = await house.create(short(600, mean=150.0).batch(0, 1))
    await asyncio.sleep(20.0)
    canceled_s = house.loop.time()
    await house.cancel(batch_id)
    await house.ended(batch_id)
    ended_s = house.loop.time()
    assert set(await house.whole(batch_id)) == {"succeeded", "canceled"}
    await house.at_rest()
    return house.seen, canceled_s, ended_s


@pytest.mark.parametrize("profile", PROFILES)
def test_a_canceled_batch_stops_what_is_long_and_ends_in_time(profile: str) -> None:
    """Nothing starts any more, what would outlive the grace stops at once, short answers are finished."""
    seen, canceled_s, ended_s = play(
        _cancel, profile, slots=4 if profile == "llamacpp" else 16, batch=BatchSettings(grace_s=GRACE_S)
    )
    under_way = [one for one in seen if one.end_s > canceled_s]
    assert max(one.start_s for one in seen) <= canceled_s + TICK_S
    assert ended_s <= canceled_s + GRACE_S + 2
    assert any(not one.is_whole and one.end_s <= canceled_s + TICK_S for one in under_way)
    assert any(one.is_whole for one in under_way)
    assert all(one.end_s <= canceled_s + GRACE_S + TICK_S for one in under_way)


async def _expire(house: World) -> tuple[list[Seen], float, float, Counter[str]]:
    begun_s = house.loop.time()
    batch_id = await house.create(short(1500, mean=60.0).batch(0, 1))
    await house.ended(batch_id)
    ended_s = house.loop.time()
    await house.at_rest()
    return house.seen, begun_s, ended_s, await house.whole(batch_id)


@pytest.mark.parametrize("profile", PROFILES)
def test_nothing_starts_after_the_end_of_a_batch(profile: str) -> None:
    """A batch that expires ends within its grace, and has results of all that was done in time."""
    batch = BatchSettings(window_s=20.0, grace_s=GRACE_S)
    seen, begun_s, ended_s, counts = play(_expire, profile, slots=8, batch=batch)
    assert max(one.start_s for one in seen) <= begun_s + 20.1
    assert begun_s + 19.9 <= ended_s <= begun_s + 20.0 + GRACE_S + 2
    assert counts["succeeded"] > 20
    assert counts["expired"] > 20


# -- the same again


async def _trace(house: World) -> list[tuple[str, str, int | None, float, float]]:
    first = await house.create(short(150).batch(0, house.plan.seed), prefix="a")
    async with live(house, Live(burst_s=6.0, idle_s=1.0, phase_s=4.0, cycles=1, prompt=64, answer=24)):
        second = await house.create(short(60).batch(1, house.plan.seed), prefix="b")
        await house.ended(first, second)
    return [(one.endpoint, one.custom_id, one.slot, one.start_s, one.end_s) for one in house.seen]


@pytest.mark.parametrize("profile", PROFILES)
def test_the_same_seed_makes_the_same_attempts(profile: str) -> None:
    """Who runs where and when is the same each time, and another seed is another run."""
    first = play(_trace, profile, seed=1, slots=8)
    assert first == play(_trace, profile, seed=1, slots=8)
    assert first != play(_trace, profile, seed=2, slots=8)


# -- prefixes


SHARED = {"remote": 1200}
"""Tokens of the common beginnings; such APIs reuse nothing shorter."""


async def _groups(house: World) -> list[Seen]:
    shared = SHARED.get(house.plan.engines[0].profile, 384)
    batch_id = await house.create(short(300, group=10, prefix=shared, suffix=64).batch(0, 1))
    await house.ended(batch_id)
    assert await house.whole(batch_id) == {"succeeded": 300}
    await house.at_rest()
    return house.seen


@pytest.mark.parametrize("profile", PROFILES)
def test_what_prompts_share_is_computed_once(profile: str) -> None:
    """The cache gives 95 % of what one without limits would give to the same items."""
    seen, kind = play(_groups, profile, slots=4 if profile == "llamacpp" else 32), KINDS[profile]
    common = PROMPT + SHARED.get(profile, 384) + TURN
    bound = (300 - 30) * (common - common % kind.block)
    assert sum(one.cached for one in seen) >= 0.95 * bound


@pytest.mark.parametrize("profile", ["sglang", "remote"])
def test_one_goes_first_where_a_prefix_is_shared_after_its_first_token(profile: str) -> None:
    """The second of a group starts when the first token of the first is out, and others fill the time."""
    seen = play(_groups, profile, slots=32)
    for _, members in groupby(sorted(seen, key=lambda one: (one.group, one.start_s)), key=lambda one: one.group):
        first, *others = members
        assert first.first_s is not None
        assert min(one.start_s for one in others) >= first.first_s
    early = [one for one in seen if one.start_s < min(other.first_s or 0.0 for other in seen)]
    assert len({one.group for one in early}) == len(early) > 1


def test_a_group_keeps_its_slot() -> None:
    """Where each slot has a cache of its own, every item is pinned, and a group mostly stays in one slot."""
    seen = play(_groups, "llamacpp", slots=4)
    assert {one.slot for one in seen} <= {0, 1, 2, 3}
    homes = {(one.group, one.slot) for one in seen}
    assert len(homes) <= 36


# -- several endpoints


def test_a_group_stays_at_its_endpoint() -> None:
    """Of two endpoints each has groups of its own; one helps the other only after that was full for a while."""
    seen = play(_groups, "sglang", "sglang", slots=16)
    homes = {(one.group, one.endpoint) for one in seen if one.start_s < SPILL_US / SECOND}
    most = Counter(group for group, _ in homes).most_common(1)[0][1]
    assert most == 1
    assert {endpoint for _, endpoint in homes} == {"engine0", "engine1"}
    common = PROMPT + 384 + TURN
    assert sum(one.cached for one in seen) >= 0.9 * (300 - 30) * common


async def _one_dies(house: World) -> list[Seen]:
    batch_id = await house.create(short(300, mean=80.0, group=10).batch(0, 1))
    await asyncio.sleep(3.0)
    house.machines[0].leave()
    await house.ended(batch_id)
    assert await house.whole(batch_id) == {"succeeded": 300}
    await house.at_rest()
    return house.seen


@pytest.mark.parametrize("profile", PROFILES)
def test_an_endpoint_that_dies_loses_nothing(profile: str) -> None:
    """What ran there runs again at the other one, once."""
    seen = play(_one_dies, profile, profile, slots=8)
    lost = {one.custom_id for one in cut(seen)}
    assert lost
    assert {one.endpoint for one in seen if one.start_s > 4.0} == {"engine1"}
    assert len([one for one in seen if one.is_whole]) == 300


# -- faults in the worker's own house


async def _unreadable(house: World) -> Counter[str]:
    read_many, faults = house.blobs.read_many, [RuntimeError("no such thing"), OSError("gone")]

    async def broken(*args: object, **how: object) -> object:
        if faults:
            raise faults.pop()
        return await read_many(*args, **how)  # type: ignore[arg-type]

    house.blobs.read_many = broken  # type: ignore[method-assign,assignment]
    batch_id = await house.create(short(20).batch(0, 1))
    await house.ended(batch_id, within_s=30.0)
    await house.at_rest()
    return await house.whole(batch_id)


def test_a_run_that_cannot_be_read_is_read_again() -> None:
    """Whatever goes wrong while items are read, they are read again, and nothing else waits for that."""
    assert play(_unreadable, "vllm") == {"succeeded": 20}


async def _canceled_unborn(house: World) -> Counter[str]:
    batch_id = await house.create(short(20).batch(0, 1))
    dispatch = house.worker._dispatch

    def dispatch_and_stop() -> bool:
        is_more = dispatch()
        for flight in house.worker.dispatcher.flights():
            if not flight.item.was_yielded:
                flight.is_yielding = flight.item.was_yielded = True
                flight.stop()
        return is_more

    house.worker._dispatch = dispatch_and_stop  # type: ignore[method-assign]
    await house.ended(batch_id, within_s=60.0)
    await house.at_rest()
    assert len(house.seen) == 20, "no stopped attempt ever reached the engine"
    return await house.whole(batch_id)


def test_an_attempt_that_is_stopped_before_its_first_step_comes_again() -> None:
    """A task that never ran leaves nothing in the books, and its item is not lost."""
    assert play(_canceled_unborn, "vllm") == {"succeeded": 20}


async def _leased_again(house: World) -> int:
    batch_id = await house.create(short(300, group=10, prefix=200, mean=100.0).batch(0, 1))
    await asyncio.sleep(2.0)
    worker = house.worker
    old = next(held for held in worker.held_of(batch_id) if held.queue)
    again = replace(hold(replace(old.lease, epoch=old.lease.epoch + 1)), queue=old.queue)
    worker._held[batch_id].append(again)
    old.is_lost = True
    await asyncio.sleep(0.2)
    assert old not in worker.held_of(batch_id)
    return worker.dispatcher.gates._kin[batch_id].group(old.lease.first)


def test_a_run_that_is_leased_again_keeps_its_place_in_the_tree() -> None:
    """After a stall the worker may lease its own run anew; that the old lease goes takes nothing from the new one."""
    assert play(_leased_again, "sglang", slots=16) != UNGROUPED

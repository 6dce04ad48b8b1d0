"""Worlds in which everything goes wrong at once: each item still has one result, and nothing is left in any book."""

from __future__ import annotations

import asyncio

import pytest

from bench.traffic import Live
from standby.config import BatchSettings, WorkerSettings
from standby.engines.base import Context
from standby.errors import EngineError, Failure
from standby.records import BatchId
from standby.states import BatchState
from tests.scheduler.virtual_house import PROFILES, World, chance, live, play, short

RETRIABLE = tuple(failure for failure in Failure if failure.retriable)
TROUBLE_S = 45.0


class Swarm:
    """Breaks a world at random, with a seed."""

    def __init__(self, house: World) -> None:
        """Know its victim."""
        self.house = house
        self.chance = chance(house.plan.seed, "swarm")
        self.owners = [house.workspace]
        self.canceled: set[BatchId] = set()
        self.deleted: set[BatchId] = set()

    def breaks(self, context: Context) -> EngineError | None:
        """Break some attempts, in every way that may be tried again, and some for ever."""
        if self.chance.random() > 0.08:
            return None
        kind = self.chance.choice((*RETRIABLE, Failure.INVALID))
        asks = self.chance.choice((None, None, 0.5, 5.0)) if kind is Failure.OVERLOADED else None
        return EngineError(kind, f"broken, try {context.attempt}", retry_after_s=asks)

    async def trouble(self) -> None:
        """Do something to it every other second."""
        kinds = (
            self.create,
            self.create,
            self.outage,
            self.lost_lease,
            self.stall,
            self.cancel,
            self.burst,
            self.delete,
        )
        until_s = self.house.loop.time() + TROUBLE_S
        async with asyncio.TaskGroup() as group:
            while self.house.loop.time() < until_s:
                await asyncio.sleep(self.chance.expovariate(1 / 1.5))
                group.create_task(self.chance.choice(kinds)())

    async def create(self) -> None:
        """A client has more to do."""
        jobs = short(self.chance.choice((1, 10, 80)), group=self.chance.choice((1, 4, 25)))
        owner = self.chance.choice(self.owners)
        await self.house.create(jobs.batch(len(self.house.batches), self.house.plan.seed), workspace=owner)

    async def outage(self) -> None:
        """An endpoint is away for seconds or minutes."""
        machine = self.chance.choice(self.house.machines)
        machine.leave()
        await asyncio.sleep(self.chance.choice((0.1, 5.0, 40.0)))
        machine.come_back()

    async def lost_lease(self) -> None:
        """Somebody else takes all free runs and those whose leases are made to run out, and gives them back."""
        store, now_us = self.house.store, self.house.loop.now_us()
        for held in self.chance.sample(runs := list(self.house.worker._runs()), len(runs) // 2):
            # a thief whose clock is ahead
            later_us = now_us + 3600 * 1_000_000
            await store.lease_run(held.lease.batch_id, holder="thief", now_us=later_us, until_us=later_us)
        await asyncio.sleep(self.chance.choice((0.0, 2.0)))
        await store.release_runs(holder="thief")

    async def stall(self) -> None:
        """Time jumps forward, past every lease and heartbeat."""
        self.house.loop.now_s += self.chance.choice((0.5, 20.0, 100.0))

    async def cancel(self) -> None:
        """A client cancels a batch."""
        batch_id = self.chance.choice(self.house.batches)
        if batch_id in self.deleted or self.chance.random() < 0.5:
            return
        if (await self.house.batch(batch_id)).state is BatchState.IN_PROGRESS:
            self.canceled.add(batch_id)
            await self.house.cancel(batch_id)

    async def delete(self) -> None:
        """A client deletes a batch that ended."""
        batch_id = self.chance.choice(self.house.batches)
        if batch_id not in self.deleted and (await self.house.batch(batch_id)).state is BatchState.ENDED:
            await self.house.whole(batch_id)
            self.deleted.add(batch_id)
            await self.house.store.delete_batch(self.house.owners[batch_id], batch_id)

    async def burst(self) -> None:
        """Live requests come for a few seconds."""
        async with live(self.house, Live(burst_s=6.0, idle_s=6.0, phase_s=1.0, cycles=1, prompt=64, answer=24)):
            await asyncio.sleep(4.0)


async def _survives(house: World) -> None:
    swarm = Swarm(house)
    for machine in house.machines:
        machine.breaks = swarm.breaks
        machine.lets_go_after_s = swarm.chance.choice((0.0, 0.02, 0.5))
    swarm.owners.append((await house.store.create_workspace("others", now_us=house.loop.now_us())).id)
    await house.create(short(200).batch(0, house.plan.seed))
    await swarm.trouble()
    for machine in house.machines:
        machine.come_back()
    left = [batch_id for batch_id in house.batches if batch_id not in swarm.deleted]
    await house.ended(*left)
    for batch_id in left:
        counts = await house.whole(batch_id)
        assert batch_id in swarm.canceled or not counts["canceled"]
        assert not counts["expired"]
    await house.at_rest()


@pytest.mark.parametrize("seed", range(32))
def test_a_swarm_of_faults_loses_nothing(seed: int) -> None:
    """Errors, outages, lost leases, stalls, cancels, deletes and bursts: one result an item, and empty books."""
    one, other = PROFILES[seed % 4], PROFILES[seed // 4 % 4]
    play(
        _survives,
        *((one,) if seed % 3 == 0 else (one, other)),
        seed=seed,
        slots=6,
        batch=BatchSettings(grace_s=5.0),
        worker=WorkerSettings(lease_s=10.0),
    )

"""Fairness and deadlines: the real policy and forecast, driven through whole days of a small world.

A world is drawn from its seed: endpoints with seats, live traffic that takes part of them by day and in bursts,
outages, endpoints that fail with all that they work on, and batches of all sizes, tenants and deadlines. Work is
counted at the grain of items and runs. `python -m bench.fairness SEED` plays one world again and tells its batches.

Which batches can be done is found without the policy: earliest deadline first on nine tenths of the true supply,
outages and live traffic known in advance. All of these have to end before they expire.
"""

from __future__ import annotations

import math
import os
import random
import sys
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from heapq import heappop, heappush

from bench.rows import Row
from standby.records import HOUR, SECOND, BatchId, WorkspaceId
from standby.scheduler.policy import Claim, Policy

MINUTE = 60 * SECOND
STEP_US = 10 * MINUTE
"""The supply changes, and the policy looks at deadlines, every so often (in a server: every second)."""
RUN = 16
MOST_HELD = 32
MARGIN = 0.9
MONDAY_US = 1_767_571_200 * SECOND


@dataclass(slots=True)
class Job:
    """A batch in the world: what its items really cost, and how far it is."""

    claim: Claim
    costs: Sequence[float]
    expected: float
    """What the plan expects of an item, in cost tokens."""
    leased: int = 0
    queue: deque[int] = field(default_factory=deque)
    done: int = 0
    in_runs: list[int] = field(default_factory=list)
    ended_us: int | None = None
    told: tuple[int, int, int] | None = None
    """The ETA as told when it was half done."""

    @property
    def held(self) -> int:
        """Count its runs that are leased and not done."""
        return sum(1 for left in self.in_runs if left)

    def current(self) -> Claim:
        """Return its claim as of now: runs that are not done count whole, as in the store."""
        left = sum(RUN for left in self.in_runs if left) + len(self.costs) - self.leased
        left = min(left, len(self.costs) - self.done + RUN * self.held)
        was = self.claim
        if left != was.left_items:
            self.claim = Claim(
                batch_id=was.batch_id,
                workspace_id=was.workspace_id,
                created_us=was.created_us,
                expires_us=was.expires_us,
                size=was.size,
                left_items=left,
                left_cost=int(left * self.expected),
            )
        return self.claim


@dataclass(slots=True)
class Endpoint:
    """Seats that work at one speed; `clock` counts the work that an item would have got since the beginning."""

    seats: int
    speed: float
    """Cost tokens a second and seat."""
    shares: Sequence[float]
    """What live traffic and outages leave to batches, a step; 0 is an outage."""
    fails: frozenset[int] = frozenset()
    """Steps at whose beginning it loses all that it works on."""
    clock: float = 0.0
    running: list[tuple[float, int, Job, int, int, float]] = field(default_factory=list)

    def rate(self, step: int) -> float:
        """Return the cost tokens a second that each running item gets."""
        share = self.shares[step]
        return self.speed * min(1.0, share * self.seats / max(1, len(self.running))) if share else 0.0

    def free(self, step: int) -> int:
        """Return how many more items may start."""
        return math.ceil(self.seats * self.shares[step]) - len(self.running)


@dataclass(slots=True)
class World:
    """Endpoints and batches, and the policy between them."""

    endpoints: list[Endpoint]
    jobs: list[Job]
    steps: int
    start_us: int = MONDAY_US
    step_us: int = STEP_US
    policy: Policy = field(default_factory=Policy)
    settled: Callable[[Job, float, int, int], None] | None = None
    """Is told of each item: its batch, its cost, when it started and when it ended."""
    choose: Callable[[Sequence[Claim]], BatchId] | None = None
    """Chooses in place of the policy's turns."""

    def play(self, until: Callable[[], bool] = lambda: False) -> None:
        """Let time pass until the world ends, or `until` says so."""
        arrivals = deque(sorted(self.jobs, key=lambda job: job.claim.created_us))
        present: dict[BatchId, Job] = {}
        for step in range(self.steps):
            now_us = self.start_us + step * self.step_us
            end_us = now_us + self.step_us
            for endpoint in self.endpoints:
                if step in endpoint.fails:
                    self._lose(endpoint, now_us)
            while now_us < end_us and not until():
                is_new = self._arrive(arrivals, present, now_us)
                gone = self._expire(present, now_us)
                if is_new or gone or now_us == end_us - self.step_us:
                    self._look(present, now_us)
                self._start(present, step, now_us)
                coming = arrivals[0].claim.created_us if arrivals else end_us
                now_us = self._advance(present, step, now_us, min(end_us, coming))

    def _arrive(self, arrivals: deque[Job], present: dict[BatchId, Job], now_us: int) -> bool:
        before = len(arrivals)
        while arrivals and arrivals[0].claim.created_us <= now_us:
            job = arrivals.popleft()
            present[job.claim.batch_id] = job
        return len(arrivals) < before

    def _expire(self, present: dict[BatchId, Job], now_us: int) -> bool:
        gone = [job for job in present.values() if job.claim.expires_us <= now_us]
        for job in gone:
            del present[job.claim.batch_id]
            job.queue.clear()
            self.policy.forget(job.claim.batch_id)
        return bool(gone)

    def _look(self, present: dict[BatchId, Job], now_us: int) -> None:
        outlooks = self.policy.outlook([job.current() for job in present.values()], now_us)
        for batch_id, outlook in outlooks.items():
            job = present[batch_id]
            if job.told is None and job.done * 2 >= len(job.costs):
                job.told = outlook.eta_us

    def _start(self, present: dict[BatchId, Job], step: int, now_us: int) -> None:
        for endpoint in self.endpoints:
            for _ in range(endpoint.free(step)):
                self._lease(present, now_us, endpoint.seats)
                claims = [job.current() for job in present.values() if job.queue]
                if not claims:
                    return
                chosen = self.choose(claims) if self.choose else self.policy.turn(claims, now_us)
                if chosen is None:
                    return
                job = present[chosen]
                item = job.queue.popleft()
                self.policy.started(job.claim, job.expected)
                ends = endpoint.clock + job.costs[item]
                heappush(endpoint.running, (ends, id(job) + item, job, item, now_us, endpoint.clock))

    def _lease(self, present: dict[BatchId, Job], now_us: int, window: int) -> None:
        """Keep as many items in hand of each batch as may start at once, as far as there is room."""
        while True:
            wanting = [job for job in present.values() if job.leased < len(job.costs) and len(job.queue) < window]
            held = {job.claim.batch_id: job.held for job in present.values()}
            if not wanting or sum(held.values()) >= MOST_HELD:
                return
            chosen = self.policy.lease([job.current() for job in wanting], held, now_us)
            if chosen is None:
                return
            job = present[chosen]
            count = min(RUN, len(job.costs) - job.leased)
            job.queue.extend(range(job.leased, job.leased + count))
            job.in_runs.append(count)
            job.leased += count

    def _advance(self, present: dict[BatchId, Job], step: int, now_us: int, end_us: int) -> int:
        """Go on to the next end of an item, or to `end_us`."""
        rates = [endpoint.rate(step) for endpoint in self.endpoints]
        next_us = end_us
        for endpoint, rate in zip(self.endpoints, rates, strict=True):
            if endpoint.running and rate:
                left_s = max(0.0, endpoint.running[0][0] - endpoint.clock) / rate
                next_us = min(next_us, now_us + max(1, int(left_s * SECOND) + 1))
        for endpoint, rate in zip(self.endpoints, rates, strict=True):
            endpoint.clock += rate * (next_us - now_us) / SECOND
            while endpoint.running and endpoint.running[0][0] <= endpoint.clock:
                self._end(present, endpoint, next_us)
        return next_us

    def _end(self, present: dict[BatchId, Job], endpoint: Endpoint, now_us: int) -> None:
        _, _, job, item, started_us, _ = heappop(endpoint.running)
        batch_id, cost = job.claim.batch_id, job.costs[item]
        self.policy.served(cost, now_us)
        if self.settled:
            self.settled(job, cost, started_us, now_us)
        self.policy.settled(batch_id, job.claim.workspace_id, job.expected, cost, took_us=now_us - started_us)
        if batch_id not in present:
            return
        job.done += 1
        job.in_runs[item // RUN] -= 1
        if job.done == len(job.costs):
            job.ended_us = now_us
            del present[batch_id]
            self.policy.forget(batch_id)

    def _lose(self, endpoint: Endpoint, now_us: int) -> None:
        """Fail: what it worked on is wasted, and starts again elsewhere."""
        for _, _, job, item, _, began in endpoint.running:
            wasted = endpoint.clock - began
            self.policy.served(wasted, now_us)
            self.policy.settled(
                job.claim.batch_id, job.claim.workspace_id, job.expected, wasted, is_done=False
            )
            if job.claim.expires_us > now_us:
                job.queue.append(item)
        endpoint.running.clear()


def world_of(seed: int) -> World:
    """Draw a world: 30 hours, one to three endpoints, one to fourteen batches, from idle to overloaded."""
    draw = random.Random(seed)  # noqa: S311 - a world, not a secret
    steps = 30 * 6
    endpoints = _endpoints(draw, steps)
    start_us = MONDAY_US + draw.randrange(168) * HOUR
    supply = sum(sum(_supply(endpoint)) for endpoint in endpoints)
    jobs = _jobs(draw, start_us, supply * draw.choice((0.3, 0.6, 0.8, 0.9, 1.0, 1.3)), endpoints[0].speed)
    world = World(endpoints=endpoints, jobs=jobs, steps=steps, start_us=start_us)
    if draw.random() < 0.5:
        _remember(world)
    return world


def feasible(world: World) -> set[BatchId]:
    """Name the batches that earliest deadline first ends in time on nine tenths of the true supply.

    Fluid, and without the policy. From each deadline the time of its last items is kept off: they cannot be split,
    and an endpoint that fails takes those with it that it works on.
    """
    speed = min(endpoint.speed for endpoint in world.endpoints)
    longest_us = int(max(max(job.costs) for job in world.jobs) / speed * SECOND)
    left = {job.claim.batch_id: sum(job.costs) for job in world.jobs}
    done: set[BatchId] = set()
    for step in range(world.steps):
        now_us = world.start_us + step * world.step_us
        supply = MARGIN * sum(_supply(endpoint)[step] for endpoint in world.endpoints)
        fails = sum(step in endpoint.fails for endpoint in world.endpoints)
        for job in sorted(world.jobs, key=lambda job: job.claim.expires_us):
            batch_id, claim = job.claim.batch_id, job.claim
            is_here = claim.created_us <= now_us and now_us + world.step_us <= claim.expires_us - 2 * longest_us
            if is_here and batch_id not in done:
                # an item in flight is lost a fail, on each of the seats
                left[batch_id] += fails * max(job.costs) * world.endpoints[0].seats
                given = min(left[batch_id], supply)
                supply -= given
                left[batch_id] -= given
                if left[batch_id] <= 0:
                    done.add(batch_id)
    return done


def _endpoints(draw: random.Random, steps: int) -> list[Endpoint]:
    count, seats, speed = draw.randint(1, 3), draw.choice((2, 4, 8)), draw.uniform(5, 50)
    by_day, phase = draw.choice((0.0, 0.4, 0.8)), draw.randrange(24 * 6)
    live = [by_day if (step + phase) % (24 * 6) < 10 * 6 else 0.0 for step in range(steps)]
    for _ in range(draw.randint(0, 6)):  # bursts
        at = draw.randrange(steps)
        for step in range(at, min(steps, at + draw.randint(1, 6))):
            live[step] = draw.uniform(0.5, 1.0)
    shares = [1 - taken for taken in live]
    for _ in range(draw.choice((0, 0, 1, 2))):  # outages of all
        at = draw.randrange(steps)
        for step in range(at, min(steps, at + draw.randint(1, 9))):
            shares[step] = 0.0
    return [_endpoint(draw, seats, speed, shares) for _ in range(count)]


def _endpoint(draw: random.Random, seats: int, speed: float, shares: Sequence[float]) -> Endpoint:
    own, fails = list(shares), set()
    for _ in range(draw.choice((0, 0, 0, 1, 2))):  # it fails alone
        at = draw.randrange(len(own))
        fails.add(at)
        for step in range(at, min(len(own), at + draw.randint(1, 12))):
            own[step] = 0.0
    return Endpoint(seats=seats, speed=speed, shares=own, fails=frozenset(fails))


def _jobs(draw: random.Random, start_us: int, cost: float, speed: float) -> list[Job]:
    count, tenants = draw.randint(1, 14), draw.randint(1, 5)
    parts = [draw.lognormvariate(0, 1.5) for _ in range(count)]
    jobs = []
    for number, part in enumerate(parts):
        mean = speed * draw.uniform(20, 300)
        items = max(1, min(2000, round(cost * part / sum(parts) / mean)))
        bias, sigma = draw.choice((0.6, 1.0, 1.0, 1.6)), draw.choice((0.0, 0.3, 0.6))
        created_us = start_us + int(draw.choice((0.1, 8.0)) * draw.random() * HOUR)
        window_h = draw.choice((24, 24, 24, draw.uniform(1, 20)))
        jobs.append(
            job_of(
                number,
                tenant=draw.randrange(tenants),
                costs=[min(mean * 4, mean * draw.lognormvariate(-sigma * sigma / 2, sigma)) for _ in range(items)],
                expected=mean * bias,
                created_us=created_us,
                window_us=int(window_h * HOUR),
            )
        )
    return jobs


def job_of(
    number: int, *, tenant: int, costs: Sequence[float], expected: float, created_us: int, window_us: int = 24 * HOUR
) -> Job:
    """Make a batch of the world."""
    return Job(
        claim=Claim(
            batch_id=BatchId(f"batch{number:02}"),
            workspace_id=WorkspaceId(f"tenant{tenant}"),
            created_us=created_us,
            expires_us=created_us + window_us,
            size=len(costs),
            left_items=len(costs),
            left_cost=int(expected * len(costs)),
        ),
        costs=costs,
        expected=expected,
    )


def _supply(endpoint: Endpoint) -> list[float]:
    """Return the cost tokens that an endpoint can do, a step."""
    whole = endpoint.seats * endpoint.speed * STEP_US / SECOND
    return [whole * share for share in endpoint.shares]


def _remember(world: World) -> None:
    """Let the forecast have seen the two days before, at the same hours; bursts and outages were other ones."""
    day = 24 * 6
    usual = [sum(_supply(endpoint)[step % day] for endpoint in world.endpoints) for step in range(day)]
    for step in range(2 * day):
        now_us = world.start_us + (step - 2 * day) * STEP_US
        world.policy.supply.watch(now_us, left_items=1000, enough=64)
        world.policy.supply.served(usual[step % day])


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What became of a world."""

    seed: int
    batches: int
    feasible: int
    ended: int
    missed: tuple[BatchId, ...]
    """Feasible, and not ended in time."""
    in_range: int
    told: int


def judge(seed: int) -> Verdict:
    """Play a world and compare it with what could be done."""
    world = world_of(seed)
    could = feasible(world)
    world.play()
    ended = {job.claim.batch_id for job in world.jobs if job.ended_us is not None}
    told = [(job.told, job.ended_us) for job in world.jobs if job.told and job.ended_us]
    return Verdict(
        seed=seed,
        batches=len(world.jobs),
        feasible=len(could),
        ended=len(ended),
        missed=tuple(sorted(could - ended)),
        in_range=sum(eta[0] <= at_us <= eta[2] for eta, at_us in told),
        told=len(told),
    )


def judge_all(seeds: Iterable[int]) -> list[Verdict]:
    """Play many worlds, on all cores."""
    with ProcessPoolExecutor(os.cpu_count()) as processes:
        return list(processes.map(judge, seeds, chunksize=8))

"""Fairness and deadlines: the real policy and forecast, driven through whole days of a small world.

A world is drawn from its seed: endpoints with seats, live traffic that takes part of them by day and in bursts,
outages, endpoints that fail with all that they work on, and batches of all sizes, tenants and deadlines. Work is
counted at the grain of items and runs. `python -m bench.fairness SEED` plays one world again and tells its batches.

Two kinds of batches are counted. Those that could be done by somebody who knows the future: earliest deadline first on
nine tenths of the true supply, outages, live traffic and costs known in advance; no policy without that knowledge can
promise all of these. And those of them that were also feasible when they came: the work due until their deadline was at
most nine tenths of the supply that the forecast relied on. All of these have to end before they expire.
"""

from __future__ import annotations

import math
import os
import random
import sys
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from heapq import heappop, heappush
from operator import attrgetter

from bench.measure import spread
from bench.rows import Row
from standby.records import HOUR, SECOND, BatchId, WorkspaceId
from standby.scheduler.dispatch import MOST_HELD, InHand
from standby.scheduler.outlook import Look, Outlook, Waits
from standby.scheduler.policy import SMALL, Claim, Policy

MINUTE = 60 * SECOND
STEP_US = 10 * MINUTE
"""The supply changes, and the policy looks at deadlines, every so often (in a server: every second)."""
RUN = 16
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
    """Items that are not done, a leased run."""
    held: int = 0
    """Runs that are leased and not done."""
    ended_us: int | None = None
    told: tuple[int, int, int] | None = None
    """The ETA as told when it was half done."""
    pressure: float | None = None
    """Work due until its deadline over the supply to rely on, when it came; infinite if that was not known yet."""

    def lease(self) -> None:
        """Take its next run in hand."""
        count = min(RUN, len(self.costs) - self.leased)
        self.queue.extend(range(self.leased, self.leased + count))
        self.in_runs.append(count)
        self.leased += count
        self.held += 1

    def end(self, item: int, now_us: int) -> None:
        """Count an item that is done; a run counts whole until it is done, as in the store."""
        self.done += 1
        run = item // RUN
        self.in_runs[run] -= 1
        if self.in_runs[run]:
            return
        self.held -= 1
        left = self.claim.left_items - min(RUN, len(self.costs) - run * RUN)
        self.claim = replace(self.claim, left_items=left, left_cost=int(left * self.expected))
        if self.done == len(self.costs):
            self.ended_us = now_us


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
    starts: int = 0

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
        outlooks = self.policy.outlook([job.claim for job in present.values()], now_us)
        for batch_id, outlook in outlooks.items():
            job = present[batch_id]
            if job.pressure is None:
                job.pressure = math.inf if outlook.eta_us is None else outlook.pressure
            if job.told is None and job.done * 2 >= len(job.costs):
                job.told = outlook.eta_us

    def _start(self, present: dict[BatchId, Job], step: int, now_us: int) -> None:
        for endpoint in self.endpoints:
            for _ in range(endpoint.free(step)):
                self._lease(present, now_us, endpoint.seats)
                claims = [job.claim for job in present.values() if job.queue]
                if not claims:
                    return
                chosen = self.choose(claims) if self.choose else self.policy.turn(claims, now_us)
                if chosen is None:
                    return
                job = present[chosen]
                item = job.queue.popleft()
                self.policy.started(job.claim, job.expected)
                ends = endpoint.clock + job.costs[item]
                self.starts += 1
                heappush(endpoint.running, (ends, self.starts, job, item, now_us, endpoint.clock))

    def _lease(self, present: dict[BatchId, Job], now_us: int, window: int) -> None:
        """Keep as many items in hand of each batch as may start at once, as far as there is room."""
        while True:
            held = {job.claim.batch_id: job.held for job in present.values()}
            left = sum(job.leased - job.done for job in present.values())
            in_hand = InHand(runs=sum(held.values()), left=left, size=0)
            # as much room again is kept for batches of which nothing is in hand, and for small ones
            wanting = [
                job
                for job in present.values()
                if job.leased < len(job.costs)
                and len(job.queue) < window
                and (
                    not in_hand.is_full(MOST_HELD, window)
                    or (in_hand.runs < 2 * MOST_HELD and (not job.held or job.claim.size <= SMALL))
                )
            ]
            if not wanting:
                return
            chosen = self.policy.lease([job.claim for job in wanting], held, now_us)
            if chosen is None:
                return
            present[chosen].lease()

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
        job.end(item, now_us)
        if job.ended_us is not None:
            del present[batch_id]
            self.policy.forget(batch_id)

    def _lose(self, endpoint: Endpoint, now_us: int) -> None:
        """Fail: what it worked on is wasted, and starts again elsewhere."""
        for _, _, job, item, _, began in endpoint.running:
            wasted = endpoint.clock - began
            self.policy.served(wasted, now_us)
            self.policy.settled(job.claim.batch_id, job.claim.workspace_id, job.expected, wasted, is_done=False)
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
        mean = speed * draw.uniform(60, 600)
        items = max(1, min(2000, round(cost * part / sum(parts) / mean)))
        bias, sigma = draw.choice((0.6, 1.0, 1.0, 1.6)), draw.choice((0.0, 0.3, 0.6))
        created_us = start_us + int(draw.choice((0.1, 8.0)) * draw.random() * HOUR)
        window_h = draw.choice((24, 24, 24, draw.uniform(1, 20)))
        jobs.append(
            job_of(
                number,
                tenant=draw.randrange(tenants),
                costs=[min(mean * 2.5, mean * draw.lognormvariate(-sigma * sigma / 2, sigma)) for _ in range(items)],
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
    admitted: int
    """Of those that are feasible, how many were known to be when they came."""
    broken: tuple[BatchId, ...]
    """Of those, which did not end in time."""
    undone: int
    """Feasible when they came, and then made impossible by outages, or by costs that nobody knew."""
    in_range: int
    told: int


class FairAlone(Policy):
    """What it would be without deadlines, to compare with."""

    def outlook(self, claims: Sequence[Claim], now_us: int, lack: Waits = Waits.SUPPLY) -> Mapping[BatchId, Outlook]:
        """Look, and heed nothing of it."""
        outlooks = super().outlook(claims, now_us, lack)
        self._look = Look(batches=outlooks)
        return outlooks


def judge(seed: int, *, is_plain: bool = False) -> Verdict:
    """Play a world and compare it with what could be done."""
    world = world_of(seed)
    if is_plain:
        world.policy = FairAlone()
    could = feasible(world)
    world.play()
    ended = {job.claim.batch_id for job in world.jobs if job.ended_us is not None}
    told = [(job.told, job.ended_us) for job in world.jobs if job.told and job.ended_us]
    admitted = {job.claim.batch_id for job in world.jobs if job.pressure is not None and job.pressure <= MARGIN}
    return Verdict(
        seed=seed,
        batches=len(world.jobs),
        feasible=len(could),
        ended=len(ended),
        missed=tuple(sorted(could - ended)),
        admitted=len(admitted & could),
        broken=tuple(sorted((admitted & could) - ended)),
        undone=len(admitted - could - ended),
        in_range=sum(eta[0] <= at_us <= eta[2] for eta, at_us in told),
        told=len(told),
    )


def judge_all(seeds: Iterable[int], *, is_plain: bool = False) -> list[Verdict]:
    """Play many worlds, on all cores."""
    with ProcessPoolExecutor(os.cpu_count()) as processes:
        return list(processes.map(partial(judge, is_plain=is_plain), seeds, chunksize=8))


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """Something that runs a model: seats, cost tokens a second and seat, and what an item costs on average."""

    seats: int
    speed: float
    mean: float


BOXES = (
    Box(seats=4, speed=25.0, mean=300.0),
    Box(seats=32, speed=50.0, mean=1500.0),
    Box(seats=256, speed=40.0, mean=1500.0),
)


def shares(box: Box, submitted: Sequence[int], *, is_ours: bool = True) -> list[float]:
    """Return Jain's index of what three tenants were given, for each of ten minutes in which all of them wait.

    `submitted` says how many batches each hands in, all of one size; the alternative to the policy takes turns
    between batches.
    """
    draw = random.Random(1)  # noqa: S311 - a world, not a secret
    minutes, items = 10, int(1.2 * 10 * 60 * box.seats * box.speed / box.mean)
    given: list[dict[str, float]] = [defaultdict(float) for _ in range(minutes + 60)]
    jobs = [
        job_of(
            number,
            tenant=tenant,
            costs=[box.mean * draw.lognormvariate(-0.18, 0.6) for _ in range(items)],
            expected=box.mean,
            created_us=MONDAY_US,
        )
        for number, tenant in enumerate(tenant for tenant, count in enumerate(submitted) for _ in range(count))
    ]
    world = World(
        endpoints=[Endpoint(seats=box.seats, speed=box.speed, shares=[1.0] * minutes * 60)],
        jobs=jobs,
        steps=minutes * 60,
        step_us=SECOND,
        choose=None if is_ours else _in_turn(),
        settled=lambda job, cost, start_us, end_us: _spread(given, job.claim.workspace_id, cost, start_us, end_us),
    )
    world.play()
    now_us = MONDAY_US + minutes * MINUTE
    for endpoint in world.endpoints:
        for _, _, job, _, start_us, began in endpoint.running:
            _spread(given, job.claim.workspace_id, endpoint.clock - began, start_us, now_us)
    return [jain([minute[f"tenant{tenant}"] for tenant in range(3)]) for minute in given[:minutes]]


def jain(given: Sequence[float]) -> float:
    """Return Jain's index: 1 if all were given the same, 1/n if one was given everything."""
    squares = sum(value * value for value in given)
    return sum(given) ** 2 / (len(given) * squares) if squares else 1.0


def small_beside_large(*, others: int, is_same_tenant: bool, items: int = 50, seed: int = 0) -> float:
    """Return how much longer a small batch takes beside large ones (of 100,000 items) than it takes alone."""
    alone, beside = (_small(count, is_same_tenant=is_same_tenant, items=items, seed=seed) for count in (0, others))
    return beside / alone


def _small(others: int, *, is_same_tenant: bool, items: int, seed: int) -> float:
    draw = random.Random(seed)  # noqa: S311 - a world, not a secret
    costs = [1500 * draw.lognormvariate(-0.18, 0.6) for _ in range(items)]
    small_us = MONDAY_US + 5 * MINUTE
    small = job_of(0, tenant=0, costs=costs, expected=1500, created_us=small_us)
    large = [
        job_of(
            number + 1,
            tenant=0 if is_same_tenant else number + 1,
            costs=[1500 * draw.lognormvariate(-0.18, 0.6) for _ in range(1000)] * 100,
            expected=1500,
            created_us=MONDAY_US,
        )
        for number in range(others)
    ]
    world = World(
        endpoints=[Endpoint(seats=32, speed=50.0, shares=[1.0] * 3600)],
        jobs=[small, *large],
        steps=3600,
        step_us=SECOND,
    )
    world.play(until=lambda: small.ended_us is not None)
    assert small.ended_us is not None, "the small batch did not end within an hour"
    return (small.ended_us - small_us) / SECOND


def _in_turn() -> Callable[[Sequence[Claim]], BatchId]:
    """Take turns between batches, an item each."""
    served: Counter[BatchId] = Counter()

    def choose(claims: Sequence[Claim]) -> BatchId:
        chosen = min(claims, key=lambda claim: (served[claim.batch_id], claim.batch_id)).batch_id
        served[chosen] += 1
        return chosen

    return choose


def _spread(given: list[dict[str, float]], tenant: str, cost: float, start_us: int, end_us: int) -> None:
    """Book a cost to the minutes in which it was worked on."""
    at_us = start_us
    while at_us < end_us:
        minute = (at_us - MONDAY_US) // MINUTE
        until_us = min(end_us, MONDAY_US + (minute + 1) * MINUTE)
        if minute < len(given):
            given[minute][tenant] += cost * (until_us - at_us) / (end_us - start_us)
        at_us = until_us


def fairness_rows(worlds: int) -> list[Row]:
    """Measure deadlines, shares and small batches."""
    return [*_deadline_rows(worlds), *_jain_rows(), _small_row()]


def _deadline_rows(worlds: int) -> Iterable[Row]:
    verdicts = judge_all(range(worlds))
    plain = judge_all(range(worlds // 10), is_plain=True)
    batches, told = sum(verdict.batches for verdict in verdicts), sum(verdict.told for verdict in verdicts)
    in_range = sum(verdict.in_range for verdict in verdicts) / told
    undone = sum(verdict.undone for verdict in verdicts)
    days = f"{worlds:,} days with faults ({batches:,} batches)"
    for name, count, lost, ratio in (
        ("feasible when they came", _admitted, _broken, f"{undone} more became impossible on the way, and did not end"),
        (
            "feasible for who knows the future",
            _feasible,
            _missed,
            f"{in_range:.0%} end within the ETA told at half time",
        ),
    ):
        failing = {verdict.seed: lost(verdict) for verdict in verdicts if lost(verdict)}
        if failing:
            print(f"{name}, and missed: {failing}; see `python -m bench.fairness SEED`", file=sys.stderr)
        could, missed = sum(map(count, verdicts)), sum(map(len, failing.values()))
        plain_could, plain_missed = sum(map(count, plain)), sum(len(lost(verdict)) for verdict in plain)
        yield Row(
            name=f"deadlines: batches that end in time, {name}, {days}",
            ours=f"{could - missed:,} of {could:,}",
            against=f"{plain_could - plain_missed:,} of {plain_could:,} by fair shares alone ({worlds // 10:,} days)",
            ratio=ratio,
            target="100 %" if count is _admitted else "",
            is_met=missed == 0 or count is _feasible,
        )


_admitted, _broken = attrgetter("admitted"), attrgetter("broken")
_feasible, _missed = attrgetter("feasible"), attrgetter("missed")


def _jain_rows() -> Iterable[Row]:
    for submitted in ((1, 1, 1), (1, 1, 10)):
        ours = [value for box in BOXES for value in shares(box, submitted)]
        turns = [value for box in BOXES for value in shares(box, submitted, is_ours=False)]
        yield Row(
            name=f"three equal tenants, {':'.join(map(str, submitted))} batches: Jain's index of each minute, 3 boxes",
            ours=spread(ours, digits=3),
            against=f"{spread(turns, digits=3)} turns between batches",
            ratio="",
            target="≥ 0.95",
            is_met=min(ours) >= 0.95,
        )


def _small_row() -> Row:
    ratios = [
        small_beside_large(others=1, is_same_tenant=is_same_tenant, seed=seed)
        for seed in range(5)
        for is_same_tenant in (True, False)
    ]
    among = [
        small_beside_large(others=9, is_same_tenant=is_same, seed=seed)
        for seed in range(3)
        for is_same in (True, False)
    ]
    return Row(
        name="a batch of 50 beside one of 100,000, its time over its time alone",
        ours=spread(ratios, "x"),
        against=f"{spread(among, 'x')} beside nine",
        ratio="",
        target="≤ 3x",
        is_met=max(ratios) <= 3,
    )


def main(seed: int) -> None:
    """Play one world and tell what became of its batches."""
    world = world_of(seed)
    could = feasible(world)
    world.play()
    for job in world.jobs:
        claim = job.claim
        hours = [
            "-" if at_us is None else f"{(at_us - world.start_us) / HOUR:.1f}"
            for at_us in (claim.created_us, claim.expires_us, job.ended_us)
        ]
        ended = "ended" if job.ended_us else f"{job.done} done"
        verdict = "MISSED" if claim.batch_id in could and not job.ended_us else ""
        print(
            f"{claim.batch_id} {claim.workspace_id} {len(job.costs):5} items, {sum(job.costs):10.0f} cost tokens,"
            f" h {hours[0]} to {hours[1]}, {ended} {hours[2]},"
            f" {'feasible' if claim.batch_id in could else 'not feasible'} {verdict}"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]))

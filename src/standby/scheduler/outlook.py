"""Will each batch end in time, and when? Pure arithmetic over what is left and what will be served.

Pressure is cumulative, by earliest deadline: the work that has to be done by a deadline over the supply that can be
relied on until then. Work that not even the most that could come would finish is left out of it, so that one hopeless
batch does not take the others with it (earliest deadline first fails like dominoes when overloaded).

When a batch ends under fair shares has a closed form: by the time that a member of a round has got `x`, every other
member has got the smaller of `x` and all it wants. Applied at batch, lane and workspace, it gives the work of all.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate

from standby.records import BatchId, WorkspaceId
from standby.scheduler.forecast import Band, Forecast

CALM, TIGHT = 0.7, 0.9
"""Pressure below which all share fairly, and above which nothing but the deadline counts."""
LEAST_SHARE = 0.05
"""What those that are not urgent get in any case: nobody starves."""
MOST_PRESSURE = 99.0
SPREAD = 1.3
"""Standard errors on each side of an ETA: four of five batches end between its ends, if lengths are all that varies."""


class Waits(StrEnum):
    """Why a batch is not being worked on, as far as the policy knows; its value is shown to people."""

    NOT = "it is being worked on"
    TURN = "other batches have their turn"
    DEADLINES = "batches whose deadline is near go first"
    SUPPLY = "the endpoints take no batch items at present"
    TOO_LATE = "an item started now would not be done before the batch expires"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What is to be expected of a batch."""

    pressure: float
    """Work due by its deadline over the supply to rely on until then; at most 99. Above 1 it will hardly end."""
    is_urgent: bool
    """It goes in front of all that is not urgent, by earliest deadline."""
    will_miss: bool
    """Not even the likely supply is enough: items will expire."""
    eta_us: tuple[int, int, int] | None
    """When it ends: early, likely, late; never after its expiry. None before anything was served."""
    waits: Waits = Waits.TURN


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What is left of a batch, in cost tokens as corrected by what its items took so far."""

    batch_id: BatchId
    workspace_id: WorkspaceId
    created_us: int
    expires_us: int
    cost: float
    spread: float = 0.0
    """Standard error of `cost`, relative to it."""
    is_small: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """The outlook of all batches at one moment, and what follows from it for whose turn it is."""

    batches: Mapping[BatchId, Outlook]
    front: frozenset[BatchId] = frozenset()
    """Urgent batches that share the turns now: all of them can be done by the earliest of their deadlines."""
    others: float = 1.0
    """What part of the turns stays with all others."""
    push: float = 0.0
    """0 to 1: how far deadlines ask admission to raise its floor."""


def look(needs: Iterable[Need], forecast: Forecast | None, now_us: int, reserve_us: int) -> Look:
    """Judge all batches; `reserve_us` is the outage that deadlines are to survive."""
    ordered = sorted(needs, key=lambda need: (need.expires_us, need.created_us, need.batch_id))
    if forecast is None:
        unknown = Outlook(pressure=0.0, is_urgent=False, will_miss=False, eta_us=None)
        return Look(batches={need.batch_id: unknown for need in ordered})
    due = _pressures(ordered, forecast, now_us, reserve_us)
    urgent = _urgent(ordered, due, forecast.low, reserve_us)
    work = _work(ordered, urgent)
    batches = {
        need.batch_id: Outlook(
            pressure=min(MOST_PRESSURE, due[need.batch_id].told),
            is_urgent=need.batch_id in urgent,
            will_miss=due[need.batch_id].likely > 1,
            eta_us=_eta(need, work[need.batch_id], forecast, now_us),
        )
        for need in ordered
    }
    hottest = max((due[batch_id].felt for batch_id in urgent), default=0.0)
    told = max((d.told for d in due.values() if not d.is_hopeless), default=0.0)
    return Look(
        batches=batches,
        front=_front([need for need in ordered if need.batch_id in urgent], forecast.low),
        others=max(LEAST_SHARE, (1 - hottest) / 2) if urgent else 1.0,
        push=min(1.0, max(0.0, (told - TIGHT) / (1 - TIGHT))),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Due:
    """Pressures of a batch: as told, with the reserve for an outage, and by the likely supply."""

    told: float
    felt: float
    likely: float
    is_hopeless: bool


def _pressures(ordered: Sequence[Need], forecast: Forecast, now_us: int, reserve_us: int) -> dict[BatchId, _Due]:
    before, due = 0.0, {}
    for need in ordered:
        work = before + need.cost
        is_hopeless = need.expires_us <= now_us or work > forecast.high.supply(need.expires_us)
        due[need.batch_id] = _Due(
            told=_over(work, forecast.low.supply(need.expires_us)),
            felt=_over(work, forecast.low.supply(need.expires_us - reserve_us)),
            likely=_over(work, forecast.mid.supply(need.expires_us)),
            is_hopeless=is_hopeless,
        )
        before += 0.0 if is_hopeless else need.cost
    return due


def _urgent(ordered: Sequence[Need], due: Mapping[BatchId, _Due], low: Band, reserve_us: int) -> frozenset[BatchId]:
    """Name those that have to go first: under pressure, and not sure to end in time by their fair share."""
    tense = [need for need in ordered if due[need.batch_id].felt >= CALM and not due[need.batch_id].is_hopeless]
    if not tense:
        return frozenset()
    fair, ahead, urgent = fair_work(ordered), 0.0, set()
    for need in tense:
        ends_us = low.when(fair[need.batch_id] + ahead)
        is_safe = ends_us is not None and ends_us <= need.expires_us - reserve_us
        if due[need.batch_id].felt >= TIGHT or not is_safe:
            urgent.add(need.batch_id)
            ahead += need.cost
    return frozenset(urgent)


def _front(urgent: Sequence[Need], low: Band) -> frozenset[BatchId]:
    """Take as many of the earliest as can all be done by the first deadline: their order does not matter."""
    front: set[BatchId] = set()
    work = 0.0
    for need in urgent:
        work += need.cost
        if front and work > TIGHT * low.supply(urgent[0].expires_us):
            break
        front.add(need.batch_id)
    return frozenset(front)


def fair_work(needs: Sequence[Need]) -> dict[BatchId, float]:
    """Return how much all batches together will have been given when each of them ends by fair shares."""
    lanes: dict[tuple[WorkspaceId, bool], list[float]] = defaultdict(list)
    for need in needs:
        lanes[need.workspace_id, need.is_small].append(need.cost)
    rounds = {lane: _Round(costs) for lane, costs in lanes.items()}
    totals: dict[WorkspaceId, float] = defaultdict(float)
    for (workspace_id, _), lane in rounds.items():
        totals[workspace_id] += lane.total
    everybody = _Round(totals.values())
    work = {}
    for need in needs:
        got = rounds[need.workspace_id, need.is_small].by_the_time(need.cost)
        other = rounds.get((need.workspace_id, not need.is_small))
        work[need.batch_id] = everybody.by_the_time(got + (min(got, other.total) if other else 0.0))
    return work


class _Round:
    """Members that are served in turn until each has what it wants."""

    __slots__ = ("_sums", "_wants", "total")

    def __init__(self, wants: Iterable[float]) -> None:
        self._wants = sorted(wants)
        self._sums = [0.0, *accumulate(self._wants)]
        self.total = self._sums[-1]

    def by_the_time(self, got: float) -> float:
        """Return what all were given when one of them has got so much."""
        done = bisect_right(self._wants, got)
        return self._sums[done] + got * (len(self._wants) - done)


def _work(ordered: Sequence[Need], urgent: frozenset[BatchId]) -> dict[BatchId, float]:
    """Return how much will have been served when each batch ends: the urgent in a row, then all others in turn."""
    work = fair_work([need for need in ordered if need.batch_id not in urgent])
    ahead = 0.0
    for need in ordered:
        if need.batch_id in urgent:
            ahead += need.cost
            work[need.batch_id] = ahead
    return {batch_id: amount + (0.0 if batch_id in urgent else ahead) for batch_id, amount in work.items()}


def _eta(need: Need, work: float, forecast: Forecast, now_us: int) -> tuple[int, int, int]:
    error = SPREAD * need.spread * need.cost
    moments = (
        forecast.high.when(max(work - error, 0.0)),
        forecast.mid.when(work),
        forecast.low.when(work + error),
    )
    last_us = max(need.expires_us, now_us)
    early, likely, late = (last_us if at_us is None else min(at_us, last_us) for at_us in moments)
    return min(early, likely), likely, max(likely, late)


def _over(work: float, supply: float) -> float:
    return work / supply if supply > 0 else MOST_PRESSURE if work > 0 else 0.0

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
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import accumulate, groupby

from standby.records import BatchId, WorkspaceId
from standby.scheduler.forecast import Band, Forecast

CALM, TIGHT = 0.7, 0.9
"""Pressure below which all share fairly, and above which nothing but the deadline counts."""
OVERDUE = 1.0
"""Pressure above which earlier deadlines go before later ones, whatever the likely supply."""
LEAST_SHARE = 0.03
"""What those that are not urgent get in any case: nobody starves."""
MOST_PRESSURE = 99.0
EARLY = 0.85
"""Others may leave, and endpoints get faster: so much of the likely time is the early end of an ETA."""
SPREAD = 1.3
"""Standard errors on each side of an ETA: four of five batches end between its ends, if lengths are all that varies."""


class Waits(StrEnum):
    """Why a batch is not being worked on, as far as the policy knows; its value is shown to people."""

    NOT = "it is being worked on"
    TURN = "other batches have their turn"
    DEADLINES = "batches whose deadline is near go first"
    SUPPLY = "the endpoints take no batch items at present"
    LIVE = "live requests have the endpoints"
    AWAY = "no endpoint is up"
    TOO_LATE = "an item started now would not be done before the batch expires"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What is to be expected of a batch."""

    pressure: float
    """Work due by its deadline over the supply to rely on until then; at most 99. Above 1 it will hardly end."""
    is_urgent: bool
    """It goes in front of all that is due later."""
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
    least: float = 0.0
    """The least that it may turn out to be: only what is hopeless even then is given up."""
    spread: float = 0.0
    """Standard error of `cost`, relative to it."""
    is_small: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """The outlook of all batches at one moment, and what follows from it for whose turn it is."""

    batches: Mapping[BatchId, Outlook]
    ranks: Mapping[BatchId, int] = field(default_factory=dict)
    """Urgent batches by the order in which they go; those of one rank share. All others come behind."""
    others: float = 1.0
    """What part of the turns stays with all that are not of rank 0."""
    push: float = 0.0
    """0 to 1: how far deadlines ask admission to raise its floor."""


def look(needs: Iterable[Need], forecast: Forecast | None, now_us: int, reserve_us: int) -> Look:
    """Judge all batches; `reserve_us` is the outage that deadlines are to survive."""
    ordered = sorted(needs, key=lambda need: (need.expires_us, need.created_us, need.batch_id))
    if forecast is None:
        unknown = Outlook(pressure=0.0, is_urgent=False, will_miss=False, eta_us=None)
        return Look(batches={need.batch_id: unknown for need in ordered})
    due = _pressures(ordered, forecast, now_us, reserve_us)
    tense = _tense(ordered, due, forecast.low, reserve_us)
    ranks = _ranks(ordered, due, tense)
    work = _work(ordered, ranks)
    batches = {
        need.batch_id: Outlook(
            pressure=min(MOST_PRESSURE, due[need.batch_id].told),
            is_urgent=need.batch_id in ranks,
            will_miss=due[need.batch_id].likely > 1,
            eta_us=_eta(need, work[need.batch_id], forecast, now_us),
        )
        for need in ordered
    }
    told = max((d.told for d in due.values() if not d.is_hopeless), default=0.0)
    return Look(
        batches=batches,
        ranks=ranks,
        others=max(LEAST_SHARE, (1 - max(due[need.batch_id].felt for need in tense)) / 2) if tense else 1.0,
        push=min(1.0, max(0.0, (told - TIGHT) / (1 - TIGHT))),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Due:
    """Pressures of a batch by the supply to rely on and by the likely one, each as it is and with the reserve."""

    told: float
    felt: float
    likely: float
    hoped: float
    is_hopeless: bool


def _pressures(ordered: Sequence[Need], forecast: Forecast, now_us: int, reserve_us: int) -> dict[BatchId, _Due]:
    before = least = 0.0
    due = {}
    for need in ordered:
        work = before + need.cost
        is_hopeless = need.expires_us <= now_us or least + need.least > forecast.high.supply(need.expires_us)
        due[need.batch_id] = _Due(
            told=_over(work, forecast.low.supply(need.expires_us)),
            felt=_over(work, forecast.low.supply(need.expires_us - reserve_us)),
            likely=_over(work, forecast.mid.supply(need.expires_us)),
            hoped=_over(work, forecast.mid.supply(need.expires_us - reserve_us)),
            is_hopeless=is_hopeless,
        )
        if not is_hopeless:
            before += need.cost
            least += need.least
    return due


def _tense(ordered: Sequence[Need], due: Mapping[BatchId, _Due], low: Band, reserve_us: int) -> list[Need]:
    """Name those up to whose deadline there is nothing to give away, by deadline.

    That is so above a pressure of 0.9, and above 0.7 for a batch that its fair share would not end in time.
    """
    hot = [need for need in ordered if due[need.batch_id].felt >= CALM and not due[need.batch_id].is_hopeless]
    if not hot:
        return []
    fair = fair_work(ordered)

    def is_safe(need: Need) -> bool:
        ends_us = low.when(fair[need.batch_id])
        return due[need.batch_id].felt < TIGHT and ends_us is not None and ends_us <= need.expires_us - reserve_us

    return [need for need in hot if not is_safe(need)]


def _ranks(ordered: Sequence[Need], due: Mapping[BatchId, _Due], tense: Sequence[Need]) -> dict[BatchId, int]:
    """Rank all that is due no later than one of the tense: before it comes, its order does not matter to that one.

    All of these go before what is due later. Among them one rank goes before the next only where the likely supply
    leaves nothing to give away, or the careful guess is far exceeded; it must not make equals wait for each other.
    """
    ranks: dict[BatchId, int] = {}
    last = ordered.index(tense[-1]) if tense else -1
    rank = 0
    for need in ordered[: last + 1]:
        if due[need.batch_id].is_hopeless:
            continue
        ranks[need.batch_id] = rank
        rank += due[need.batch_id].hoped >= TIGHT or due[need.batch_id].felt >= OVERDUE
    return ranks


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


def _work(ordered: Sequence[Need], ranks: Mapping[BatchId, int]) -> dict[BatchId, float]:
    """Return how much will have been served when each batch ends: rank by rank, shared within a rank."""
    last = len(ordered)
    work: dict[BatchId, float] = {}
    ahead = 0.0

    def rank(need: Need) -> int:
        return ranks.get(need.batch_id, last)

    for _, group in groupby(sorted(ordered, key=rank), key=rank):
        shared = list(group)
        work |= {batch_id: ahead + amount for batch_id, amount in fair_work(shared).items()}
        ahead += sum(need.cost for need in shared)
    return work


def _eta(need: Need, work: float, forecast: Forecast, now_us: int) -> tuple[int, int, int]:
    error = SPREAD * need.spread * need.cost
    last_us = max(need.expires_us, now_us)

    def ends(band: Band, amount: float) -> int:
        at_us = band.when(max(0.0, amount))
        return last_us if at_us is None else min(at_us, last_us)

    early, likely, late = ends(forecast.mid, work - error), ends(forecast.mid, work), ends(forecast.low, work + error)
    return now_us + int((early - now_us) * EARLY), likely, max(likely, late)


def _over(work: float, supply: float) -> float:
    return work / supply if supply > 0 else MOST_PRESSURE if work > 0 else 0.0

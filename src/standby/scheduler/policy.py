"""Whose turn is it? Fairness and deadlines, pure: claims in, a batch out. No clock, no I/O, no chance.

Workspaces take turns (`turns.py`), within a workspace its small and its other batches, within each the batches; a turn
is a quantum of cost tokens. A small batch is served some seconds in front of its turn, so that it ends in minutes
beside any large one. As soon as a deadline is in danger (`outlook.py`), those that are urgent go first, except for a
part that stays with all others. What the endpoints gave so far says how much they will give (`forecast.py`).

Sources: DRR (Shreedhar and Varghese 1996), VTC (OSDI 2024: newcomers start at the least), DLPM (locality while the
deficit lasts), EDF gated by laxity (Niyama 2025: in overload the hopeless are served last).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

from standby.records import SECOND, BatchId, WorkspaceId
from standby.scheduler.forecast import Supply
from standby.scheduler.outlook import Look, Need, Outlook, Waits, look
from standby.scheduler.turns import Turns

QUANTUM = 32_768
"""The longest turn, in cost tokens."""
TURN_S = 2.0
"""A turn takes no longer than this at the present rate, or shares would not be equal within a minute."""
EXPRESS_S = 30.0
"""A small batch is served so many seconds in front of its turn, at most a quantum."""
EXPRESS_SHARE, EXPRESS_BURST_S = 0.02, 120.0
"""While others are urgent, what small batches get at least: a part of the turns, and so many seconds at once."""
SMALL = 64
"""Items; a batch of so many is small, and as many that wait keep the endpoints full."""
RESERVE_S = 2 * 3600.0
"""The outage that deadlines are to survive."""
RECENT_US = 30 * SECOND
GUESS = 512.0
"""Cost tokens of an item of which nothing is known."""
SURE = 16
"""Items after which a batch is known as well by what its items took as by what was expected of them."""
UNSURE = 0.6
"""How much less than expected a batch may cost of which nothing is done."""

_SMALL, _LARGE = "small", "large"


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A batch that has something to start, as the policy sees it."""

    batch_id: BatchId
    workspace_id: WorkspaceId
    created_us: int
    expires_us: int
    size: int
    left_items: int
    left_cost: int
    """Cost tokens, as the plan expects them."""


class _Purse(Enum):
    """From what an item is paid while others are urgent."""

    NONE = 0
    FIRST = 1
    OTHERS = 2
    EXPRESS = 3


@dataclass(slots=True)
class _Seen:
    """What was seen of a batch."""

    workspace_id: WorkspaceId
    lane: str
    first_left: int
    done: int = 0
    cost: float = 0.0
    squares: float = 0.0
    quickest_us: int = 0
    started_us: int | None = None


@dataclass(slots=True)
class _Tenant:
    """The accounts of a workspace: its two lanes, and the batches in each."""

    lanes: Turns = field(default_factory=Turns)
    batches: dict[str, Turns] = field(default_factory=lambda: {_SMALL: Turns(), _LARGE: Turns()})
    known: Counter[str] = field(default_factory=Counter)
    """Batches by lane, also those that had no turn yet."""


class Policy:
    """Whose item starts next, whose run is leased next, and what becomes of each batch."""

    def __init__(
        self, *, quantum: float = QUANTUM, small: int = SMALL, reserve_s: float = RESERVE_S, turn_s: float = TURN_S
    ) -> None:
        """Begin with nobody. `small` is in items: two windows, or 50 if that is more."""
        self._most_quantum = quantum
        self._small_size = small
        self._reserve_us = int(reserve_s * SECOND)
        self._turn_s = turn_s
        self._root = Turns()
        self._tenants: dict[WorkspaceId, _Tenant] = {}
        self._seen: dict[BatchId, _Seen] = {}
        self._small: set[BatchId] = set()
        self._last: BatchId | None = None
        self._look = Look(batches={})
        self._served_us: int | None = None
        self._now_us = 0
        self._owed = 0.0
        self._express = 0.0
        """What small batches were given out of their purse while others are urgent, as far as it is not paid back."""
        self._purse = _Purse.NONE
        self.supply = Supply()
        """What the endpoints gave."""

    @property
    def quantum(self) -> float:
        """The length of a turn, in cost tokens: so many seconds of the present rate; where that is little, an item."""
        return min(self._most_quantum, (self.supply.rate or 0.0) * self._turn_s)

    @property
    def credit(self) -> float:
        """How much of a small batch is served in front of its turn, in cost tokens."""
        return min(self._most_quantum, (self.supply.rate or 0.0) * EXPRESS_S)

    @property
    def push(self) -> float:
        """0 to 1: how far admission's floor has to rise towards its deadline floor (pressure 0.9 to 1)."""
        return self._look.push

    def turn(self, claims: Sequence[Claim], now_us: int) -> BatchId | None:
        """Say whose item starts next, among batches that have one which can; None if there is none in time.

        Whoever calls starts that item and says `started`, or leaves the batch out of the claims the next time.
        """
        self._now_us = now_us
        found = {claim.batch_id: claim for claim in claims}
        last = self._last
        if last is not None and self._keeps(last, found) and self._in_time(found[last], now_us):
            return last
        while found:
            chosen = self._choose(found)
            if self._in_time(found[chosen], now_us):
                self._last = chosen
                return chosen
            del found[chosen]
        return None

    def started(self, claim: Claim, cost: float) -> None:
        """Charge what an item that starts is expected to cost."""
        seen = self._know(claim)
        tenant = self._tenants[claim.workspace_id]
        self._root.charge(claim.workspace_id, cost)
        tenant.lanes.charge(seen.lane, cost)
        tenant.batches[seen.lane].charge(claim.batch_id, cost)
        seen.started_us = self._now_us
        self._pay(self._purse, cost)

    def settled(
        self,
        batch_id: BatchId,
        workspace_id: WorkspaceId,
        estimated: float,
        actual: float,
        *,
        took_us: int = 0,
        is_done: bool = True,
    ) -> None:
        """Correct the charge of an attempt; `took_us` is its duration, `is_done` says that its item has its result."""
        self._root.correct(workspace_id, actual - estimated)
        if self._look.ranks.get(batch_id) == 0:
            self._pay(_Purse.FIRST, actual - estimated)
        seen = self._seen.get(batch_id)
        if seen is None:
            return
        tenant = self._tenants[workspace_id]
        tenant.lanes.correct(seen.lane, actual - estimated)
        tenant.batches[seen.lane].correct(batch_id, actual - estimated)
        if is_done:
            seen.done += 1
            seen.cost += actual
            seen.squares += actual * actual
            if took_us:
                # the quickest so far, slowly forgotten: an engine that was slow for a while is not slow for ever
                seen.quickest_us = min(took_us, int(seen.quickest_us * 1.02)) if seen.quickest_us else took_us

    def lease(self, claims: Sequence[Claim], held: Mapping[BatchId, int], now_us: int) -> BatchId | None:
        """Say whose run to lease next; `held` counts the runs that are held of each batch.

        A batch that holds none comes before one that does, then the urgent, then the workspace (and its small batches
        on their own) that holds fewest; so all are in hand when their turn comes, as long as there is room.
        """
        taken = Counter[tuple[WorkspaceId, str]]()
        for claim in claims:
            taken[claim.workspace_id, self._lane(claim)] += held.get(claim.batch_id, 0)
        waiting = [claim for claim in claims if self._in_time(claim, now_us)]
        return min(waiting, key=lambda claim: self._order(claim, held, taken)).batch_id if waiting else None

    def served(self, cost: float, now_us: int) -> None:
        """Count what an attempt took from the endpoints, as it ends; all that is expected of them follows from it."""
        self._served_us = now_us
        self.supply.served(cost)

    def outlook(self, claims: Sequence[Claim], now_us: int, lack: Waits = Waits.SUPPLY) -> Mapping[BatchId, Outlook]:
        """Judge all batches that are not done, started or not, and decide who is urgent. Call it every second or so.

        `lack` is what batches wait for while nothing is served at all: only who sees the endpoints knows.
        """
        self._now_us = now_us
        self.supply.watch(now_us, left_items=sum(claim.left_items for claim in claims), enough=self._small_size)
        until_us = max((claim.expires_us for claim in claims), default=now_us)
        forecast = self.supply.forecast(now_us, until_us) if claims else None
        was_urgent = bool(self._look.ranks)
        self._look = look(map(self._need, claims), forecast, now_us, self._reserve_us)
        if not was_urgent:
            self._owed = self._express = 0.0
        return {
            claim.batch_id: replace(self._look.batches[claim.batch_id], waits=self._waits(claim, now_us, lack))
            for claim in claims
        }

    def forget(self, batch_id: BatchId) -> None:
        """Drop a batch that ended or was canceled; what its workspace was given stays booked."""
        seen = self._seen.pop(batch_id, None)
        self._small.discard(batch_id)
        if self._last == batch_id:
            self._last = None
        if seen is None:
            return
        tenant = self._tenants[seen.workspace_id]
        tenant.batches[seen.lane].leave(batch_id)
        tenant.known[seen.lane] -= 1
        if not tenant.known[seen.lane]:
            tenant.lanes.leave(seen.lane)
        if not tenant.known.total():
            del self._tenants[seen.workspace_id]
            self._root.leave(seen.workspace_id)

    def _order(
        self, claim: Claim, held: Mapping[BatchId, int], taken: Mapping[tuple[WorkspaceId, str], int]
    ) -> tuple[int | float | str, ...]:
        batch_id, workspace_id, lane = claim.batch_id, claim.workspace_id, self._lane(claim)
        ranks = self._look.ranks
        tenant = self._tenants.get(workspace_id)
        return (
            bool(held.get(batch_id)) and ranks.get(batch_id) != 0,
            ranks.get(batch_id, len(ranks)),
            taken[workspace_id, lane],
            held.get(batch_id, 0),
            lane is not _SMALL,
            self._root.used(workspace_id),
            tenant.batches[lane].used(batch_id) if tenant else 0.0,
            claim.created_us,
            batch_id,
        )

    def _keeps(self, last: BatchId, found: Mapping[BatchId, Claim]) -> bool:
        """Whether the last batch goes on, told without looking at all others."""
        if last not in found or self._look.ranks or not self._seen.keys() >= found.keys():
            return False
        if last not in self._small and not self._small.isdisjoint(found):
            return False
        seen = self._seen[last]
        tenant = self._tenants[seen.workspace_id]
        return (
            self._root.stays(seen.workspace_id)
            and tenant.lanes.stays(seen.lane)
            and tenant.batches[seen.lane].stays(last)
        )

    def _choose(self, found: Mapping[BatchId, Claim]) -> BatchId:
        ranks = self._look.ranks
        self._purse = _Purse.NONE
        if not ranks:
            return self._next(found.values())
        first = [claim for claim in found.values() if ranks.get(claim.batch_id) == 0]
        others = [claim for claim in found.values() if ranks.get(claim.batch_id) != 0]
        if not first:
            # what of rank 0 is left is in flight: the next rank goes on, before those that are not urgent
            best = min(ranks.get(claim.batch_id, len(ranks)) for claim in others)
            return self._next([claim for claim in others if ranks.get(claim.batch_id, len(ranks)) == best])
        small = [claim for claim in others if claim.size <= self._small_size]
        if small and self._express < self._most_express:
            self._purse = _Purse.EXPRESS
            return self._next(small)
        if others and self._owed > 0:
            self._purse = _Purse.OTHERS
            return self._next(others)
        self._purse = _Purse.FIRST
        return self._next(first)

    def _next(self, claims: Iterable[Claim]) -> BatchId:
        quantum, credit = self.quantum, self.credit
        workspaces: dict[WorkspaceId, dict[str, list[BatchId]]] = {}
        ahead = set()
        for claim in claims:
            seen = self._seen.get(claim.batch_id) or self._know(claim)
            lanes = workspaces.get(claim.workspace_id)
            if lanes is None:
                lanes = workspaces[claim.workspace_id] = {}
            if seen.lane in lanes:
                lanes[seen.lane].append(claim.batch_id)
            else:
                lanes[seen.lane] = [claim.batch_id]
                if seen.lane is _SMALL:
                    ahead.add(claim.workspace_id)
        workspace_id = WorkspaceId(self._root.pick(workspaces, quantum, ahead, credit))
        lanes, tenant = workspaces[workspace_id], self._tenants[workspace_id]
        lane = tenant.lanes.pick(lanes, quantum, (_SMALL,) if _SMALL in lanes else (), credit)
        return BatchId(tenant.batches[lane].pick(lanes[lane], quantum))

    def _pay(self, purse: _Purse, cost: float) -> None:
        """Keep the part of the turns that stays with those that are not urgent, without letting it pile up."""
        if not self._look.ranks:
            return
        if purse is _Purse.FIRST:
            others = self._look.others
            self._owed = min(self._owed + cost * others / (1 - others), self.quantum)
            self._express = max(0.0, self._express - cost * EXPRESS_SHARE)
        elif purse is _Purse.EXPRESS:
            self._express += cost
        elif purse is _Purse.OTHERS:
            self._owed -= cost

    @property
    def _most_express(self) -> float:
        return (self.supply.rate or 0.0) * EXPRESS_BURST_S

    def _know(self, claim: Claim) -> _Seen:
        seen = self._seen.get(claim.batch_id)
        if seen is None:
            seen = _Seen(
                workspace_id=claim.workspace_id, lane=self._lane(claim), first_left=claim.left_items or claim.size
            )
            self._seen[claim.batch_id] = seen
            self._tenants.setdefault(claim.workspace_id, _Tenant()).known[seen.lane] += 1
            if seen.lane is _SMALL:
                self._small.add(claim.batch_id)
        return seen

    def _lane(self, claim: Claim) -> str:
        return _SMALL if claim.size <= self._small_size else _LARGE

    def _in_time(self, claim: Claim, now_us: int) -> bool:
        """Whether an item of it that starts now can be done before it expires."""
        seen = self._seen.get(claim.batch_id)
        return now_us + (seen.quickest_us if seen else 0) < claim.expires_us

    def _need(self, claim: Claim) -> Need:
        """Say what is left of a batch: as expected at first, then more and more as its items turned out."""
        seen = self._seen.get(claim.batch_id)
        items, done = claim.left_items, seen.done if seen else 0
        expected = claim.left_cost / items if claim.left_cost and items else GUESS
        spread = 1.0
        if seen is not None and done:
            items = max(1, min(items, seen.first_left - done)) if items else 0
            mean = seen.cost / done
            spread = math.sqrt(max(0.0, seen.squares / done - mean * mean)) / mean if mean and done > 1 else 1.0
            expected = (SURE * expected + done * mean) / (SURE + done)
        return Need(
            batch_id=claim.batch_id,
            workspace_id=claim.workspace_id,
            created_us=claim.created_us,
            expires_us=claim.expires_us,
            cost=items * expected,
            least=items * expected * (1 - UNSURE * SURE / (SURE + done)),
            spread=spread * math.sqrt(1 / max(items, 1) + 1 / max(done, 1)),
            is_small=claim.size <= self._small_size,
        )

    def _waits(self, claim: Claim, now_us: int, lack: Waits) -> Waits:
        seen = self._seen.get(claim.batch_id)
        if not self._in_time(claim, now_us):
            return Waits.TOO_LATE
        if seen is not None and seen.started_us is not None and now_us - seen.started_us <= RECENT_US:
            return Waits.NOT
        if self._served_us is None or now_us - self._served_us > RECENT_US:
            return lack
        if self._look.ranks and self._look.ranks.get(claim.batch_id) != 0:
            return Waits.DEADLINES
        return Waits.TURN

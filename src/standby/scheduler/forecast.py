"""How much work will the endpoints take? From the cost tokens harvested so far to a supply with a range. Pure.

What an endpoint gives to batches depends on its live traffic, which follows the clock and the week. So the rate of
each hour of the week is remembered for some weeks; the 25th percentile of these is what deadlines may rely on. An hour
of the week never seen is taken from the same hour of other days, and one of which nothing is known from the last 15
minutes and the last hours, halved where it has to be relied on.

Only time in which work waited tells anything: an idle endpoint is not a slow one.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from standby.records import HOUR, SECOND

WEEK_HOURS = 168
SLICE_US = 10 * SECOND
LONGEST_GAP_US = 15 * 60 * SECOND
"""Time between two looks that is longer than this was not watched: the server may have been down."""
FAST_S, SLOW_S, BEST_S = 15 * 60.0, 6 * 3600.0, 24 * 3600.0
WEEKS = 8
UNSURE = 0.25
"""What of the usual rate is relied on in an hour that was never seen."""
SURPRISE = 3.0
"""How much better than the best that was seen an hour never seen may be."""
QUANTILE = 0.25
FEW = 4
"""Samples of an hour below which a careful guess counts as one more sample."""
NEAR = 0.8
"""What of the present rate is relied on for the rest of this hour."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """One forecast: cost tokens that will have been served by the end of each segment of time."""

    edges_us: Sequence[int]
    """Where segments end; the first entry is now."""
    sums: Sequence[float]
    """Cost tokens from now to that edge; the first is 0."""

    def supply(self, until_us: int) -> float:
        """Return the cost tokens that will be served from now until then."""
        edges, sums = self.edges_us, self.sums
        if until_us <= edges[0]:
            return 0.0
        at = min(bisect_left(edges, until_us), len(edges) - 1)
        share = (until_us - edges[at - 1]) / (edges[at] - edges[at - 1])
        return sums[at - 1] + (sums[at] - sums[at - 1]) * share

    def when(self, work: float) -> int | None:
        """Return when that many cost tokens will have been served; None if that cannot be seen from here."""
        edges, sums = self.edges_us, self.sums
        if work <= 0:
            return edges[0]
        at = bisect_left(sums, work)
        if at == len(sums):
            return None
        share = (work - sums[at - 1]) / (sums[at] - sums[at - 1])
        return edges[at - 1] + round((edges[at] - edges[at - 1]) * share)


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What can be relied on, what is likely, and the most that could come."""

    low: Band
    mid: Band
    high: Band


class Supply:
    """The rates that were harvested, and what they let expect."""

    def __init__(self) -> None:
        """Begin with nothing known."""
        self._fast, self._slow = _Mean(FAST_S), _Mean(SLOW_S)
        self._best = 0.0
        self._hours: dict[int, deque[float]] = {}
        self._hour = -1
        self._hour_cost = self._hour_s = 0.0
        self._slice_us: int | None = None
        self._cost = 0.0
        self._wanted_us = self._some_us = 0
        self._looked_us: int | None = None
        self._left_items = 0

    def served(self, cost: float) -> None:
        """Count work that was done, in cost tokens."""
        self._cost += cost

    def watch(self, now_us: int, *, left_items: int, enough: int) -> None:
        """Say how many items wait or run; with less than `enough` of them the endpoints may not be full."""
        since = self._looked_us
        if since is not None and self._left_items and now_us - since <= LONGEST_GAP_US:
            self._some_us += now_us - since
            self._wanted_us += now_us - since if self._left_items >= enough else 0
        self._looked_us, self._left_items = now_us, left_items
        if self._slice_us is None:
            self._slice_us = now_us
        elif now_us - self._slice_us >= SLICE_US:
            self._close(now_us)

    @property
    def rate(self) -> float | None:
        """Cost tokens a second in the last 15 minutes of work; None before the first of it."""
        return self._fast.value

    def forecast(self, now_us: int, until_us: int) -> Forecast | None:
        """Look ahead as far as `until_us`; None as long as nothing was served."""
        fast, slow = self._fast.value, self._slow.value
        if fast is None or slow is None:
            return None
        edges = _edges(now_us, until_us)
        rates = [self._expect(edge // HOUR % WEEK_HOURS, fast, slow) for edge in edges[:-1]]
        rates[0] = (NEAR * fast, fast, max(fast, rates[0][2]))
        lows, mids, highs = zip(*rates, strict=True)
        return Forecast(low=_band(edges, lows), mid=_band(edges, mids), high=_band(edges, highs))

    def _close(self, now_us: int) -> None:
        if not self._cost and self.rate is None:
            return  # nothing was ever served: how long that takes is part of the first rate
        wanted_s, some_s = self._wanted_us / SECOND, self._some_us / SECOND
        if some_s > 0:
            rate = self._cost / some_s
            if wanted_s >= some_s / 2 or rate > (self._fast.value or 0.0):
                self._learn(rate, some_s, now_us)
        self._slice_us, self._cost = now_us, 0.0
        self._wanted_us = self._some_us = 0

    def _learn(self, rate: float, seconds: float, now_us: int) -> None:
        hour = now_us // HOUR
        if hour != self._hour:
            self._keep_hour()
            self._hour, self._hour_cost, self._hour_s = hour, 0.0, 0.0
        self._hour_cost += rate * seconds
        self._hour_s += seconds
        self._fast.add(rate, seconds)
        self._slow.add(rate, seconds)
        self._best = max(self._best * math.exp(-seconds / BEST_S), self._fast.value or 0.0)

    def _keep_hour(self) -> None:
        if self._hour_s >= 600:
            kept = self._hours.setdefault(self._hour % WEEK_HOURS, deque(maxlen=WEEKS))
            kept.append(self._hour_cost / self._hour_s)

    def _expect(self, hour: int, fast: float, slow: float) -> tuple[float, float, float]:
        """Return the low, middle and high rate of an hour of the week."""
        samples = list(self._hours.get(hour, ())) or [
            self._hours[other][-1] for other in range(hour % 24, WEEK_HOURS, 24) if other in self._hours
        ]
        careful = UNSURE * min(fast, slow)
        if not samples:
            return careful, slow, SURPRISE * max(slow, self._best)
        low = sorted([*samples, careful] if len(samples) < FEW else samples)
        samples.sort()
        return low[int(QUANTILE * len(low))], samples[len(samples) // 2], max(samples[-1], self._best)


class _Mean:
    """A mean over time that forgets, and knows how little it has seen at first."""

    __slots__ = ("_over_s", "_sum", "_weight")

    def __init__(self, over_s: float) -> None:
        self._over_s = over_s
        self._sum = self._weight = 0.0

    def add(self, value: float, seconds: float) -> None:
        kept = math.exp(-seconds / self._over_s)
        self._sum = self._sum * kept + value * (1 - kept)
        self._weight = self._weight * kept + (1 - kept)

    @property
    def value(self) -> float | None:
        return self._sum / self._weight if self._weight else None


def _edges(now_us: int, until_us: int) -> list[int]:
    first = (now_us // HOUR + 1) * HOUR
    return [now_us, *range(first, max(until_us, first) + HOUR, HOUR)]


def _band(edges: list[int], rates: Sequence[float]) -> Band:
    spans = (rate * (end - start) / SECOND for rate, start, end in zip(rates, edges[:-1], edges[1:], strict=True))
    return Band(edges_us=edges, sums=[0.0, *accumulate(spans)])

"""How much slower does an engine get by what is in flight? Pure: the gap between tokens seen at each load, a line out.

An engine that works in steps takes `a + b * n` for a step of n requests, each of which gets one token of it. The line
is fitted through what was seen at small and large loads, each size of load counting the same, so that hours at one
load do not make it forget the others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from standby.records import SECOND

FOLLOW = 0.1
FORGET_US = 600 * SECOND
"""So that a mistake is not believed for long: what is forgotten is tried again."""
A_DOUBLING = 2
"""Sizes of load that are told apart between one load and its double."""
LEAST_ALONE = 0.3
"""Of the least gap that was seen: a line never starts lower, whatever its slope."""
STEEPEST = 0.55
"""Of the time alone, a request: no engine that works in steps gains so little from more of them."""
STEEP = 0.002
"""Of the time alone, a request: less than this is noise."""


@dataclass(slots=True)
class _Point:
    load: float
    gap_s: float
    at_us: int


class Slowdown:
    """The line of one endpoint."""

    def __init__(self) -> None:
        """Nothing was seen."""
        self._points: dict[int, _Point] = {}
        self._alone_s: float | None = None
        self._each_s: float | None = None

    @property
    def alone_s(self) -> float | None:
        """The gap of a request alone."""
        return self._alone_s

    @property
    def each_s(self) -> float | None:
        """What one request more adds to the gap of all; None until loads were seen that differ enough."""
        return self._each_s

    def learn(self, load: float, gap_s: float, now_us: int) -> None:
        """Take what was seen: so many requests in flight, and this gap."""
        if load <= 0:
            return
        size = round(A_DOUBLING * math.log2(max(1.0, load)))
        point = self._points.get(size)
        if point is None or now_us - point.at_us > FORGET_US:
            self._points[size] = _Point(load, gap_s, now_us)
        else:
            point.load += FOLLOW * (load - point.load)
            point.gap_s += FOLLOW * (gap_s - point.gap_s)
            point.at_us = now_us
        self._fit(now_us)

    def gap_s(self, load: float) -> float | None:
        """Return the gap at a load."""
        if self._alone_s is None:
            return None
        return self._alone_s + (self._each_s or 0.0) * max(0.0, load - 1)

    def most_at(self, gap_s: float) -> float:
        """Return the load at which this gap is reached; infinite where load makes no difference."""
        if self._alone_s is None or not self._each_s or self._each_s < STEEP * self._alone_s:
            return math.inf
        return max(0.0, 1 + (gap_s - self._alone_s) / self._each_s)

    def most_for(self, share: float, slots: int) -> float:
        """Return the least load that gives this share of the tokens a second that all slots would give."""
        if self._alone_s is None or not self._each_s:
            return share * slots
        step_s = self._alone_s - self._each_s
        return share * slots * step_s / (step_s + (1 - share) * self._each_s * slots)

    def power(self, load: float, slots: int) -> float:
        """Return the share of those tokens a second that this load takes."""
        gap_s, full_s = self.gap_s(load), self.gap_s(slots)
        if not gap_s or not full_s or not slots:
            return 1.0 if load else 0.0
        return min(1.0, (load / gap_s) / (slots / full_s))

    def _fit(self, now_us: int) -> None:
        points = [one for one in self._points.values() if now_us - one.at_us <= FORGET_US]
        least_s = min(one.gap_s for one in points)
        loads = [one.load - 1 for one in points]
        middle, middle_s = sum(loads) / len(points), sum(one.gap_s for one in points) / len(points)
        spread = sum((load - middle) ** 2 for load in loads)
        if max(loads) - min(loads) < 1:
            self._alone_s, self._each_s = least_s, None
            return
        each_s = sum((load - middle) * (one.gap_s - middle_s) for load, one in zip(loads, points, strict=True)) / spread
        each_s = max(0.0, each_s)
        alone_s = max(LEAST_ALONE * least_s, middle_s - each_s * middle)
        if each_s > STEEPEST * alone_s:
            # prompts that are read beside make tokens slow at high loads; a line so steep would leave one item at most
            alone_s = middle_s / (1 + STEEPEST * middle)
            each_s = STEEPEST * alone_s
        self._alone_s, self._each_s = alone_s, min(each_s, max(0.0, alone_s * 0.999))

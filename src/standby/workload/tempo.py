"""How fast a job goes and how long it will still take, from counts that come now and then. Pure."""

from __future__ import annotations

import itertools
from collections import deque

WINDOW_S = 600.0
FEWEST = 3
"""Changes that are kept however old they are: looks at a batch are minutes apart."""


class Tempo:
    """The last counts of rows that are done, each with the time at which it was seen, in seconds."""

    def __init__(self) -> None:
        """Begin without any."""
        self._seen: deque[tuple[float, int]] = deque()

    def add(self, now: float, done: int) -> None:
        """Take a count; one that is lower than the last, as when rows are tried again, begins anew."""
        if self._seen and done < self._seen[-1][1]:
            self._seen.clear()
        if self._seen and done == self._seen[-1][1]:
            return
        self._seen.append((now, done))
        while len(self._seen) > FEWEST and self._seen[0][0] < now - WINDOW_S:
            self._seen.popleft()

    def per_s(self, now: float) -> float | None:
        """Return rows a second; None before two counts. A count that is overdue slows it down."""
        if len(self._seen) < 2:
            return None
        (began, first), (last, done) = self._seen[0], self._seen[-1]
        times = [at for at, _ in self._seen]
        gap = max(after - before for before, after in itertools.pairwise(times))
        took = max(last - began, now - began - gap)
        return (done - first) / took if took > 0 else None

    def left_s(self, now: float, items: int) -> float | None:
        """Return the seconds until so many rows are done, at this pace; None if it is not known."""
        rate = self.per_s(now)
        if not rate:
            return None
        at, done = self._seen[-1]
        return max(0.0, (items - done) / rate - (now - at))

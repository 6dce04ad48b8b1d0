"""Time that has passed for a job, whatever becomes of the clock on the wall.

A laptop that sleeps stops the steady clock and not the one on the wall; somebody who sets the clock moves the one on
the wall and not the steady one. Polls are due by what passed on either; a decision that could pay twice, or give up,
waits for the steady clock alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable


class Elapsed:
    """Seconds since its start, asleep or awake; never goes back, whoever sets the clock on the wall."""

    def __init__(self, wall: Callable[[], float] = time.time, steady: Callable[[], float] = time.monotonic) -> None:
        """Start at 0."""
        self._wall, self.steady = wall, steady
        self._passed_s = 0.0
        self._seen = (wall(), steady())

    def __call__(self) -> float:
        """Tell how much has passed: of both clocks the one that went further since it was last asked."""
        before, self._seen = self._seen, (self._wall(), self.steady())
        self._passed_s += max(0.0, self._seen[0] - before[0], self._seen[1] - before[1])
        return self._passed_s

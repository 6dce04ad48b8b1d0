"""When does an endpoint get work? Pure: what happened and the time in, the next state out.

Closed: it gets all. After some failures in a row it opens: nothing for a pause that doubles each time, up to a minute.
Then it is half open: one request is the trial, and how it ends decides. Beside that, an endpoint that asked for
time (`retry-after`) rests until then; that is no failure.

Times are microseconds since 1970.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from standby.records import SECOND

MOST_PAUSE_US = 60 * SECOND


class BreakerState(StrEnum):
    """What it means for the next request."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True, kw_only=True)
class Breaker:
    """The state of one endpoint; every verb returns the next one."""

    most_failures: int
    """Failures in a row that open it; 0 never does."""
    first_pause_us: int
    failures: int = 0
    """In a row, while it is closed."""
    openings: int = 0
    """In a row, without a success between them; 0: it is closed."""
    open_until_us: int = 0
    has_trial: bool = False
    rests_until_us: int = 0

    def state(self, now_us: int) -> BreakerState:
        """Return the state; a rest does not show in it."""
        if self.openings == 0:
            return BreakerState.CLOSED
        return BreakerState.OPEN if now_us < self.open_until_us else BreakerState.HALF_OPEN

    def allows(self, now_us: int) -> bool:
        """Whether a request may be sent now."""
        if now_us < self.rests_until_us:
            return False
        match self.state(now_us):
            case BreakerState.CLOSED:
                return True
            case BreakerState.OPEN:
                return False
            case BreakerState.HALF_OPEN:
                return not self.has_trial

    def wait_us(self, now_us: int) -> int:
        """How long it will certainly allow nothing."""
        return max(0, self.rests_until_us - now_us, self.open_until_us - now_us if self.openings else 0)

    def is_trial(self, now_us: int) -> bool:
        """Whether a request that is sent now is the trial; `allows` was asked before."""
        return self.state(now_us) is BreakerState.HALF_OPEN

    def sent(self, *, is_trial: bool) -> Breaker:
        """Take note of a request; the same `is_trial` belongs to its end."""
        return replace(self, has_trial=True) if is_trial else self

    def succeeded(self, *, is_trial: bool) -> Breaker:
        """It answered, well or with a refusal that is the request's own fault."""
        if is_trial:
            return replace(self, failures=0, openings=0, open_until_us=0, has_trial=False)
        return replace(self, failures=0) if self.failures else self

    def failed(self, now_us: int, *, is_trial: bool) -> Breaker:
        """It failed. What was sent before it opened tells nothing new."""
        if is_trial:
            return self._opened(now_us)
        if self.openings or not self.most_failures:
            return self
        failures = self.failures + 1
        return self._opened(now_us) if failures >= self.most_failures else replace(self, failures=failures)

    def left(self, *, is_trial: bool) -> Breaker:
        """Nobody waited for the end: another request may be the trial."""
        return replace(self, has_trial=False) if is_trial else self

    def rested(self, now_us: int, for_us: int) -> Breaker:
        """It asks for time; at most a minute is given at once."""
        until_us = now_us + min(for_us, MOST_PAUSE_US)
        return replace(self, rests_until_us=max(self.rests_until_us, until_us))

    def came_back(self, now_us: int) -> Breaker:
        """It was away and is there again: if it was open, one request may try at once."""
        return replace(self, open_until_us=min(self.open_until_us, now_us))

    def _opened(self, now_us: int) -> Breaker:
        pause_us = min(MOST_PAUSE_US, self.first_pause_us * 2 ** min(self.openings, 32))
        return replace(self, failures=0, openings=self.openings + 1, open_until_us=now_us + pause_us, has_trial=False)

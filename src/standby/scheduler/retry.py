"""Again, or for ever? Pure: how an attempt failed in, what to do with the item out.

An endpoint that is down never fails an item: such attempts are repeated until the batch expires. What may be the item's
fault (a broken answer, a time-out, nothing at all) is repeated a few times and then becomes its result.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from standby.errors import EngineError, Failure
from standby.records import SECOND

FIRST_S = 0.25
MOST_S = 30.0
RETRY_SHARE = 0.1
"""Retries that may fail, as a share of all attempts."""
RETRY_FLOOR = 10.0
RETRY_FLOOR_A_SECOND = 2.0
RETRY_MOST = 100.0
"""Healthy hours earn no more than this many retries."""
MOST_BUDGETS = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Tries:
    """What an item went through."""

    endpoint: int = 0
    """Attempts that failed by the endpoint's fault."""
    attempt: int = 0
    """Attempts that may have failed by the item's."""

    @property
    def total(self) -> int:
        """All failed attempts."""
        return self.endpoint + self.attempt

    def after(self, failure: Failure) -> Tries:
        """Count one more failed attempt."""
        if failure.fault == "endpoint":
            return Tries(endpoint=self.endpoint + 1, attempt=self.attempt)
        return Tries(endpoint=self.endpoint, attempt=self.attempt + 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Again:
    """Try again after `wait_s` seconds."""

    wait_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Final:
    """The item is errored with this wire type and message."""

    type: str
    message: str


def decide(error: EngineError, tries: Tries, *, most_attempts: int, jitter: float) -> Again | Final:
    """Decide after a failed attempt; `tries` includes it; `jitter` is in [0, 1)."""
    if not error.failure.retriable or tries.attempt >= most_attempts:
        return Final(type=error.failure.wire_type, message=error.message)
    wait_s = backoff_s(tries.total, jitter=jitter)
    return Again(wait_s=max(wait_s, error.retry_after_s or 0.0))


def backoff_s(failures: int, *, jitter: float) -> float:
    """Double from 0.25 s up to 30 s, less up to a half by `jitter`."""
    return min(MOST_S, FIRST_S * 2.0 ** min(failures - 1, 16)) * (1.0 - jitter / 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryBudget:
    """How often a sick engine may be asked again: a tenth of its attempts, plus a small floor.

    A retry takes a token and gives it back if it succeeds, so only retries that fail use the budget up. Every verb
    returns the next state.
    """

    at_us: int
    tokens: float = RETRY_FLOOR

    def at(self, now_us: int) -> RetryBudget:
        """Let time go by: below its floor it refills slowly."""
        if self.tokens >= RETRY_FLOOR:
            return replace(self, at_us=now_us)
        earned = max(0, now_us - self.at_us) / SECOND * RETRY_FLOOR_A_SECOND
        return replace(self, at_us=now_us, tokens=min(RETRY_FLOOR, self.tokens + earned))

    @property
    def allows(self) -> bool:
        """Whether a retry may be made now."""
        return self.tokens >= 1.0

    def attempted(self, *, is_retry: bool) -> RetryBudget:
        """Take note of an attempt that begins."""
        return replace(self, tokens=min(RETRY_MOST, self.tokens + RETRY_SHARE - (1.0 if is_retry else 0.0)))

    def succeeded(self, *, is_retry: bool) -> RetryBudget:
        """Take note of an attempt that did not fail."""
        return replace(self, tokens=min(RETRY_MOST, self.tokens + 1.0)) if is_retry else self


class RetryBudgets:
    """The retry budget of every model that is asked for; names are the clients' to choose, so few are kept."""

    def __init__(self) -> None:
        """Begin with full floors."""
        self._budgets: dict[str, RetryBudget] = {}

    def allows(self, model: str, now_us: int) -> bool:
        """Whether a retry may be made now."""
        return self._of(model, now_us).allows

    def attempted(self, model: str, now_us: int, *, is_retry: bool) -> None:
        """Take note of an attempt that begins."""
        budget = self._budgets.get(model)
        if is_retry or budget is None or budget.tokens < RETRY_MOST:  # a full one that nothing is taken of stays full
            self._keep(model, self._of(model, now_us).attempted(is_retry=is_retry))

    def succeeded(self, model: str, now_us: int, *, is_retry: bool) -> None:
        """Take note of an attempt that did not fail."""
        if is_retry:
            self._keep(model, self._of(model, now_us).succeeded(is_retry=is_retry))

    def _of(self, model: str, now_us: int) -> RetryBudget:
        return self._budgets.get(model, RetryBudget(at_us=now_us)).at(now_us)

    def _keep(self, model: str, budget: RetryBudget) -> None:
        if len(self._budgets) >= MOST_BUDGETS and model not in self._budgets:
            self._budgets.clear()
        self._budgets[model] = budget

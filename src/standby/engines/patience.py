"""How long an engine may take for a request: derived from the request, what was measured, and the settings.

Four limits, and a message that says which one struck: silence before the first token (longer for a long prompt),
silence between tokens, life without tokens (an engine that only says that it is there), and the whole answer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import TypeVar

from standby.config import EngineSettings
from standby.errors import EngineError, Failure
from standby.records import SECOND

T = TypeVar("T")
BYTES_A_TOKEN = 3
"""Of a request's body: fewer than text has, so that the estimate is high."""
PREFILL_TOKENS_S = 150.0
"""Assumed until measured: a small model on two cores."""
PREFILL_TIMES = 10.0
PREFILL_MOST_S = 900.0
TOKEN_S = 1.0
"""Assumed until measured: what one token may take at the very worst, on average."""
TOKEN_TIMES = 4.0
TOKEN_LEAST_S = 0.25
GRACE_S = 60.0
ALIVE_S = 3600.0
"""How long an engine may say that it is alive and give no token: work that waits behind other work."""
LEARN = 0.1


class Pace:
    """What an endpoint was seen to do; exponential averages, so that they follow the load."""

    def __init__(self) -> None:
        """Know nothing yet."""
        self.prefill_tokens_s: float | None = None
        self.token_s: float | None = None

    def learn(self, *, prompt: int, cached: int, first_s: float, output: int, rest_s: float) -> None:
        """Take one finished answer: its prompt, the time to its first token, and the time of the others."""
        computed = prompt - cached
        if computed >= 32 and first_s > 0:
            self.prefill_tokens_s = _follow(self.prefill_tokens_s, computed / first_s)
        if output >= 8 and rest_s > 0:
            self.token_s = _follow(self.token_s, rest_s / (output - 1))


def _follow(average: float | None, value: float) -> float:
    return value if average is None else average + LEARN * (value - average)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a request may take, in seconds."""

    first_s: float
    stall_s: float
    alive_s: float
    total_s: float


def limits_for(settings: EngineSettings, pace: Pace, *, body_bytes: int, max_tokens: int) -> Limits:
    """Derive the limits of a request from its size and what the endpoint was seen to do."""
    prompt = body_bytes / BYTES_A_TOKEN
    prefill_s = PREFILL_TIMES * prompt / (pace.prefill_tokens_s or PREFILL_TOKENS_S)
    token_s = TOKEN_S if pace.token_s is None else max(TOKEN_LEAST_S, TOKEN_TIMES * pace.token_s)
    return Limits(
        first_s=settings.first_token_timeout_s + min(PREFILL_MOST_S, prefill_s),
        stall_s=settings.stall_timeout_s,
        alive_s=ALIVE_S,
        total_s=max_tokens * token_s + GRACE_S,
    )


class Patience:
    """Waits for one answer and gives up when a limit is reached or the deadline is over.

    Only time spent waiting for the engine counts, not what a slow reader takes between two waits.
    """

    def __init__(self, limits: Limits, deadline_us: int | None) -> None:
        """Begin to wait."""
        self._limits = limits
        self._deadline_us = deadline_us
        self._began = time.monotonic()
        self._since_token = 0.0
        self._answering = 0.0
        self.first_s: float | None = None
        """Time to the first token, once it is there."""

    @property
    def rest_s(self) -> float:
        """Time spent waiting for tokens after the first."""
        return self._answering

    async def wait_for(self, awaited: Awaitable[T]) -> T:
        """Wait for the next sign of life; raises `EngineError` that says which limit struck."""
        left_s = self._left_s()
        began = time.monotonic()
        try:
            async with asyncio.timeout(max(0.0, left_s)):
                return await awaited
        except TimeoutError:
            raise EngineError(Failure.TIMEOUT, self._words(left_s)) from None
        finally:
            self._since_token += time.monotonic() - began

    def token(self) -> None:
        """Note that a token came."""
        if self.first_s is None:
            self.first_s = time.monotonic() - self._began
        else:
            self._answering += min(self._since_token, self._limits.stall_s)
        self._since_token = 0.0

    def _left_s(self) -> float:
        """Return the seconds from now to the first limit, if nothing comes. For every chunk: numbers only."""
        limits = self._limits
        left_s = limits.alive_s - self._since_token
        if self.first_s is None:
            left_s = min(left_s, limits.first_s)
        else:
            left_s = min(left_s, limits.stall_s, limits.total_s - self._answering)
        if self._deadline_us is None:
            return left_s
        return min(left_s, (self._deadline_us - time.time_ns() // 1000) / SECOND)

    def _words(self, left_s: float) -> str:
        """Say which limit it was that was `left_s` away."""
        limits = self._limits
        if self.first_s is None and left_s == limits.first_s:
            return f"the engine did not begin to answer in {limits.first_s:.4g} s"
        if self.first_s is not None and left_s == limits.stall_s:
            return f"the engine stalled between tokens for {limits.stall_s:.4g} s"
        if self.first_s is not None and left_s == limits.total_s - self._answering:
            return f"the engine was not done after {limits.total_s:.4g} s of answering"
        if left_s == limits.alive_s - self._since_token:
            return f"the engine was alive but gave no token for {limits.alive_s:.4g} s"
        return "the deadline passed before the engine was done"

"""How long an engine may take for a request: derived from the request, what was measured, and the settings.

Four limits, and a message that says which one struck: silence before the first token (longer for a long prompt),
silence between tokens, life without tokens (an engine that only says that it is there), and the whole answer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any, Self, TypeVar

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

    Only time spent waiting for the engine counts, not what a slow reader takes between two waits. An answer has many
    waits and hardly any is long, so one timer looks after all of them: it is set to the first limit that could strike,
    and moved on from there only when it goes off. Use it as a context, so that no timer outlives the answer.
    """

    def __init__(self, limits: Limits, deadline_us: int | None) -> None:
        """Begin to wait."""
        self._limits = limits
        self._deadline_us = deadline_us
        self._began = time.monotonic()
        self._since_token = 0.0
        self._answering = 0.0
        self._waiting: asyncio.Task[Any] | None = None
        self._waits_since = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._struck = ""
        self._cancelling = 0
        self.first_s: float | None = None
        """Time to the first token, once it is there."""

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(self, *_: object) -> None:
        """Wait no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    @property
    def rest_s(self) -> float:
        """Time spent waiting for tokens after the first."""
        return self._answering

    async def wait_for(self, awaited: Awaitable[T]) -> T:
        """Wait for the next sign of life; raises `EngineError` that says which limit struck."""
        task = self._waiting = asyncio.current_task()
        began = self._waits_since = time.monotonic()
        if self._timer is None:
            self._look_later(self._nearest()[0])
        try:
            return await awaited
        except asyncio.CancelledError:
            struck, self._struck = self._struck, ""
            if struck and task is not None and task.uncancel() <= self._cancelling:
                raise EngineError(Failure.TIMEOUT, struck) from None
            raise
        finally:
            self._waiting = None
            self._since_token += time.monotonic() - began

    def token(self) -> None:
        """Note that a token came."""
        if self.first_s is None:
            self.first_s = time.monotonic() - self._began
            self.__exit__()  # silence between tokens may strike sooner than the silence before them
        else:
            self._answering += min(self._since_token, self._limits.stall_s)
        self._since_token = 0.0

    def _look_later(self, after_s: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(max(0.0, after_s), self._look)

    def _look(self) -> None:
        """Give up if a limit is reached, else look again when the next one may be."""
        self._timer = None
        if self._waiting is None:
            return
        waited_s = time.monotonic() - self._waits_since
        left_s, words = self._nearest()
        if left_s > waited_s:
            self._look_later(left_s - waited_s)
            return
        self._struck, self._cancelling = words, self._waiting.cancelling()
        self._waiting.cancel()

    def _nearest(self) -> tuple[float, str]:
        """Return the first limit that a wait reaches, in seconds from its beginning, and what to say then."""
        limits = self._limits
        found = [
            (limits.alive_s - self._since_token, f"the engine was alive but gave no token for {limits.alive_s:.4g} s")
        ]
        if self.first_s is None:
            found.append((limits.first_s, f"the engine did not begin to answer in {limits.first_s:.4g} s"))
        else:
            total = f"the engine was not done after {limits.total_s:.4g} s of answering"
            found.append((limits.total_s - self._answering, total))
            found.append((limits.stall_s, f"the engine stalled between tokens for {limits.stall_s:.4g} s"))
        if self._deadline_us is not None:
            waited_s = time.monotonic() - self._waits_since
            left_s = (self._deadline_us - time.time_ns() // 1000) / SECOND
            found.append((waited_s + left_s, "the deadline passed before the engine was done"))
        return min(found, key=lambda one: one[0])

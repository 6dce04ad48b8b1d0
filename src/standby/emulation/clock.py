"""A clock that runs with the world and can be moved forward, and sleeps that follow it."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
import re
import time
from collections.abc import Callable

from standby.errors import ScriptError

_DURATION = re.compile(r"\s*([0-9]{1,12}(?:\.[0-9]{1,9})?)\s*(ms|s|m|h|d)?\s*")
_UNITS = {"ms": 0.001, "s": 1.0, None: 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class MovableClock:
    """Microseconds since 1970, and whoever sleeps on it; moving it forward wakes the sleepers that are due.

    One event loop only. `source` is the clock that it runs with.
    """

    def __init__(self, source: Callable[[], int] | None = None) -> None:
        """Begin at the real time."""
        self._source = source or _real_us
        self._ahead_us = 0
        self._sleepers: list[tuple[int, int, asyncio.Future[None]]] = []
        self._number = itertools.count()
        self._asleep = 0

    def __call__(self) -> int:
        """Return the time."""
        return self._source() + self._ahead_us

    @property
    def ahead_us(self) -> int:
        """How far it was moved."""
        return self._ahead_us

    @property
    def asleep(self) -> int:
        """How many sleep on it, those included who sleep for ever; calls to come do not count."""
        return self._asleep

    @property
    def next_us(self) -> int | None:
        """When the next sleeper or call is due; None if there is none."""
        while self._sleepers and self._sleepers[0][2].done():
            heapq.heappop(self._sleepers)
        return self._sleepers[0][0] if self._sleepers else None

    def advance(self, by_us: int) -> None:
        """Move it forward; `ValueError` for backward."""
        if by_us < 0:
            raise ValueError("a clock is moved forward only")
        self._ahead_us += by_us
        now_us = self()
        while self._sleepers and self._sleepers[0][0] <= now_us:
            _, _, sleeper = heapq.heappop(self._sleepers)
            if not sleeper.done():
                sleeper.set_result(None)

    def advance_to(self, due_us: int) -> None:
        """Move it to a moment, unless that is past."""
        self.advance(max(0, due_us - self()))

    async def sleep_until(self, due_us: int | None) -> None:
        """Sleep until a moment, however it comes; None sleeps for ever. A moment that is past lets others run once."""
        self._asleep += 1
        try:
            await self._wait(due_us)
        finally:
            self._asleep -= 1

    async def _wait(self, due_us: int | None) -> None:
        if due_us is not None and due_us <= self():
            await asyncio.sleep(0)
            return
        sleeper: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if due_us is None:
            await sleeper
            return
        heapq.heappush(self._sleepers, (due_us, next(self._number), sleeper))
        try:
            while not sleeper.done() and (left_us := due_us - self()) > 0:
                await asyncio.wait({sleeper}, timeout=left_us / 1e6)
        finally:
            sleeper.cancel()

    def call_later(self, wait_s: float, work: Callable[[], None]) -> asyncio.Handle:
        """Call `work` after a time on this clock, unless the handle is canceled first."""
        loop = asyncio.get_running_loop()
        sleeping = loop.create_task(self._wait(self() + int(wait_s * 1e6)))
        handle = _Later(sleeping, work, loop)
        sleeping.add_done_callback(handle.run_unless_canceled)
        return handle


class _Later(asyncio.Handle):
    """A handle like the one of `loop.call_later`."""

    def __init__(self, sleeping: asyncio.Task[None], work: Callable[[], None], loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(work, (), loop)
        self._sleeping = sleeping
        self._work = work

    def cancel(self) -> None:
        """Do not call."""
        super().cancel()
        self._sleeping.cancel()

    def run_unless_canceled(self, sleeping: asyncio.Task[None]) -> None:
        if not sleeping.cancelled() and not self.cancelled():
            self._work()


def seconds_of(given: object) -> float:
    """Read a time: seconds, or text such as `2.5`, `500ms`, `90s`, `5m`, `24h`, `29d`; `ScriptError` otherwise."""
    found = _DURATION.fullmatch(given) if isinstance(given, str) else None
    if found is not None:
        return float(found[1]) * _UNITS[found[2]]
    if not isinstance(given, (int, float)) or isinstance(given, bool) or not 0 <= given < math.inf:
        raise ScriptError(f"{given!r} is no time: write seconds, or a number with ms, s, m, h or d, as in 24h")
    return float(given)


def _real_us() -> int:
    return time.time_ns() // 1000

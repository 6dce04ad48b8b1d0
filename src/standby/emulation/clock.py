"""A clock that runs with the world and can be moved forward, and sleeps that follow it."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import Callable


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

    def __call__(self) -> int:
        """Return the time."""
        return self._source() + self._ahead_us

    @property
    def ahead_us(self) -> int:
        """How far it was moved."""
        return self._ahead_us

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

    async def sleep_until(self, due_us: int | None) -> None:
        """Sleep until a moment, however it comes; None sleeps for ever. A moment that is past lets others run once."""
        if due_us is not None and due_us <= self():
            await asyncio.sleep(0)
            return
        sleeper: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if due_us is None:
            await sleeper
            return
        heapq.heappush(self._sleepers, (due_us, next(self._number), sleeper))
        while not sleeper.done() and (left_us := due_us - self()) > 0:
            await asyncio.wait({sleeper}, timeout=left_us / 1e6)


def _real_us() -> int:
    return time.time_ns() // 1000

"""How many items of each batch were done lately. Pure."""

from __future__ import annotations

from collections import deque

from standby.records import SECOND, BatchId, Clock

OVER_S = 60
"""The rate is that of the last minute, or since the first item if that is less."""
BUCKET_US = 2 * SECOND


class Rates:
    """Counts by batch; a few numbers each."""

    def __init__(self, clock: Clock) -> None:
        """Begin with nothing done."""
        self._clock = clock
        self._done: dict[BatchId, deque[tuple[int, int]]] = {}

    def count(self, batch_id: BatchId) -> None:
        """Count an item that got its result now."""
        now_us = self._clock()
        bucket = now_us - now_us % BUCKET_US
        done = self._done.setdefault(batch_id, deque(maxlen=1 + OVER_S * SECOND // BUCKET_US))
        if done and done[-1][0] == bucket:
            done[-1] = (bucket, done[-1][1] + 1)
        else:
            done.append((bucket, 1))

    def of(self, batch_id: BatchId) -> float | None:
        """Return items a second; None if none was done yet, 0 if none lately."""
        done = self._done.get(batch_id)
        if done is None:
            return None
        now_us = self._clock()
        since_us = now_us - OVER_S * SECOND
        recent = [(at_us, count) for at_us, count in done if at_us > since_us]
        if not recent:
            return 0.0
        return sum(count for _, count in recent) * SECOND / max(BUCKET_US, now_us - recent[0][0])

    def forget(self, batch_id: BatchId) -> None:
        """Drop a batch that has no work left."""
        self._done.pop(batch_id, None)

"""Limits of a workspace: requests a minute by token bucket, and items waiting for a result (contract 8).

A bucket of `per_minute` tokens that refills continuously is one number: the time at which it is full again.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from standby.api.call import Call, Caller
from standby.config import LimitSettings
from standby.errors import ApiError, LimitReached
from standby.records import SECOND, Clock, OwnLimits, Queue, WorkspaceId
from standby.store.base import Store
from standby.wire.batches import timestamp
from standby.wire.errors import queue_full

MINUTE = 60 * SECOND


class Pool(StrEnum):
    """Batch and live requests are counted apart."""

    BATCH = "batch"
    LIVE = "live"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a bucket says to one request."""

    is_allowed: bool
    limit: int
    remaining: int
    reset_us: int
    retry_after_s: int


def take(full_at_us: int, *, per_minute: int, now_us: int) -> tuple[int, Verdict]:
    """Take one token; return when the bucket is full again, and the verdict.

    A bucket never waits longer than a minute, even if the clock was set back.
    """
    interval = max(1, MINUTE // per_minute)
    capacity = interval * per_minute
    before = min(max(full_at_us, now_us), now_us + capacity)
    after = before + interval
    is_allowed = after <= now_us + capacity
    kept = after if is_allowed else before
    wait_us = 0 if is_allowed else after - (now_us + capacity)
    return kept, Verdict(
        is_allowed=is_allowed,
        limit=per_minute,
        remaining=(now_us + capacity - kept) // interval,
        reset_us=kept,
        retry_after_s=-(-wait_us // SECOND),
    )


def headers_of(verdict: Verdict) -> dict[str, str]:
    """Write the documented headers of one pool."""
    return {
        "anthropic-ratelimit-requests-limit": str(verdict.limit),
        "anthropic-ratelimit-requests-remaining": str(verdict.remaining),
        "anthropic-ratelimit-requests-reset": timestamp(verdict.reset_us),
    }


def too_many_requests(pool: Pool, verdict: Verdict) -> ApiError:
    """429 that says when to come back."""
    return LimitReached(
        f"{pool}_requests",
        429,
        "rate_limit_error",
        f"This workspace may send {verdict.limit} {pool} requests per minute. Retry after the time in `retry-after`.",
        headers={"retry-after": str(max(1, verdict.retry_after_s))},
    )


class Limits:
    """The buckets of all workspaces, in this process."""

    def __init__(self, settings: LimitSettings, store: Store, clock: Clock) -> None:
        """Begin with full buckets."""
        self._settings = settings
        self._store = store
        self._clock = clock
        self._full_at: dict[tuple[WorkspaceId, Pool], int] = {}

    def count(self, pool: Pool, caller: Caller, call: Call) -> None:
        """Count one request; put the headers on the answer; `ApiError` 429."""
        per_minute = self._per_minute(pool)
        if not per_minute:
            return
        place = (caller.workspace_id, pool)
        full_at, verdict = take(self._full_at.get(place, 0), per_minute=per_minute, now_us=self._clock())
        self._full_at[place] = full_at
        call.headers.update(headers_of(verdict))
        if not verdict.is_allowed:
            raise too_many_requests(pool, verdict)

    async def check_queue(self, workspace_id: WorkspaceId) -> None:
        """Refuse a create for which there is no room at all, before its body is read; the store checks the rest."""
        room = await self.room(workspace_id)
        if not (room.items or room.tokens):
            return
        queue = await self._store.queue_of(workspace_id)
        if room.items and queue.items >= room.items:
            raise queue_full("items", current=queue.items, added=1, maximum=room.items)
        if room.tokens and queue.tokens >= room.tokens:
            raise queue_full("tokens", current=queue.tokens, added=1, maximum=room.tokens)

    async def room(self, workspace_id: WorkspaceId) -> Queue:
        """Read how much may wait in a workspace; 0 is any amount."""
        own = (await self._store.list_limits()).get(workspace_id, OwnLimits())
        return Queue(
            items=self._settings.enqueued_items if own.enqueued_items is None else own.enqueued_items,
            tokens=self._settings.enqueued_tokens if own.enqueued_tokens is None else own.enqueued_tokens,
        )

    def _per_minute(self, pool: Pool) -> int:
        if pool is Pool.BATCH:
            return self._settings.batch_requests_per_minute
        return self._settings.live_requests_per_minute

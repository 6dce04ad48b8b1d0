"""Group commit: rows of many attempts become durable together, at most `commit_ms` after they were made.

First every run's rows are appended to its segment and synced, then one transaction names them all. A row exists if
and only if that transaction is committed; a segment's bytes beyond the named length are nothing.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Sequence
from functools import reduce
from typing import Protocol

import structlog

from standby.blobs.base import Blobs
from standby.config import WorkerSettings
from standby.records import (
    NO_REUSE,
    Clock,
    Record,
    Reuse,
    SegmentCommit,
    Tokens,
    by_model,
    count_outcomes,
    pack_records,
)
from standby.scheduler.held import HeldRun, Settled
from standby.scheduler.meters import Meters
from standby.store.base import Store

log = structlog.get_logger("standby.committer")


class Committed(Protocol):
    """Who wants to know what became of rows."""

    def __call__(self, settled: Sequence[Settled], *, is_counted: bool) -> None:
        """Hear that rows of a run exist now, or that they never will: its lease was lost."""
        ...


class Committer:
    """The only writer of results of a worker."""

    def __init__(
        self,
        *,
        store: Store,
        blobs: Blobs,
        settings: WorkerSettings,
        clock: Clock,
        meters: Meters,
        when_committed: Committed,
    ) -> None:
        """Start empty; `when_committed` is called for the rows of each run after a commit."""
        self._store = store
        self._blobs = blobs
        self._settings = settings
        self._clock = clock
        self._meters = meters
        self._when_committed = when_committed
        self._pending: dict[HeldRun, list[Settled]] = {}
        self._full = asyncio.Event()
        self._lock = asyncio.Lock()
        self.wake = asyncio.Event()
        self.backlog = 0

    def add(self, held: HeldRun, settled: Settled) -> None:
        """Take a row; it will be committed unless the lease is lost."""
        self._pending.setdefault(held, []).append(settled)
        held.uncommitted += 1
        held.left -= 1
        self.backlog += 1
        self.wake.set()
        if self.backlog >= self._settings.commit_items:
            self._full.set()

    def finish(self, held: HeldRun) -> None:
        """Say that nothing more of this run will come; its run becomes done with the next commit."""
        self._pending.setdefault(held, [])
        self.wake.set()

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits for a commit."""
        return not self._pending

    async def run_once(self) -> float | None:
        """Wait a moment for company, then commit all that is pending. None: sleep until woken."""
        if not self._pending:
            return None
        await self._gather()
        await self.commit()
        return 0.0 if self._pending else None

    async def commit(self) -> None:
        """Commit what is pending now; after a failure everything is pending again, at the same place."""
        async with self._lock:
            await self._commit()

    async def _commit(self) -> None:
        taken, self._pending = self._pending, {}
        self._full.clear()
        try:
            commits = await asyncio.gather(*(self._write(held, rows) for held, rows in taken.items()))
            counted = await self._store.commit_segments(commits, now_us=self._clock())
        except BaseException:
            self._put_back(taken)
            raise
        for (held, rows), commit, counts in zip(taken.items(), commits, counted, strict=True):
            self._settle(held, rows, commit, is_counted=counts)
        self._meters.commits.inc()
        self._meters.commit_items.observe(sum(len(rows) for rows in taken.values()))

    async def _gather(self) -> None:
        if self._settings.commit_ms and not self._full.is_set():
            try:
                await asyncio.wait_for(self._full.wait(), self._settings.commit_ms / 1000)
            except TimeoutError:
                return

    async def _write(self, held: HeldRun, rows: list[Settled]) -> SegmentCommit:
        is_last = held.is_finished and held.uncommitted == len(rows)
        data = b"".join(settled.row for settled in rows)
        if data:
            await self._blobs.append(held.key, data, at=held.length)
        return SegmentCommit(
            batch_id=held.lease.batch_id,
            run=held.lease.number,
            epoch=held.lease.epoch,
            key=held.key,
            start=held.length,
            end=held.length + len(data),
            records=pack_records(
                Record(item=settled.item, length=len(settled.row), crc=zlib.crc32(settled.row)) for settled in rows
            ),
            counts=count_outcomes(settled.outcome for settled in rows),
            tokens=reduce(Tokens.__add__, (settled.tokens for settled in rows), Tokens()),
            is_last=is_last,
            reuse=reduce(Reuse.__add__, (settled.reuse for settled in rows), NO_REUSE),
            bills=tuple(by_model(row.bill for row in rows if row.bill is not None).values()),
        )

    def _settle(self, held: HeldRun, rows: list[Settled], commit: SegmentCommit, *, is_counted: bool) -> None:
        self.backlog -= len(rows)
        held.uncommitted -= len(rows)
        self._when_committed(rows, is_counted=is_counted)
        if is_counted:
            held.length = commit.end
            held.is_done = commit.is_last
            return
        held.is_lost = True
        log.warning("lease lost", batch=held.lease.batch_id, run=held.lease.number, rows_dropped=len(rows))

    def _put_back(self, taken: dict[HeldRun, list[Settled]]) -> None:
        for held, rows in self._pending.items():
            taken.setdefault(held, []).extend(rows)
        self._pending = taken

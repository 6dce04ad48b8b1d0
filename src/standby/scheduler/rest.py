"""Coming to rest, for the emulator: when nothing more happens before the clock moves or somebody asks for something."""

from __future__ import annotations

import asyncio
import time

from standby.blobs.base import Blobs
from standby.emulation.clock import MovableClock
from standby.engines.base import Engine
from standby.errors import Conflict, NotFound
from standby.records import SECOND, Batch
from standby.scheduler.sweeper import Sweeper
from standby.scheduler.worker import Worker
from standby.states import BatchState
from standby.store.base import Store

PATIENCE_S = 120.0
LOOK_S = 0.002
CALM_PASSES = 2
"""Passes of the worker, the first of which began before, that must change nothing."""


class Rest:
    """Watches one server."""

    def __init__(
        self, *, store: Store, blobs: Blobs, engine: Engine, worker: Worker, sweeper: Sweeper, clock: MovableClock
    ) -> None:
        """Remember whom to look at."""
        self._store = store
        self._blobs = blobs
        self._engine = engine
        self._worker = worker
        self._sweeper = sweeper
        self._clock = clock

    async def settle(self, *, patience_s: float = PATIENCE_S) -> bool:
        """Wait until everything that is due has happened; False if it still goes on after `patience_s`."""
        until, calm_since = time.monotonic() + patience_s, None
        while calm_since is None or self._worker.passes < calm_since + CALM_PASSES:
            if time.monotonic() > until:
                return False
            self._worker.look_again()
            await asyncio.sleep(LOOK_S)
            is_calm, passes = await self._is_calm(), self._worker.passes
            calm_since = (passes if calm_since is None else calm_since) if is_calm else None
        return True

    async def empty(self, *, grace_s: float) -> None:
        """Cancel what runs, let its grace pass, and delete every batch of every workspace."""
        for batch in await self._batches():
            await self._cancel(batch)
        await self.settle()
        if any(batch.state is not BatchState.ENDED for batch in await self._batches()):
            self._clock.advance(int((grace_s + 1) * SECOND))
            await self.settle()
        for batch in await self._batches():
            await self._delete(batch)
        await self._sweeper.run_once(is_tidying=True)

    async def _is_calm(self) -> bool:
        done = await self._sweeper.run_once(is_tidying=True)
        if done.sealed or done.archived or done.erased:
            return False
        if not self._worker.is_at_rest(asleep=self._clock.asleep + self._engine.load().waiting):
            return False
        return not self._worker.has_room or not await self._store.backlogs(now_us=self._clock())

    async def _batches(self) -> list[Batch]:
        found: list[Batch] = []
        for workspace in await self._store.list_workspaces():
            has_more, after = True, None
            while has_more:
                page = await self._store.list_batches(workspace.id, limit=1000, after=after, before=None)
                found += page.batches
                has_more, after = page.has_more, page.batches[-1].id if page.batches else None
        return found

    async def _cancel(self, batch: Batch) -> None:
        if batch.state is BatchState.IN_PROGRESS:
            try:
                await self._store.cancel_batch(batch.workspace_id, batch.id, now_us=self._clock())
            except (Conflict, NotFound):
                return  # it ended, or somebody deleted it, in between

    async def _delete(self, batch: Batch) -> None:
        try:
            await self._store.delete_batch(batch.workspace_id, batch.id)
        except (Conflict, NotFound):
            return  # it would not end, or somebody deleted it in between

"""The chores: end what can end, archive what is old, erase what is owed, remove what nobody accepted."""

from __future__ import annotations

import asyncio

import structlog

from standby.blobs.base import Blobs
from standby.config import BatchSettings
from standby.errors import BlobError, StoreError
from standby.records import SECOND, Clock, Sweep
from standby.scheduler.meters import Meters
from standby.scheduler.sealing import seal
from standby.store.base import Store

TIDY_US = SECOND
"""Archiving and erasing can wait this long; ending a batch cannot."""

log = structlog.get_logger("standby.sweeper")


class Sweeper:
    """One a server; every verb it uses is guarded, so several would do no harm."""

    def __init__(self, *, store: Store, blobs: Blobs, settings: BatchSettings, clock: Clock, meters: Meters) -> None:
        """Remember where things lie."""
        self._store = store
        self._blobs = blobs
        self._settings = settings
        self._clock = clock
        self._meters = meters
        self._tidied_us = 0
        self._turn = asyncio.Lock()

    async def run_once(self, *, is_tidying: bool = False) -> Sweep:
        """One pass over everything that is due now; `is_tidying` leaves nothing for the next."""
        async with self._turn:
            return await self._sweep(is_tidying=is_tidying)

    async def _sweep(self, *, is_tidying: bool) -> Sweep:
        sealed, now_us = await self._seal(), self._clock()
        if abs(now_us - self._tidied_us) < TIDY_US and not is_tidying:
            return Sweep(sealed=sealed)
        self._tidied_us = now_us
        archived = await self._store.archive_due(now_us=now_us, retention_us=int(self._settings.retention_s * SECOND))
        for batch_id in archived:
            log.info("batch archived", batch=batch_id)
        return Sweep(sealed=sealed, archived=len(archived), erased=await self._erase())

    async def remove_orphans(self) -> int:
        """Erase folders that no row names: creates that a crash cut off. Only while no upload is under way."""
        folders = await self._blobs.list_batches()
        known = await self._store.known_batches(folders)
        orphans = [batch_id for batch_id in folders if batch_id not in known]
        for batch_id in orphans:
            await self._blobs.erase(batch_id)
            log.info("orphan removed", batch=batch_id)
        return len(orphans)

    async def _seal(self) -> int:
        """One bad batch must not keep the others from ending."""
        count = 0
        due = await self._store.batches_to_close(now_us=self._clock(), grace_us=int(self._settings.grace_s * SECOND))
        for batch in due:
            try:
                count += await seal(self._store, self._blobs, batch, clock=self._clock)
            except (BlobError, StoreError) as error:
                log.error(  # noqa: TRY400 - the reason is enough
                    "batch cannot be sealed", batch=batch.id, error=type(error).__name__, reason=str(error)
                )
        self._meters.sealed.inc(count)
        return count

    async def _erase(self) -> int:
        owed = await self._store.erasures()
        for batch_id in owed:
            await self._blobs.erase(batch_id)
            await self._store.finish_erasure(batch_id)
        return len(owed)

"""Take a batch in: spool the body as it arrives, check the envelope, keep it, and only then say yes.

Nothing stays behind a refused or broken-off upload. Memory is bounded by one piece of the body.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from standby.blobs.base import Blobs, Spool
from standby.config import BatchSettings
from standby.doors import door
from standby.errors import BlobError, QueueFull, StoreError, invalid
from standby.ids import make_id
from standby.records import BatchId, Clock, Created, NewBatch, Origin, PlanFacts, Principal, Queue, Rules, WorkspaceId
from standby.scheduler.split import SplitResult, split
from standby.scheduler.split_child import split_in_child
from standby.store.base import ANY_QUEUE, Store
from standby.wire.bodies import Inflate
from standby.wire.errors import queue_full

PIECE = 1 << 20
CHILD_FROM = 1 << 20
"""Bodies from this size on are split in a child process: 1 MiB decodes in about 5 ms."""
CHILDREN = 2


Check = Callable[[WorkspaceId], Awaitable[None]]


class Intake:
    """The door for creates; one a server."""

    def __init__(
        self,
        *,
        store: Store,
        blobs: Blobs,
        settings: BatchSettings,
        clock: Clock,
        room: Queue = ANY_QUEUE,
        check: Check | None = None,
    ) -> None:
        """Remember where batches go; `room` is how much may wait in a workspace without limits of its own.

        `check` refuses a workspace for other reasons, by raising `ApiError`.
        """
        self.store = store
        self.blobs = blobs
        self.settings = settings
        self.clock = clock
        self.room = room
        self.check = check
        self.children = asyncio.Semaphore(CHILDREN)
        self._twins: dict[tuple[str, bytes], _Turn] = {}

    def begin(
        self,
        *,
        principal: Principal,
        rules: Rules,
        encoding: str | None,
        idempotency_key: str | None,
        is_sdk_retry: bool,
    ) -> Upload:
        """Begin an upload; nothing is written before its first bytes."""
        inflate = Inflate(encoding, self.settings.max_body_mb << 20)
        return Upload(
            self,
            principal,
            rules,
            inflate,
            idempotency_key=idempotency_key,
            is_sdk_retry=is_sdk_retry,
        )

    @contextlib.asynccontextmanager
    async def one_at_a_time(self, workspace: str, digest: bytes) -> AsyncIterator[None]:
        """Let equal bodies of a workspace pass in the order of their arrival, so that a retry meets its first try."""
        key = (workspace, digest)
        turn = self._twins.setdefault(key, _Turn(asyncio.Lock()))
        turn.waiting += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.waiting -= 1
            if not turn.waiting:
                self._twins.pop(key, None)


@dataclass(slots=True)
class _Turn:
    lock: asyncio.Lock
    waiting: int = 0


class Upload:
    """One create on its way in."""

    def __init__(
        self,
        intake: Intake,
        principal: Principal,
        rules: Rules,
        inflate: Inflate,
        *,
        idempotency_key: str | None,
        is_sdk_retry: bool,
    ) -> None:
        """Start empty."""
        self._intake = intake
        self._principal = principal
        self._rules = rules
        self._inflate = inflate
        self._idempotency_key = idempotency_key
        self._is_sdk_retry = is_sdk_retry
        self._digest = hashlib.sha256()
        self._held = bytearray()
        self._size = 0
        self._spool: Spool | None = None

    async def write(self, chunk: bytes) -> None:
        """Take bytes as they come from the socket; raises `ApiError` when there are too many or they do not inflate."""
        for part in self._inflate.pieces(chunk):
            self._held += part
            if len(self._held) >= PIECE:
                await self._flush()

    async def finish(self) -> Created:
        """Accept the batch durably, or raise `ApiError`, `BlobError` or `StoreError` and leave no trace."""
        try:
            self._held += self._inflate.finish()
            await self._flush()
            if self._spool is None:
                raise invalid("The request body is not valid JSON: it is empty")
            async with self._intake.one_at_a_time(self._principal.workspace_id, self._digest.digest()):
                return await self._accept(self._spool)
        finally:
            await self.abort()

    async def abort(self) -> None:
        """Remove what was spooled and not adopted."""
        if self._spool is not None:
            spool, self._spool = self._spool, None
            await spool.discard()

    async def _flush(self) -> None:
        if not self._held:
            return
        data, self._held = self._held, bytearray()
        if self._spool is None:
            self._spool = await self._intake.blobs.spool()
        self._size += len(data)
        self._digest.update(data) if len(data) < PIECE else await asyncio.to_thread(self._digest.update, data)
        await self._spool.write(data)

    async def _accept(self, spool: Spool) -> Created:
        store, now_us = self._intake.store, self._intake.clock()
        new = self._new_batch(now_us)
        twin = await store.find_twin(self._principal.workspace_id, new, now_us=now_us)
        if twin is not None:
            return Created(batch=twin, is_new=False)
        if self._intake.check is not None:
            await self._intake.check(self._principal.workspace_id)
        plan = spool.path.with_name("plan")
        found = await self._split(spool.path, plan)
        if found.fault is not None:
            raise invalid(found.fault)
        now_us = self._intake.clock()
        new = self._new_batch(now_us, found)
        self._spool = None
        return await asyncio.shield(asyncio.ensure_future(self._keep(new, spool, plan, now_us)))

    async def _keep(self, new: NewBatch, spool: Spool, plan: Path, now_us: int) -> Created:
        """From here on a client that goes away no longer stops the create: its retry will find the twin."""
        store, blobs = self._intake.store, self._intake.blobs
        is_mine = False
        try:
            await blobs.adopt(new.id, items=spool, plan=plan)
            door("intake.before_create")
            created = await store.create_batch(new, now_us=now_us, room=self._intake.room)
            is_mine = created.is_new
        except QueueFull as full:
            raise queue_full(full.what, current=full.current, added=full.added, maximum=full.maximum) from None
        finally:
            await spool.discard()
            if not is_mine:
                await self._forget(new.id)
        return created

    async def _forget(self, batch_id: BatchId) -> None:
        """Erase a folder that no row names; if the store cannot tell, the next start will find the orphan."""
        with contextlib.suppress(StoreError, BlobError):
            if not await self._intake.store.known_batches([batch_id]):
                await self._intake.blobs.erase(batch_id)

    async def _split(self, items: Path, plan: Path) -> SplitResult:
        settings = self._intake.settings
        if self._size < CHILD_FROM:
            return await asyncio.to_thread(split, items, plan, max_items=settings.max_items, order=settings.order)
        async with self._intake.children:
            found, _ = await asyncio.gather(
                split_in_child(items, plan, max_items=settings.max_items, order=settings.order),
                asyncio.to_thread(_write_back, items),
            )
            return found

    def _new_batch(self, now_us: int, found: SplitResult | None = None) -> NewBatch:
        return NewBatch(
            id=BatchId(make_id("msgbatch", now_us=now_us)),
            workspace_id=self._principal.workspace_id,
            size=found.size if found else 0,
            runs=found.slices() if found else (),
            created_us=now_us,
            expires_us=now_us + int(self._intake.settings.window_s * 1_000_000),
            origin=Origin(
                credential=self._principal.credential,
                body_digest=self._digest.digest(),
                idempotency_key=self._idempotency_key,
                is_sdk_retry=self._is_sdk_retry,
            ),
            rules=self._rules,
            plan=found.facts() if found else PlanFacts(),
        )


def _write_back(path: Path) -> None:
    """Let the disk write a large body while a processor plans it; `Blobs.adopt` syncs it and says what went wrong."""
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

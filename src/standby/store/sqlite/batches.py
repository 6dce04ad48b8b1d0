"""Batches in SQLite: what the API asks for."""

from __future__ import annotations

import sqlite3

from standby.errors import Conflict, QueueFull, StoreError
from standby.records import DAY, SECOND, Batch, BatchId, Created, NewBatch, Page, Queue, Segment, WorkspaceId
from standby.states import BatchState
from standby.store.base import ANY_QUEUE
from standby.store.sqlite.connection import Database
from standby.store.sqlite.reports import read_queue
from standby.store.sqlite.rows import from_plan, from_rules, no_batch, to_batch
from standby.store.sqlite.statements import load
from standby.store.sqlite.tenants import read_limits

KEY_WINDOW_US = DAY
"""How long an `Idempotency-Key` is remembered."""

RETRY_WINDOW_US = 600 * SECOND
"""How long the automatic retry of an SDK finds the batch of its first try."""

_SQL = load("batches")


class SqliteBatches:
    """`standby.store.base.Batches`."""

    _database: Database

    async def create_batch(self, new: NewBatch, *, now_us: int, room: Queue = ANY_QUEUE) -> Created:
        """Accept a batch with its runs if it fits, or return its earlier twin."""
        _refuse_gaps(new)

        def work(db: sqlite3.Connection) -> Created:
            twin_id = _find_twin(db, new, now_us=now_us)
            if twin_id is not None:
                return Created(batch=read_batch(db, new.workspace_id, twin_id), is_new=False)
            _check_room(db, new, room)
            _insert(db, new)
            return Created(batch=read_batch(db, new.workspace_id, new.id), is_new=True)

        return await self._database.write("create_batch", work)

    async def find_twin(self, workspace_id: WorkspaceId, new: NewBatch, *, now_us: int) -> Batch | None:
        """Look for the twin without writing."""

        def work(db: sqlite3.Connection) -> Batch | None:
            twin_id = _find_twin(db, new, now_us=now_us)
            return None if twin_id is None else read_batch(db, workspace_id, twin_id)

        return await self._database.read(work) if workspace_id == new.workspace_id else None

    async def get_batch(self, workspace_id: WorkspaceId, batch_id: BatchId) -> Batch:
        """Read a batch of this workspace."""
        return await self._database.read(lambda db: read_batch(db, workspace_id, batch_id))

    async def list_batches(
        self, workspace_id: WorkspaceId, *, limit: int, after: BatchId | None, before: BatchId | None
    ) -> Page:
        """List newest first; one row more than the page tells whether there are more."""
        statement = "list_newer" if before else "list_older" if after else "list_newest"
        values = {"workspace_id": workspace_id, "cursor": before or after, "limit": limit + 1}

        def work(db: sqlite3.Connection) -> Page:
            found = [to_batch(row) for row in db.execute(_SQL[statement], values)]
            page = found[:limit]
            return Page(batches=tuple(reversed(page) if before else page), has_more=len(found) > limit)

        return await self._database.read(work)

    async def cancel_batch(self, workspace_id: WorkspaceId, batch_id: BatchId, *, now_us: int) -> Batch:
        """Stop a batch; the first cancel's time stays."""

        def work(db: sqlite3.Connection) -> Batch:
            if read_batch(db, workspace_id, batch_id).state is BatchState.ENDED:
                raise Conflict(f"Message Batch {batch_id} has already ended and cannot be canceled.")
            db.execute(_SQL["cancel_batch"], {"batch_id": batch_id, "now_us": now_us})
            return read_batch(db, workspace_id, batch_id)

        return await self._database.write("cancel_batch", work)

    async def delete_batch(self, workspace_id: WorkspaceId, batch_id: BatchId) -> None:
        """Hide an ended batch and owe the erasure of its blobs."""

        def work(db: sqlite3.Connection) -> None:
            if read_batch(db, workspace_id, batch_id).state is not BatchState.ENDED:
                raise Conflict("In progress batches cannot be deleted. Consider canceling the batch instead.")
            db.execute(_SQL["delete_batch"], {"batch_id": batch_id})
            owe_erasure(db, batch_id)

        await self._database.write("delete_batch", work)

    async def manifest(self, batch_id: BatchId) -> list[Segment]:
        """Read the manifest in serving order."""
        return await self._database.read(
            lambda db: [Segment(**row) for row in db.execute(_SQL["manifest"], {"batch_id": batch_id})]
        )


def read_batch(db: sqlite3.Connection, workspace_id: WorkspaceId, batch_id: BatchId) -> Batch:
    """Read a visible batch, or raise `NotFound`."""
    row = db.execute(_SQL["get_batch"], {"batch_id": batch_id, "workspace_id": workspace_id}).fetchone()
    if row is None:
        raise no_batch(batch_id)
    return to_batch(row)


def owe_erasure(db: sqlite3.Connection, batch_id: BatchId) -> None:
    """Note that the blobs of a batch must go."""
    db.execute(_SQL["owe_erasure"], {"batch_id": batch_id})


def _check_room(db: sqlite3.Connection, new: NewBatch, room: Queue) -> None:
    """Ask inside the transaction, so that nobody else comes in between."""
    own = read_limits(db, new.workspace_id)
    most_items = room.items if own.enqueued_items is None else own.enqueued_items
    most_tokens = room.tokens if own.enqueued_tokens is None else own.enqueued_tokens
    if not (most_items or most_tokens):
        return
    queue = read_queue(db, new.workspace_id)
    if most_items and queue.items + new.size > most_items:
        raise QueueFull("items", current=queue.items, added=new.size, maximum=most_items)
    if most_tokens and queue.tokens + new.plan.prompt_tokens > most_tokens:
        raise QueueFull("tokens", current=queue.tokens, added=new.plan.prompt_tokens, maximum=most_tokens)


def _find_twin(db: sqlite3.Connection, new: NewBatch, *, now_us: int) -> BatchId | None:
    """A key says more than a digest: with one, the same body under another key is another batch."""
    if new.origin.idempotency_key is not None:
        return _twin_by_key(db, new, now_us=now_us)
    return _twin_by_digest(db, new, now_us=now_us)


def _twin_by_key(db: sqlite3.Connection, new: NewBatch, *, now_us: int) -> BatchId | None:
    if new.origin.idempotency_key is None:
        return None
    values = _same_sender(new) | {
        "idempotency_key": new.origin.idempotency_key,
        "since_us": now_us - KEY_WINDOW_US,
    }
    row = db.execute(_SQL["find_by_idempotency_key"], values).fetchone()
    if row is None:
        return None
    if row["body_digest"] != new.origin.body_digest:
        raise Conflict("Idempotency-Key: it was used for another body in the last 24 hours; send a new key")
    return row["id"]  # type: ignore[no-any-return]


def _twin_by_digest(db: sqlite3.Connection, new: NewBatch, *, now_us: int) -> BatchId | None:
    if not new.origin.is_sdk_retry:
        return None
    values = _same_sender(new) | {"body_digest": new.origin.body_digest, "since_us": now_us - RETRY_WINDOW_US}
    row = db.execute(_SQL["find_by_digest"], values).fetchone()
    return None if row is None else row["id"]


def _same_sender(new: NewBatch) -> dict[str, object]:
    return {"workspace_id": new.workspace_id, "credential": new.origin.credential}


def _insert(db: sqlite3.Connection, new: NewBatch) -> None:
    values = _same_sender(new) | {
        "id": new.id,
        "size": new.size,
        "created_us": new.created_us,
        "expires_us": new.expires_us,
        "body_digest": new.origin.body_digest,
        "idempotency_key": new.origin.idempotency_key,
    }
    db.execute(_SQL["insert_batch"], values | from_rules(new.rules) | from_plan(new.plan))
    runs = (
        {"batch_id": new.id, "number": number, "first": run.first, "count": run.count, "cost": run.cost}
        for number, run in enumerate(new.runs)
    )
    db.executemany(_SQL["insert_run"], runs)


def _refuse_gaps(new: NewBatch) -> None:
    """Runs must cover the plan from its first entry to its last, or items would never run."""
    place = 0
    for run in new.runs:
        if run.first != place or run.count < 1:
            raise StoreError(f"runs: the run at entry {run.first} does not begin at {place}")
        place += run.count
    if place != new.size:
        raise StoreError(f"runs: they hold {place} items, the batch has {new.size}")

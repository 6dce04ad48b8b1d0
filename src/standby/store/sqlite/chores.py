"""The end of a batch in SQLite: what the sweeper asks for."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence

from standby.errors import StoreError
from standby.records import DAY, Batch, BatchId, Counts, Reuse, Seal, Tokens
from standby.store.sqlite.batches import owe_erasure, read_batch
from standby.store.sqlite.connection import Database
from standby.store.sqlite.rows import SEALING_RUN, from_counts, from_reuse, from_tokens, settled, to_counts
from standby.store.sqlite.runs import RECORD_BYTES
from standby.store.sqlite.statements import load

_SQL = load("chores")
_RUNS = load("runs")


class SqliteChores:
    """`standby.store.base.Chores`."""

    _database: Database

    async def batches_to_close(self, *, now_us: int, grace_us: int) -> list[Batch]:
        """List batches to be sealed now, oldest first."""
        values = {"now_us": now_us, "grace_us": grace_us}

        def work(db: sqlite3.Connection) -> list[Batch]:
            rows = db.execute(_SQL["batches_to_close"], values).fetchall()
            return [read_batch(db, row["workspace_id"], row["id"]) for row in rows]

        return await self._database.read(work)

    async def close_runs(self, batch_id: BatchId) -> bool:
        """Fence all workers off; closing again only raises the fence."""

        def work(db: sqlite3.Connection) -> bool:
            if db.execute(_SQL["is_open"], {"batch_id": batch_id}).fetchone() is None:
                return False
            db.execute(_SQL["close_runs"], {"batch_id": batch_id})
            return True

        return await self._database.write("close_runs", work)

    async def seal_batch(self, seal: Seal, *, now_us: int) -> bool:
        """End the batch in one step."""
        _refuse_nonsense(seal)

        def work(db: sqlite3.Connection) -> bool:
            batch = db.execute(_SQL["batch_to_seal"], {"batch_id": seal.batch_id}).fetchone()
            if batch is None:
                return False
            counts = _final_counts(batch, seal)
            if seal.key is not None:
                _add_rows(db, seal, workspace_id=batch["workspace_id"], now_us=now_us)
            db.execute(_SQL["end_batch"], {"batch_id": seal.batch_id, "now_us": now_us} | from_counts(counts))
            return True

        return await self._database.write("seal_batch", work)

    async def archive_due(self, *, now_us: int, retention_us: int) -> list[BatchId]:
        """Archive what is old enough and owe its erasure."""
        values = {"now_us": now_us, "before_us": now_us - retention_us}

        def work(db: sqlite3.Connection) -> list[BatchId]:
            archived = sorted(row["id"] for row in db.execute(_SQL["archive_due"], values).fetchall())
            for batch_id in archived:
                owe_erasure(db, batch_id)
            return archived

        return await self._database.write("archive_due", work)

    async def erasures(self) -> list[BatchId]:
        """List batches whose blobs must be erased."""
        return await self._database.read(lambda db: [row["batch_id"] for row in db.execute(_SQL["erasures"])])

    async def finish_erasure(self, batch_id: BatchId) -> None:
        """Forget what belonged to the erased blobs; without a debt nothing happens."""

        def work(db: sqlite3.Connection) -> None:
            if db.execute(_SQL["forget_erasure"], {"batch_id": batch_id}).rowcount == 0:
                return
            for statement in ("forget_segments", "forget_runs", "forget_deleted_batch"):
                db.execute(_SQL[statement], {"batch_id": batch_id})

        await self._database.write("finish_erasure", work)

    async def known_batches(self, batch_ids: Sequence[BatchId]) -> set[BatchId]:
        """Say which of these ids have a row."""
        values = {"batch_ids": json.dumps(list(batch_ids))}
        return await self._database.read(lambda db: {row["id"] for row in db.execute(_SQL["known_batches"], values)})


def _refuse_nonsense(seal: Seal) -> None:
    rows = settled(seal.counts)
    if len(seal.records) != RECORD_BYTES * rows or (seal.key is None) != (rows == 0):
        raise StoreError(f"{seal.batch_id}: {len(seal.records)} bytes of records for {rows} added results")


def _final_counts(batch: sqlite3.Row, seal: Seal) -> Counts:
    if batch["has_open_runs"]:
        raise StoreError(f"{seal.batch_id}: a run is not done; close the runs before sealing")
    kept, added = to_counts(batch), seal.counts
    total = Counts(
        succeeded=kept.succeeded + added.succeeded,
        errored=kept.errored + added.errored,
        canceled=kept.canceled + added.canceled,
        expired=kept.expired + added.expired,
    )
    if settled(total) != batch["size"]:
        raise StoreError(f"{seal.batch_id}: {settled(total)} results for {batch['size']} items")
    return total


def _add_rows(db: sqlite3.Connection, seal: Seal, *, workspace_id: str, now_us: int) -> None:
    place: dict[str, object] = {"batch_id": seal.batch_id, "run": SEALING_RUN, "epoch": 0}
    sums = from_counts(seal.counts) | from_tokens(Tokens()) | from_reuse(Reuse())
    db.execute(_RUNS["grow_segment"], place | sums | {"key": seal.key, "length": seal.length, "records": seal.records})
    db.execute(_RUNS["enter_ledger"], place | sums | {"day": now_us // DAY, "workspace_id": workspace_id})

"""Runs, leases and the commit of results in SQLite: what workers ask for."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence

from standby.errors import StoreError
from standby.records import DAY, Backlog, BatchId, LeasedRun, SegmentCommit
from standby.store.sqlite.bills import enter_bills
from standby.store.sqlite.connection import Database
from standby.store.sqlite.rows import from_counts, from_reuse, from_tokens, items_of, settled, to_rules
from standby.store.sqlite.statements import load

RECORD_BYTES = 12
_SQL = load("runs")


class SqliteRuns:
    """`standby.store.base.Runs`."""

    _database: Database

    async def backlogs(self, *, now_us: int) -> list[Backlog]:
        """List the batches that have a run to give, oldest first."""
        return await self._database.read(
            lambda db: [_to_backlog(row) for row in db.execute(_SQL["backlogs"], {"now_us": now_us})]
        )

    async def lease_run(self, batch_id: BatchId, *, holder: str, now_us: int, until_us: int) -> LeasedRun | None:
        """Lease the first run that is free."""

        def work(db: sqlite3.Connection) -> LeasedRun | None:
            values = {"batch_id": batch_id, "holder": holder, "now_us": now_us, "until_us": until_us}
            batch = db.execute(_SQL["open_batch"], values).fetchone()
            if batch is None:
                return None
            run = next(iter(db.execute(_SQL["lease_run"], values).fetchall()), None)
            if run is None:
                return None
            return LeasedRun(
                batch_id=batch_id,
                workspace_id=batch["workspace_id"],
                number=run["number"],
                first=run["first"],
                count=run["count"],
                epoch=run["epoch"],
                until_us=until_us,
                expires_us=batch["expires_us"],
                rules=to_rules(batch),
                finished=_finished(db, batch_id, run["number"]),
            )

        return await self._database.write("lease_run", work)

    async def renew_leases(self, *, holder: str, now_us: int, until_us: int) -> set[tuple[BatchId, int]]:
        """Extend what the holder holds; a lease never becomes shorter. Nothing depends on `now_us` here."""
        del now_us

        def work(db: sqlite3.Connection) -> set[tuple[BatchId, int]]:
            rows = db.execute(_SQL["renew_leases"], {"holder": holder, "until_us": until_us})
            return {(row["batch_id"], row["number"]) for row in rows.fetchall()}

        return await self._database.write("renew_leases", work)

    async def stopped_batches(self, batch_ids: Sequence[BatchId], *, now_us: int) -> set[BatchId]:
        """Say which are not in progress any more."""
        values = {"batch_ids": json.dumps(list(batch_ids)), "now_us": now_us}
        return await self._database.read(
            lambda db: set(batch_ids) - {row["id"] for row in db.execute(_SQL["working_batches"], values)}
        )

    async def commit_segments(self, commits: Sequence[SegmentCommit], *, now_us: int) -> list[bool]:
        """Make results exist, each commit under its own fence."""
        for commit in commits:
            _refuse_nonsense(commit)
        return await self._database.write(
            "commit_segments", lambda db: [_commit(db, commit, now_us=now_us) for commit in commits]
        )

    async def release_runs(self, *, holder: str | None) -> int:
        """Give runs back; their epoch stays."""
        statement = "release_all_runs" if holder is None else "release_runs"
        values = {} if holder is None else {"holder": holder}
        return await self._database.write("release_runs", lambda db: db.execute(_SQL[statement], values).rowcount)


def _to_backlog(row: sqlite3.Row) -> Backlog:
    return Backlog(
        batch_id=row["id"],
        workspace_id=row["workspace_id"],
        size=row["size"],
        created_us=row["created_us"],
        expires_us=row["expires_us"],
        pending_runs=True,
        leased_runs=row["leased_runs"],
        left_items=row["left_items"],
        left_cost=row["left_cost"],
    )


def _finished(db: sqlite3.Connection, batch_id: BatchId, run: int) -> frozenset[int]:
    rows = db.execute(_SQL["records_of_run"], {"batch_id": batch_id, "run": run})
    return frozenset(item for row in rows for item in items_of(row["records"]))


def _refuse_nonsense(commit: SegmentCommit) -> None:
    rows = settled(commit.counts)
    if len(commit.records) != RECORD_BYTES * rows:
        raise StoreError(f"{commit.key}: {len(commit.records)} bytes of records for {rows} results")
    if sum(bill.requests for bill in commit.bills) != commit.counts.succeeded:
        raise StoreError(f"{commit.key}: bills for other than {commit.counts.succeeded} results that succeeded")
    if (commit.end > commit.start) != (rows > 0) or commit.end < commit.start:
        raise StoreError(f"{commit.key}: {rows} results between bytes {commit.start} and {commit.end}")


def _commit(db: sqlite3.Connection, commit: SegmentCommit, *, now_us: int) -> bool:
    place: dict[str, object] = {"batch_id": commit.batch_id, "run": commit.run, "epoch": commit.epoch}
    run = db.execute(_SQL["run_to_commit"], place).fetchone()
    if run is None or run["length"] != commit.start or run["key"] not in (None, commit.key):
        return False
    if commit.records:
        sums = from_counts(commit.counts) | from_tokens(commit.tokens) | from_reuse(commit.reuse)
        segment = {"key": commit.key, "length": commit.end, "records": commit.records}
        db.execute(_SQL["grow_segment"], place | segment | sums)
        db.execute(_SQL["enter_ledger"], place | {"day": now_us // DAY, "workspace_id": run["workspace_id"]} | sums)
        owner = {"workspace_id": run["workspace_id"], "credential": run["credential"]}
        enter_bills(db, commit.bills, place | owner, now_us=now_us)
    if commit.is_last:
        db.execute(_SQL["finish_run"], place)
    return True

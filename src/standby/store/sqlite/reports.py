"""Sums in SQLite: for metrics, limits and people."""

from __future__ import annotations

import sqlite3

from standby.records import BatchId, PlanFacts, Queue, Reuse, Rules, WorkspaceId
from standby.states import BatchState, Outcome
from standby.store.sqlite.connection import Database
from standby.store.sqlite.rows import no_batch, to_plan, to_rules
from standby.store.sqlite.statements import load

_SQL = load("reports")


class SqliteReports:
    """`standby.store.base.Reports`."""

    _database: Database

    async def count_batches(self) -> dict[str, int]:
        """Count batches by state; every state is there."""

        def work(db: sqlite3.Connection) -> dict[str, int]:
            found = {row["state"]: row["batches"] for row in db.execute(_SQL["count_batches"])}
            return {state.value: found.get(state.value, 0) for state in BatchState}

        return await self._database.read(work)

    async def queue_of(self, workspace_id: WorkspaceId) -> Queue:
        """Count what waits for a result in open batches."""
        return await self._database.read(lambda db: read_queue(db, workspace_id))

    async def count_results(self) -> dict[Outcome, int]:
        """Count all results that ever were committed."""

        def work(db: sqlite3.Connection) -> dict[Outcome, int]:
            row = db.execute(_SQL["count_results"]).fetchone()
            return {outcome: row[outcome.value] for outcome in Outcome}

        return await self._database.read(work)

    async def tokens_of(self, batch_id: BatchId) -> dict[str, int]:
        """Sum the token columns of a batch; the ledger knows them after its erasure, too."""
        return await self._database.read(
            lambda db: dict(db.execute(_SQL["tokens_of"], {"batch_id": batch_id}).fetchone())
        )

    async def reuse_of(self, batch_id: BatchId) -> Reuse:
        """Sum what engines said of its prompts; the ledger knows it after its erasure, too."""
        return await self._database.read(
            lambda db: Reuse(**db.execute(_SQL["reuse_of"], {"batch_id": batch_id}).fetchone())
        )

    async def rules_of(self, batch_id: BatchId) -> Rules:
        """Read what the create froze; `NotFound` for an unknown or deleted batch."""

        def work(db: sqlite3.Connection) -> Rules:
            row = db.execute(_SQL["rules_of"], {"batch_id": batch_id}).fetchone()
            if row is None:
                raise no_batch(batch_id)
            return to_rules(row)

        return await self._database.read(work)

    async def plan_of(self, batch_id: BatchId) -> PlanFacts:
        """Read what its plan knows of it; `NotFound` for an unknown or deleted batch."""

        def work(db: sqlite3.Connection) -> PlanFacts:
            row = db.execute(_SQL["plan_of"], {"batch_id": batch_id}).fetchone()
            if row is None:
                raise no_batch(batch_id)
            return to_plan(row)

        return await self._database.read(work)


def read_queue(db: sqlite3.Connection, workspace_id: WorkspaceId) -> Queue:
    """Count what waits for a result in open batches of a workspace."""
    return Queue(**db.execute(_SQL["queue_of"], {"workspace_id": workspace_id}).fetchone())

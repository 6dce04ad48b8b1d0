"""What requests cost, in SQLite."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable

from standby.records import DAY, BatchId, Bill, LiveBill, Spent, Tokens, UsageRow, WorkspaceId
from standby.store.base import By
from standby.store.sqlite.connection import Database
from standby.store.sqlite.rows import from_tokens
from standby.store.sqlite.statements import load

_SQL = load("bills")
LIVE: dict[str, object] = {"batch_id": "", "run": 0, "epoch": 0}


class SqliteBills:
    """`standby.store.base.Bills`."""

    _database: Database

    async def charge_live(self, bills: Collection[LiveBill], *, now_us: int) -> None:
        """Enter live requests."""

        def work(db: sqlite3.Connection) -> None:
            for one in bills:
                owner = {"workspace_id": one.workspace_id, "credential": one.credential}
                enter_bills(db, [one.bill], LIVE | owner, now_us=now_us)

        await self._database.write("charge_live", work)

    async def usage(
        self,
        *,
        by: Collection[By],
        workspace_id: WorkspaceId | None = None,
        since_day: int | None = None,
        until_day: int | None = None,
    ) -> list[UsageRow]:
        """Sum bills."""
        values: dict[str, object] = {f"by_{each.value}": each in by for each in By}
        values |= {"workspace_id": workspace_id, "since_day": since_day, "until_day": until_day}
        return await self._database.read(lambda db: [_usage(row) for row in db.execute(_SQL["usage"], values)])

    async def spent(self, workspace_id: WorkspaceId, *, since_day: int) -> dict[int, Spent]:
        """Sum charges by day."""
        values = {"workspace_id": workspace_id, "since_day": since_day}

        def work(db: sqlite3.Connection) -> dict[int, Spent]:
            rows = db.execute(_SQL["spent"], values)
            return {row["day"]: Spent(pico=_money(row, "charge"), unpriced=row["unpriced"]) for row in rows}

        return await self._database.read(work)

    async def bills_of(self, batch_id: BatchId) -> list[Bill]:
        """Read what a batch cost so far."""
        values = {"batch_id": batch_id}
        return await self._database.read(
            lambda db: [to_bill(row) for row in db.execute(_SQL["bills_of_batch"], values)]
        )


def enter_bills(db: sqlite3.Connection, bills: Iterable[Bill], place: dict[str, object], *, now_us: int) -> None:
    """Add bills to what stands at a place: workspace, credential, batch, run, epoch."""
    for bill in bills:
        sums = {
            "model": bill.model,
            "requests": bill.requests,
            "plain_pico": bill.plain_pico,
            "batch_pico": bill.batch_pico,
            "charge_pico": bill.charge_pico,
            "unpriced": bill.unpriced,
        }
        db.execute(_SQL["enter_bill"], place | sums | from_tokens(bill.tokens) | {"day": now_us // DAY})


def to_bill(row: sqlite3.Row) -> Bill:
    """Read a bill."""
    return Bill(
        model=row["model"] or "",
        requests=row["requests"],
        tokens=Tokens(
            input=row["input_tokens"],
            write_5m=row["write_5m_tokens"],
            write_1h=row["write_1h_tokens"],
            read=row["read_tokens"],
            output=row["output_tokens"],
        ),
        plain_pico=_money(row, "plain"),
        batch_pico=_money(row, "batch"),
        charge_pico=_money(row, "charge"),
        unpriced=row["unpriced"],
    )


def _money(row: sqlite3.Row, name: str) -> int:
    return int(row[f"{name}_millions"]) * 1_000_000 + int(row[f"{name}_rest"])


def _usage(row: sqlite3.Row) -> UsageRow:
    return UsageRow(
        workspace_id=row["workspace_id"],
        credential=row["credential"],
        model=row["model"],
        day=row["day"],
        kind=row["kind"],
        bill=to_bill(row),
    )

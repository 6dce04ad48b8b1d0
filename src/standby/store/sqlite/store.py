"""The store itself: all verbs over one database file."""

from __future__ import annotations

from pathlib import Path

from standby.store.sqlite.batches import SqliteBatches
from standby.store.sqlite.bills import SqliteBills
from standby.store.sqlite.checks import find_faults
from standby.store.sqlite.chores import SqliteChores
from standby.store.sqlite.connection import Database
from standby.store.sqlite.reports import SqliteReports
from standby.store.sqlite.runs import SqliteRuns
from standby.store.sqlite.tenants import SqliteTenants


class SqliteStore(SqliteBatches, SqliteRuns, SqliteChores, SqliteTenants, SqliteReports, SqliteBills):
    """`standby.store.base.Store` on one SQLite file; several processes may open it."""

    def __init__(self, path: Path) -> None:
        """Name the database file; nothing is touched before `open`."""
        self._database = Database(path)

    async def open(self) -> None:
        """Open or make the file, bring its schema up to date; `StartError` says why it cannot be used."""
        await self._database.open()

    async def close(self) -> None:
        """Finish what is under way and let go of the file."""
        await self._database.close()

    async def check(self) -> list[str]:
        """Read everything once and list what is wrong, one sentence each."""
        return await self._database.read(find_faults)

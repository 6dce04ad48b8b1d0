"""Workspaces and keys in SQLite."""

from __future__ import annotations

import sqlite3
from dataclasses import asdict

from standby.errors import Conflict, NotFound
from standby.ids import make_id
from standby.records import Key, KeyId, OwnLimits, Workspace, WorkspaceId
from standby.store.sqlite.connection import Database
from standby.store.sqlite.rows import to_key, to_workspace
from standby.store.sqlite.statements import load

_SQL = load("tenants")


class SqliteTenants:
    """`standby.store.base.Tenants`."""

    _database: Database

    async def create_workspace(self, name: str, *, now_us: int) -> Workspace:
        """Make a workspace under a name that is free."""
        made = Workspace(id=WorkspaceId(make_id("wrkspc", now_us=now_us)), name=name, created_us=now_us)

        def work(db: sqlite3.Connection) -> Workspace:
            values = {"id": made.id, "name": name, "created_us": now_us}
            if db.execute(_SQL["insert_workspace"], values).rowcount == 0:
                raise Conflict(f"name: there is a workspace {name!r} already; choose another name")
            return made

        return await self._database.write("create_workspace", work)

    async def list_workspaces(self) -> list[Workspace]:
        """List all, oldest first."""
        return await self._database.read(lambda db: [to_workspace(row) for row in db.execute(_SQL["list_workspaces"])])

    async def create_key(self, workspace_id: WorkspaceId, name: str, *, digest: bytes, hint: str, now_us: int) -> Key:
        """Keep the digest of a new key."""
        made = Key(
            id=KeyId(make_id("apikey", now_us=now_us)),
            workspace_id=workspace_id,
            name=name,
            hint=hint,
            created_us=now_us,
            revoked_us=None,
        )

        def work(db: sqlite3.Connection) -> Key:
            if db.execute(_SQL["has_workspace"], {"workspace_id": workspace_id}).fetchone() is None:
                raise NotFound(f"workspace_id: there is no workspace {workspace_id}")
            values = {"id": made.id, "workspace_id": workspace_id, "name": name, "digest": digest, "hint": hint}
            db.execute(_SQL["insert_key"], values | {"created_us": now_us})
            return made

        return await self._database.write("create_key", work)

    async def list_keys(self) -> list[Key]:
        """List all, oldest first, revoked ones included."""
        return await self._database.read(lambda db: [to_key(row) for row in db.execute(_SQL["list_keys"])])

    async def revoke_key(self, key_id: KeyId, *, now_us: int) -> Key:
        """Revoke for ever; the first time stays."""

        def work(db: sqlite3.Connection) -> Key:
            row = next(iter(db.execute(_SQL["revoke_key"], {"key_id": key_id, "now_us": now_us}).fetchall()), None)
            if row is None:
                raise NotFound(f"key: there is no key {key_id}")
            return to_key(row)

        return await self._database.write("revoke_key", work)

    async def set_limits(self, workspace_id: WorkspaceId, limits: OwnLimits) -> None:
        """Keep what a workspace may do."""

        def work(db: sqlite3.Connection) -> None:
            if db.execute(_SQL["has_workspace"], {"workspace_id": workspace_id}).fetchone() is None:
                raise NotFound(f"workspace_id: there is no workspace {workspace_id}")
            db.execute(_SQL["set_limits"], asdict(limits) | {"workspace_id": workspace_id})

        await self._database.write("set_limits", work)

    async def list_limits(self) -> dict[WorkspaceId, OwnLimits]:
        """List what single workspaces may do."""
        return await self._database.read(
            lambda db: {WorkspaceId(row["workspace_id"]): _limits(row) for row in db.execute(_SQL["list_limits"])}
        )

    async def find_key(self, digest: bytes) -> Key | None:
        """Find the key, revoked or not, that has this digest."""

        def work(db: sqlite3.Connection) -> Key | None:
            row = db.execute(_SQL["find_key"], {"digest": digest}).fetchone()
            return None if row is None else to_key(row)

        return await self._database.read(work)


def read_limits(db: sqlite3.Connection, workspace_id: WorkspaceId) -> OwnLimits:
    """Read what one workspace may do; nothing of its own if it was never said."""
    row = db.execute(_SQL["limits_of"], {"workspace_id": workspace_id}).fetchone()
    return OwnLimits() if row is None else _limits(row)


def _limits(row: sqlite3.Row) -> OwnLimits:
    return OwnLimits(
        spend_per_day=row["spend_per_day"],
        spend_per_month=row["spend_per_month"],
        enqueued_items=row["enqueued_items"],
        enqueued_tokens=row["enqueued_tokens"],
    )

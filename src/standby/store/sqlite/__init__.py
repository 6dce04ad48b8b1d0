"""The embedded store: one SQLite file."""

from __future__ import annotations

from standby.store.sqlite.store import SqliteStore

__all__ = ["SqliteStore"]

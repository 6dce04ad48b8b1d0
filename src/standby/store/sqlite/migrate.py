"""Bring a database file to the schema of this program, once, in one transaction."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

from standby.errors import StartError
from standby.ids import make_id
from standby.store.sqlite.statements import load, migrations, split

APPLICATION_ID = 0x53544259
"""`STBY`, so that a database of another program is not mistaken for ours."""

DEFAULT_WORKSPACE = "default"
_TENANTS = load("tenants")


def migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Apply the migrations that the file lacks; `StartError` if it is newer than this program or not ours."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = _version(connection, path)
        for number, script in enumerate(migrations()[version:], start=version + 1):
            for statement in split(script):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {number}")
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        _make_default_workspace(connection)
        connection.execute("COMMIT")
    except BaseException:
        connection.rollback()
        raise


def _version(connection: sqlite3.Connection, path: Path) -> int:
    """Read under the lock of the transaction: another process may have migrated in the meantime."""
    version = _pragma(connection, "user_version")
    owner = _pragma(connection, "application_id")
    has_tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] > 0
    if has_tables and owner != APPLICATION_ID:
        raise StartError(f"{path} is a database of another program: choose another data folder")
    if version > len(migrations()):
        raise StartError(
            f"{path} was written by a newer Standby (schema {version}, this one knows {len(migrations())}): "
            "install that version again, or choose another data folder"
        )
    return version


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


def _make_default_workspace(connection: sqlite3.Connection) -> None:
    """There is always one; its time is that of the machine, because nobody asked for it."""
    row = {"id": make_id("wrkspc"), "name": DEFAULT_WORKSPACE, "created_us": time.time_ns() // 1000}
    connection.execute(_TENANTS["insert_workspace"], row)

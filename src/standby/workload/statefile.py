"""Files of the client that must not be lost: SQLite, their owner's only, one process at a time, synced at each commit.

A file has a form, a number: form N is made by the first N of its migrations, and one that is released never changes.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

from standby.doors import door
from standby.errors import StartError
from standby.folder import locked, made
from standby.workload.faults import LocalState

MEMORY = ":memory:"


@contextlib.contextmanager
def opened(path: Path, migrations: Sequence[str], *, is_shared: bool = False) -> Iterator[sqlite3.Connection]:
    """Open a file and lock its folder, both made if need be; `is_shared` lets several threads use it in turn.

    `LocalState` if another process has the folder, or the file is damaged or newer than this program.
    """
    folder = path.parent
    try:
        with locked(made(folder)):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            with contextlib.closing(connected(path, migrations, is_shared=is_shared)) as connection:
                yield connection
    except StartError as error:
        raise LocalState(f"{folder}: {str(error).replace('store.data: ', '').partition(';')[0]}") from None
    except sqlite3.DatabaseError as error:
        raise LocalState(f"{path}: {error}") from error


def connected(path: Path | str, migrations: Sequence[str], *, is_shared: bool = False) -> sqlite3.Connection:
    """Connect to a file, or to `MEMORY`, and bring it to the newest form; `LocalState` if it is a newer one."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=not is_shared)
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > len(migrations):
        connection.close()
        raise LocalState(f"{path}: was written by a newer Standby (form {version}); update this one")
    for number, script in enumerate(migrations[version:], start=version + 1):
        connection.executescript(f"BEGIN IMMEDIATE; {script} PRAGMA user_version = {number}; COMMIT;")
    return connection


@contextlib.contextmanager
def writing(connection: sqlite3.Connection, verb: str) -> Iterator[None]:
    """One transaction, durable when it is over; `verb` names the doors before and after its commit."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    door(f"{verb}.before_commit")
    connection.execute("COMMIT")
    door(f"{verb}.after_commit")

"""SQLite's errors in our words."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from standby.errors import StoreError

ADVICE = {
    sqlite3.SQLITE_FULL: "the disk of {path} is full: free some space and try again",
    sqlite3.SQLITE_IOERR: "the disk of {path} failed ({name}): check its space and its health",
    sqlite3.SQLITE_BUSY: "{path} is being written by another process for too long: find and stop it",
    sqlite3.SQLITE_LOCKED: "{path} is being written by another process for too long: find and stop it",
    sqlite3.SQLITE_READONLY: "{path} cannot be written: check the permissions of the file and its folder",
    sqlite3.SQLITE_PERM: "{path} cannot be written: check the permissions of the file and its folder",
    sqlite3.SQLITE_CANTOPEN: "{path} cannot be opened: check the folder, its permissions and its space",
    sqlite3.SQLITE_CORRUPT: "{path} is damaged: stop the server, run `standby doctor`, restore a backup",
    sqlite3.SQLITE_NOTADB: "{path} is not a database of Standby: choose another data folder",
    sqlite3.SQLITE_CONSTRAINT: "a row was refused ({name}): {error}",
    sqlite3.SQLITE_NOMEM: "there is no memory left",
}
_PRIMARY = 0xFF


@contextlib.contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn every error of SQLite into a `StoreError` that says what to do."""
    try:
        yield
    except sqlite3.Error as error:
        raise StoreError(in_words(error, path)) from error
    except ValueError as error:  # text that is no UTF-8, a state that does not exist: bits that flipped on the disk
        raise StoreError(ADVICE[sqlite3.SQLITE_CORRUPT].format(path=path)) from error


def in_words(error: sqlite3.Error, path: Path) -> str:
    """Say what happened and what to do; extended codes count as their primary one."""
    code = getattr(error, "sqlite_errorcode", None)
    name = getattr(error, "sqlite_errorname", type(error).__name__)
    advice = ADVICE.get((code or 0) & _PRIMARY, "{path}: {name}: {error}")
    return advice.format(path=path, name=name, error=error)

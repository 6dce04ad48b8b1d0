"""The database file: one thread that writes, a few that read, and the doors around every commit.

A verb runs as a whole in a thread. If the task that awaits it is canceled, the verb still commits or
rolls back as a whole; nobody ever sees half of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import TypeVar

from standby import doors
from standby.errors import StartError, StoreError
from standby.folder import sync_folder
from standby.store.sqlite.faults import translated
from standby.store.sqlite.migrate import migrate

T = TypeVar("T")

READERS = 3
BUSY_MS = 10_000
"""How long a verb waits for another process (such as `standby keys`) that is writing."""

WRITER_PRAGMAS = ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON")
READER_PRAGMAS = ("query_only = ON",)


class Database:
    """One SQLite file in WAL mode, synced at every commit."""

    def __init__(self, path: Path) -> None:
        """Name the file."""
        self.path = path
        self._writer: sqlite3.Connection | None = None
        self._idle_readers: SimpleQueue[sqlite3.Connection] = SimpleQueue()
        self._writing: ThreadPoolExecutor | None = None
        self._reading: ThreadPoolExecutor | None = None

    async def open(self) -> None:
        """Open or make the file, apply migrations, start the threads; opening twice is one opening."""
        if self._writing is not None:
            return
        self._writing = ThreadPoolExecutor(1, thread_name_prefix="store-writer")
        self._reading = ThreadPoolExecutor(READERS, thread_name_prefix="store-reader")
        try:
            await _whole(self._writing, self._connect)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Wait for the verbs under way, then close every connection."""
        writing, reading, self._writing, self._reading = self._writing, self._reading, None, None
        if writing is not None and reading is not None:
            await asyncio.shield(asyncio.to_thread(self._disconnect, writing, reading))

    async def write(self, verb: str, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` as one transaction that is durable on return; it passes the two doors of its verb."""
        if self._writing is None:
            raise _closed()
        return await _whole(self._writing, lambda: self._commit(verb, work))

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` on one snapshot, beside the writer."""
        if self._reading is None:
            raise _closed()
        return await _whole(self._reading, lambda: self._look(work))

    def _connect(self) -> None:
        try:
            _make_folder(self.path.parent)
            with translated(self.path):
                self._writer = _open(self.path, WRITER_PRAGMAS)
                migrate(self._writer, self.path)
                for _ in range(READERS):
                    self._idle_readers.put(_open(self.path, READER_PRAGMAS))
        except (OSError, StoreError) as error:
            raise StartError(f"cannot open the store: {error}") from error

    def _disconnect(self, writing: ThreadPoolExecutor, reading: ThreadPoolExecutor) -> None:
        """Readers first: the last connection to go moves the log into the file, and readers may not."""
        reading.shutdown()
        while not self._idle_readers.empty():
            self._idle_readers.get().close()
        writing.shutdown()
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _commit(self, verb: str, work: Callable[[sqlite3.Connection], T]) -> T:
        connection = self._writer
        if connection is None:
            raise _closed()
        with translated(self.path):
            connection.execute("BEGIN IMMEDIATE")
            try:
                done = work(connection)
                doors.door(f"store.{verb}.before_commit")
                connection.execute("COMMIT")
            except BaseException:
                _roll_back(connection)
                raise
        doors.door(f"store.{verb}.after_commit")
        return done

    def _look(self, work: Callable[[sqlite3.Connection], T]) -> T:
        connection = self._idle_readers.get()
        try:
            with translated(self.path):
                connection.execute("BEGIN")
                try:
                    return work(connection)
                finally:
                    _roll_back(connection)
        finally:
            self._idle_readers.put(connection)


async def _whole(threads: ThreadPoolExecutor, work: Callable[[], T]) -> T:
    return await asyncio.get_running_loop().run_in_executor(threads, work)


def _make_folder(folder: Path) -> None:
    """Make the folder, durably; SQLite syncs what is inside, not where it hangs."""
    if folder.is_dir():
        return
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    sync_folder(folder.parent)


def _open(path: Path, pragmas: tuple[str, ...]) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=BUSY_MS / 1000, isolation_level=None, check_same_thread=False)
    connection.row_factory = sqlite3.Row
    try:
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}")
    except BaseException:
        connection.close()
        raise
    return connection


def _roll_back(connection: sqlite3.Connection) -> None:
    """Leave the transaction, if a fault has not already ended it."""
    if connection.in_transaction:
        with contextlib.suppress(sqlite3.Error):
            connection.execute("ROLLBACK")


def _closed() -> StoreError:
    return StoreError("the store is not open")

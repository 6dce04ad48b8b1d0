"""Calls that went with batches, and the answers that are kept: one SQLite file, or memory where nothing is kept.

A call is known by the hash of what it says and by its number among equal ones, so that a program which asks the same
ten times gets ten answers, and the same ten when it runs again. Neither prompts nor keys are stored.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from standby.workload import statefile

FILE = "calls.sqlite"
CHUNK = 2_000
SCHEMA = """
CREATE TABLE batches (
    number     INTEGER PRIMARY KEY,
    endpoint   TEXT NOT NULL,
    tag        TEXT NOT NULL,
    items      INTEGER NOT NULL,
    headers    TEXT NOT NULL,                -- betas and version, never a key
    anchor     TEXT,                         -- newest batch of the workspace before the create: id and time
    refuted    TEXT NOT NULL DEFAULT '[]',   -- batches that turned out to be others
    batch_id   TEXT,                         -- NULL: the create may have been sent, or not
    is_ours    INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE calls (
    id       BLOB PRIMARY KEY,
    batch    INTEGER NOT NULL,
    answer   BLOB,                           -- NULL: under way
    batch_id TEXT
) STRICT;
CREATE INDEX calls_by_batch ON calls (batch) WHERE answer IS NULL;
"""
WORKSPACES = """
ALTER TABLE batches ADD COLUMN workspace TEXT NOT NULL DEFAULT ''; -- whose key made it, as the service tells; '' if not
"""
MIGRATIONS = (SCHEMA, WORKSPACES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """A batch that was sent, or may have been."""

    number: int
    endpoint: str
    tag: str
    items: int
    headers: dict[str, str]
    workspace: str
    anchor: tuple[str, str] | None
    refuted: tuple[str, ...]
    batch_id: str | None
    is_ours: bool


class Calls:
    """The open file. Every verb is one transaction, but for `intend`, whose last one makes it count."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        """Wrap a connection; see `opened`."""
        self._db = connection

    def answer(self, call: bytes) -> tuple[bytes, str] | None:
        """Read the answer of a call and the batch that it came with; None if there is none yet."""
        row = self._db.execute("SELECT answer, batch_id FROM calls WHERE id = ?", (call,)).fetchone()
        return (row[0], str(row[1])) if row is not None and row[0] is not None else None

    def intend(
        self,
        calls: Sequence[bytes],
        *,
        endpoint: str,
        tag: str,
        headers: dict[str, str],
        workspace: str,
        anchor: tuple[str, str] | None,
    ) -> Sent:
        """Write down that a batch is about to be created."""
        number = int(self._db.execute("SELECT coalesce(max(number), 0) + 1 FROM batches").fetchone()[0])
        for start in range(0, len(calls), CHUNK):
            with self._writing():
                self._db.executemany(
                    "INSERT OR REPLACE INTO calls (id, batch) VALUES (?, ?)",
                    ((call, number) for call in calls[start : start + CHUNK]),
                )
        with self._writing():
            self._db.execute(
                "INSERT INTO batches (number, endpoint, tag, items, headers, workspace, anchor)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    number,
                    endpoint,
                    tag,
                    len(calls),
                    json.dumps(dict(headers)),
                    workspace,
                    json.dumps(anchor) if anchor else None,
                ),
            )
        return self._batch(number)

    def accept(self, number: int, batch_id: str, *, is_ours: bool) -> None:
        """Write down which batch it is; one that was only found by its size is not proved to be ours yet."""
        with self._writing():
            self._db.execute(
                "UPDATE batches SET batch_id = ?, is_ours = ? WHERE number = ?", (batch_id, int(is_ours), number)
            )

    def refute(self, number: int, refuted: Sequence[str]) -> None:
        """Write down that the batch was another's, and that nobody knows which is ours."""
        with self._writing():
            self._db.execute(
                "UPDATE batches SET batch_id = NULL, is_ours = 0, refuted = ? WHERE number = ?",
                (json.dumps(list(refuted)), number),
            )

    def keep(self, answers: Iterable[tuple[bytes, bytes]], batch_id: str) -> None:
        """Keep answers: call and message."""
        with self._writing():
            self._db.executemany(
                "UPDATE calls SET answer = ?, batch_id = ? WHERE id = ?",
                ((answer, batch_id, call) for call, answer in answers),
            )

    def close_batch(self, number: int) -> None:
        """Forget a batch that has ended or was never made; its calls without an answer are as if never sent."""
        with self._writing():
            self._db.execute("DELETE FROM calls WHERE batch = ? AND answer IS NULL", (number,))
            self._db.execute("DELETE FROM batches WHERE number = ?", (number,))

    def batches(self) -> list[Sent]:
        """List the batches that were under way when the last process ended."""
        return [_sent(row) for row in self._db.execute("SELECT * FROM batches ORDER BY number")]

    def under_way(self, number: int) -> list[bytes]:
        """List the calls of a batch that have no answer yet."""
        return [r[0] for r in self._db.execute("SELECT id FROM calls WHERE batch = ? AND answer IS NULL", (number,))]

    def forget_unsent(self) -> None:
        """Drop calls of an intent that was not finished: nothing was sent for them."""
        with self._writing():
            self._db.execute(
                "DELETE FROM calls WHERE answer IS NULL AND batch NOT IN (SELECT number FROM batches)",
            )

    def _batch(self, number: int) -> Sent:
        return _sent(self._db.execute("SELECT * FROM batches WHERE number = ?", (number,)).fetchone())

    def _writing(self) -> contextlib.AbstractContextManager[None]:
        return statefile.writing(self._db, "calls")


@contextlib.contextmanager
def opened(folder: Path | None) -> Iterator[Calls]:
    """Open the calls of a folder, for its owner only and for one process at a time; None keeps nothing.

    `LocalState` if another process has the folder, or its file is damaged or newer than this program.
    """
    if folder is None:
        with contextlib.closing(statefile.connected(statefile.MEMORY, MIGRATIONS, is_shared=True)) as connection:
            yield Calls(connection)
        return
    with statefile.opened(folder / FILE, MIGRATIONS, is_shared=True) as connection:
        calls = Calls(connection)
        calls.forget_unsent()
        yield calls


def _sent(row: sqlite3.Row) -> Sent:
    anchor = json.loads(row["anchor"]) if row["anchor"] else None
    return Sent(
        number=row["number"],
        endpoint=row["endpoint"],
        tag=row["tag"],
        items=row["items"],
        headers=json.loads(row["headers"]),
        workspace=row["workspace"],
        anchor=(anchor[0], anchor[1]) if anchor else None,
        refuted=tuple(json.loads(row["refuted"])),
        batch_id=row["batch_id"],
        is_ours=bool(row["is_ours"]),
    )

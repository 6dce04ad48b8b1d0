"""What a nightly workload remembers between its runs: which rows have their answer, and what each run did and cost.

    labels.parquet.nightly/
        ledger.sqlite       one line a row: a hash of its key, a hash of what was asked; one line a run
        run-0007/           rows, job and answers of a run; the last few are kept

No prompt and no answer stands in the ledger. A verb is one transaction.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from standby.workload import statefile
from standby.workload.faults import BadInput
from standby.workload.names import hash_of

SUFFIX = ".nightly"
SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE answered (
    key     BLOB PRIMARY KEY,     -- hash of what names the row
    asked   BLOB NOT NULL,        -- hash of the request that was answered
    is_good INTEGER NOT NULL,     -- 0: it would fail again in the same way
    run     INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE runs (
    number  INTEGER PRIMARY KEY,
    began   TEXT NOT NULL,        -- RFC 3339, UTC
    ended   TEXT,                 -- NULL: goes on
    read    INTEGER NOT NULL,     -- rows of the source
    new     INTEGER NOT NULL,
    changed INTEGER NOT NULL,     -- known rows that ask something else now
    failed_before INTEGER NOT NULL,
    cost_pico INTEGER,            -- NULL: unknown
    report  TEXT NOT NULL DEFAULT '{}'
) STRICT;
CREATE TABLE pending (            -- rows of the run that goes on, in their order
    number  INTEGER PRIMARY KEY,
    key     BLOB NOT NULL UNIQUE,
    asked   BLOB NOT NULL
) STRICT;
"""
MIGRATIONS = (SCHEMA,)
"""Form N of the file is made by the first N of these; one that is released never changes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What a look at all rows found."""

    read: int = 0
    new: int = 0
    changed: int = 0
    failed_before: int = 0
    """Rows without a good answer that are asked again because the user wants it."""

    @property
    def fresh(self) -> int:
        """How many rows are to be sent."""
        return self.new + self.changed + self.failed_before


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run, as it is remembered."""

    number: int
    began: str
    ended: str | None
    look: Look
    cost_pico: int | None
    report: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """What became of one row of a run; `is_good` is None if it has to be sent again."""

    number: int
    is_good: bool | None


class Ledger:
    """The open ledger. Use `opened`."""

    def __init__(self, folder: Path, connection: sqlite3.Connection) -> None:
        """Wrap a connection."""
        self.folder = folder
        self._db = connection

    def meta(self, name: str) -> str:
        """Read one fact; empty if it is not known."""
        row = self._db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return str(row[0]) if row is not None else ""

    def note(self, **facts: str) -> None:
        """Write facts."""
        with self._writing("note"):
            self._db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", facts.items())

    def place(self, run: int) -> Path:
        """Name the folder of a run."""
        return self.folder / f"run-{run:04}"

    def count(self) -> int:
        """Count the rows that have their answer."""
        return int(self._db.execute("SELECT count(*) FROM answered").fetchone()[0])

    # -- rows

    def compare(self, asked: Iterable[tuple[str, bytes]], *, is_failed_again: bool) -> Look:
        """Hold all rows (key, hash of the request), in their order, against what was answered.

        `BadInput` if a key stands twice.
        """
        self._db.execute("DROP TABLE IF EXISTS temp.looked")
        self._db.execute(
            "CREATE TEMP TABLE looked (number INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, asked BLOB NOT NULL, "
            "is_fresh INTEGER NOT NULL DEFAULT 0)"
        )
        self._db.execute("BEGIN")
        for number, (key, request) in enumerate(asked):
            try:
                self._db.execute(
                    "INSERT INTO temp.looked (number, key, asked) VALUES (?, ?, ?)", (number, hash_of(key), request)
                )
            except sqlite3.IntegrityError:
                self._db.execute("ROLLBACK")
                raise BadInput(f"row {number + 1}: the key {key[:80]!r} stands twice; keys name one row each") from None
        self._db.execute(
            "UPDATE temp.looked SET is_fresh = NOT EXISTS (SELECT 1 FROM answered a "
            "WHERE a.key = looked.key AND a.asked = looked.asked AND (a.is_good OR NOT ?))",
            (int(is_failed_again),),
        )
        self._db.execute("COMMIT")
        row = self._db.execute(
            "SELECT count(*), count(*) FILTER (WHERE a.key IS NULL), count(*) FILTER (WHERE a.asked != l.asked), "
            "count(*) FILTER (WHERE a.asked = l.asked AND is_fresh) FROM temp.looked l LEFT JOIN answered a USING (key)"
        ).fetchone()
        return Look(read=row[0], new=row[1], changed=row[2], failed_before=row[3])

    def flags(self) -> Iterator[bool]:
        """Say of each row that was compared, in their order, whether it is to be sent."""
        for row in self._db.execute("SELECT is_fresh FROM temp.looked ORDER BY number"):
            yield bool(row[0])

    # -- runs

    def begin(self, look: Look, *, now: str) -> Run:
        """Open a run with the rows that were compared and are to be sent."""
        with self._writing("begin"):
            self._db.execute("DELETE FROM pending")
            self._db.execute(
                "INSERT INTO pending SELECT row_number() OVER (ORDER BY number) - 1, key, asked "
                "FROM temp.looked WHERE is_fresh"
            )
            number = self.next_number()
            self._db.execute(
                "INSERT INTO runs (number, began, read, new, changed, failed_before) VALUES (?, ?, ?, ?, ?, ?)",
                (number, now, look.read, look.new, look.changed, look.failed_before),
            )
        return self.run(number)

    def close(self, run: Run, ends: Iterable[End], *, cost_pico: int | None, report: dict[str, Any], now: str) -> Run:
        """Remember what became of the rows of a run, and that it is over: one transaction."""
        with self._writing("close"):
            self._db.executemany(
                "INSERT OR REPLACE INTO answered SELECT key, asked, ?, ? FROM pending WHERE number = ?",
                ((int(end.is_good), run.number, end.number) for end in ends if end.is_good is not None),
            )
            self._db.execute("DELETE FROM pending")
            self._db.execute(
                "UPDATE runs SET ended = ?, cost_pico = ?, report = ? WHERE number = ?",
                (now, cost_pico, json.dumps(report), run.number),
            )
        return self.run(run.number)

    def open_run(self) -> Run | None:
        """Find the run that goes on."""
        row = self._db.execute("SELECT * FROM runs WHERE ended IS NULL").fetchone()
        return _run(row) if row is not None else None

    def run(self, number: int) -> Run:
        """Read one run."""
        return _run(self._db.execute("SELECT * FROM runs WHERE number = ?", (number,)).fetchone())

    def runs(self) -> list[Run]:
        """List all runs, the newest first."""
        return [_run(row) for row in self._db.execute("SELECT * FROM runs ORDER BY number DESC")]

    def next_number(self) -> int:
        """Number a new run, from 1."""
        return int(self._db.execute("SELECT coalesce(max(number), 0) + 1 FROM runs").fetchone()[0])

    def spent_pico(self, month: str) -> int:
        """Sum what the runs cost that began in a month (`YYYY-MM`, UTC); unknown costs count as 0."""
        query = "SELECT coalesce(sum(cost_pico), 0) FROM runs WHERE substr(began, 1, 7) = ?"
        return int(self._db.execute(query, (month,)).fetchone()[0])

    def _writing(self, verb: str) -> contextlib.AbstractContextManager[None]:
        return statefile.writing(self._db, f"nightly.{verb}")


@contextlib.contextmanager
def opened(folder: Path) -> Iterator[Ledger]:
    """Open the ledger of a folder, made if there is none; `LocalState` if another process works on it."""
    with statefile.opened(folder / "ledger.sqlite", MIGRATIONS) as connection:
        yield Ledger(folder, connection)


def _run(row: sqlite3.Row) -> Run:
    look = Look(read=row["read"], new=row["new"], changed=row["changed"], failed_before=row["failed_before"])
    return Run(
        number=row["number"],
        began=row["began"],
        ended=row["ended"],
        look=look,
        cost_pico=row["cost_pico"],
        report=json.loads(row["report"]),
    )

"""The job on disk: one folder beside the output, one SQLite file in it that says how far everything is.

    labels.parquet.standby/
        job.sqlite          parts, items, and what the job is
        rows.parquet        the rows as they were read
        part-0001.json      the body of a part, one item a line
        part-0001.jsonl     its results, as they came

Only the owner can read it. One process at a time works on it. A verb is one transaction.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from standby.folder import sync_folder
from standby.workload import statefile
from standby.workload.faults import LocalState
from standby.workload.spec import Spec, decoded, encoded
from standby.workload.states import PartState, check_move

SUFFIX = ".standby"
SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE parts (
    number      INTEGER PRIMARY KEY,
    round       INTEGER NOT NULL,             -- 0: first try of its items; 1, 2, …: they are tried again
    items       INTEGER NOT NULL,
    bytes       INTEGER NOT NULL,
    state       TEXT NOT NULL,
    anchor      TEXT,                         -- newest batch of the workspace before the create: id and time
    refuted     TEXT NOT NULL DEFAULT '[]',   -- batches that turned out to be others
    batch_id    TEXT UNIQUE,
    is_ours     INTEGER NOT NULL DEFAULT 0,   -- 1: the create was answered with this id, or results proved it
    created_at  TEXT,
    ended_at    TEXT,
    foreign_ids INTEGER NOT NULL DEFAULT 0,
    duplicates  INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE items (
    number  INTEGER PRIMARY KEY,              -- of the row, from 0
    key     TEXT NOT NULL,                    -- the user's
    hash    BLOB NOT NULL UNIQUE,
    part    INTEGER NOT NULL,                 -- its latest try
    tries   INTEGER NOT NULL DEFAULT 1,
    outcome TEXT,                             -- NULL: still open
    cause   TEXT,
    place   INTEGER,                          -- of its result, in the file of its part
    length  INTEGER,
    tokens  TEXT                              -- of all its succeeded tries: what was paid
) STRICT;
CREATE INDEX items_by_part ON items (part);
CREATE INDEX items_by_outcome ON items (outcome, cause);
"""
DOWNLOADS = """
ALTER TABLE parts ADD COLUMN etag TEXT;                          -- of the results that are being downloaded
ALTER TABLE parts ADD COLUMN fetched INTEGER NOT NULL DEFAULT 0; -- bytes of them that survive a power cut
"""
MIGRATIONS = (SCHEMA, DOWNLOADS)
"""Form N of the file is made by the first N of these; one that is released never changes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One batch of the job."""

    number: int
    round: int
    items: int
    bytes: int
    state: PartState
    anchor: tuple[str, str] | None
    refuted: tuple[str, ...]
    batch_id: str | None
    is_ours: bool
    created_at: str | None
    ended_at: str | None
    foreign_ids: int
    duplicates: int
    etag: str | None
    fetched: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One row of the job."""

    number: int
    key: str
    hash: bytes
    part: int
    tries: int
    outcome: str | None
    cause: str | None
    place: int | None
    length: int | None
    tokens: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """What became of one item."""

    hash: bytes
    outcome: str
    cause: str
    place: int | None = None
    length: int | None = None
    tokens: str | None = None


def folder_of(output: str | Path) -> Path:
    """Name the folder of the job that writes `output`; a folder of a job is its own."""
    path = Path(output).absolute()
    return path if path.name.endswith(SUFFIX) else path.with_name(path.name + SUFFIX)


class JobFile:
    """The open job. Use `opened` or `created`."""

    def __init__(self, folder: Path, connection: sqlite3.Connection) -> None:
        """Wrap a connection."""
        self.folder = folder
        self._db = connection

    # -- what the job is

    @property
    def spec(self) -> Spec:
        """The workload."""
        return decoded(self.meta("spec"))

    @property
    def tag(self) -> str:
        """The run tag."""
        return self.meta("tag")

    def meta(self, name: str, default: str | None = None) -> str:
        """Read one fact; `LocalState` if it is not there and has no default."""
        row = self._db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        if row is None and default is None:
            raise LocalState(f"{self.folder}: the job has no {name}; its file is damaged")
        return str(row[0]) if row is not None else str(default)

    def note(self, **facts: str) -> None:
        """Write facts."""
        with self._writing(f"note_{'_'.join(facts)}"):
            self._note(facts)

    def _note(self, facts: dict[str, str]) -> None:
        self._db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", facts.items())

    def ask_again(self, retries: int) -> None:
        """Allow so many more tries, for a person who asks: also of rows that only a person can set going again.

        Rows without a result are looked for in the results once more before they are sent again: that costs nothing.
        """
        parts = self.parts()
        for part in parts:
            if part.state is PartState.DONE and part.batch_id and self.causes(part.number).get("missing"):
                self.look_again(part)
        more = int(self.meta("more_tries", "0")) + retries
        self.note(more_tries=str(more), mended_round=str(max((part.round for part in parts), default=0)), written="")

    # -- files

    def body(self, number: int) -> Path:
        """The body of a part."""
        return self.folder / f"part-{number:04}.json"

    def results(self, number: int) -> Path:
        """The results of a part."""
        return self.folder / f"part-{number:04}.jsonl"

    @property
    def rows(self) -> Path:
        """The rows as they were read."""
        return self.folder / "rows.parquet"

    # -- preparation

    def prepare(self, items: Iterable[tuple[int, str, bytes, int]], parts: Iterable[tuple[int, int, int]]) -> None:
        """Store all items (number, key, hash, part) and then all parts (number, items, bytes), or nothing."""
        with self._writing("prepare"):
            self._db.execute("DELETE FROM items")
            self._db.execute("DELETE FROM parts")
            self._db.executemany("INSERT INTO items (number, key, hash, part) VALUES (?, ?, ?, ?)", items)
            self._add_parts(parts, 0)
            self._note({"prepared": "1"})
            sync_folder(self.folder)

    def again(self, moved: Iterable[tuple[bytes, int]], parts: Iterable[tuple[int, int, int]], round_: int) -> None:
        """Start another round, or nothing: which item moves to which part, and then those parts."""
        with self._writing("again"):
            self._db.executemany(
                "UPDATE items SET part = ?, tries = tries + 1, outcome = NULL, cause = NULL, place = NULL, "
                "length = NULL WHERE hash = ?",
                ((part, hash_) for hash_, part in moved),
            )
            self._add_parts(parts, round_)
            sync_folder(self.folder)

    def _add_parts(self, parts: Iterable[tuple[int, int, int]], round_: int) -> None:
        self._db.executemany(
            "INSERT INTO parts (number, round, items, bytes, state) VALUES (?, ?, ?, ?, 'ready')",
            ((number, round_, items, size) for number, items, size in parts),
        )

    # -- parts

    def parts(self) -> list[Part]:
        """List the parts, in order."""
        return [_part(row) for row in self._db.execute("SELECT * FROM parts ORDER BY number")]

    def part(self, number: int) -> Part:
        """Read one part."""
        return _part(self._db.execute("SELECT * FROM parts WHERE number = ?", (number,)).fetchone())

    def move(self, part: Part, to: PartState, **facts: object) -> Part:
        """Move a part on, together with facts about it; `LocalState` if it may not."""
        check_move(part.state, to)
        with self._writing(f"move_{to}"):
            self._change(part.number, {"state": str(to), **facts})
        return self.part(part.number)

    def change(self, part: Part, **facts: object) -> Part:
        """Write facts about a part."""
        with self._writing("change"):
            self._change(part.number, facts)
        return self.part(part.number)

    def _change(self, number: int, facts: dict[str, Any]) -> None:
        written = {name: json.dumps(value) if isinstance(value, tuple) else value for name, value in facts.items()}
        columns = ", ".join(f"{name} = ?" for name in written)
        self._db.execute(f"UPDATE parts SET {columns} WHERE number = ?", (*written.values(), number))  # noqa: S608 - names of ours

    def settle(
        self,
        part: Part,
        settled: Iterable[Settled],
        *,
        found: Callable[[], dict[str, object]] = dict,
        stop: Callable[[], str] = str,
    ) -> Part:
        """Give every open item of a part its outcome, and close the part: one transaction.

        When all are settled, `found` returns facts about the part, and `stop` why nothing more may be sent, or "".
        """
        check_move(part.state, PartState.DONE)
        with self._writing("settle"):
            self._db.executemany(
                "UPDATE items SET outcome = ?1, cause = ?2, place = ?3, length = ?4, "
                "tokens = CASE WHEN ?5 IS NULL THEN tokens ELSE coalesce(tokens || ';', '') || ?5 END "
                "WHERE hash = ?6 AND part = ?7 AND outcome IS NULL",
                ((s.outcome, s.cause, s.place, s.length, s.tokens, s.hash, part.number) for s in settled),
            )
            self._db.execute(
                "UPDATE items SET outcome = 'missing', cause = 'missing' WHERE part = ? AND outcome IS NULL",
                (part.number,),
            )
            self._change(part.number, {"state": str(PartState.DONE), **found()})
            if words := stop():
                self._note({"stopped": words})
        return self.part(part.number)

    def look_again(self, part: Part) -> Part:
        """Open the items of a part that nobody answered for, so that its results are read once more."""
        check_move(part.state, PartState.ENDED)
        with self._writing("look_again"):
            self._db.execute(
                "UPDATE items SET outcome = NULL, cause = NULL WHERE part = ? AND outcome = 'missing'", (part.number,)
            )
            self._change(part.number, {"state": str(PartState.ENDED), "etag": None, "fetched": 0})
        return self.part(part.number)

    # -- items

    def hashes(self, part: int) -> set[bytes]:
        """Collect the hashes of a part's items: at most 100,000."""
        return {row[0] for row in self._db.execute("SELECT hash FROM items WHERE part = ?", (part,))}

    def items(self) -> Iterator[Item]:
        """Walk over all items in the order of the rows."""
        for row in self._db.execute("SELECT * FROM items ORDER BY number"):
            yield Item(**dict(row))

    def counts(self) -> list[tuple[str | None, str | None, int]]:
        """Count items by outcome and cause."""
        found = self._db.execute("SELECT outcome, cause, count(*) FROM items GROUP BY 1, 2 ORDER BY 3 DESC")
        return [(row[0], row[1], row[2]) for row in found]

    def causes(self, part: int) -> dict[str, int]:
        """Count the items of a part by cause; the empty one is success."""
        found = self._db.execute("SELECT cause, count(*) FROM items WHERE part = ? GROUP BY cause", (part,))
        return {str(row[0] or ""): row[1] for row in found}

    def failed(self, part: int) -> Iterator[Item]:
        """Walk over the items of a part whose outcome is not good."""
        for row in self._db.execute(
            "SELECT * FROM items WHERE part = ? AND (outcome != 'succeeded' OR cause != '')", (part,)
        ):
            yield Item(**dict(row))

    def tokens(self) -> Iterator[tuple[str, int]]:
        """Count equal usages, so that a price is worked out once for each."""
        for row in self._db.execute("SELECT tokens, count(*) FROM items WHERE tokens IS NOT NULL GROUP BY tokens"):
            yield row[0], row[1]

    def usages(self) -> Iterator[tuple[str, str, str, int, int]]:
        """Walk over equal usages with equal ends: usage, outcome, cause, items, first of their rows."""
        query = (
            "SELECT tokens, outcome, cause, count(*), min(number) FROM items WHERE tokens IS NOT NULL GROUP BY 1, 2, 3"
        )
        for row in self._db.execute(query):
            yield row[0], row[1] or "", row[2] or "", row[3], row[4]

    def settled_usages(self, part: int) -> Iterator[tuple[str, int]]:
        """Count equal usages of the items of a part that came back with an answer."""
        query = "SELECT tokens, count(*) FROM items WHERE part = ? AND outcome = 'succeeded' GROUP BY tokens"
        for row in self._db.execute(query, (part,)):
            yield row[0], row[1]

    def item(self, number: int) -> Item:
        """Read one item by the number of its row, from 0."""
        return Item(**dict(self._db.execute("SELECT * FROM items WHERE number = ?", (number,)).fetchone()))

    def first_of(self, outcome: str, cause: str) -> Item:
        """Find the first row that ended so."""
        query = "SELECT * FROM items WHERE outcome = ? AND cause = ? ORDER BY number LIMIT 1"
        return Item(**dict(self._db.execute(query, (outcome, cause)).fetchone()))

    def rounds(self) -> list[tuple[int, int, int]]:
        """Tell of each round, from 0: items whose last try it was, and how many of them came out well."""
        found = self._db.execute(
            "SELECT parts.round, count(*), count(*) FILTER (WHERE outcome = 'succeeded' AND cause = '') "
            "FROM parts JOIN items ON items.part = parts.number GROUP BY 1 ORDER BY 1"
        )
        return [(row[0], row[1], row[2]) for row in found]

    def _writing(self, verb: str) -> contextlib.AbstractContextManager[None]:
        return statefile.writing(self._db, f"job.{verb}")


@contextlib.contextmanager
def created(folder: Path, spec: Spec, *, tag: str, endpoint: str, now: str) -> Iterator[JobFile]:
    """Open the job of a folder, made for this workload if there is none yet.

    `LocalState` if the job there is another one, or is worked on by another process.
    """
    with _opened(folder, must_exist=False) as job:
        if not job.meta("spec", ""):
            job.note(spec=encoded(spec), tag=tag, endpoint=endpoint, created=now)
        elif job.spec.fingerprint != spec.fingerprint:
            raise LocalState(
                f"{folder} belongs to another workload (other rows, prompt, model or parameters); "
                "go on with the command that began it, choose another output, or delete that folder"
            )
        yield job


@contextlib.contextmanager
def opened(folder: Path) -> Iterator[JobFile]:
    """Open the job of a folder; `LocalState` if there is none, or another process works on it."""
    with _opened(folder, must_exist=True) as job:
        yield job


@contextlib.contextmanager
def looked_at(folder: Path) -> Iterator[JobFile]:
    """Open the job of a folder to read it as it is at this moment, also while another process works on it.

    `LocalState` if there is none. One of an older form is opened as always, which brings it up to date.
    """
    path = folder / "job.sqlite"
    if not path.exists():
        raise LocalState(f"{folder}: no job here; name the output of one, or see `standby list`")
    try:
        with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            connection.row_factory = sqlite3.Row
            if connection.execute("PRAGMA user_version").fetchone()[0] == len(MIGRATIONS):
                connection.execute("BEGIN")
                yield JobFile(folder, connection)
                return
    except sqlite3.DatabaseError as error:
        raise LocalState(f"{path}: {error}") from error
    with opened(folder) as job:
        yield job


@contextlib.contextmanager
def _opened(folder: Path, *, must_exist: bool) -> Iterator[JobFile]:
    if must_exist and not (folder / "job.sqlite").exists():
        raise LocalState(f"{folder}: no job here; name the output of one, or see `standby list`")
    with statefile.opened(folder / "job.sqlite", MIGRATIONS) as connection:
        connection.execute("PRAGMA cache_size = -8000")
        yield JobFile(folder, connection)


def _part(row: sqlite3.Row) -> Part:
    found: dict[str, Any] = dict(row)
    anchor = json.loads(found["anchor"]) if found["anchor"] else None
    found |= {
        "state": PartState(found["state"]),
        "anchor": (anchor[0], anchor[1]) if anchor else None,
        "refuted": tuple(json.loads(found["refuted"])),
        "is_ours": bool(found["is_ours"]),
    }
    return Part(**found)

"""The pieces of a prompt's template, and what of it requests could share in this order or in another.

A prefix is read from a cache only as far as it is the same, so that a column with many values belongs behind one with
few. How many values columns have is counted over the rows on disk.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import duckdb
import minijinja

from standby.workload.jobfile import JobFile
from standby.workload.tables import database, quoted

MEMORY = ("192MB", "512MB", "1GB")
"""What DuckDB may take, one after the other: long rows need more of it."""
EXACT = 200_000
"""Rows up to which values are counted exactly; above, to some 5%."""
_EXPRESSION = re.compile(r"\{\{.*?\}\}", re.DOTALL)
_OTHER = re.compile(r"\{[%#]")
Columns = frozenset[str]
EMPTY: Columns = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """An expression with the text before it; the text at the beginning and at the end are pieces of their own."""

    text_bytes: int
    columns: Columns


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """A place in a template: what stands before it."""

    columns: tuple[str, ...]
    """In their order."""
    bytes: int
    """Mean of the rows."""
    distinct: int
    """In how many values it comes."""

    def gain(self, rows: int) -> int:
        """Bytes that a cache behind it could save from being read anew."""
        return max(0, rows - self.distinct) * self.bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """The best place for a marker in the template as it is, and with its pieces in the best order."""

    now: Cut
    best: Cut
    early: tuple[str, ...] = ()
    """Columns that stand before those of `best` now, and should not."""


@dataclass(frozen=True, slots=True)
class Values:
    """Rows, mean bytes of columns, and number of values of sets of columns."""

    rows: int
    bytes: dict[str, float]
    distinct: dict[Columns, int]


def pieces_of(template: str) -> Sequence[Piece] | None:
    """Take a template apart; None if it has blocks such as `{% if %}`, whose pieces stand in no fixed order."""
    if _OTHER.search(template):
        return None
    found, end = [], 0
    for match in _EXPRESSION.finditer(template):
        text = len(template[end : match.start()].encode())
        if not end and text:
            found.append(Piece(text_bytes=text, columns=EMPTY))
            text = 0
        found.append(Piece(text_bytes=text, columns=_names(match[0])))
        end = match.end()
    if end < len(template):
        found.append(Piece(text_bytes=len(template[end:].encode()), columns=EMPTY))
    return found


def order_of(job: JobFile) -> Order | None:
    """Compare the order of a job's template with the best one; None if there is nothing to compare, or no memory."""
    spec = job.spec
    pieces, system = pieces_of(spec.prompt), _names(spec.system)
    if not pieces or not job.rows.exists():
        return None
    columns = sorted(system.union(*(piece.columns for piece in pieces)))
    if not columns:
        return None
    for memory in MEMORY:
        with contextlib.suppress(duckdb.Error), database(scratch=job.folder, memory=memory) as connection:
            connection.execute("SET threads = 1")  # each takes the memory of its own rows
            rows = Table(connection, f"read_parquet({quoted(str(job.rows))})")
            single = rows.measured(columns, [frozenset({name}) for name in columns])
            best = in_best_order(pieces, single)
            values = rows.measured(columns, [*_sets(pieces, system), *_sets(best, system)])
            return compared(pieces, best, values, system=system)
    return None


class Table:
    """The rows of a job, as a query reads them."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, source: str) -> None:
        """Take an open database and what stands behind FROM."""
        self._connection, self._source = connection, source

    def measured(self, columns: Sequence[str], sets: Sequence[Columns]) -> Values:
        """Count values over all rows."""
        wanted = list(dict.fromkeys(sets))
        rows = int(self._numbers(["count(*)"])[0])
        count = "count(DISTINCT hash({}))" if rows <= EXACT else "approx_count_distinct(hash({}))"
        shown = [f"avg(strlen({_quoted(name)}::VARCHAR))" for name in columns]
        shown += [count.format(", ".join(map(_quoted, sorted(one)))) for one in wanted]
        numbers = self._numbers(shown)
        distinct = (min(rows, max(1, int(number))) for number in numbers[len(columns) :])
        return Values(rows, dict(zip(columns, numbers, strict=False)), dict(zip(wanted, distinct, strict=True)))

    def _numbers(self, shown: Sequence[str]) -> list[float]:
        found = self._connection.execute(f"SELECT {', '.join(shown)} FROM {self._source}").fetchone()  # noqa: S608 - quoted
        return [float(value or 0) for value in found or ()]


def in_best_order(pieces: Sequence[Piece], values: Values) -> Sequence[Piece]:
    """Put text first, then columns with few values, those with many last."""

    def most(piece: Piece) -> int:
        return max((values.distinct[frozenset({name})] for name in piece.columns), default=0)

    return sorted(pieces, key=most)


def compared(pieces: Sequence[Piece], best: Sequence[Piece], values: Values, *, system: Columns) -> Order:
    """Find the best cut of each order, and what stands in its way now."""
    now, _ = _best_cut(pieces, values, system)
    then, chosen = _best_cut(best, values, system)
    wanted = list(chosen)
    early: list[str] = []
    for piece in pieces:
        if not wanted:
            break
        if piece in wanted:
            wanted.remove(piece)
        else:
            early += sorted(piece.columns - set(then.columns) - set(early))
    return Order(now=now, best=then, early=tuple(early))


def _best_cut(pieces: Sequence[Piece], values: Values, system: Columns) -> tuple[Cut, Sequence[Piece]]:
    """Find the cut behind which a cache saves most; return it with the pieces before it."""
    best, chosen = Cut(columns=(), bytes=0, distinct=1), pieces[:0]
    seen, names, size = system, sorted(system), 0.0
    for number, piece in enumerate(pieces, start=1):
        seen, names = seen | piece.columns, [*names, *sorted(piece.columns - set(names))]
        size += piece.text_bytes + sum(values.bytes[name] for name in piece.columns)
        cut = Cut(columns=tuple(names), bytes=int(size), distinct=values.distinct[seen] if seen else 1)
        if cut.gain(values.rows) > best.gain(values.rows):
            best, chosen = cut, pieces[:number]
    return best, chosen


def _sets(pieces: Iterable[Piece], system: Columns) -> list[Columns]:
    """Name the columns before each cut."""
    seen, found = system, []
    for piece in pieces:
        seen |= piece.columns
        found.append(seen)
    return [one for one in found if one]


def _names(template: str) -> Columns:
    return frozenset(minijinja.Environment().undeclared_variables_in_str(template)) - {"range", "dict", "namespace"}


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'

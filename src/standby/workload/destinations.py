"""Where answers go: a file or a table of a database, all or nothing; looked at before anything is sent."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

import duckdb

from standby.workload.faults import BadInput, LocalState, WorkloadError
from standby.workload.tables import (
    PARQUET,
    PLAIN,
    copied,
    counted,
    database,
    durable,
    fault,
    format_of,
    is_nested,
    is_table,
    kind_of,
    load,
    named,
    quoted,
    types_of,
    with_enough_memory,
)

OPTIONS = {
    "parquet": PARQUET,
    "csv": "FORMAT csv, HEADER true",
    "tsv": "FORMAT csv, HEADER true, DELIMITER '\\t'",
    "jsonl": "FORMAT json",
    "json": "FORMAT json, ARRAY true",
    "xlsx": "FORMAT xlsx, HEADER true",
}
SHEET_ROWS, SHEET_CELL, SHEET_DIGITS = 1_048_575, 32_767, 15
"""What Excel holds: rows below the header, characters in a cell, digits of a number."""
COMMON = (PLAIN - {"UBIGINT", "UINTEGER"}) | {"DATE", "TIME", "TIMESTAMP"}
"""Types that every place has."""
POSTGRES = frozenset({"TIMESTAMP WITH TIME ZONE", "UUID", "INTERVAL"})
FLAT = frozenset({"csv", "tsv", "xlsx", "sqlite", "postgres"})
"""Places without lists and objects: they get them as JSON."""
TYPED = frozenset({"xlsx", "sqlite", "postgres"})
"""Places with few types: other values become texts."""
FINITE = frozenset({"json", "jsonl", "xlsx"})
"""Places without NaN and Infinity: they are left empty."""
CONTROLS = r"[\x00-\x08\x0B\x0C\x0E-\x1F]"
"""What XML cannot say; a sheet shows U+FFFD."""


def check(output: str, rows: int, *, attached: Mapping[str, str], scratch: Path) -> None:
    """Refuse an output that could not be written, before anything is paid for. `BadInput` says why."""
    if is_table(output, attached):
        _check_table(output, attached, scratch)
        return
    path, form = Path(output), format_of(output)
    if path.is_dir():
        raise BadInput(f"{output}: is a folder; name a file")
    if not path.parent.is_dir():
        raise BadInput(f"{output}: there is no folder {path.parent}")
    if form == "xlsx":
        if rows > SHEET_ROWS:
            raise BadInput(f"{output}: a sheet holds {SHEET_ROWS:,} rows, and these are {rows:,}; take Parquet or CSV")
        with database(scratch=scratch) as connection:
            load(connection, "xlsx")


def join(
    rows: Path | None,
    answers: Path,
    columns: Mapping[str, str],
    output: str,
    *,
    attached: Mapping[str, str],
    scratch: Path,
) -> int:
    """Write rows and answers side by side to a file or a table, all or nothing; return how many.

    Both are in the same order, so that nothing has to be looked up: 1 million rows in the memory of a few thousand.
    `LocalState` if the place cannot take them: what was collected stays, and can be written again.
    """
    right = _lines(answers, columns)
    place = _place(output, attached)
    try:
        with database(_target(output, attached), scratch=scratch) as connection:
            left = "" if rows is None else f"read_parquet({quoted(str(rows))})"
            before = types_of(connection, left) if left else {}
            shown = [kept("r", *column, place) for column in before.items()]
            shown += [kept("a", *column, place) for column in columns.items()]
            source = f"{left} r POSITIONAL JOIN {right} a" if left else f"{right} a"
            return _write(connection, f"SELECT {', '.join(shown)} FROM {source}", output, place)
    except duckdb.Error as error:
        raise _unwritten(output, fault(error, "cannot be written")) from None
    except OSError as error:
        raise _unwritten(output, LocalState(f"cannot be written: {error.strerror}")) from None


def _unwritten(output: str, why: WorkloadError) -> LocalState:
    return LocalState(f"{output}: {why}. The answers are kept: the same command writes them, or `standby collect -o`")


def _check_table(output: str, attached: Mapping[str, str], scratch: Path) -> None:
    """Make way for the table, make one, and take both back."""
    try:
        with database(_target(output, attached), scratch=scratch) as connection:
            connection.execute("BEGIN")
            connection.execute(f"DROP TABLE IF EXISTS {_table(output)}")
            connection.execute(f"CREATE TABLE {_table(output)} (a INTEGER)")
            connection.execute("ROLLBACK")
    except duckdb.Error as error:
        raise fault(error, f"{output}: no table can be made there") from None


def _target(output: str, attached: Mapping[str, str]) -> dict[str, str]:
    """Pick the one database that is written to."""
    return {name: address for name, address in attached.items() if output.startswith(f"{name}.")}


def _place(output: str, attached: Mapping[str, str]) -> str:
    if is_table(output, attached):
        return kind_of(attached[output.partition(".")[0]])
    return format_of(output)


def _lines(answers: Path, columns: Mapping[str, str]) -> str:
    kinds = ", ".join(f"{quoted(name)}: {quoted(kind)}" for name, kind in columns.items())
    return f"read_json({quoted(str(answers))}, format='newline_delimited', columns={{{kinds}}})"


def kept(side: str, name: str, kind: str, place: str) -> str:
    """Write a column as its place can hold it, under its name."""
    column = f"{side}.{named(name)}"
    if place in FLAT and is_nested(kind):
        column, kind = f"to_json({column})::VARCHAR", "VARCHAR"
    elif place in TYPED and (to := _cast(kind, place)) != kind:
        column, kind = f"{column}::{to}", to
    elif place in FINITE and kind in {"DOUBLE", "FLOAT"}:
        column = f"CASE WHEN isfinite({column}) THEN {column} END"
    if place == "xlsx" and kind == "VARCHAR":
        column = f"regexp_replace({column}, {quoted(CONTROLS)}, '\ufffd', 'g')"
    return f"{column} AS {named(name)}"


def _cast(kind: str, place: str) -> str:
    """Choose the type that a place has for another; what it has none for becomes text."""
    if kind in COMMON or (place == "postgres" and (kind in POSTGRES or kind.startswith("DECIMAL"))):
        return kind
    if kind in {"UTINYINT", "USMALLINT", "UINTEGER"}:
        return "BIGINT"
    if kind == "BLOB" and place != "xlsx":
        return kind
    if kind == "UBIGINT" and place == "postgres":
        return "DECIMAL(20, 0)"
    return "DOUBLE" if kind.startswith("DECIMAL") and place == "xlsx" and _digits(kind) <= SHEET_DIGITS else "VARCHAR"


def _digits(kind: str) -> int:
    return int(kind.removeprefix("DECIMAL(").partition(",")[0])


def _write(connection: duckdb.DuckDBPyConnection, query: str, output: str, place: str) -> int:
    if place not in OPTIONS:
        return with_enough_memory(connection, lambda _: _write_table(connection, query, _table(output), place))
    path = Path(output)
    new = path.with_name(f".{path.name}.new")
    if place == "xlsx":
        load(connection, "xlsx")
        _check_cells(connection, query)
    try:
        count = copied(connection, query, new, OPTIONS[place])
        durable(new, path)
    finally:
        new.unlink(missing_ok=True)
    return count


def _write_table(connection: duckdb.DuckDBPyConnection, query: str, table: str, place: str) -> int:
    if place == "postgres":
        connection.execute("SET pg_null_byte_replacement = '\ufffd'")  # it has no U+0000 in texts
    connection.execute("BEGIN")
    try:
        connection.execute(f"DROP TABLE IF EXISTS {table}")
        count = counted(connection, f"CREATE TABLE {table} AS {query}")
        connection.execute("COMMIT")
    except duckdb.Error:
        with contextlib.suppress(duckdb.Error):
            connection.execute("ROLLBACK")
        raise
    return count


def _check_cells(connection: duckdb.DuckDBPyConnection, query: str) -> None:
    """Refuse what Excel would cut or not open."""
    texts = [name for name, kind in types_of(connection, f"({query})").items() if kind == "VARCHAR"]
    longest = ", ".join(f"max(len({named(name)}))" for name in texts)
    found = connection.execute(f"SELECT {longest} FROM ({query})").fetchone() if texts else ()
    for name, length in zip(texts, found or (), strict=True):
        if (length or 0) > SHEET_CELL:
            raise LocalState(
                f"column {name!r}: a cell of Excel holds {SHEET_CELL:,} characters, and here are {length:,}"
            )


def _table(output: str) -> str:
    return ".".join(named(part) for part in output.split(".", 2))

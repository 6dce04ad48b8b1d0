"""Tables through DuckDB: rows in, whatever they lie in, and answers out. Streaming: memory does not grow with rows."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import msgspec

from standby.folder import sync_folder
from standby.workload.faults import BadInput
from standby.workload.spec import Source

NUMBER = "__standby_row"
MEMORY = "192MB"
ROW_GROUP = 4096
"""Rows that Parquet writes at once: they are in memory together."""
BATCH = 500
READERS = {
    "jsonl": "read_json({}, format='newline_delimited')",
    "json": "read_json({})",
    "csv": "read_csv({})",
    "tsv": "read_csv({}, delim='\\t')",
    "parquet": "read_parquet({})",
    "xlsx": "read_xlsx({}, header=true)",
}
ENDINGS = {".jsonl": "jsonl", ".ndjson": "jsonl", **{f".{name}": name for name in READERS}}
PLAIN = frozenset(
    {"VARCHAR", "BIGINT", "INTEGER", "SMALLINT", "TINYINT", "DOUBLE", "FLOAT", "BOOLEAN", "UBIGINT", "UINTEGER"}
)
EXTENSIONS = {"sqlite": "sqlite_scanner", "postgres": "postgres_scanner", "xlsx": "excel"}


def format_of(path: str, given: str = "") -> str:
    """Say in what form a file is; `BadInput` if neither its name nor the user says it."""
    name = given or ENDINGS.get(Path(path).suffix.lower(), "")
    if name not in READERS:
        raise BadInput(f"{path}: its name does not say what it is; use --format {'|'.join(READERS)}")
    return name


@contextlib.contextmanager
def database(attached: Mapping[str, str] | None = None, *, scratch: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open DuckDB in little memory, with databases attached by name; what does not fit goes to `scratch`."""
    connection = duckdb.connect(":memory:")
    try:
        connection.execute(f"SET memory_limit = '{MEMORY}'")
        connection.execute("SET threads = 2")
        connection.execute(f"SET temp_directory = {quoted(str(scratch / 'duckdb'))}")
        connection.execute("SET enable_progress_bar = false")
        for name, address in (attached or {}).items():
            _attach(connection, name, address)
        yield connection
    finally:
        connection.close()


def freeze(source: Source, to: Path, *, attached: Mapping[str, str]) -> int:
    """Copy rows into a Parquet file of ours, numbered from 0, all or nothing; return their number."""
    new = to.with_suffix(".new")
    with database(attached, scratch=to.parent) as connection:
        try:
            query = _query(connection, source)
            limit = "" if source.limit is None else f" LIMIT {int(source.limit)}"
            connection.execute(
                f"COPY (SELECT row_number() OVER () - 1 AS {NUMBER}, * FROM ({query}){limit}) TO {quoted(str(new))} "
                f"(FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {ROW_GROUP})"
            )
            found = connection.execute(f"SELECT count(*) FROM read_parquet({quoted(str(new))})").fetchone()
        except duckdb.Error as error:
            raise BadInput(f"the rows cannot be read: {_first_line(error)}") from None
    _durable(new, to)
    return int(found[0]) if found else 0


def columns_of(path: Path, *, scratch: Path) -> dict[str, str]:
    """Name the columns of frozen rows with their types, without our number."""
    with database(scratch=scratch) as connection:
        return {name: kind for name, kind in _columns(connection, path).items() if name != NUMBER}


def rows_of(path: Path, *, scratch: Path) -> Iterator[dict[str, Any]]:
    """Walk over frozen rows in their order: texts, numbers, booleans, and nested values as JSON has them."""
    with database(scratch=scratch) as connection:
        columns = _columns(connection, path)
        shown = [_shown(name, kind) for name, kind in columns.items() if name != NUMBER]
        nested = [name for name, kind in columns.items() if _is_nested(kind)]
        names = [name for name in columns if name != NUMBER]
        found = connection.execute(f"SELECT {', '.join(shown)} FROM read_parquet({quoted(str(path))})")
        while batch := found.fetchmany(BATCH):
            for values in batch:
                row = dict(zip(names, values, strict=True))
                for name in nested:
                    row[name] = None if row[name] is None else msgspec.json.decode(row[name])
                yield row


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
    """
    with database(attached, scratch=scratch) as connection:
        kinds = ", ".join(f"{name}: {quoted(kind)}" for name, kind in _quoted_names({NUMBER: "BIGINT", **columns}))
        right = f"read_json({quoted(str(answers))}, format='newline_delimited', columns={{{kinds}}})"
        if rows is None:
            query = f"SELECT a.* EXCLUDE ({NUMBER}) FROM {right} a"
        else:
            left = f"read_parquet({quoted(str(rows))})"
            query = f"SELECT r.* EXCLUDE ({NUMBER}), a.* EXCLUDE ({NUMBER}) FROM {left} r POSITIONAL JOIN {right} a"
        try:
            return _write(connection, query, output, attached)
        except duckdb.Error as error:
            raise BadInput(f"{output}: cannot be written: {_first_line(error)}") from None


def is_table(output: str, attached: Mapping[str, str] | Sequence[str]) -> bool:
    """Whether an output is `NAME.TABLE` of an attached database."""
    name, dot, table = output.partition(".")
    return bool(dot and table) and name in attached


def _write(connection: duckdb.DuckDBPyConnection, query: str, output: str, attached: Mapping[str, str]) -> int:
    if is_table(output, attached):
        name, _, table = output.partition(".")
        place = f"{_name(name)}.{_name(table)}"
        connection.execute("BEGIN")
        connection.execute(f"DROP TABLE IF EXISTS {place}")
        found = connection.execute(f"CREATE TABLE {place} AS {query}").fetchone()
        connection.execute("COMMIT")
        return int(found[0]) if found else 0
    path = Path(output)
    form = format_of(output)
    new = path.with_name(f".{path.name}.new")
    options = {
        "parquet": f"FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {ROW_GROUP}",
        "csv": "FORMAT csv, HEADER true",
        "tsv": "FORMAT csv, HEADER true, DELIMITER '\\t'",
        "jsonl": "FORMAT json",
        "json": "FORMAT json, ARRAY true",
        "xlsx": "FORMAT xlsx, HEADER true",
    }
    if form == "xlsx":
        load(connection, "xlsx")
    found = connection.execute(f"COPY ({query}) TO {quoted(str(new))} ({options[form]})").fetchone()
    _durable(new, path)
    return int(found[0]) if found else 0


def load(connection: duckdb.DuckDBPyConnection, name: str) -> None:
    """Load an extension that came as a package; DuckDB would fetch it from the network."""
    package = EXTENSIONS[name]
    try:
        place = Path(str(importlib.import_module(f"duckdb_extension_{package}").__file__)).parent
    except ImportError:
        raise BadInput(f"{name}: install it with: pip install 'standby[tables]'") from None
    connection.execute(f"LOAD {quoted(str(next(place.rglob('*.duckdb_extension'))))}")


def quoted(text: str) -> str:
    """Write a text as SQL does."""
    return "'" + text.replace("'", "''") + "'"


def _query(connection: duckdb.DuckDBPyConnection, source: Source) -> str:
    if source.kind == "sql":
        return source.where.strip().rstrip(";")
    if source.kind == "files":
        pattern = quoted(str(Path(source.where) / source.glob))
        return (
            f"SELECT filename AS path, parse_filename(filename) AS name, size, "
            f"try(decode(content)) AS text FROM read_blob({pattern}) ORDER BY filename"
        )
    form = format_of(source.where, source.format)
    if form == "xlsx":
        load(connection, "xlsx")
    return f"SELECT * FROM {READERS[form].format(quoted(source.where))}"


def _attach(connection: duckdb.DuckDBPyConnection, name: str, address: str) -> None:
    kind = "duckdb"
    if address.startswith(("postgres://", "postgresql://")):
        kind = "postgres"
    elif Path(address).suffix.lower() in {".db", ".sqlite", ".sqlite3"}:
        kind = "sqlite"
    if kind in EXTENSIONS:
        load(connection, kind)
    try:
        connection.execute(f"ATTACH {quoted(address)} AS {_name(name)} (TYPE {kind})")
    except duckdb.Error:
        raise BadInput(f"--attach {name}: cannot be opened as {kind}; is the address right?") from None


def _columns(connection: duckdb.DuckDBPyConnection, path: Path) -> dict[str, str]:
    found = connection.execute(f"DESCRIBE SELECT * FROM read_parquet({quoted(str(path))})").fetchall()
    return {row[0]: row[1] for row in found}


def _shown(name: str, kind: str) -> str:
    column = _name(name)
    if kind in PLAIN:
        return column
    return f"to_json({column})::VARCHAR" if _is_nested(kind) else f"{column}::VARCHAR"


def _is_nested(kind: str) -> bool:
    return kind.endswith("]") or kind.startswith(("STRUCT", "MAP", "UNION")) or kind == "JSON"


def _quoted_names(columns: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for name, kind in columns.items():
        yield quoted(name), kind


def _name(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def _durable(new: Path, to: Path) -> None:
    if sys.platform != "win32":
        with new.open("rb") as file:
            os.fsync(file.fileno())
    new.replace(to)
    sync_folder(to.parent)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]

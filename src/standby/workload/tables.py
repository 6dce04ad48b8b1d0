"""Tables through DuckDB: rows in, whatever they lie in. Streaming: memory does not grow with rows.

What a file holds comes in as it stands there: values of CSV and TSV are texts (`007` stays `007`), dates and UUIDs of
JSON are the texts that they are. Parquet, Excel and databases have types, and keep them.
"""

from __future__ import annotations

import codecs
import contextlib
import glob
import importlib
import itertools
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import duckdb
import msgspec

from standby.folder import sync_folder
from standby.workload import delimited
from standby.workload.faults import BadInput, LocalState, WorkloadError
from standby.workload.spec import Source

MEMORY = "192MB"
NUMBER = "__standby_row"
ROW_GROUP = 4096
TRIES = ((MEMORY, ROW_GROUP), (MEMORY, 256), (MEMORY, 16), ("1GB", 16), ("4GB", 16), ("16GB", 16))
"""Memory, and rows that Parquet writes at once, which are in it together: another try where rows are too wide.

DuckDB itself takes 2,048 rows at a time, so that rows of a megabyte need gigabytes, however few there are.
"""
BATCH, BATCH_BYTES = 500, 4_000_000
"""Rows that Python takes at once, and about how many bytes of them."""
OBJECT_BYTES = 16 << 20
"""Largest object of JSON, unless a file's text is larger."""
TEXT_BYTES = 32_000_000
"""Largest file that can be a text: no request holds more."""
PARQUET = "FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {rows}"
READERS = {
    "jsonl": "read_json({}, format='newline_delimited'{})",
    "json": "read_json({}{})",
    "csv": "read_csv({}, {})",
    "tsv": "read_csv({}, {})",
    "parquet": "read_parquet({})",
    "xlsx": "read_xlsx({}, header=true)",
}
ENDINGS = {".jsonl": "jsonl", ".ndjson": "jsonl", **{f".{name}": name for name in READERS}}
PLAIN = frozenset(
    {"VARCHAR", "BIGINT", "INTEGER", "SMALLINT", "TINYINT", "DOUBLE", "FLOAT", "BOOLEAN", "UBIGINT", "UINTEGER"}
)
GUESSED = frozenset({"date", "time", "timestamp", "timestamp with time zone", "uuid"})
"""What JSON has no types for, and DuckDB would rewrite."""
FILES = {"path": "VARCHAR", "name": "VARCHAR", "size": "BIGINT", "text": "VARCHAR"}
EXTENSIONS = {"sqlite": "sqlite_scanner", "postgres": "postgres_scanner", "xlsx": "excel"}
_FULL = re.compile(r"No space left|File too large|Could not write|Disk quota|failed to offload", re.IGNORECASE)

_REASON = re.compile(
    r"Expected Number of Columns.*|Invalid unicode.*|Maximum line size of \d+ bytes exceeded|"
    r"Value with unterminated quote"
)
"""What of a message's further lines is about the form of a row, not about what it holds."""


def format_of(path: str, given: str = "") -> str:
    """Say in what form a file is; `BadInput` if neither its name nor the user says it."""
    name = given or ENDINGS.get(Path(path.lower().removesuffix(".gz")).suffix, "")
    if name not in READERS:
        raise BadInput(f"{path}: its name does not say what it is; use --format {'|'.join(READERS)}")
    return name


@contextlib.contextmanager
def database(
    attached: Mapping[str, str] | None = None, *, scratch: Path, is_read_only: bool = False, memory: str = MEMORY
) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open DuckDB in little memory, with databases attached by name; what does not fit goes to `scratch`."""
    connection = duckdb.connect(":memory:")
    try:
        connection.execute(f"SET memory_limit = '{memory}'")
        connection.execute("SET threads = 2")
        connection.execute(f"SET temp_directory = {quoted(str(scratch / 'duckdb'))}")
        connection.execute("SET enable_progress_bar = false")
        for name, address in (attached or {}).items():
            _attach(connection, name, address, is_read_only=is_read_only)
        yield connection
    finally:
        connection.close()


def freeze(source: Source, to: Path, *, attached: Mapping[str, str]) -> int:
    """Copy rows into a Parquet file of ours, in their order, all or nothing; return their number."""
    used = {name: address for name, address in attached.items() if source.kind == "sql" and name in source.where}
    new = to.with_suffix(".new")
    try:
        with database(used, scratch=to.parent, is_read_only=True) as connection:
            query = _query(connection, source, to.parent)
            limit = "" if source.limit is None else f" LIMIT {int(source.limit)}"
            count = copied(connection, f"SELECT {_exact(connection, query)} FROM ({query}){limit}", new)
    except duckdb.Error as error:
        raise fault(error, "the rows cannot be read") from None
    finally:
        _listing(to.parent).unlink(missing_ok=True)
    durable(new, to)
    return count


def columns_of(path: Path, *, scratch: Path) -> dict[str, str]:
    """Name the columns of frozen rows with their types."""
    with database(scratch=scratch) as connection:
        return types_of(connection, f"read_parquet({quoted(str(path))})")


def rows_of(path: Path, *, scratch: Path) -> Iterator[dict[str, Any]]:
    """Walk over frozen rows in their order: texts, numbers, booleans, and nested values as JSON has them.

    Bytes are a `data:` URL, which an attachment can be.
    """
    done = 0
    for memory in dict(TRIES):
        with contextlib.suppress(duckdb.OutOfMemoryException), database(scratch=scratch, memory=memory) as connection:
            for row in _rows(connection, path, done):
                done += 1
                yield row
            return
    raise BadInput(f"row {done + 1}: is too large for {TRIES[-1][0]} of memory")


def _rows(connection: duckdb.DuckDBPyConnection, path: Path, start: int) -> Iterator[dict[str, Any]]:
    source = f"read_parquet({quoted(str(path))})"
    columns = types_of(connection, source)
    names, nested = list(columns), [name for name, kind in columns.items() if is_nested(kind)]
    at_once = _rows_at_once(connection, path)
    shown = ", ".join(_shown(*column) for column in columns.items())
    found = connection.execute(f"SELECT {shown} FROM {source} OFFSET {start}")
    while batch := found.fetchmany(at_once):
        for values in batch:
            row = dict(zip(names, values, strict=True))
            for name in nested:
                row[name] = None if row[name] is None else _decoded(row[name])
            yield row


def is_table(output: str, attached: Iterable[str]) -> bool:
    """Whether an output is `NAME.TABLE` or `NAME.SCHEMA.TABLE` of an attached database."""
    name, dot, table = output.partition(".")
    return bool(dot and table) and name in set(attached)


def types_of(connection: duckdb.DuckDBPyConnection, source: str) -> dict[str, str]:
    """Name the columns of anything that can stand behind FROM, with their types."""
    return {row[0]: row[1] for row in connection.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()}


def is_nested(kind: str) -> bool:
    """Whether values of a type are lists or objects."""
    return kind.endswith("]") or kind.startswith(("STRUCT", "MAP", "UNION")) or kind in {"JSON", "VARIANT"}


def load(connection: duckdb.DuckDBPyConnection, name: str) -> None:
    """Load an extension that came as a package; DuckDB would fetch it from the network."""
    package = EXTENSIONS[name]
    try:
        place = Path(str(importlib.import_module(f"duckdb_extension_{package}").__file__)).parent
    except ImportError:
        raise BadInput(f"{name}: install it with: pip install 'standby[tables]'") from None
    connection.execute(f"LOAD {quoted(str(next(place.rglob('*.duckdb_extension'))))}")


def copied(connection: duckdb.DuckDBPyConnection, query: str, to: Path, options: str = PARQUET) -> int:
    """Write the rows of a query to a file; return how many."""
    return with_enough_memory(
        connection,
        lambda rows: counted(connection, f"COPY ({query}) TO {quoted(str(to))} ({options.format(rows=rows)})"),
    )


def with_enough_memory(connection: duckdb.DuckDBPyConnection, work: Callable[[int], int]) -> int:
    """Do work in little memory, if it can be, else in more; it is told how many rows to take together."""
    for memory, rows in TRIES[:-1]:
        connection.execute(f"SET memory_limit = '{memory}'")
        with contextlib.suppress(duckdb.OutOfMemoryException):
            return work(rows)
    memory, rows = TRIES[-1]
    connection.execute(f"SET memory_limit = '{memory}'")
    return work(rows)


def counted(connection: duckdb.DuckDBPyConnection, statement: str) -> int:
    """Run a statement that answers with a number of rows."""
    found = connection.execute(statement).fetchone()
    return int(found[0]) if found else 0


def kind_of(address: str) -> str:
    """Say what a database is by its address: postgres, sqlite or duckdb."""
    if address.startswith(("postgres://", "postgresql://")):
        return "postgres"
    return "sqlite" if Path(address).suffix.lower() in {".db", ".sqlite", ".sqlite3"} else "duckdb"


def quoted(text: str) -> str:
    """Write a text as SQL does."""
    return "'" + text.replace("'", "''") + "'"


def named(text: str) -> str:
    """Write a name as SQL does."""
    return '"' + text.replace('"', '""') + '"'


def durable(new: Path, to: Path) -> None:
    """Sync a file and give it its name."""
    with new.open("rb+") as file:
        os.fsync(file.fileno())
    new.replace(to)
    sync_folder(to.parent)


def fault(error: duckdb.Error, what: str) -> WorkloadError:
    """Turn what DuckDB says into ours: its first line, without values of rows."""
    said, _, more = str(error).partition("\n")
    if _FULL.search(str(error)):
        return LocalState(f"{what}: {said}; make room, and the same command goes on")
    if isinstance(error, duckdb.OutOfMemoryException):
        return BadInput(f"{what}: rows are too large for {TRIES[-1][0]} of memory")
    if isinstance(error, duckdb.ConversionException):
        said = re.sub(r"'[^']*'", "'…'", said)
    why = _REASON.search(more)
    return BadInput(f"{what}: {said}: {why[0]}" if why else f"{what}: {said}")


def _exact(connection: duckdb.DuckDBPyConnection, query: str) -> str:
    """Name all columns of a query; Parquet has no integers of 128 bits and would round them."""
    return ", ".join(
        f"{named(name)}::DECIMAL(38, 0) AS {named(name)}" if kind in {"HUGEINT", "UHUGEINT"} else named(name)
        for name, kind in types_of(connection, f"({query})").items()
    )


def _decoded(text: str) -> Any:
    """Read JSON of DuckDB, which writes NaN and Infinity as Python does."""
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return json.loads(text)


def _query(connection: duckdb.DuckDBPyConnection, source: Source, scratch: Path) -> str:
    if source.kind == "sql":
        if ".xlsx" in source.where.lower():
            load(connection, "xlsx")
        return source.where.strip().rstrip(";")
    if source.kind == "files":
        longest = _list_files(source, _listing(scratch))
        return f"SELECT * FROM {_json(_listing(scratch), FILES, longest)}"
    form, where = format_of(source.where, source.format), quoted(source.where)
    if form == "xlsx":
        load(connection, "xlsx")
    if form in {"json", "jsonl"}:
        return f"SELECT * FROM {_read_json(connection, READERS[form], quoted(_unmarked(source.where, scratch)))}"
    more = delimited.options(Path(source.where), form) if form in {"csv", "tsv"} else ""
    return f"SELECT * FROM {READERS[form].format(where, more)}"


def _read_json(connection: duckdb.DuckDBPyConnection, reader: str, where: str) -> str:
    """Look at all rows for their columns, and read those: none is missed, and no text becomes a date."""
    found = connection.execute(f"SELECT * FROM {reader.format(where, ', sample_size=-1')} LIMIT 0").description
    columns = ", ".join(f"{quoted(name)}: {quoted(_as_json(kind))}" for name, kind, *_ in found or ())
    return reader.format(where, f", columns={{{columns}}}")


def _unmarked(where: str, scratch: Path) -> str:
    """Leave out a mark of the byte order, which DuckDB does not take in JSON: the rest becomes a file of ours."""
    with Path(where).open("rb") as file:
        if file.read(len(codecs.BOM_UTF8)) != codecs.BOM_UTF8:
            return where
        with _listing(scratch).open("wb") as copy:
            shutil.copyfileobj(file, copy)
    return str(_listing(scratch))


def _as_json(kind: Any) -> str:
    """Write a type, but for those that JSON does not have."""
    match kind.id:
        case "list":
            return f"{_as_json(dict(kind.children)['child'])}[]"
        case "struct":
            return "STRUCT(" + ", ".join(f"{named(name)} {_as_json(inner)}" for name, inner in kind.children) + ")"
        case "map":
            inner = dict(kind.children)
            return f"MAP({_as_json(inner['key'])}, {_as_json(inner['value'])})"
        case name:
            return "VARCHAR" if name in GUESSED else str(kind)


def _json(path: Path, columns: Mapping[str, str], longest: int = 0) -> str:
    """Read JSON lines of ours: columns as they are promised."""
    kinds = ", ".join(f"{quoted(name)}: {quoted(kind)}" for name, kind in columns.items())
    most = max(OBJECT_BYTES, longest + 1)
    return (
        f"read_json({quoted(str(path))}, format='newline_delimited', columns={{{kinds}}}, maximum_object_size={most})"
    )


def _listing(scratch: Path) -> Path:
    """Name the file that is made to be read, and deleted."""
    return scratch / "reading.jsonl"


def _list_files(source: Source, to: Path) -> int:
    """Write one line a file, in the order of their paths; return the length of the longest."""
    longest = 0
    places = sorted(glob.glob(source.glob, root_dir=source.where, recursive=True))  # noqa: PTH207 - leaves out hidden ones
    files = (path for place in places if (path := Path(source.where, place)).is_file())
    with to.open("wb") as file:
        for path in itertools.islice(files, source.limit):
            size, text = path.stat().st_size, _text(path)
            line = msgspec.json.encode({"path": str(path), "name": path.name, "size": size, "text": text}) + b"\n"
            longest = max(longest, len(line))
            file.write(line)
    return longest


def _text(path: Path) -> str | None:
    """Read a file that is text; None if it is not."""
    try:
        return path.read_text(encoding="utf-8") if path.stat().st_size <= TEXT_BYTES else None
    except UnicodeDecodeError:
        return None
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror})") from None


def _rows_at_once(connection: duckdb.DuckDBPyConnection, path: Path) -> int:
    query = f"SELECT sum(total_uncompressed_size), max(num_values) FROM parquet_metadata({quoted(str(path))})"
    counted = f"SELECT num_rows FROM parquet_file_metadata({quoted(str(path))})"
    (size, _), (rows,) = connection.execute(query).fetchall()[0], connection.execute(counted).fetchall()[0]
    return max(1, min(BATCH, BATCH_BYTES * int(rows) // max(1, int(size or 0))))


def _attach(connection: duckdb.DuckDBPyConnection, name: str, address: str, *, is_read_only: bool) -> None:
    kind = kind_of(address)
    if kind in EXTENSIONS:
        load(connection, kind)
    mode = ", READ_ONLY" if is_read_only else ""
    try:
        connection.execute(f"ATTACH {quoted(address)} AS {named(name)} (TYPE {kind}{mode})")
    except duckdb.Error:
        raise BadInput(f"--attach {name}: cannot be opened as {kind}; is the address right?") from None


def _shown(name: str, kind: str) -> str:
    column = named(name)
    if kind in PLAIN:
        return column
    if kind == "BLOB":
        return f"'data:;base64,' || base64({column})"
    return f"to_json({column})::VARCHAR" if is_nested(kind) else f"{column}::VARCHAR"

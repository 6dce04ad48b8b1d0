"""Answers of one run are put into an output that has those of earlier runs: by key, all or nothing.

A row of the output whose key has a new answer is replaced, all others stay as they are, in their order; so doing it
twice is the same as doing it once, and a crash in between needs no memory of how far it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import duckdb
import msgspec

from standby.doors import door
from standby.workload import tables
from standby.workload.delimited import options
from standby.workload.destinations import OPTIONS, kept
from standby.workload.faults import BadInput, LocalState
from standby.workload.tables import named, quoted, types_of

DELIMITED = frozenset({"csv", "tsv"})
LINES = frozenset({".jsonl", ".ndjson"})
BUFFER = 1 << 20


def has_key(output: str, key: str, attached: Mapping[str, str], *, scratch: Path) -> bool | None:
    """Whether an output, a file or a table, has the column that names rows; None if there is no output yet."""
    is_table = tables.is_table(output, attached)
    if not is_table and not Path(output).exists():
        return None
    if not is_table and Path(output).suffix.lower() in LINES:
        first = next(_lines(Path(output)), None)
        return first is None or _key_of(first, key, Path(output)) != b""
    with tables.database(attached if is_table else {}, scratch=scratch) as connection:
        if is_table and not _has_table(connection, output):
            return None
        place = _place(output) if is_table else _table_of(Path(output))
        try:
            return key in types_of(connection, place)
        except duckdb.Error as error:
            raise LocalState(f"{output}: cannot be read: {str(error).partition(chr(10))[0]}") from None


def answers_name(output: str, attached: Mapping[str, str]) -> str:
    """Name the file of a run's answers: in the form of the output, Parquet for a table of a database."""
    form = "parquet" if tables.is_table(output, attached) else tables.format_of(output)
    return f"answers.{form}"


def picked(rows: Path, flags: Iterable[bool], to: Path) -> None:
    """Copy the rows whose flag is set, in their order. Parquet, CSV, TSV or lines."""
    if rows.suffix in LINES:
        _whole(to, (line for line, is_picked in zip(_lines(rows), flags, strict=False) if is_picked))
        return
    chosen = to.with_suffix(".flags")
    _whole(chosen, (b"1\n" if flag else b"0\n" for flag in flags))
    right = f"read_csv({quoted(str(chosen))}, header=false, columns={{'__standby_flag': 'BOOLEAN'}})"
    query = f"SELECT * EXCLUDE (__standby_flag) FROM {_table_of(rows)} POSITIONAL JOIN {right} WHERE __standby_flag"
    with tables.database(scratch=to.parent) as connection:
        _copied(connection, query, to)
    chosen.unlink()


def merge(answers: Path, output: str, key: str, *, attached: Mapping[str, str], scratch: Path) -> None:
    """Put answers into the output, made if there is none. `BadInput` if it cannot take them."""
    try:
        if tables.is_table(output, attached):
            _into_table(answers, output, key, attached=attached, scratch=scratch)
        elif answers.suffix in LINES:
            _into_lines(answers, Path(output), key)
        else:
            _into_file(answers, Path(output), key, scratch=scratch)
    except duckdb.Error as error:
        raise tables.fault(error, f"{output}: the answers of this run cannot be put into it") from None
    except OSError as error:
        raise LocalState(f"{output}: {error.strerror}; the same command goes on when that is mended") from None


def _into_file(answers: Path, output: Path, key: str, *, scratch: Path) -> None:
    new = f"SELECT * FROM {_table_of(answers)}"
    with tables.database(scratch=scratch) as connection:
        query = new
        if output.exists():
            same = f"o.{named(key)}::VARCHAR = n.{named(key)}::VARCHAR"
            query = f"SELECT o.* FROM {_table_of(output)} o ANTI JOIN ({new}) n ON {same} UNION ALL BY NAME {new}"
        _copied(connection, query, output)


def _table_of(file: Path) -> str:
    """Read a file as it is: texts of CSV stay the texts that they are."""
    form = tables.format_of(str(file))
    place = quoted(str(file))
    return f"read_csv({place}, {options(file, form)})" if form in DELIMITED else f"read_parquet({place})"


def _into_lines(answers: Path, output: Path, key: str) -> None:
    """Lines stay as they were written, to the byte."""
    replaced = {_key_of(line, key, answers) for line in _lines(answers)}
    _whole(output, _merged(answers, output, key, replaced))


def _merged(answers: Path, output: Path, key: str, replaced: set[bytes]) -> Iterator[bytes]:
    if output.exists():
        for line in _lines(output):
            if _key_of(line, key, output) not in replaced:
                yield line if line.endswith(b"\n") else line + b"\n"
    yield from _lines(answers)


def _key_of(line: bytes, key: str, file: Path) -> bytes:
    try:
        return bytes(msgspec.json.decode(line, type=dict[str, msgspec.Raw]).get(key, b""))
    except msgspec.DecodeError:
        raise BadInput(f"{file}: a line of it is no JSON object; mend it, and the same command goes on") from None


def _into_table(answers: Path, output: str, key: str, *, attached: Mapping[str, str], scratch: Path) -> None:
    place, name = _place(output), output.partition(".")[0]
    source = f"read_parquet({quoted(str(answers))})"
    database = tables.kind_of(attached[name])
    with tables.database({name: attached[name]}, scratch=scratch) as connection:
        kinds = types_of(connection, source)
        new = f"SELECT {', '.join(kept('n', *column, database) for column in kinds.items())} FROM {source} n"
        connection.execute("BEGIN")
        if not _has_table(connection, output):
            connection.execute(f"CREATE TABLE {place} AS {new}")
        else:
            known = {column.lower() for column in types_of(connection, place)}
            for column, kind in types_of(connection, f"({new})").items():
                if column.lower() not in known:
                    connection.execute(f"ALTER TABLE {place} ADD COLUMN {named(column)} {kind}")
            names = f"{named(key)}::VARCHAR"
            connection.execute(f"DELETE FROM {place} WHERE {names} IN (SELECT {names} FROM {source})")
            connection.execute(f"INSERT INTO {place} BY NAME {new}")
        door("nightly.merge.before_replace")
        connection.execute("COMMIT")
        door("nightly.merge.after_replace")


def _has_table(connection: duckdb.DuckDBPyConnection, output: str) -> bool:
    try:
        types_of(connection, _place(output))
    except duckdb.CatalogException:
        return False
    return True


def _copied(connection: duckdb.DuckDBPyConnection, query: str, to: Path) -> None:
    """Write what a query gives to a file that appears complete, or stays as it was."""
    new = to.with_name(f".{to.name}.new")
    tables.copied(connection, query, new, OPTIONS[tables.format_of(str(to))])
    _appear(new, to)


def _whole(to: Path, lines: Iterable[bytes]) -> None:
    new = to.with_name(f".{to.name}.new")
    with new.open("wb", buffering=BUFFER) as file:
        file.writelines(lines)
    _appear(new, to)


def _appear(new: Path, to: Path) -> None:
    """Give a file its name once it is durable; one that was there keeps its permissions."""
    if to.exists():
        new.chmod(to.stat().st_mode & 0o7777)
    door("nightly.merge.before_replace")
    tables.durable(new, to)
    door("nightly.merge.after_replace")


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb", buffering=BUFFER) as file:
        for line in file:
            if line.strip():
                yield line


def _place(output: str) -> str:
    return ".".join(named(part) for part in output.split(".", 2))

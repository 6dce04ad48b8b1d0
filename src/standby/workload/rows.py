"""Rows of a program: any iterable becomes a table of the job, once, whole or not at all.

A row is a mapping, a dataclass, a pydantic model, a msgspec struct, a named tuple, or a text (column `text`). What
kind a column has is known when all rows were read: numbers stay numbers, dates dates, bytes bytes; nested values and
columns of several kinds are JSON. The same rows have the same fingerprint, so that a job knows its own.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import hashlib
import itertools
import os
from collections.abc import AsyncIterable, Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import duckdb
import msgspec

from standby.folder import made
from standby.workload import tables
from standby.workload.faults import BadInput

Rows = Iterable[Any]
AsyncRows = AsyncIterable[Any]
BUFFER = 1 << 20
MOST_BIGINT = 1 << 63
NESTED = (Mapping, list, tuple, set, frozenset)
_numbers = itertools.count()


def given_place(folder: Path, fingerprint: str) -> Path:
    """Name the table of given rows in the folder of a job."""
    return folder / f"given-{fingerprint}.parquet"


def spooled(rows: Rows, folder: Path, *, check: Callable[[], None] = lambda: None) -> str:
    """Read all rows into the folder of a job; return their fingerprint. `check` is called before each row."""
    with Spool(folder) as spool:
        for row in rows:
            check()
            spool.add(row)
        return spool.finish()


async def spooled_async(rows: AsyncRows, folder: Path) -> str:
    """Do the same with rows that are waited for."""
    with Spool(folder) as spool:
        async for row in rows:
            spool.add(row)
        return spool.finish()


class Spool:
    """Rows on their way to disk; a context manager that leaves nothing behind but a table that is complete."""

    def __init__(self, folder: Path) -> None:
        """Begin with none."""
        self._folder = made(folder)
        self._lines = folder / f"given-{os.getpid()}-{next(_numbers)}.new"
        self._file = os.fdopen(os.open(self._lines, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb", BUFFER)
        self._hash = hashlib.blake2b(digest_size=16)
        self._kinds: dict[str, set[str]] = {}
        self._count = self._longest = 0

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Delete what was only on its way."""
        self._file.close()
        self._lines.unlink(missing_ok=True)

    def add(self, row: Any) -> None:
        """Write a row; `BadInput` names the one that is none, and never what it holds."""
        self._count += 1
        columns = _columns(row, self._count)
        line = _line(columns, self._count)
        self._hash.update(msgspec.json.encode(columns, enc_hook=_encodable, order="deterministic"))
        for name, value in columns.items():
            if value is not None:
                self._kinds.setdefault(name, set()).add(_kind(value))
            else:
                self._kinds.setdefault(name, set())
        self._longest = max(self._longest, len(line))
        self._file.write(line)

    def finish(self) -> str:
        """Write the table, unless it is there already; return the fingerprint of its rows."""
        if not self._count:
            raise BadInput("there are no rows")
        self._file.flush()
        kinds = {name: _common(found) for name, found in self._kinds.items()}
        _check_names(kinds)
        self._hash.update(msgspec.json.encode(kinds))
        fingerprint = self._hash.hexdigest()
        to = given_place(self._folder, fingerprint)
        if not to.exists():
            _write(self._lines, kinds, self._longest, to)
        return fingerprint


def _write(lines: Path, kinds: Mapping[str, str], longest: int, to: Path) -> None:
    read = {name: "VARCHAR" if kind == "BLOB" else kind for name, kind in kinds.items()}
    columns = ", ".join(f"{tables.quoted(name)}: {tables.quoted(kind)}" for name, kind in read.items())
    options = f"format='newline_delimited', columns={{{columns}}}, maximum_object_size={max(16 << 20, longest + 1)}"
    shown = ", ".join(
        f"from_base64({tables.named(name)}) AS {tables.named(name)}" if kind == "BLOB" else tables.named(name)
        for name, kind in kinds.items()
    )
    new = to.with_suffix(".half")
    try:
        with tables.database(scratch=to.parent) as connection:
            connection.execute(
                f"COPY (SELECT {shown} FROM read_json({tables.quoted(str(lines))}, {options})) "  # noqa: S608 - quoted
                f"TO {tables.quoted(str(new))} (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {tables.ROW_GROUP})"
            )
    except duckdb.Error as error:
        raise tables.fault(error, "the rows cannot be written") from None
    tables.durable(new, to)


def _columns(row: Any, number: int) -> dict[str, Any]:
    found = _mapping(row)
    if found is None:
        raise BadInput(
            f"row {number}: is a {type(row).__name__}; rows are mappings, dataclasses, pydantic models, named tuples "
            "or texts"
        )
    for name in found:
        if not isinstance(name, str) or not name:
            raise BadInput(f"row {number}: names of columns are texts, and one is a {type(name).__name__}")
    return {name: _plain(value) for name, value in found.items()}


def _mapping(row: Any) -> dict[Any, Any] | None:
    """See a row as columns; None if it is none."""
    if isinstance(row, Mapping):
        return dict(row)
    if isinstance(row, str):
        return {"text": row}
    if dataclasses.is_dataclass(row) and not isinstance(row, type):
        return {field.name: getattr(row, field.name) for field in dataclasses.fields(row)}
    if isinstance(row, msgspec.Struct):
        return msgspec.structs.asdict(row)
    for name in ("model_dump", "_asdict"):
        if callable(found := getattr(row, name, None)) and not isinstance(row, type):
            return dict(found())
    return None


def _plain(value: Any) -> Any:
    """See through enums, and through the scalars of numpy and its kin, which are numbers that say otherwise."""
    if isinstance(value, enum.Enum):
        return value.value
    if type(value).__module__.partition(".")[0] == "numpy" and getattr(value, "shape", None) == ():
        return value.item()
    return value


def _line(columns: Mapping[str, Any], number: int) -> bytes:
    try:
        return msgspec.json.encode(columns, enc_hook=_encodable) + b"\n"
    except (TypeError, ValueError, OverflowError, UnicodeEncodeError):
        raise BadInput(f"row {number}: {_culprit(columns)} cannot be written as JSON") from None


def _culprit(columns: Mapping[str, Any]) -> str:
    for name, value in columns.items():
        try:
            msgspec.json.encode(value, enc_hook=_encodable)
        except (TypeError, ValueError, OverflowError, UnicodeEncodeError):
            return f"column {name!r}, a {type(value).__name__},"
    return "one of its columns"


def _encodable(value: Any) -> Any:
    """Write what JSON has no word for."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return dict(value)
    for name in ("model_dump", "tolist"):
        if callable(found := getattr(value, name, None)):
            return found()
    raise TypeError


def _kind(value: Any) -> str:
    """Say what a column of such values is in a table."""
    match value:
        case bool():
            return "BOOLEAN"
        case int():
            return "BIGINT" if -MOST_BIGINT <= value < MOST_BIGINT else "VARCHAR"
        case float():
            return "DOUBLE"
        case str():
            return "VARCHAR"
        case bytes() | bytearray() | memoryview():
            return "BLOB"
        case dt.datetime():
            return "TIMESTAMP" if value.tzinfo is None else "TIMESTAMPTZ"
        case dt.date():
            return "DATE"
    is_nested = isinstance(value, NESTED) or _mapping(value) is not None or hasattr(value, "tolist")
    return "JSON" if is_nested else "VARCHAR"


def _common(kinds: set[str]) -> str:
    """Find the kind of a column; one of several kinds keeps them, as JSON."""
    if not kinds:
        return "VARCHAR"
    if len(kinds) == 1:
        return next(iter(kinds))
    return "DOUBLE" if kinds == {"BIGINT", "DOUBLE"} else "JSON"


def _check_names(kinds: Mapping[str, str]) -> None:
    seen: dict[str, str] = {}
    for name in kinds:
        other = seen.setdefault(name.lower(), name)
        if other != name:
            raise BadInput(f"the columns {other!r} and {name!r} differ only in case; a table cannot hold both")

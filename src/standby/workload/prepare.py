"""Rows become bodies on disk, all before the first is sent: what is wrong with a row is found while it is free."""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema_rs
import msgspec

from standby.workload import answers, destinations, native, tables
from standby.workload.bodies import Bodies
from standby.workload.faults import BadInput, LocalState
from standby.workload.jobfile import JobFile
from standby.workload.names import hash_of
from standby.workload.parts import Canary, Limits
from standby.workload.prompts import Prompts
from standby.workload.rows import given_place
from standby.workload.spec import Source, Spec

Request = tuple[int, str, "dict[str, Any] | msgspec.Raw"]


@dataclass(slots=True)
class _Last:
    key: str = ""
    row: int = 0


def prepare(job: JobFile, *, attached: Mapping[str, str], limits: Limits, canary: Canary) -> None:
    """Read the rows and write every body; nothing to do if that is done.

    `BadInput` names the row that is wrong, `LocalState` the disk that is full.
    """
    if job.meta("prepared", ""):
        return
    try:
        _prepare(job, attached=attached, limits=limits, canary=canary)
    except OSError as error:
        where = error.filename or job.folder
        raise LocalState(f"{where}: {error.strerror}; make room, and the same command goes on") from None


def _prepare(job: JobFile, *, attached: Mapping[str, str], limits: Limits, canary: Canary) -> None:
    spec = job.spec
    check_schema(spec)
    rows, requests = _requests(job, spec, attached)
    if not rows:
        raise BadInput("there are no rows")
    if not answers.is_native(job.meta("dialect", ""), spec.output, attached):
        destinations.check(spec.output, rows, attached=attached, scratch=job.folder)
    last = _Last()
    first = canary.items if rows > canary.above else 0
    job.note(canary=str(first or ""))
    with Bodies(job, limits, canary=first) as bodies:
        try:
            job.prepare(_items(requests, bodies, last), _parts(bodies))
        except sqlite3.IntegrityError:
            raise BadInput(f"row {last.row}: the key {last.key[:80]!r} stands twice; keys name one row each") from None


def check_schema(spec: Spec) -> None:
    """Refuse a schema that is none."""
    if spec.schema is not None:
        try:
            jsonschema_rs.validator_for(spec.schema)
        except (ValueError, jsonschema_rs.ValidationError) as error:
            raise BadInput(f"--schema: {str(error).partition(chr(10))[0]}") from None


def _requests(job: JobFile, spec: Spec, attached: Mapping[str, str]) -> tuple[int, Iterator[Request]]:
    source = _spooled(job, spec.source)
    if source.kind == "native" or (source.kind == "file" and not spec.prompt and not spec.attachments):
        path = Path(source.where)
        dialect = native.dialect_of(path)
        if dialect is None:
            raise BadInput(f"{path}: give a prompt with -p, or lines with custom_id and params")
        job.note(dialect=dialect)
        count, limit = native.count(path), source.limit
        return count if limit is None else min(count, limit), _native(path, spec)
    count = tables.freeze(source, job.rows, attached=attached)
    return count, _templated(job, spec)


def _spooled(job: JobFile, source: Source) -> Source:
    """Standard input can be read only once: it becomes a file of the job, whole or not at all."""
    if source.kind == "rows":
        return msgspec.structs.replace(source, kind="file", where=str(given_place(job.folder, source.where)))
    if source.kind != "stdin":
        return source
    path = job.folder / f"stdin.{source.format or 'jsonl'}"
    if not path.exists():
        new = path.with_suffix(".new")
        with new.open("wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    return msgspec.structs.replace(source, kind="file", where=str(path))


def _native(path: Path, spec: Spec) -> Iterator[Request]:
    for number, (key, params) in enumerate(native.lines_of(path, max_tokens=spec.max_tokens)):
        if spec.source.limit is not None and number >= spec.source.limit:
            return
        yield number, key, params


def _templated(job: JobFile, spec: Spec) -> Iterator[Request]:
    columns = tables.columns_of(job.rows, scratch=job.folder)
    if spec.id_column and spec.id_column not in columns:
        raise BadInput(f"--id: there is no column {spec.id_column!r}; there are {', '.join(sorted(columns))}")
    prompts = Prompts(spec, list(columns))
    for number, row in enumerate(tables.rows_of(job.rows, scratch=job.folder)):
        key = str(row[spec.id_column]) if spec.id_column else str(number)
        yield number, key, prompts.params(row, number=number + 1)


def _items(requests: Iterator[Request], bodies: Bodies, last: _Last) -> Iterator[tuple[int, str, bytes, int]]:
    for number, key, params in requests:
        last.key, last.row = key, number + 1
        item = hash_of(key)
        yield number, key, item, bodies.add(item, params, row=number + 1)
    bodies.finish()


def _parts(bodies: Bodies) -> Iterator[tuple[int, int, int]]:
    """Read what the bodies are only once all items went through them."""
    yield from bodies.parts

"""Answers go out: joined to their rows, or as result lines under the user's own names. All or nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from standby.folder import sync_folder
from standby.pricing.rates import DOLLAR
from standby.wire.chat.completion import completion_of
from standby.wire.received import read_answer
from standby.workload import tables
from standby.workload.costs import PriceOf, charge
from standby.workload.jobfile import Item, JobFile
from standby.workload.outcomes import read, text_of

encode = msgspec.json.Encoder().encode
COLUMNS = {
    "answer": "VARCHAR",
    "status": "VARCHAR",
    "stop_reason": "VARCHAR",
    "error": "VARCHAR",
    "input_tokens": "BIGINT",
    "cache_read_tokens": "BIGINT",
    "cache_write_tokens": "BIGINT",
    "output_tokens": "BIGINT",
    "cost_usd": "DOUBLE",
}
KINDS = {"string": "VARCHAR", "integer": "BIGINT", "number": "DOUBLE", "boolean": "BOOLEAN"}
OPEN_FILES = 16
BUFFER = 1 << 20


class _Row(msgspec.Struct):
    result: msgspec.Raw


_row = msgspec.json.Decoder(_Row).decode


class _Results:
    """The results files of a job, each opened once."""

    def __init__(self, job: JobFile) -> None:
        self._job = job
        self._files: dict[int, BinaryIO] = {}

    def line(self, item: Item) -> bytes | None:
        """Read the result of an item; None if it has none."""
        if item.place is None or item.length is None:
            return None
        file = self._files.get(item.part)
        if file is None:
            if len(self._files) >= OPEN_FILES:
                self._files.pop(next(iter(self._files))).close()
            file = self._files[item.part] = self._job.results(item.part).open("rb")
        file.seek(item.place)
        return file.read(item.length)

    def close(self) -> None:
        for file in self._files.values():
            file.close()


def write(job: JobFile, output: str, *, attached: Mapping[str, str], price_of: PriceOf) -> int:
    """Write the output of a job; return its rows. A file appears complete, or stays as it was."""
    results = _Results(job)
    try:
        dialect = job.meta("dialect", "")
        if dialect and not tables.is_table(output, attached) and tables.format_of(output) == "jsonl":
            return _whole(Path(output), _lines(job, results, dialect))
        return _joined(job, results, output, attached=attached, price_of=price_of)
    finally:
        results.close()


def _joined(job: JobFile, results: _Results, output: str, *, attached: Mapping[str, str], price_of: PriceOf) -> int:
    rows = job.rows if job.rows.exists() else None
    taken = frozenset(tables.columns_of(rows, scratch=job.folder)) if rows else frozenset({"custom_id"})
    fields = _fields(job.spec.schema)
    columns = {} if rows else {"custom_id": "VARCHAR"}
    columns |= {_free(name, taken): kind for name, kind in fields.items()}
    columns |= {_free(name, taken | fields.keys()): kind for name, kind in COLUMNS.items()}
    answers = job.folder / "answers.jsonl"
    _whole(answers, (_answer(item, results, fields, list(columns), price_of) for item in job.items()))
    count = tables.join(rows, answers, columns, output, attached=attached, scratch=job.folder)
    answers.unlink()
    return count


def _answer(item: Item, results: _Results, fields: Mapping[str, str], names: list[str], price_of: PriceOf) -> bytes:
    """Write one row of the right side: values in the order of the columns."""
    line = results.line(item)
    result: dict[str, Any] = msgspec.json.decode(line)["result"] if line is not None else {}
    message = result.get("message") or {}
    text = text_of(message) if message else None
    read_out = _read_out(text, fields) if item.cause in {"", "max_tokens"} else {}
    used = read(item.tokens)[-1] if item.tokens and message else None
    price = price_of(used[0]) if used else None
    values: list[Any] = [item.key] if names[0] == "custom_id" else []
    values += [read_out.get(name) for name in fields]
    values += [text, item.outcome if not item.cause or item.outcome != "succeeded" else item.cause]
    values += [message.get("stop_reason"), _words(item, result)]
    if used is None:
        values += [None] * 5
    else:
        t = used[1].tokens
        values += [t.input, t.read, t.write_5m + t.write_1h, t.output]
        values.append(charge(price, used[1]) / DOLLAR if price is not None else None)
    return encode({tables.NUMBER: item.number, **dict(zip(names, values, strict=True))}) + b"\n"


def _read_out(text: str | None, fields: Mapping[str, str]) -> dict[str, Any]:
    """Take the properties out of a structured answer; nested ones stay JSON."""
    if not text or not fields:
        return {}
    try:
        found = msgspec.json.decode(text)
    except msgspec.DecodeError:
        return {}
    return found if isinstance(found, dict) else {}


def _words(item: Item, result: dict[str, Any]) -> str | None:
    """Say what is wrong in the service's words."""
    if not item.cause:
        return None
    inner = (result.get("error") or {}).get("error") or {}
    return f"{item.cause}: {inner['message']}" if inner.get("message") else item.cause


def _fields(schema: dict[str, Any] | None) -> dict[str, str]:
    """Name the columns that a schema promises."""
    properties = (schema or {}).get("properties") or {}
    return {
        name: KINDS.get(str(about.get("type") if isinstance(about, dict) else ""), "JSON")
        for name, about in properties.items()
    }


def _free(name: str, taken: frozenset[str]) -> str:
    while name.lower() in {one.lower() for one in taken}:
        name = f"answer_{name}"
    return name


def _lines(job: JobFile, results: _Results, dialect: str) -> Iterator[bytes]:
    for item in job.items():
        line = results.line(item)
        if dialect == "openai":
            yield _openai_line(item, msgspec.json.decode(line)["result"] if line is not None else {})
        elif line is not None:
            yield b'{"custom_id":%b,"result":%b}\n' % (encode(item.key), bytes(_row(line).result))
        else:
            yield encode({"custom_id": item.key, "result": {"type": item.outcome}}) + b"\n"


def _openai_line(item: Item, result: dict[str, Any]) -> bytes:
    """Write a line of an OpenAI output file; a row without an answer has an error instead of a response."""
    response = error = None
    if result.get("type") == "succeeded":
        body = completion_of(read_answer(encode(result["message"])))
        response = {"status_code": 200, "request_id": result["message"]["id"], "body": body}
    else:
        error = {"code": item.cause, "message": _words(item, result)}
    found = {"id": f"batch_req_{item.hash.hex()}", "custom_id": item.key, "response": response, "error": error}
    return encode(found) + b"\n"


def _whole(to: Path, lines: Iterator[bytes]) -> int:
    """Write lines to a file that appears complete, synced, or stays as it was."""
    new = to.with_name(f".{to.name}.new")
    count = 0
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb", buffering=BUFFER) as file:
        for line in lines:
            file.write(line)
            count += 1
        file.flush()
        os.fsync(file.fileno())
    new.replace(to)
    sync_folder(to.parent)
    return count

"""Answers go out: joined to their rows, or as result lines under the user's own names. All or nothing."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from standby.folder import sync_folder
from standby.pricing.rates import DOLLAR
from standby.wire.chat.completion import completion_of
from standby.wire.received import read_answer
from standby.workload import destinations, tables
from standby.workload.columns import fields_of, fitted
from standby.workload.costs import PriceOf, charge
from standby.workload.faults import LocalState
from standby.workload.jobfile import Item, JobFile
from standby.workload.outcomes import read

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
OPEN_FILES = 16
BUFFER = 1 << 20
STATUSES = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
"""HTTP statuses of an item's errors (contract 6)."""
UNANSWERED = {
    "expired": ("batch_expired", "This request could not be executed before the completion window expired."),
    "canceled": ("batch_cancelled", "This request was canceled before it was executed."),
}
"""Codes and words that OpenAI's output files have for requests that were never answered."""


class _Block(msgspec.Struct):
    type: str = ""
    text: str = ""


class _Message(msgspec.Struct):
    content: list[_Block] = []
    stop_reason: str | None = None


class _Words(msgspec.Struct):
    message: str | None = None


class _Error(msgspec.Struct):
    error: _Words | None = None
    request_id: str | None = None


class _Result(msgspec.Struct):
    type: str = ""
    message: _Message | None = None
    error: _Error | None = None


class _Row(msgspec.Struct):
    result: _Result


class _RawRow(msgspec.Struct):
    result: msgspec.Raw


_row = msgspec.json.Decoder(_Row).decode
_raw_row = msgspec.json.Decoder(_RawRow).decode
NOTHING = _Result()


@dataclass(slots=True)
class _Results:
    """The results files of a job, each opened once."""

    job: JobFile
    files: dict[int, int] = field(default_factory=dict)

    def line(self, item: Item) -> bytes | None:
        """Read the result of an item; None if it has none."""
        if item.place is None or item.length is None:
            return None
        file = self.files.get(item.part)
        if file is None:
            if len(self.files) >= OPEN_FILES:
                os.close(self.files.pop(next(iter(self.files))))
            file = self.files[item.part] = os.open(self.job.results(item.part), os.O_RDONLY)
        line = os.pread(file, item.length, item.place)
        if len(line) != item.length:
            raise LocalState(f"{self.job.results(item.part)}: is shorter than it was; row {item.number + 1} is gone")
        return line

    def close(self) -> None:
        for file in self.files.values():
            os.close(file)


def write(job: JobFile, output: str, *, attached: Mapping[str, str], price_of: PriceOf) -> int:
    """Write the output of a job; return its rows. A file appears complete, or stays as it was."""
    results = _Results(job)
    try:
        if is_native(job.meta("dialect", ""), output, attached):
            return _whole(Path(output), _native_lines(job, results))
        return _joined(job, results, output, attached=attached, price_of=price_of)
    except OSError as error:
        raise LocalState(
            f"{error.filename or output}: {error.strerror}; mend it, and the same command goes on"
        ) from None
    finally:
        results.close()


def is_native(dialect: str, output: str, attached: Mapping[str, str]) -> bool:
    """Whether results go out as lines of the dialect in which requests came: they do, unless a table is asked for."""
    return bool(dialect) and not tables.is_table(output, attached) and tables.format_of(output) == "jsonl"


# -- beside the rows


def _joined(job: JobFile, results: _Results, output: str, *, attached: Mapping[str, str], price_of: PriceOf) -> int:
    rows = job.rows if job.rows.exists() else None
    fields = fields_of(job.spec.schema)
    own = {} if rows else {"custom_id": "VARCHAR"}
    taken = tables.columns_of(rows, scratch=job.folder) if rows else own
    columns = own | _freed({**fields, **{f"\0{name}": kind for name, kind in COLUMNS.items()}}, taken)
    right = _Right(results=results, fields=fields, names=list(columns), has_key=bool(own), used_of=_used_of(price_of))
    answers = job.folder / "answers.jsonl"
    try:
        _whole(answers, map(right.line, job.items()))
        return destinations.join(rows, answers, columns, output, attached=attached, scratch=job.folder)
    finally:
        answers.unlink(missing_ok=True)


def _freed(columns: Mapping[str, str], taken: Mapping[str, str]) -> dict[str, str]:
    """Give columns of ours other names where there are such; a database does not tell `Status` from `status`."""
    names, found = {name.lower() for name in taken}, {}
    for wanted, kind in columns.items():
        name = wanted.removeprefix("\0")
        while name.lower() in names:
            name = f"answer_{name}"
        names.add(name.lower())
        found[name] = kind
    return found


def _used_of(price_of: PriceOf) -> Callable[[str], list[Any]]:
    """Read usage and its price; equal ones once."""

    @functools.lru_cache(maxsize=4096)
    def used_of(text: str) -> list[Any]:
        model, used = read(text)[-1]
        price, t = price_of(model), used.tokens
        cost = charge(price, used) / DOLLAR if price is not None else None
        return [t.input, t.read, t.write_5m + t.write_1h, t.output, cost]

    return used_of


@dataclass(slots=True, kw_only=True)
class _Right:
    """The right side of a joined row."""

    results: _Results
    fields: Mapping[str, str]
    names: list[str]
    has_key: bool
    used_of: Callable[[str], list[Any]]

    def line(self, item: Item) -> bytes:
        """Write one row: values in the order of the columns."""
        line = self.results.line(item)
        result = _row(line).result if line is not None else NOTHING
        message = result.message
        text = "".join([b.text for b in message.content if b.type == "text"]) if message is not None else None
        values: list[Any] = [item.key] if self.has_key else []
        if self.fields:
            values += self._read_out(text if item.cause in {"", "max_tokens"} else None)
        values += [text, _status(item), message.stop_reason if message is not None else None, _words(item, result)]
        values += self.used_of(item.tokens) if item.tokens and message is not None else [None] * 5
        return encode(dict(zip(self.names, values, strict=True))) + b"\n"

    def _read_out(self, text: str | None) -> list[Any]:
        """Take the properties out of a structured answer; nested ones stay JSON."""
        try:
            found = msgspec.json.decode(text) if text else {}
        except msgspec.DecodeError:
            found = {}
        found = found if isinstance(found, dict) else {}
        return [fitted(found.get(name), kind) for name, kind in self.fields.items()]


def _status(item: Item) -> str | None:
    return item.cause if item.cause and item.outcome == "succeeded" else item.outcome


def _words(item: Item, result: _Result) -> str | None:
    """Say what is wrong in the service's words."""
    if not item.cause:
        return None
    inner = result.error.error if result.error is not None else None
    return f"{item.cause}: {inner.message}" if inner is not None and inner.message else item.cause


# -- as lines


def _native_lines(job: JobFile, results: _Results) -> Iterator[bytes]:
    is_openai = job.meta("dialect") == "openai"
    ends = {part.number: _seconds(part.ended_at or part.created_at) for part in job.parts()}
    for item in job.items():
        line = results.line(item)
        if is_openai:
            yield _openai_line(item, line, ends.get(item.part, 0))
        elif line is not None:
            yield b'{"custom_id":%b,"result":%b}\n' % (encode(item.key), bytes(_raw_row(line).result))
        else:
            yield encode({"custom_id": item.key, "result": {"type": item.outcome}}) + b"\n"


def _openai_line(item: Item, line: bytes | None, ended: int) -> bytes:
    """Write a line of an OpenAI output or error file: a response with its status, or why there is none."""
    response = error = None
    result = _row(line).result if line is not None else NOTHING
    if line is not None and result.type == "succeeded":
        message = read_answer(bytes(_raw_message(line)))
        response = _response(200, message.id, completion_of(message, created=ended))
    elif result.error is not None and result.error.error is not None:
        body = {"message": result.error.error.message, "type": item.cause, "param": None, "code": item.cause}
        response = _response(STATUSES.get(item.cause or "", 500), result.error.request_id, {"error": body})
    else:
        code, words = UNANSWERED.get(item.cause or "", (item.cause or "missing", "There is no result for it."))
        error = {"code": code, "message": words}
    found = {"id": f"batch_req_{item.hash.hex()}", "custom_id": item.key, "response": response, "error": error}
    return encode(found) + b"\n"


def _response(status: int, request_id: str | None, body: dict[str, Any]) -> dict[str, Any]:
    return {"status_code": status, "request_id": request_id, "body": body}


def _raw_message(line: bytes) -> msgspec.Raw:
    return _message_row(line).result.message


class _RawMessage(msgspec.Struct):
    message: msgspec.Raw


class _MessageRow(msgspec.Struct):
    result: _RawMessage


_message_row = msgspec.json.Decoder(_MessageRow).decode


def _seconds(moment: str | None) -> int:
    return int(datetime.fromisoformat(moment).timestamp()) if moment else 0


def _whole(to: Path, lines: Iterator[bytes]) -> int:
    """Write lines to a file that appears complete, synced, or stays as it was."""
    new = to.with_name(f".{to.name}.new")
    count = 0
    try:
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb", buffering=BUFFER) as file:
            for line in lines:
                file.write(line)
                count += 1
            file.flush()
            os.fsync(file.fileno())
        new.replace(to)
    finally:
        new.unlink(missing_ok=True)
    sync_folder(to.parent)
    return count

"""Bodies of parts on disk: filled one item a line, complete and durable before anything is sent."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import msgspec

from standby.workload.jobfile import JobFile
from standby.workload.names import custom_id, item_of
from standby.workload.parts import COMMA, HEAD, TAIL, Filling, Limits, check_fits_alone

encode = msgspec.json.Encoder().encode
BUFFER = 1 << 20


class _Named(msgspec.Struct):
    custom_id: str


class Bodies:
    """Writes items into parts, as many as it takes; a context manager."""

    def __init__(self, job: JobFile, limits: Limits, *, first: int = 1, canary: int = 0) -> None:
        """Begin with part `first`; with a canary that part holds so few items."""
        self._job, self._tag = job, job.tag
        self._limits = limits
        self._number = first
        self._filling = Filling(replace(limits, items=canary) if canary else limits)
        self._file: BinaryIO | None = None
        self.parts: list[tuple[int, int, int]] = []
        """Number, items and bytes of those that are complete."""

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Complete the last part, unless something failed."""
        if error is None:
            self.finish()
        elif self._file is not None:
            self._file.close()

    def add(self, item: bytes, params: dict[str, Any] | msgspec.Raw, *, row: int) -> int:
        """Write one item; return the number of its part. `row` counts from 1 and is for messages."""
        return self.add_line(encode({"custom_id": custom_id(self._tag, item), "params": params}) + b"\n", row=row)

    def add_line(self, line: bytes, *, row: int) -> int:
        """Write a line that is an item already."""
        check_fits_alone(len(line), self._limits, row=row)
        if not self._filling.takes(len(line)):
            self.finish()
            self._number += 1
            self._filling = Filling(self._limits)
        if self._file is None:
            self._file = _private(self._job.body(self._number))
            self._file.write(HEAD)
        self._file.write((COMMA if self._filling.items else b"") + line)
        self._filling.add(len(line))
        return self._number

    def finish(self) -> None:
        """Complete the part at hand, if there is one."""
        if self._file is None:
            return
        self._file.write(TAIL)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._file = None
        self.parts.append((self._number, self._filling.items, self._filling.bytes))


def lines_of(body: Path, tag: str) -> Iterator[tuple[bytes, bytes]]:
    """Walk over the items of a body: hash and line."""
    name = msgspec.json.Decoder(_Named)
    with body.open("rb", buffering=BUFFER) as file:
        for line in file:
            if line in {HEAD, TAIL}:
                continue
            plain = line.removeprefix(COMMA)
            item = item_of(tag, name.decode(plain).custom_id)
            if item is not None:
                yield item, plain


def with_more_room(line: bytes, factor: int = 2) -> bytes:
    """Rewrite an item so that its answer may be longer."""
    item = msgspec.json.decode(line)
    item["params"]["max_tokens"] = int(item["params"]["max_tokens"]) * factor
    return encode(item) + b"\n"


def _private(path: Path) -> BinaryIO:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    return os.fdopen(fd, "wb", buffering=BUFFER)

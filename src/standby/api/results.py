"""Results as they lie: segments one after another, every row checked against its checksum on the way out.

Nothing is rewritten, so a byte range of the whole is a byte range of some segments (design 3).
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from standby.api.ranges import Span, Unsatisfiable, is_range_valid, is_unchanged, parse_range
from standby.api.replies import Streamed
from standby.blobs.base import Blobs
from standby.errors import ApiError, Corrupt
from standby.records import Record, Segment, unpack_records

JSON_LINES = "application/x-jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """What a batch has to download right now."""

    segments: tuple[Segment, ...]
    size: int
    etag: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Whole rows of one segment, and what of them was asked for: `skip` bytes less in front, then `take` bytes."""

    key: str
    start: int
    records: list[Record]
    skip: int
    take: int

    @property
    def end(self) -> int:
        """Where the last row ends in the segment."""
        return self.start + sum(record.length for record in self.records)


def download_of(segments: Sequence[Segment]) -> Download:
    """Sum a manifest up; the tag names its content, since the records carry a checksum of every row."""
    seen = hashlib.sha256()
    for segment in segments:
        seen.update(f"{segment.key}:{segment.length}:".encode())
        seen.update(segment.records)
    size = sum(segment.length for segment in segments)
    return Download(segments=tuple(segments), size=size, etag=f'"{seen.hexdigest()[:32]}"')


async def results_reply(request: Request, segments: Sequence[Segment], blobs: Blobs) -> ASGIApp:
    """Answer a download: 200, 206, 304 or 416. Damage that shows in the first piece is still a clean error."""
    download = download_of(segments)
    headers = {"etag": download.etag, "accept-ranges": "bytes", "content-type": JSON_LINES}
    if is_unchanged(request.headers.get("if-none-match"), download.etag):
        return Response(status_code=304, headers={"etag": download.etag})
    try:
        span = _asked_range(request, download)
    except Unsatisfiable:
        raise _behind_the_end(download.size) from None
    whole = Span(0, download.size)
    if span is not None:
        headers["content-range"] = f"bytes {span.start}-{span.end - 1}/{download.size}"
    taken = span or whole
    headers["content-length"] = str(taken.end - taken.start)
    status = 200 if span is None else 206
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers)
    pieces = await _begun(rows(blobs, download.segments, taken))
    return Streamed(pieces, status=status, headers=headers)


async def rows(blobs: Blobs, segments: Sequence[Segment], span: Span) -> AsyncIterator[bytes]:
    """Yield the bytes of the span; `Corrupt` if a row that it touches does not match its checksum."""
    for reading in readings(segments, span):
        skip, left = reading.skip, reading.take
        pieces = blobs.stream(reading.key, start=reading.start, end=reading.end)
        async for piece in checked(pieces, reading.records, key=reading.key):
            kept = piece[skip : skip + left] if skip or left < len(piece) else piece
            skip = max(0, skip - len(piece))
            left -= len(kept)
            if kept:
                yield kept


def readings(segments: Sequence[Segment], span: Span) -> Iterator[Reading]:
    """Find the rows that a span touches: a row is checked whole even if only a part of it is wanted."""
    before = 0
    for segment in segments:
        start, end = max(span.start - before, 0), min(span.end - before, segment.length)
        before += segment.length
        if start < end:
            yield _reading(segment, start, end)


def _reading(segment: Segment, start: int, end: int) -> Reading:
    records = list(unpack_records(segment.records))
    if sum(record.length for record in records) != segment.length:
        raise Corrupt(f"{segment.key}: its records do not add up to its length")
    touched: list[Record] = []
    at = first = 0
    for record in records:
        if at < end and at + record.length > start:
            first = first if touched else at
            touched.append(record)
        at += record.length
    return Reading(key=segment.key, start=first, records=touched, skip=start - first, take=end - start)


async def checked(pieces: AsyncIterator[bytes], records: Sequence[Record], *, key: str) -> AsyncIterator[bytes]:
    """Cut a stream into whole rows, many at a time, and let only those pass that match their checksum."""
    held, at = bytearray(), 0
    async for piece in pieces:
        held += piece
        size, at = _checked_size(held, records, at, key)
        if size:
            yield bytes(memoryview(held)[:size])
            del held[:size]
    if held or at < len(records):
        raise Corrupt(f"{key}: ends inside a row")


def _checked_size(held: bytearray, records: Sequence[Record], at: int, key: str) -> tuple[int, int]:
    size, there = 0, len(held)
    with memoryview(held) as view:
        while at < len(records) and size + records[at].length <= there:
            record = records[at]
            if zlib.crc32(view[size : size + record.length]) != record.crc:
                raise Corrupt(f"{key}: row of item {record.item} does not match its checksum")
            size += record.length
            at += 1
    return size, at


def _behind_the_end(size: int) -> ApiError:
    return ApiError(
        416,
        "invalid_request_error",
        f"range: the results have {size} bytes",
        headers={"content-range": f"bytes */{size}"},
    )


def _asked_range(request: Request, download: Download) -> Span | None:
    if not is_range_valid(request.headers.get("if-range"), download.etag):
        return None
    return parse_range(request.headers.get("range"), download.size)


async def _begun(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Take the first piece now, so that trouble shows before a status is sent."""
    first = await anext(pieces, b"")

    async def all_pieces() -> AsyncIterator[bytes]:
        if first:
            yield first
        async for piece in pieces:
            yield piece

    return all_pieces()

"""Conditional and partial downloads: `Range`, `If-Range` and `If-None-Match` (RFC 9110), as pure functions."""

from __future__ import annotations

import re
from dataclasses import dataclass

_ONE_RANGE = re.compile(r"bytes=\s*([0-9]{0,18})-([0-9]{0,18})\s*", re.IGNORECASE)
_TAG = re.compile(r'(?:W/)?("[^"]*")')


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes [start, end)."""

    start: int
    end: int


class Unsatisfiable(ValueError):
    """The range begins after the last byte: 416."""


def parse_range(header: str | None, size: int) -> Span | None:
    """Read a `Range` header; None means the whole: no range, a form that we may ignore, or several ranges."""
    found = _ONE_RANGE.fullmatch(header.strip()) if header else None
    if found is None:
        return None
    first, last = found.groups()
    if not first:
        return _suffix(last, size)
    start = int(first)
    if last and int(last) < start:
        return None
    if start >= size:
        raise Unsatisfiable
    return Span(start, min(int(last) + 1, size) if last else size)


def _suffix(last: str, size: int) -> Span | None:
    if not last:
        return None
    if int(last) == 0 or size == 0:
        raise Unsatisfiable
    return Span(max(0, size - int(last)), size)


def is_unchanged(if_none_match: str | None, etag: str) -> bool:
    """Whether the client already has this version; weak comparison, so a compressed copy counts."""
    if if_none_match is None:
        return False
    return if_none_match.strip() == "*" or etag in _TAG.findall(if_none_match)


def is_range_valid(if_range: str | None, etag: str) -> bool:
    """Whether a range may be served: no condition, or exactly this version; strong comparison."""
    return if_range is None or if_range.strip() == etag

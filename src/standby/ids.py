"""Identifiers: a prefix, `01`, and 22 base-62 characters that sort by the time they were made (contract 2.1)."""

from __future__ import annotations

import re
import secrets
import threading
import time

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
BODY = 22
_PAIRS = tuple(first + second for first in ALPHABET for second in ALPHABET)
_RANDOM_BITS = 80
_lock = threading.Lock()
_last = 0


def make_id(prefix: str, *, now_us: int | None = None) -> str:
    """Make an id such as `msgbatch_01…`; ids made later by this process sort after it."""
    global _last  # noqa: PLW0603 - one counter a process keeps ids in order inside one millisecond
    millis = (now_us // 1000) if now_us is not None else time.time_ns() // 1_000_000
    value = (millis << _RANDOM_BITS) | secrets.randbits(_RANDOM_BITS)
    with _lock:
        if value <= _last and (_last >> _RANDOM_BITS) - millis < 1000:
            value = _last + 1 + secrets.randbits(32)
        _last = max(_last, value)
    return f"{prefix}_01{base62(value)}"


def random_id(prefix: str) -> str:
    """Make an id whose order means nothing, at a third of the price: for messages and requests."""
    return f"{prefix}_01{base62(secrets.randbits(130))}"


def base62(value: int) -> str:
    """Write `value` in base 62, exactly 22 characters."""
    pairs = []
    for _ in range(BODY // 2):
        value, rest = divmod(value, 3844)
        pairs.append(_PAIRS[rest])
    pairs.reverse()
    return "".join(pairs)


def is_id(prefix: str, text: str) -> bool:
    """Say whether `text` could be an id with this prefix."""
    return re.fullmatch(rf"{prefix}_01[0-9A-Za-z]{{{BODY}}}", text) is not None

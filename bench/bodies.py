"""Bodies of a given number of items and size, and what a bare program needs to take one in."""

from __future__ import annotations

import json
import os
from pathlib import Path

import msgspec

LETTERS = "The quick brown fox jumps over the lazy dog while the report of the week is written. "


def write_body(path: Path, *, items: int, item_bytes: int) -> int:
    """Write a create's body; return its size in bytes."""
    text = (LETTERS * (item_bytes // len(LETTERS) + 1))[:item_bytes]
    with path.open("w", encoding="utf-8") as file:
        file.write('{"requests":[')
        for number in range(items):
            params = {
                "model": "claude-haiku-4-5",
                "max_tokens": 64,
                "messages": [{"role": "user", "content": f"{number}: {text}"}],
            }
            file.write(("," if number else "") + json.dumps({"custom_id": f"item-{number}", "params": params}))
        file.write("]}")
    return path.stat().st_size


class _Item(msgspec.Struct):
    custom_id: str
    params: msgspec.Raw


class _Body(msgspec.Struct):
    requests: list[_Item]


def take_in_bare(body: Path, copy: Path) -> int:
    """Decode with msgspec, write, fsync: the least that taking a batch in can cost."""
    data = body.read_bytes()
    found = msgspec.json.decode(data, type=_Body)
    with copy.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return len(found.requests)

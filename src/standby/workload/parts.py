"""How rows become parts: at most 100,000 items and 256,000,000 bytes a batch. Pure.

The service says 256 MB and not which; the smaller reading is always right. A body is

    {"requests":[
    {"custom_id":…,"params":…}
    ,{…}
    ]}

one item a line, so that a retry can pick lines out of it without reading JSON.
"""

from __future__ import annotations

from dataclasses import dataclass

from standby.workload.faults import BadInput

HEAD = b'{"requests":[\n'
COMMA = b","
TAIL = b"]}\n"
MOST_ITEMS = 100_000
MOST_BYTES = 256_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one part may hold."""

    items: int = MOST_ITEMS
    bytes: int = MOST_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary:
    """A first part of a few rows, in a job of more than `above`: the others follow only when it is done."""

    items: int = 10
    above: int = 10_000


@dataclass(slots=True)
class Filling:
    """The part that is being filled."""

    limits: Limits
    items: int = 0
    bytes: int = len(HEAD) + len(TAIL)

    def takes(self, line_bytes: int) -> bool:
        """Whether an item of this many bytes, newline included, still fits."""
        return self.items < self.limits.items and self.bytes + self._more(line_bytes) <= self.limits.bytes

    def add(self, line_bytes: int) -> None:
        """Count an item."""
        self.bytes += self._more(line_bytes)
        self.items += 1

    def _more(self, line_bytes: int) -> int:
        return line_bytes + (len(COMMA) if self.items else 0)


def check_fits_alone(line_bytes: int, limits: Limits, *, row: int) -> None:
    """Refuse a row that no batch could hold; `row` counts from 1."""
    most = limits.bytes - len(HEAD) - len(TAIL)
    if line_bytes > most:
        raise BadInput(f"row {row}: makes a request of {line_bytes:,} bytes; a batch holds at most {most:,}")

"""How long answers are: exact counts by length. Memory grows with the longest answer, not with the rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

QUANTILES = (0.1, 0.5, 0.9, 0.99)
MOST_BINS = 20
LONG_TAIL = 40
"""From this ratio of the longest to the middle answer on, each bin is twice as wide as the one before."""


class Lengths:
    """Counts of answers by their tokens."""

    def __init__(self) -> None:
        """Begin with none."""
        self._counts: Counter[int] = Counter()

    def add(self, tokens: int, times: int) -> None:
        """Count answers of so many tokens."""
        self._counts[tokens] += times

    @property
    def answers(self) -> int:
        """How many were counted."""
        return self._counts.total()

    def at(self, share: float) -> int:
        """Return the length that this share of the answers does not exceed; there must be answers."""
        left = share * self.answers
        for length in sorted(self._counts):
            left -= self._counts[length]
            if left <= 0:
                return length
        return max(self._counts)

    def bins(self) -> list[dict[str, int]]:
        """Count by ranges of lengths, `from` to `to` with both ends in it, without a gap between them."""
        if not self._counts:
            return []
        longest = max(self._counts)
        is_long = longest > LONG_TAIL * max(1, self.at(0.5))
        edges = _doubling(longest) if is_long else _even(min(self._counts), longest)
        found = [{"from": low, "to": high, "answers": 0} for low, high in edges]
        at = 0
        for length in sorted(self._counts):
            while length > found[at]["to"]:
                at += 1
            found[at]["answers"] += self._counts[length]
        return found

    def told(self) -> dict[str, Any] | None:
        """Tell it all as JSON values; None if there are no answers."""
        if not self._counts:
            return None
        total = sum(length * times for length, times in self._counts.items())
        return {
            "answers": self.answers,
            "least": min(self._counts),
            "mean": total / self.answers,
            **{f"p{round(100 * share)}": self.at(share) for share in QUANTILES},
            "most": max(self._counts),
            "bins": self.bins(),
        }


def _even(shortest: int, longest: int) -> Iterator[tuple[int, int]]:
    """Cut a range into bins of one round width: 1, 2 or 5 times a power of ten."""
    width = next(
        w for k in range(12) for w in (10**k, 2 * 10**k, 5 * 10**k) if (longest - shortest) // w < MOST_BINS - 1
    )
    for low in range(shortest - shortest % width, longest + 1, width):
        yield low, low + width - 1


def _doubling(longest: int) -> Iterator[tuple[int, int]]:
    low, high = 0, 1
    while low <= longest:
        yield low, high
        low, high = high + 1, 2 * high + 1

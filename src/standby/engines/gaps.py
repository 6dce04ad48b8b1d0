"""How long do answers take from one token to the next? Pure: arrivals of tokens in, the time a token lately out.

Time is cut into slices. A slice has the mean time a token of all answers, so that chunks which arrive together count
for what they are; of the slices lately the median counts, so that one long prompt does not.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from statistics import median_high

from standby.records import SECOND

SLICE_US = SECOND // 4
LATELY_US = 2 * SECOND
"""What is looked at if there were tokens enough in it."""
LONGEST_US = 10 * SECOND
"""How far back slow engines are looked at."""
ENOUGH = 8
"""Tokens that make a mean worth something."""
APART_US = SECOND // 1000
"""Tokens that come sooner than that after others came with them."""


@dataclass(slots=True)
class _Slice:
    number: int
    took_us: int = 0
    tokens: int = 0
    pieces: int = 0


class Answering:
    """One answer while it comes; times are microseconds since 1970."""

    __slots__ = ("_gaps", "_last_us")

    def __init__(self, gaps: Gaps) -> None:
        """Begin before the first token."""
        self._gaps = gaps
        self._last_us: int | None = None

    @property
    def has_begun(self) -> bool:
        """Whether its first token is out."""
        return self._last_us is not None

    def tokens(self, count: int, now_us: int) -> None:
        """Take note that so many more tokens are out; what comes with the first says nothing about gaps."""
        if self._last_us is None:
            self._gaps.begun(self)
        else:
            self._gaps.add(now_us, max(0, now_us - self._last_us), count)
        self._last_us = now_us

    def held_up(self, for_us: int) -> None:
        """Whoever reads the answer did not read on for a time: that is not the engine's."""
        if self._last_us is not None:
            self._last_us += for_us

    def silent_us(self, now_us: int) -> int:
        """How long ago its last token came."""
        return 0 if self._last_us is None else max(0, now_us - self._last_us)

    def ended(self) -> None:
        """Nothing more comes."""
        self._gaps.ended(self)


class Gaps:
    """The gaps of all answers of one kind at one endpoint."""

    def __init__(self) -> None:
        """Nothing was seen."""
        self._slices: deque[_Slice] = deque(maxlen=LONGEST_US // SLICE_US + 1)
        self._open: set[Answering] = set()

    def add(self, now_us: int, took_us: int, count: int) -> None:
        """Take note of tokens of one answer, and of the time since those before."""
        number = now_us // SLICE_US
        if not self._slices or self._slices[-1].number != number:
            self._slices.append(_Slice(number))
        last = self._slices[-1]
        last.took_us += took_us
        last.tokens += count
        last.pieces += took_us >= APART_US

    def begun(self, answering: Answering) -> None:
        """Take note that an answer has its first token."""
        self._open.add(answering)

    def ended(self, answering: Answering) -> None:
        """Take note that it is over."""
        self._open.discard(answering)

    def gap_s(self, now_us: int) -> float | None:
        """Return the time from one token to the next, lately; None if nobody can say.

        Answers that fell silent count as soon as their silence is longer than the pieces were apart that were seen: an
        engine that stands still has the longest gap of all, one that sends eight tokens at a time does not.
        """
        lately = self._lately(now_us)
        silent = self._silent_us(now_us)
        if sum(one.tokens for one in lately) < ENOUGH:
            return silent / SECOND if silent > LATELY_US else None
        seen = median_high(one.took_us / one.tokens for one in lately)
        apart = median_high(one.took_us / (one.pieces or one.tokens) for one in lately)
        return seen * max(1.0, silent / apart if apart else 1.0) / SECOND

    def is_fresh(self, now_us: int) -> bool:
        """Whether what `gap_s` says is of this moment: an answer is under way, or was."""
        return bool(self._open or (self._slices and self._slices[-1].number * SLICE_US >= now_us - LATELY_US))

    def _lately(self, now_us: int) -> list[_Slice]:
        found: list[_Slice] = []
        tokens = 0
        for one in reversed(self._slices):
            begun_us = one.number * SLICE_US
            if begun_us < now_us - LONGEST_US or (tokens >= ENOUGH and begun_us < now_us - LATELY_US):
                break
            found.append(one)
            tokens += one.tokens
        return found

    def _silent_us(self, now_us: int) -> float:
        silences = [one.silent_us(now_us) for one in self._open]
        return sum(silences) / len(silences) if silences else 0.0

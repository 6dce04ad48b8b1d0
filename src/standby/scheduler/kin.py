"""What the entries of a plan share with each other, for the runs in hand. Pure.

In a plan in the order of a walk through the radix tree of its prompts each entry knows what it shares with the one
before it. The shared prefix of any two entries is then the least of these numbers between them: the whole tree is in
that one array.
"""

from __future__ import annotations

import bisect
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

UNGROUPED = 0
WHOLE = 1 << 30
"""Tokens that an entry shares with itself: more than any prompt has."""


@dataclass(slots=True, kw_only=True, eq=False)
class _Stretch:
    """The entries of one run."""

    first: int
    shared: array[int]
    groups: array[int]
    taken: bytearray
    """1 for each entry that was started."""

    @property
    def stop(self) -> int:
        return self.first + len(self.shared)


@dataclass(slots=True)
class _Prefix:
    """What the members of a group share with the one before them, added up."""

    tokens: int = 0
    members: int = 0


@dataclass(slots=True, eq=False)
class Kin:
    """The runs of one plan that are in hand; places are numbers of entries in the plan, lengths are tokens."""

    waiting: Counter[int] = field(default_factory=Counter)
    """Entries in hand that were never started, by group."""
    _stretches: dict[int, _Stretch] = field(default_factory=dict)
    _firsts: list[int] = field(default_factory=list)
    _prefixes: dict[int, _Prefix] = field(default_factory=dict)

    def __bool__(self) -> bool:
        """Whether anything is in hand."""
        return bool(self._stretches)

    def learn(self, first: int, shared: Sequence[int], groups: Sequence[int]) -> None:
        """Take a run in hand: of each entry what it shares with the one before it, and its group."""
        self.forget(first)
        stretch = _Stretch(
            first=first, shared=array("I", shared), groups=array("I", groups), taken=bytearray(len(shared))
        )
        self._stretches[first] = stretch
        bisect.insort(self._firsts, first)
        self.waiting.update(groups)
        for place in range(1, len(groups)):
            if groups[place] == groups[place - 1] != UNGROUPED:
                prefix = self._prefixes.setdefault(groups[place], _Prefix())
                prefix.tokens += shared[place]
                prefix.members += 1

    def forget(self, first: int) -> None:
        """Let go of a run; one that is not in hand is none."""
        stretch = self._stretches.pop(first, None)
        if stretch is None:
            return
        self._firsts.remove(first)
        self.waiting.subtract(group for group, taken in zip(stretch.groups, stretch.taken, strict=True) if not taken)
        for group in set(stretch.groups):
            if self.waiting[group] <= 0:
                del self.waiting[group]
                self._prefixes.pop(group, None)

    def take(self, place: int) -> None:
        """Note that an entry was started; one that comes again was started before."""
        stretch = self._at(place)
        if stretch is not None and not stretch.taken[place - stretch.first]:
            stretch.taken[place - stretch.first] = 1
            self.waiting[stretch.groups[place - stretch.first]] -= 1

    def prefix(self, group: int) -> int:
        """Return how long the prefix of a group is, deeper ones included: the mean over its members."""
        found = self._prefixes.get(group)
        return found.tokens // found.members if found else 0

    def group(self, place: int) -> int:
        """Return the group of an entry, `UNGROUPED` if it is not in hand."""
        stretch = self._at(place)
        return UNGROUPED if stretch is None else stretch.groups[place - stretch.first]

    def common(self, one: int, other: int) -> int:
        """Return how much two entries share; 0 if what lies between them is not in hand."""
        low, high = min(one, other), max(one, other)
        least, place = WHOLE, low + 1
        while place <= high and least:
            stretch = self._at(place)
            if stretch is None:
                return 0
            stop = min(high + 1, stretch.stop)
            most = min(stretch.shared[place - stretch.first : stop - stretch.first])
            least = min(least, most)
            place = stop
        return least

    def end(self, place: int, depth: int) -> int:
        """Return the first later entry that shares no more than `depth` with this one, or is not in hand."""
        place += 1
        while (stretch := self._at(place)) is not None:
            for more, shared in enumerate(stretch.shared[place - stretch.first :]):
                if shared <= depth:
                    return place + more
            place = stretch.stop
        return place

    def behind_group(self, place: int) -> int:
        """Return the first later entry of another group, or that is not in hand."""
        group = self.group(place)
        place += 1
        while (stretch := self._at(place)) is not None:
            for more, other in enumerate(stretch.groups[place - stretch.first :]):
                if other != group:
                    return place + more
            place = stretch.stop
        return place

    def begin(self, place: int, depth: int) -> int:
        """Return the first entry in hand of those that share more than `depth` with this one, all between included."""
        while (stretch := self._at(place)) is not None:
            for at in range(place - stretch.first, -1, -1):
                if stretch.shared[at] <= depth:
                    return stretch.first + at
            place = stretch.first - 1
        return place + 1

    def left(self, begin: int, end: int) -> int:
        """Count entries from `begin` to before `end` that were never started."""
        return sum(
            stretch.taken.count(0, max(0, begin - stretch.first), max(0, end - stretch.first))
            for stretch in self._stretches.values()
        )

    def next_left(self, place: int) -> int | None:
        """Return the first entry in hand from `place` on that was never started."""
        at = max(0, bisect.bisect_right(self._firsts, place) - 1)
        for first in self._firsts[at:]:
            stretch = self._stretches[first]
            found = stretch.taken.find(0, max(0, place - first))
            if found >= 0:
                return first + found
        return None

    def _at(self, place: int) -> _Stretch | None:
        at = bisect.bisect_right(self._firsts, place) - 1
        stretch = self._stretches[self._firsts[at]] if at >= 0 else None
        return stretch if stretch is not None and place < stretch.stop else None


class Places:
    """Some entries of one plan, of which the nearest to another is asked for: no other shares more with it."""

    __slots__ = ("_sorted",)

    def __init__(self) -> None:
        """Begin with none."""
        self._sorted: list[int] = []

    def __len__(self) -> int:
        """Count them."""
        return len(self._sorted)

    def __iter__(self) -> Iterator[int]:
        """Go through them in order."""
        return iter(self._sorted)

    def add(self, place: int) -> None:
        """Add one; one may be there more than once."""
        bisect.insort(self._sorted, place)

    def remove(self, place: int) -> bool:
        """Take one away; False if it was not there."""
        at = bisect.bisect_left(self._sorted, place)
        if at < len(self._sorted) and self._sorted[at] == place:
            del self._sorted[at]
            return True
        return False

    def most(self, kin: Kin, place: int) -> int:
        """Return the most that any of them shares with this entry."""
        at = bisect.bisect_left(self._sorted, place)
        return max((kin.common(near, place) for near in self._sorted[max(0, at - 1) : at + 1]), default=0)

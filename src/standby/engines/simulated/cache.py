"""The prompt cache of the simulated Claude, by the documented rules (contract 9.1, numbers in brackets)."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from standby.records import SECOND, Clock
from standby.wire.caching import Layout, Split, Ttl, account

LOOK_BACK = 20
"""Positions that a breakpoint looks back over, its own the first (6)."""
LIFETIME_US = {"5m": 300 * SECOND, "1h": 3600 * SECOND}
CAPACITY = 100_000
"""Entries that are held; the one that was not used for longest makes room."""

Key = tuple[str, str, bytes]
"""Workspace, model, digest of the prefix (11)."""


@dataclass(frozen=True, slots=True)
class _Entry:
    until_us: int
    lifetime_us: int


@dataclass(frozen=True, slots=True)
class Asked:
    """What one request reads and will write."""

    split: Split
    """Its prompt tokens by what they cost."""
    _cache: PromptCache
    _writes: tuple[tuple[Key, _Entry], ...]

    def began(self) -> None:
        """Say that the answer begins: from now on others read what this request writes (10)."""
        for key, entry in self._writes:
            self._cache.keep(key, entry)


class PromptCache:
    """Which prefixes are cached, for whom and until when. One event loop only.

    What the rules leave open: a read refreshes the longest entry that each breakpoint finds; breakpoints inside the
    prefix that is read make no entries, since nothing is written there.
    """

    def __init__(self, clock: Clock, *, capacity: int = CAPACITY) -> None:
        """Begin empty."""
        self._clock = clock
        self._capacity = capacity
        self._entries: OrderedDict[Key, _Entry] = OrderedDict()

    def __len__(self) -> int:
        """Count the entries, those that expired and were not met since included."""
        return len(self._entries)

    def ask(self, workspace: str, model: str, layout: Layout, *, total: int, minimum: int) -> Asked:
        """Look a prompt of `total` tokens up, at the start of its request; `layout` is weighed in tokens.

        What is below `minimum` tokens is neither read nor written (9).
        """
        places = [(n, min(total, layout.blocks[n].end), layout.blocks[n].marker or "5m") for n in layout.markers]
        places = [place for place in places if place[1] >= minimum]
        now_us = self._clock()
        hits = [self._found((workspace, model), layout, number, now_us) for number, _, _ in places]
        best = max((hit for hit in hits if hit is not None), default=-1)
        read = min(total, layout.blocks[best].end) if best >= 0 else 0
        split = account(total=total, hit=read, markers=[(tokens, ttl) for _, tokens, ttl in places])
        writes = tuple(
            ((workspace, model, layout.blocks[number].digest), _written(ttl, now_us))
            for number, _, ttl in places
            if number > best
        )
        return Asked(split, self, writes)

    def keep(self, key: Key, entry: _Entry) -> None:
        """Make an entry visible; of two that parallel requests wrote, the one that lasts longer stays."""
        old = self._entries.get(key)
        if old is None or old.until_us < entry.until_us:
            self._entries[key] = entry
        self._entries.move_to_end(key)
        if len(self._entries) > self._capacity:
            self._entries.popitem(last=False)

    def _found(self, owner: tuple[str, str], layout: Layout, marker: int, now_us: int) -> int | None:
        """Return the number of the last block, at most 20 positions back, whose prefix is cached; refresh it (6, 7)."""
        first = layout.blocks[marker].position - LOOK_BACK + 1
        for number in range(marker, -1, -1):
            block = layout.blocks[number]
            if block.position < first:
                return None
            if self._is_alive((*owner, block.digest), now_us):
                return number
        return None

    def _is_alive(self, key: Key, now_us: int) -> bool:
        entry = self._entries.get(key)
        if entry is None:
            return False
        if entry.until_us <= now_us:
            del self._entries[key]
            return False
        self._entries[key] = _Entry(now_us + entry.lifetime_us, entry.lifetime_us)
        self._entries.move_to_end(key)
        return True


def _written(ttl: Ttl, now_us: int) -> _Entry:
    return _Entry(now_us + LIFETIME_US[ttl], LIFETIME_US[ttl])

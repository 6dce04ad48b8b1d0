"""The prompt cache of the simulated Claude, by the documented rules (contract 9.1, numbers in brackets)."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from standby.engines.simulated.tokens import TOOLS, TURN, count_block, count_tool
from standby.records import SECOND, Clock
from standby.wire.caching import Layout, Scale, Split, Ttl, account, layout
from standby.wire.claude import DEFAULT_MINIMUM, find
from standby.wire.messages import ContentParam, PromptParams, Tool

LOOK_BACK = 20
"""Positions that a breakpoint looks back over, its own the first (6)."""
SHORT_US = 300 * SECOND
HOUR_US = 3600 * SECOND
CAPACITY = 100_000
"""Entries that are held; the one that was not used for longest makes room."""

Key = tuple[str, str, bytes]
"""Workspace, model, digest of the prefix (11)."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """Until when a prefix is cached, by the lifetime that was asked for: requests that begin together may differ."""

    short_us: int = 0
    hour_us: int = 0


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

    def forget(self) -> None:
        """Begin empty again."""
        self._entries.clear()

    def look_up(self, params: PromptParams, *, workspace: str, model: str, total: int) -> Asked:
        """Look the prompt of a request up, at its start: `total` tokens as `count_prompt` counts them."""
        claude = find(model)
        if claude is None:
            return self.ask(workspace, model, layout(params, scale=TOKENS), total=total, minimum=DEFAULT_MINIMUM)
        whole = layout(params, scale=TOKENS, thinking=claude.thinks, effort=claude.effort)
        return self.ask(workspace, model, whole, total=total, minimum=claude.minimum)

    def ask(self, workspace: str, model: str, whole: Layout, *, total: int, minimum: int) -> Asked:
        """Look a prompt of `total` tokens up whose layout is weighed in tokens.

        What is below `minimum` tokens is neither read nor written (9).
        """
        places = [(n, min(total, whole.blocks[n].end), whole.blocks[n].marker or "5m") for n in whole.markers]
        places = [place for place in places if place[1] >= minimum]
        now_us = self._clock()
        hits = [self._found((workspace, model), whole, number, now_us) for number, _, _ in places]
        best = max((hit for hit in hits if hit is not None), default=-1)
        read = min(total, whole.blocks[best].end) if best >= 0 else 0
        split = account(total=total, hit=read, markers=[(tokens, ttl) for _, tokens, ttl in places])
        writes = tuple(
            ((workspace, model, whole.blocks[number].digest), _written(ttl, now_us))
            for number, _, ttl in places
            if number > best
        )
        return Asked(split, self, writes)

    def keep(self, key: Key, entry: _Entry) -> None:
        """Make an entry visible, beside what parallel requests wrote."""
        old = self._entries.get(key, _Entry())
        self._entries[key] = _Entry(max(old.short_us, entry.short_us), max(old.hour_us, entry.hour_us))
        self._entries.move_to_end(key)
        if len(self._entries) > self._capacity:
            self._entries.popitem(last=False)

    def _found(self, owner: tuple[str, str], whole: Layout, marker: int, now_us: int) -> int | None:
        """Return the number of the last block, at most 20 positions back, whose prefix is cached; refresh it (6, 7)."""
        first = whole.blocks[marker].position - LOOK_BACK + 1
        for number in range(marker, -1, -1):
            block = whole.blocks[number]
            if block.position < first:
                return None
            if self._is_alive((*owner, block.digest), now_us):
                return number
        return None

    def _is_alive(self, key: Key, now_us: int) -> bool:
        entry = self._entries.get(key)
        if entry is None:
            return False
        short, hour = entry.short_us > now_us, entry.hour_us > now_us
        if not (short or hour):
            del self._entries[key]
            return False
        self._entries[key] = _Entry(now_us + SHORT_US if short else 0, now_us + HOUR_US if hour else 0)
        self._entries.move_to_end(key)
        return True


def _written(ttl: Ttl, now_us: int) -> _Entry:
    return _Entry(hour_us=now_us + HOUR_US) if ttl == "1h" else _Entry(short_us=now_us + SHORT_US)


def _count(block: Tool | ContentParam) -> int:
    return count_tool(block) if isinstance(block, Tool) else count_block(block)


TOKENS = Scale(block=_count, tools=TOOLS, turn=TURN)
"""Weighs as `count_prompt` counts. What every prompt has comes last, as the start of the answer does in the API."""

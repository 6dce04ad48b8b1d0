"""What gates remember of an endpoint: what is in flight there, and what its cache should hold. Pure."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from standby.records import BatchId
from standby.scheduler.kin import Kin, Places

MOST_WARM = 4096
"""Prompts that are remembered as computed, at each endpoint whose cache has no known size."""


@dataclass(slots=True)
class Opened:
    """A group of which something was started at an endpoint."""

    in_flight: int = 0
    used_us: int = 0


@dataclass(slots=True)
class Slot:
    """One slot of an engine with a cache per slot."""

    batch_id: BatchId | None = None
    index: int = 0
    """The entry whose prompt it holds."""
    in_flight: int = 0
    unread_since_us: int | None = None
    """Since when a prompt is being read there; None if its first token came, or nothing is in flight."""


@dataclass(slots=True, eq=False)
class Endpoint:
    """What we have at one endpoint, and what it should remember of it."""

    in_flight: int = 0
    full_since_us: int | None = None
    kv_tokens: int = 0
    is_warm_first: bool = False
    """Whether a prefix is there from its first token on: only then it matters who computes what, and what is warm."""
    computing: dict[BatchId, Places] = field(default_factory=dict)
    """Started, and no token seen yet."""
    warm: dict[BatchId, Places] = field(default_factory=dict)
    """A token was seen, and since then no more was computed than the cache holds."""
    ages: deque[tuple[int, BatchId, int]] = field(default_factory=deque)
    """The same in the order in which they became warm, with `computed` at that time."""
    computed: int = 0
    """Tokens of prompts computed so far, as far as they were ours."""
    opened: dict[tuple[BatchId, int], Opened] = field(default_factory=dict)
    slots: dict[int, Slot] = field(default_factory=dict)
    joins_since_us: int | None = None
    """Since when a free slot found nothing in hand but what busy ones have."""

    def close(self, batch_id: BatchId) -> None:
        """Close the groups of a batch that have nothing in flight."""
        self.opened = {key: one for key, one in self.opened.items() if key[0] != batch_id or one.in_flight}

    def warmest(self, kin: Kin | None, batch_id: BatchId, index: int) -> int:
        """Return how much of a prompt should be in a cache that all share."""
        warm = self.warm.get(batch_id)
        return warm.most(kin, index) if kin is not None and warm is not None else 0

    def warmed(self, batch_id: BatchId, index: int, fresh: int) -> None:
        """Note that a prompt was computed, `fresh` tokens of it anew; the oldest that no longer fit are forgotten."""
        self.computed += fresh
        self.warm.setdefault(batch_id, Places()).add(index)
        self.ages.append((self.computed, batch_id, index))
        while len(self.ages) > MOST_WARM or (self.kv_tokens and self.computed - self.ages[0][0] > self.kv_tokens):
            self._cool(*self.ages.popleft()[1:])

    def lost(self) -> None:
        """Forget what it had in its cache."""
        self.warm.clear()
        self.ages.clear()
        self.full_since_us = None
        self.opened = {key: one for key, one in self.opened.items() if one.in_flight}
        self.slots = {number: slot for number, slot in self.slots.items() if slot.in_flight}

    @property
    def is_idle(self) -> bool:
        """Whether nothing is in flight there, nor any group open."""
        return not (self.in_flight or self.opened or self.computing)

    def _cool(self, batch_id: BatchId, index: int) -> None:
        warm = self.warm[batch_id]
        warm.remove(index)
        if not warm:
            del self.warm[batch_id]


@dataclass(slots=True)
class Branches:
    """What the slots of an endpoint hold of one plan."""

    batch_id: BatchId
    slots: list[Slot]

    def held(self, kin: Kin, index: int, *, is_busy: bool) -> int:
        """Return the most that a busy slot holds of a prompt, or a free one."""
        return max(
            (
                kin.common(slot.index, index)
                for slot in self.slots
                if slot.batch_id == self.batch_id and (slot.in_flight > 0) is is_busy
            ),
            default=0,
        )

    def loss(self, kin: Kin, index: int) -> int:
        """Return what would be computed again if an item did not wait for the busy slot that holds most of it."""
        return self.held(kin, index, is_busy=True) - self.held(kin, index, is_busy=False)

"""Prefix caches of engines: what is kept of prompts, for whom, and what makes room when it is full. Pure.

All lengths are tokens. A cache holds every request's prompt and answer while it runs; of prompts it keeps what it can
afterwards.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Protocol

from standby.engines.simulated.chains import Chain

SIMILAR = 0.1
"""Least part of a prompt that must be in a slot for that slot to be chosen for it (llama-server's default)."""


@dataclass(slots=True, kw_only=True, eq=False)
class Place:
    """What one running request holds in a cache."""

    chain: Chain
    hit: int = 0
    """How many blocks of the chain were there."""
    pinned: int = 0
    """How many blocks of the chain it holds together with others, from the first on."""
    own: int = 0
    """Tokens that nobody else sees."""
    is_read: bool = False
    slot: int = 0
    tokens: int = 0


class Prefixes(Protocol):
    """One cache."""

    @property
    def used(self) -> float:
        """How full it is with running requests, 0 to 1."""
        ...

    def fits(self, tokens: int) -> bool:
        """Whether a request of so many tokens, answer included, can run at all."""
        ...

    def admit(self, chain: Chain, tokens: int, slot: int | None = None, *, spare: int = 0) -> tuple[Place, int] | None:
        """Make room for a prompt of so many tokens; return its place and how many were there, None if it is full.

        `slot` is the one that it must have, where there are slots; elsewhere `spare` tokens stay free besides.
        """
        ...

    def read(self, place: Place) -> None:
        """Say that the prompt was computed."""
        ...

    def grow(self, place: Place) -> bool:
        """Make room for one token of the answer; False if there is none."""
        ...

    def release(self, place: Place) -> None:
        """Say that the request does not run any more."""
        ...


@dataclass(slots=True)
class _Pinned:
    tokens: int
    holders: int = 0


class Shared:
    """One cache for all requests, paged: what nobody uses any more makes room, the least recently used first."""

    def __init__(self, *, capacity: int, at_once: bool, least: int = 0) -> None:
        """`at_once`: a prompt can be reused as soon as it is admitted; otherwise when it was computed."""
        self._capacity = capacity
        self._at_once = at_once
        self._least = least
        self._pinned: dict[int, _Pinned] = {}
        self._idle: OrderedDict[int, int] = OrderedDict()
        self._busy_tokens = 0
        self._idle_tokens = 0

    @property
    def used(self) -> float:
        """How full it is with running requests, 0 to 1."""
        return self._busy_tokens / self._capacity

    def fits(self, tokens: int) -> bool:
        """Whether a request of so many tokens, answer included, can run at all."""
        return tokens <= self._capacity

    def admit(
        self,
        chain: Chain,
        tokens: int,
        slot: int | None = None,  # noqa: ARG002 - see `Prefixes`
        *,
        spare: int = 0,
    ) -> tuple[Place, int] | None:
        """Make room for a prompt; at least its last token is always computed again."""
        hit, cached = self._match(chain, tokens)
        revived = sum(self._idle.get(digest, 0) for digest, _ in chain[:hit])
        if self._busy_tokens + revived + tokens - cached + spare > self._capacity:
            return None
        place = Place(chain=chain, hit=hit, own=tokens - cached, tokens=tokens)
        self._busy_tokens += place.own
        self._pin(place, hit, is_new=False)
        if self._at_once:
            self._pin(place, len(chain), is_new=True)
        self._make_room()
        return place, cached

    def read(self, place: Place) -> None:
        """Let others reuse the prompt from now on."""
        place.is_read = True
        self._pin(place, len(place.chain), is_new=True)

    def grow(self, place: Place) -> bool:
        """Take one more token, from what nobody uses if need be."""
        if self._busy_tokens >= self._capacity:
            return False
        place.own += 1
        self._busy_tokens += 1
        self._make_room()
        return True

    def release(self, place: Place) -> None:
        """Keep the prompt's blocks as long as there is room; the last ones go first, for fewer prompts share them."""
        self._busy_tokens -= place.own
        for number in range(place.pinned - 1, -1, -1):
            digest = place.chain[number][0]
            pinned = self._pinned[digest]
            pinned.holders -= 1
            if not pinned.holders:
                del self._pinned[digest]
                self._busy_tokens -= pinned.tokens
                if place.is_read or number < place.hit:
                    self._idle[digest] = pinned.tokens
                    self._idle_tokens += pinned.tokens

    def _match(self, chain: Chain, tokens: int) -> tuple[int, int]:
        hit = cached = 0
        for number, (digest, upto) in enumerate(chain, start=1):
            if upto >= tokens or not (digest in self._pinned or digest in self._idle):
                break
            hit, cached = number, upto
        return (hit, cached) if cached >= self._least else (0, 0)

    def _pin(self, place: Place, until: int, *, is_new: bool) -> None:
        """Hold blocks of the chain together with whoever else holds them; new ones were the request's own before."""
        for number in range(place.pinned, until):
            digest, upto = place.chain[number]
            tokens = upto - (place.chain[number - 1][1] if number else 0)
            if is_new:
                place.own -= tokens
                self._busy_tokens -= tokens
            pinned = self._pinned.get(digest)
            if pinned is None:
                pinned = self._pinned[digest] = _Pinned(tokens)
                self._busy_tokens += tokens
                self._idle_tokens -= self._idle.pop(digest, 0)
            pinned.holders += 1
        place.pinned = max(place.pinned, until)

    def _make_room(self) -> None:
        while self._idle and self._busy_tokens + self._idle_tokens > self._capacity:
            self._idle_tokens -= self._idle.popitem(last=False)[1]


@dataclass(slots=True)
class _Slot:
    held: dict[int, int] = field(default_factory=dict)
    """Tokens up to the end of each block that it keeps."""
    is_busy: bool = False
    used_at: int = 0


class PerSlot:
    """Every slot keeps the prompt that it had last, for itself."""

    def __init__(self, *, slots: int, capacity: int) -> None:
        """`capacity` is that of one slot."""
        self._slots = [_Slot() for _ in range(slots)]
        self._capacity = capacity
        self._tokens = 0
        self._turns = 0

    @property
    def used(self) -> float:
        """How full the slots are with running requests, 0 to 1."""
        return self._tokens / (self._capacity * len(self._slots))

    def fits(self, tokens: int) -> bool:
        """Whether a request of so many tokens, answer included, fits a slot."""
        return tokens <= self._capacity

    def admit(
        self,
        chain: Chain,
        tokens: int,
        slot: int | None = None,
        *,
        spare: int = 0,  # noqa: ARG002 - see `Prefixes`
    ) -> tuple[Place, int] | None:
        """Take the slot asked for, or the free one that holds most of the prompt or was not used for longest."""
        number = self._chosen(chain, tokens) if slot is None else slot % len(self._slots)
        if number is None or self._slots[number].is_busy:
            return None
        taken = self._slots[number]
        cached = min(_common(taken, chain), tokens - 1)
        self._turns += 1
        taken.is_busy, taken.used_at = True, self._turns
        taken.held = {digest: upto for digest, upto in chain if upto <= cached}
        self._tokens += tokens
        return Place(chain=chain, slot=number, tokens=tokens), cached

    def _chosen(self, chain: Chain, tokens: int) -> int | None:
        free = [(number, slot) for number, slot in enumerate(self._slots) if not slot.is_busy]
        if not free:
            return None
        number, slot = max(free, key=lambda one: (_common(one[1], chain), -one[0]))
        if _common(slot, chain) < SIMILAR * tokens:
            number, slot = min(free, key=lambda one: one[1].used_at)
        return number

    def read(self, place: Place) -> None:
        """Keep the prompt."""
        place.is_read = True
        self._slots[place.slot].held = dict(place.chain)

    def grow(self, place: Place) -> bool:
        """Count one more token; whoever was admitted fits."""
        place.tokens += 1
        self._tokens += 1
        return True

    def release(self, place: Place) -> None:
        """Free the slot, which keeps its prompt."""
        self._tokens -= place.tokens
        self._slots[place.slot].is_busy = False


def _common(slot: _Slot, chain: Chain) -> int:
    """Return how many tokens of a prompt a slot holds."""
    cached = 0
    for digest, upto in chain:
        if digest not in slot.held:
            break
        cached = upto
    return cached

"""Where an item may start now, so that what prompts share is computed once. Pure.

An engine's cache profile says when a prefix that one request computes is there for the next (`engines/base.py`):
at once, so nobody waits; after its first token, so one goes first at every fork of the tree; in its slot only, so a
group stays in a slot. An item waits only for something that is in flight.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from standby.engines.base import CacheProfile
from standby.records import SECOND, BatchId
from standby.scheduler.caches import Branches, Endpoint, Opened, Slot
from standby.scheduler.kin import UNGROUPED, Kin, Places

NEAR = 32
"""Tokens: what somebody in flight must offer beyond what is there already to be waited for (SGLang's own measure)."""
OPEN_SHARE = 0.7
"""Part of a cache that prefixes of open groups may fill; the rest is for what follows them, and for answers."""
SPILL_LEFT = 8
"""Items left in a group that pay for computing its prefix once more."""
SPILL_US = 2 * SECOND
"""How long a group's own endpoint must be full before another one helps."""
JOIN_US = SECOND // 4
"""How long a free slot waits for other work to be taken in hand before it joins in what a busy slot has."""
IDLE_US = 10 * SECOND
"""A group that had nothing in flight for so long does not keep others from being opened."""
REST_US = 60 * SECOND
"""How long a slot is kept for a group that had nothing in flight, while its batch has no more than its share."""
PASS_US = SECOND
"""For how long a prompt may be passed by others in earlier slots: read slot after slot, it might never have a turn."""
REST_OF_GROUP = -1
"""A depth below every prefix."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Want:
    """An item that wants to start."""

    batch_id: BatchId
    index: int
    """Its place in the plan."""
    group: int
    shared: int
    """Tokens that it shares with the entry before it."""
    prompt_tokens: int
    model: str


@dataclass(slots=True, kw_only=True)
class RoomView:
    """One endpoint in one pass; `free` falls as items start."""

    name: str
    cache: CacheProfile
    slots: int
    free: int
    """Batch items that may still start there."""
    kv_tokens: int
    """What its cache holds, for `per_slot` that of one slot; 0 if nobody knows."""
    takes: bool
    """Whether it is up and serves the model of the item."""
    kept: int = 0
    """Of the slots, the first ones, in which batches never are.

    Live requests find there what they left, and llama.cpp reads prompts in the order of its slots."""
    taken: frozenset[int] = frozenset()
    """Slots in which live requests are, for a cache `per_slot`."""
    reading: int = -1
    """The last slot in which the prompt of a live request is being read, for a cache `per_slot`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where an item starts."""

    endpoint: str
    slot: int | None
    """Only for a cache `per_slot`."""


class Gates:
    """Says where items may start. Ask `place` in the order of the plan; tell what became of those that started.

    Items that come again and entries whose neighbours are not in hand need nothing special: they share nothing.
    """

    def __init__(self) -> None:
        """Begin with no plan in hand and nothing in flight."""
        self._kin: dict[BatchId, Kin] = {}
        self._endpoints: dict[str, Endpoint] = {}
        self._refused: tuple[BatchId, int, int] | None = None
        self._now_us = 0

    def learn(self, batch_id: BatchId, first_index: int, shared: Sequence[int], groups: Sequence[int]) -> None:
        """Take a run in hand: of each entry what it shares with the one before it, in tokens, and its group."""
        self._kin.setdefault(batch_id, Kin()).learn(first_index, shared, groups)

    def forget(self, batch_id: BatchId, first_index: int) -> None:
        """Let go of a run; what of it is in flight may still be told about."""
        kin = self._kin.get(batch_id)
        if kin is not None:
            kin.forget(first_index)
            if not kin:
                del self._kin[batch_id]
                for endpoint in self._endpoints.values():
                    endpoint.close(batch_id)

    @property
    def is_empty(self) -> bool:
        """Whether no plan is in hand and nothing in flight, so that nothing but caches is remembered."""
        return not self._kin and all(endpoint.is_idle for endpoint in self._endpoints.values())

    def lost(self, name: str) -> None:
        """Note that an endpoint went away: its cache will be empty."""
        endpoint = self._endpoints.get(name)
        if endpoint is not None:
            endpoint.lost()

    def taken_over(self, name: str, slots: Collection[int]) -> None:
        """Note that live requests took slots: what a batch had there is gone."""
        for number in slots:
            slot = self._endpoint(name).slots.get(number)
            if slot is not None and not slot.in_flight:
                slot.batch_id = None

    def place(self, want: Want, rooms: Sequence[RoomView], now_us: int, left_in_group: int) -> Place | None:
        """Say where an item may start now; None if it must wait, or if no endpoint takes it.

        `left_in_group`: how many items of its group were not started yet, itself included.
        """
        self._now_us = now_us
        self._refused = (want.batch_id, want.index, REST_OF_GROUP)
        takers = [room for room in rooms if room.takes]
        for room in takers:
            self._look_how_full(room)
        for room in self._choices(want, takers, left_in_group):
            if room.free > 0:
                found = self._pass(want, room, takers)
                if found is not None:
                    self._refused = None
                    return found
        return None

    def started(self, want: Want, place: Place) -> None:
        """Book an item that starts where `place` said."""
        endpoint = self._endpoint(place.endpoint)
        endpoint.in_flight += 1
        if endpoint.is_warm_first:
            endpoint.computing.setdefault(want.batch_id, Places()).add(want.index)
        kin = self._kin.get(want.batch_id)
        if kin is not None:
            kin.take(want.index)
        if want.group != UNGROUPED:
            opened = endpoint.opened.setdefault((want.batch_id, want.group), Opened())
            opened.in_flight += 1
            opened.used_us = self._now_us
        if place.slot is not None:
            slot = endpoint.slots.setdefault(place.slot, Slot())
            slot.batch_id, slot.index = want.batch_id, want.index
            slot.in_flight += 1
            slot.unread_since_us = self._now_us
            endpoint.joins_since_us = None

    def first_token(self, want: Want, place: Place) -> None:
        """Note that the first token is out, so the prompt was computed; for an answer that came whole, before `ended`.

        Later calls for the same attempt change nothing.
        """
        endpoint = self._endpoint(place.endpoint)
        if place.slot in endpoint.slots:
            endpoint.slots[place.slot].unread_since_us = None
        computing = endpoint.computing.get(want.batch_id)
        if computing is not None and computing.remove(want.index):
            warm = endpoint.warmest(self._kin.get(want.batch_id), want.batch_id, want.index)
            endpoint.warmed(want.batch_id, want.index, want.prompt_tokens - min(warm, want.prompt_tokens))

    def ended(self, want: Want, place: Place) -> None:
        """Note that an attempt ended, however it did; whoever waited for its first token waits no more."""
        endpoint = self._endpoint(place.endpoint)
        endpoint.in_flight -= 1
        computing = endpoint.computing.get(want.batch_id)
        if computing is not None:
            computing.remove(want.index)
            if not computing:
                del endpoint.computing[want.batch_id]
        opened = endpoint.opened.get((want.batch_id, want.group))
        if opened is not None:
            opened.in_flight -= 1
            if not self._stays_open((want.batch_id, want.group), opened):
                del endpoint.opened[want.batch_id, want.group]
        if place.slot in endpoint.slots:
            endpoint.slots[place.slot].in_flight -= 1
            endpoint.slots[place.slot].unread_since_us = None

    def resume_at(self, want: Want) -> int:
        """Return the first later place in the plan worth a try after `place` refused this item.

        One that lies in the same group means that another branch of it may start.
        """
        kin = self._kin.get(want.batch_id)
        if kin is None or self._refused is None or self._refused[:2] != (want.batch_id, want.index):
            return want.index + 1
        depth = self._refused[2]
        if depth > REST_OF_GROUP:
            return kin.end(want.index, depth)
        return want.index + 1 if want.group == UNGROUPED else kin.behind_group(want.index)

    def _refuse(self, want: Want, depth: int) -> None:
        """Note how far up the tree nobody need try; where endpoints differ, what the most willing one says."""
        if self._refused is None or self._refused[:2] != (want.batch_id, want.index) or self._refused[2] < depth:
            self._refused = (want.batch_id, want.index, depth)

    # -- which endpoint

    def _choices(self, want: Want, takers: list[RoomView], left_in_group: int) -> list[RoomView]:
        """Return the endpoints that may take an item, the best first: its group's own, those that help it already."""
        if len(takers) <= 1:
            return takers
        if want.group == UNGROUPED:
            return sorted(takers, key=lambda room: -room.free / max(1, room.slots))
        ranked = sorted(takers, key=lambda room: _rank(want.batch_id, want.group, room.name), reverse=True)
        home = ranked[0]
        full_since_us = self._endpoint(home.name).full_since_us
        if full_since_us is not None and self._now_us - full_since_us > SPILL_US and left_in_group >= SPILL_LEFT:
            return sorted(ranked, key=lambda room: room is not home and not self._is_open(room, want))
        return [home, *(room for room in ranked[1:] if self._is_open(room, want))]

    def _look_how_full(self, room: RoomView) -> None:
        """Note since when an endpoint is full; a place that becomes free for a moment changes nothing."""
        endpoint = self._endpoint(room.name)
        endpoint.kv_tokens = room.kv_tokens
        endpoint.is_warm_first = room.cache is CacheProfile.SHARED_AFTER_FIRST_TOKEN
        if room.free <= 0:
            if endpoint.full_since_us is None:
                endpoint.full_since_us = self._now_us
        elif room.free > max(1, room.slots // 8):
            endpoint.full_since_us = None

    def _is_open(self, room: RoomView, want: Want) -> bool:
        return (want.batch_id, want.group) in self._endpoint(room.name).opened

    # -- and when

    def _pass(self, want: Want, room: RoomView, takers: list[RoomView]) -> Place | None:
        if room.cache is CacheProfile.PER_SLOT:
            return self._pass_slots(want, room, takers)
        if room.cache is not CacheProfile.NONE and not self._has_room_for_group(want, room):
            return None
        if room.cache is CacheProfile.SHARED_AFTER_FIRST_TOKEN and not self._pass_warm_first(want, room):
            return None
        return Place(endpoint=room.name, slot=None)

    def _has_room_for_group(self, want: Want, room: RoomView) -> bool:
        """Whether a group is open already or may be opened: too many at once would push each other out."""
        endpoint = self._endpoint(room.name)
        key = (want.batch_id, want.group)
        if not room.kv_tokens or want.group == UNGROUPED or key in endpoint.opened or not endpoint.in_flight:
            return True
        endpoint.opened = {other: one for other, one in endpoint.opened.items() if self._stays_open(other, one)}
        filled = sum(self._prefix(other) for other in endpoint.opened)
        return filled + self._prefix(key) <= OPEN_SHARE * room.kv_tokens

    def _stays_open(self, key: tuple[BatchId, int], opened: Opened) -> bool:
        kin = self._kin.get(key[0])
        is_wanted = kin is not None and kin.waiting[key[1]] > 0 and self._now_us - opened.used_us < IDLE_US
        return opened.in_flight > 0 or is_wanted

    def _prefix(self, key: tuple[BatchId, int]) -> int:
        kin = self._kin.get(key[0])
        return kin.prefix(key[1]) if kin is not None else 0

    def _pass_warm_first(self, want: Want, room: RoomView) -> bool:
        """Wait while somebody computes more of the prompt than is there; the rest of that branch waits as well."""
        endpoint, kin = self._endpoint(room.name), self._kin.get(want.batch_id)
        computing = endpoint.computing.get(want.batch_id)
        if kin is None or computing is None:
            return True
        warm = endpoint.warmest(kin, want.batch_id, want.index)
        if computing.most(kin, want.index) - warm < NEAR:
            return True
        self._refuse(want, warm + NEAR - 1)
        return False

    def _pass_slots(self, want: Want, room: RoomView, takers: list[RoomView]) -> Place | None:
        """Go to the free slot that holds most of the prompt; wait if a busy one holds more and there is other work.

        With no better work left another slot joins in, if what is left of the branch pays for its prefix.
        """
        held, count = self._endpoint(room.name).slots, max(1, room.slots)
        slots = {number: held.setdefault(number, Slot()) for number in range(min(room.kept, count - 1), count)}
        free = [number for number, slot in slots.items() if not slot.in_flight and number not in room.taken]
        if not free:
            return None
        found = ((number, self._wanted_since_us(slot, room.name)) for number, slot in slots.items())
        wanted = {number: used_us for number, used_us in found if used_us is not None}
        owners = Counter(slot.batch_id for number, slot in slots.items() if slot.in_flight or number in wanted)
        best = min(free, key=lambda n: _worth(n, self._held(slots[n], want), wanted.get(n), owners[slots[n].batch_id]))
        is_taking = best in wanted and self._held(slots[best], want) < NEAR
        if is_taking and owners[want.batch_id] >= max(1, len(slots) // max(1, len(self._kin))):
            # with its share taken: more groups than slots would take turns, each turn beginning with its prefix again
            return None
        kin, branches = self._kin.get(want.batch_id), Branches(want.batch_id, list(slots.values()))
        if kin is not None and branches.loss(kin, want.index) >= NEAR:
            depth = branches.held(kin, want.index, is_busy=False) + NEAR - 1
            left = kin.left(kin.begin(want.index, depth), kin.end(want.index, depth))
            is_last = left >= SPILL_LEFT and not self._has_better_work(want, kin, branches, room, takers)
            if not (is_last and self._may_join(room.name)):
                self._refuse(want, max(depth, branches.held(kin, want.index, is_busy=True) - NEAR))
                return None
        later = (slot.unread_since_us for number, slot in slots.items() if number > best)
        if room.reading > best or any(us is not None and self._now_us - us > PASS_US for us in later):
            return None
        return Place(endpoint=room.name, slot=best)

    def _may_join(self, name: str) -> bool:
        """Whether there was time enough to take more in hand: the rest of the plan is not known here."""
        endpoint = self._endpoint(name)
        if endpoint.joins_since_us is None:
            endpoint.joins_since_us = self._now_us
        return self._now_us - endpoint.joins_since_us >= JOIN_US

    def _has_better_work(
        self, want: Want, kin: Kin, branches: Branches, room: RoomView, takers: list[RoomView]
    ) -> bool:
        """Whether another branch of this plan could start here for which less must be computed twice."""
        most = branches.loss(kin, want.index) - NEAR
        index = kin.next_left(0)
        while index is not None:
            group = kin.group(index)
            is_ours = group == UNGROUPED or room.name == _home(want.batch_id, group, takers)
            if is_ours and branches.loss(kin, index) <= most:
                return True
            busy = branches.held(kin, index, is_busy=True)
            index = kin.next_left(kin.end(index, max(0, busy - NEAR)) if is_ours else kin.behind_group(index))
        return False

    def _held(self, slot: Slot, want: Want) -> int:
        """Return how much of a prompt a slot holds, or will hold."""
        kin = self._kin.get(want.batch_id)
        if kin is None or slot.batch_id != want.batch_id:
            return 0
        return kin.common(slot.index, want.index)

    def _wanted_since_us(self, slot: Slot, name: str) -> int | None:
        """Return when what a slot holds was used last, if items in hand wait for it and had a turn lately."""
        kin = self._kin.get(slot.batch_id) if slot.batch_id is not None else None
        if kin is None or slot.batch_id is None:
            return None
        group = kin.group(slot.index)
        opened = self._endpoint(name).opened.get((slot.batch_id, group))
        if group == UNGROUPED or not kin.waiting[group] or opened is None:
            return None
        return opened.used_us if self._now_us - opened.used_us < REST_US else None

    def _endpoint(self, name: str) -> Endpoint:
        found = self._endpoints.get(name)
        if found is None:
            found = self._endpoints[name] = Endpoint()
        return found


def _home(batch_id: BatchId, group: int, takers: list[RoomView]) -> str:
    """Return the endpoint that a group belongs to (rendezvous hashing): it moves only if that endpoint goes away."""
    return max((room.name for room in takers), key=lambda name: _rank(batch_id, group, name))


def _rank(batch_id: BatchId, group: int, name: str) -> bytes:
    return hashlib.blake2b(f"{batch_id} {group} {name}".encode(), digest_size=8).digest()


def _worth(number: int, held: int, used_us: int | None, owned: int) -> tuple[int, bool, int, int, int]:
    """Rank a free slot: what it holds of an item, what nobody waits for, of who has most slots the oldest, the last."""
    return (-held, False, 0, 0, -number) if used_us is None else (-held, True, -owned, used_us, -number)

"""The order of a batch: prompts that share a prefix together, groups of them, and what each item costs. Pure.

`sharing.py` walks the radix tree of the prompts; here the same tree is built once more from what neighbours share, to
put what belongs to one of its nodes into another order where that loses nothing, and to cut it into groups.
"""

from __future__ import annotations

import itertools
import math
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from standby.records import PlanFacts, Slice
from standby.scheduler.prompts import BYTES_A_TOKEN

GROUP_BYTES = 512
"""A shared prefix shorter than this makes no group."""
FOLD_BYTES = 32
"""A node whose prompts share at most so much more than their neighbours is none: it seldom saves a block of a cache."""
FOLD_SHARE = 0.01
"""Nor is one that saves less than this part of its prompts."""
SMALL = 512
"""Below eight windows of 64 items the longest answers go first, so that none of them is left over at the end."""
EXPECTED = 256
"""Tokens of an answer as long as nothing is known of its like; a client often allows many more than it gets."""
CACHED = 10
"""A cached prompt token costs this much less."""
OUTPUT = 2
"""What a token of the answer costs, in uncached tokens of the prompt."""

RUN_BYTES = 2 << 20
RUNS_A_BATCH = 400
RUN_ITEMS_MIN, RUN_ITEMS_MAX = 16, 256
STRETCH = 4
"""A run may grow to so many times its usual size rather than cut a group in two."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is known of the items, by item number: bytes of their prompts, and `max_tokens`."""

    prompts: Sequence[int]
    max_tokens: Sequence[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Four columns, an entry a place in the plan; tokens are estimates."""

    items: array[int]
    groups: array[int]
    shared: array[int]
    costs: array[int]
    facts: PlanFacts


def arrange(order: Sequence[int], shared: Sequence[int], asked: Asked, *, may_move: bool = True) -> Plan:
    """Make a plan of an order and the bytes that each item in it shares with the one before it (the first none).

    With `may_move` subtrees change places where nothing is lost by it; otherwise the order stays, and a group is what
    stands together by itself.
    """
    parts = _Tree(order, shared, asked, may_move=may_move).parts()
    items, groups, tokens, costs = array("I"), array("I"), array("I"), array("I")
    prompt_tokens, names = 0, {0: 0}
    for part in parts:
        group = names.setdefault(part.group, len(names))
        for place in range(part.start, part.stop):
            item = order[place]
            prompt = asked.prompts[item] // BYTES_A_TOKEN
            reused = (part.common if place == part.start else shared[place]) // BYTES_A_TOKEN
            items.append(item)
            groups.append(group)
            tokens.append(reused)
            costs.append(prompt - reused + reused // CACHED + OUTPUT * min(asked.max_tokens[item], EXPECTED))
            prompt_tokens += prompt
    facts = PlanFacts(prompt_tokens=prompt_tokens, shared_tokens=sum(tokens), groups=len(names) - 1)
    return Plan(items=items, groups=groups, shared=tokens, costs=costs, facts=facts)


def runs_of(plan: Plan, lengths: Sequence[int]) -> Iterator[Slice]:
    """Cut a plan into runs: 16 to 256 items, about 400 runs a large batch, at most 2 MiB each.

    A group is cut in two only where a run cannot end before or behind it.
    """
    size = len(plan.items)
    usual = max(RUN_ITEMS_MIN, min(RUN_ITEMS_MAX, size // RUNS_A_BATCH))
    most = min(RUN_ITEMS_MAX, STRETCH * usual)
    first = 0
    while first < size:
        furthest = _furthest(plan.items, lengths, first, most)
        stop = _beside_group(plan.groups, first, min(first + usual, furthest), furthest)
        yield Slice(first=first, count=stop - first, cost=sum(plan.costs[first:stop]))
        first = stop


def _furthest(items: Sequence[int], lengths: Sequence[int], first: int, most: int) -> int:
    """Return where a run that begins at `first` must end at the latest; one item always fits."""
    size = lengths[items[first]]
    for stop in range(first + 1, min(first + most, len(items))):
        size += lengths[items[stop]]
        if size > RUN_BYTES:
            return stop
    return min(first + most, len(items))


def _beside_group(groups: Sequence[int], first: int, stop: int, furthest: int) -> int:
    """Move the end of a run out of a group: behind it, or before it if that leaves enough items."""
    if stop == len(groups) or not groups[stop] or groups[stop] != groups[stop - 1]:
        return stop
    begin = end = stop
    while begin > first and groups[begin - 1] == groups[stop]:
        begin -= 1
    while end < furthest and groups[end] == groups[stop]:
        end += 1
    if end == len(groups) or groups[end] != groups[stop]:
        return end
    return begin if begin - first >= RUN_ITEMS_MIN else stop


@dataclass(slots=True)
class _Part:
    """Places of the given order that stay together."""

    start: int
    stop: int
    common: int
    """Bytes that its first item shares with whatever stands before it."""
    group: int = 0


@dataclass(slots=True)
class _Unit:
    """Neighbours under one node: a subtree, or several items that hang there side by side."""

    parts: list[_Part]
    items: int
    heads: int
    """Children of the node that it stands for."""
    fresh: int
    """Bytes that must be computed if nothing before it is shared."""
    answers: int
    """Tokens that its answers are expected to have."""
    longest: int
    saved: int = 0
    """Bytes that groups save in it, each keeping only what all its items share."""


@dataclass(slots=True)
class _Node:
    depth: int
    """Bytes that all below it share."""
    units: list[_Unit] = field(default_factory=list)


class _Tree:
    """The radix tree of prompts in order: a node is a stretch of neighbours that share more than those around them."""

    def __init__(self, order: Sequence[int], shared: Sequence[int], asked: Asked, *, may_move: bool) -> None:
        self._order = order
        self._shared = shared
        self._asked = asked
        self._may_move = may_move
        self._longest_first = len(order) < SMALL or sum(shared) < FOLD_SHARE * sum(asked.prompts)
        self._groups = 0

    def parts(self) -> list[_Part]:
        """Walk over the neighbours, opening a node where they share more and closing it where they share less."""
        ahead = [_Node(0)]
        begin = 0
        for place, common in enumerate(self._shared):
            depth = ahead[-1].depth
            if depth <= common <= depth + FOLD_BYTES:
                continue  # one more side by side
            if common > depth:
                self._hang(ahead[-1], self._leaves(begin, place - 1))
                ahead.append(_Node(common))
                begin = place - 1
            else:
                begin = self._close(ahead, begin, place, common)
        self._close(ahead, begin, len(self._order), -1)
        parts = self._unit(ahead[0]).parts
        if parts:
            parts[0].common = 0
        return parts

    def _close(self, ahead: list[_Node], begin: int, stop: int, common: int) -> int:
        """Close the nodes that are deeper, the last of which has leaves from `begin` on; return where leaves go on."""
        hanging = self._leaves(begin, stop)
        self._hang(ahead[-1], hanging)
        while len(ahead) > 1 and ahead[-1].depth > common:
            node = ahead.pop()
            outer = max(common, ahead[-1].depth)
            hanging = node.units if _is_folded(node, more=node.depth - outer) else [self._unit(node)]
            if ahead[-1].depth + FOLD_BYTES < common:
                ahead.append(_Node(common))
            self._hang(ahead[-1], hanging)
        return stop

    def _leaves(self, begin: int, stop: int) -> list[_Unit]:
        """Make units of neighbours that hang side by side: one, or one for each stretch of equal `max_tokens`."""
        places = range(begin, stop)
        if not places:
            return []
        if self._longest_first:
            found = itertools.groupby(places, key=lambda place: self._asked.max_tokens[self._order[place]])
            return [self._strand(list(stretch)) for _, stretch in found]
        return [self._strand(places)]

    def _strand(self, places: Sequence[int]) -> _Unit:
        items = self._order[places[0] : places[-1] + 1]
        most = [self._asked.max_tokens[item] for item in items]
        return _Unit(
            parts=[_Part(places[0], places[-1] + 1, self._shared[places[0]])],
            items=len(items),
            heads=len(items),
            fresh=sum(self._asked.prompts[item] for item in items),
            answers=sum(min(each, EXPECTED) for each in most),
            longest=max(most),
        )

    def _hang(self, node: _Node, units: list[_Unit]) -> None:
        """Hang units under a node; items side by side that would sort alike become one unit."""
        for unit in units:
            if node.units and self._is_alike(node.units[-1], unit):
                _absorb(node.units[-1], unit)
            else:
                node.units.append(unit)

    def _is_alike(self, one: _Unit, other: _Unit) -> bool:
        return (
            one.heads == one.items
            and other.heads == other.items
            and one.parts[-1].stop == other.parts[0].start
            and (one.longest == other.longest or not self._longest_first)
        )

    def _unit(self, node: _Node) -> _Unit:
        """Make one unit of all that hangs under a node, and a group of it if that saves more than smaller groups do."""
        units = sorted(node.units, key=self._rank) if self._may_move else node.units
        items, below = sum(unit.items for unit in units), sum(unit.saved for unit in units)
        own = node.depth * (items - 1) if node.depth >= GROUP_BYTES else 0
        is_group = own > 0 and own >= below
        self._groups += is_group
        return _Unit(
            parts=self._joined(units, node.depth, self._groups if is_group else None),
            items=items,
            heads=1,
            fresh=_fresh(node),
            answers=sum(unit.answers for unit in units),
            longest=max((unit.longest for unit in units), default=0),
            saved=max(own, below),
        )

    def _rank(self, unit: _Unit) -> tuple[int, int]:
        """Say how early a unit runs: by its longest answer, or subtrees by answers for what must be computed for them.

        Long answers to short prompts first: while they are written, the prompts of later groups are read (BatchLLM).
        The measure is coarse, so that groups alike stay as they were submitted.
        """
        if self._longest_first:
            return 0, -unit.longest
        if unit.heads == unit.items:
            return 1, 0
        return 0, -round(2 * math.log2((1 + unit.answers) / (1 + unit.fresh // BYTES_A_TOKEN)))

    def _joined(self, units: list[_Unit], depth: int, group: int | None) -> list[_Part]:
        """String the parts of units together; those that still follow each other in the same group become one."""
        parts: list[_Part] = []
        for unit in units:
            for number, part in enumerate(unit.parts):
                if group is not None:
                    part.group = group
                is_next = bool(parts) and parts[-1].stop == part.start
                if is_next and parts[-1].group == part.group:
                    parts[-1].stop = part.stop
                    continue
                if parts and number == 0:
                    part.common = self._shared[part.start] if is_next else depth
                parts.append(part)
        return parts


def _absorb(one: _Unit, other: _Unit) -> None:
    one.parts[-1].stop = other.parts[-1].stop
    one.items += other.items
    one.heads += other.heads
    one.fresh += other.fresh
    one.answers += other.answers
    one.longest = max(one.longest, other.longest)


def _fresh(node: _Node) -> int:
    """Count what must be computed below a node if nothing before it is shared: what its children share only once."""
    heads = sum(unit.heads for unit in node.units)
    return sum(unit.fresh for unit in node.units) - node.depth * max(0, heads - 1)


def _is_folded(node: _Node, *, more: int) -> bool:
    """Whether a node saves too little, with `more` bytes than the one above it, to keep its items together."""
    items = sum(unit.items for unit in node.units)
    return more <= FOLD_BYTES or more * (items - 1) < FOLD_SHARE * _fresh(node)

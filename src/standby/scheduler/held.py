"""A run in a worker's hands: what waits, what is in flight, what is not committed yet."""

from __future__ import annotations

import asyncio
import zlib
from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import msgspec

from standby.blobs.base import Blobs, items_key, plan_key, segment_key
from standby.records import NO_REUSE, PLAN_ENTRY, BatchId, Bill, LeasedRun, PlanEntry, Reuse, Tokens, unpack_plan
from standby.scheduler.gates import Want
from standby.scheduler.plan import CACHED, OUTPUT
from standby.scheduler.prompts import BYTES_A_TOKEN
from standby.scheduler.quota import Token
from standby.scheduler.retry import Tries
from standby.states import Outcome

NEAR = 2
"""Items are read in one piece if that reads at most this many times their bytes."""


@dataclass(slots=True, kw_only=True)
class Queued:
    """An item on its way to an attempt; `params` is None if its stored bytes do not match their checksum."""

    entry: PlanEntry
    want: Want
    params: bytes | None
    max_tokens: int = 0
    """The longest answer that it asks for; 0 if it does not say."""
    tries: Tries = field(default_factory=Tries)
    was_yielded: bool = False
    """Whether an attempt at it was stopped for live traffic; that happens once at most."""

    @property
    def model(self) -> str:
        """The name that it asks for; empty if it names none."""
        return self.want.model

    @property
    def is_retry(self) -> bool:
        """Whether an attempt at it failed before."""
        return self.tries.total > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """An item's final outcome as a row, not committed yet."""

    item: int
    outcome: Outcome
    row: bytes
    tokens: Tokens = field(default_factory=Tokens)
    bill: Bill | None = None
    """What it cost; only for an item that succeeded."""
    token: Token | None = None
    """What is reserved for it until its charge is in the ledger."""
    reuse: Reuse = NO_REUSE
    """What the engine said of its prompt; nothing if it does not tell, or did not succeed."""


@dataclass(slots=True, kw_only=True, eq=False)
class HeldRun:
    """One leased run."""

    lease: LeasedRun
    queue: deque[Queued]
    in_flight: dict[int, asyncio.Task[None]] = field(default_factory=dict)
    waiting: Counter[int] = field(default_factory=Counter)
    """Items of each group that are in the queue."""
    models: Counter[str] = field(default_factory=Counter)
    """Items for each model that are in the queue."""
    delayed: dict[int, asyncio.Handle] = field(default_factory=dict)
    length: int = 0
    """Committed bytes of its segment."""
    size: int = 0
    """Bytes of its items that were read."""
    left: int
    """Items without a row so far."""
    uncommitted: int = 0
    stopped_us: int | None = None
    unread_until_us: int | None = None
    """When to read its items again, if that failed; the lease is kept meanwhile."""
    failed_reads: int = 0
    is_lost: bool = False
    is_done: bool = False

    @property
    def key(self) -> str:
        """The segment that only this lease writes."""
        return segment_key(self.lease.batch_id, self.lease.number, self.lease.epoch)

    @property
    def is_idle(self) -> bool:
        """Whether no attempt is under way or to come."""
        return not (self.queue or self.in_flight or self.delayed)

    @property
    def is_finished(self) -> bool:
        """Whether every item has its row, or the batch was stopped and nothing is under way any more."""
        return self.left == 0 or (self.stopped_us is not None and self.is_idle)

    def fill(self, queue: deque[Queued]) -> None:
        """Take the items that were read."""
        self.queue = queue
        self.size = sum(item.entry.length for item in queue)
        self.waiting = Counter(item.want.group for item in queue)
        self.models = Counter(item.model for item in queue)

    def take(self, place: int) -> Queued:
        """Take an item out of the queue."""
        item = self.queue[place]
        del self.queue[place]
        self.waiting[item.want.group] -= 1
        self.models[item.model] -= 1
        return item

    def give_back(self, item: Queued, *, in_front: bool = False) -> None:
        """Put an item into the queue again."""
        self.waiting[item.want.group] += 1
        self.models[item.model] += 1
        if in_front:
            self.queue.appendleft(item)
        else:
            self.queue.append(item)

    def longest_first(self, expected: Callable[[Queued], int]) -> None:
        """Put items that share nothing in the order of their expected answers, for the last ones to end together."""
        if not any(self.waiting[group] for group in self.waiting if group):
            self.queue = deque(sorted(self.queue, key=expected, reverse=True))

    def stop(self, now_us: int) -> None:
        """Dispatch nothing more of it; what is in flight goes on."""
        if self.stopped_us is None:
            self.stopped_us = now_us
            self.fill(deque())
            self._forget_delayed()

    def abandon(self) -> None:
        """Stop everything at once: the lease is lost or the server is going down."""
        self.fill(deque())
        self._forget_delayed()
        for task in list(self.in_flight.values()):
            task.cancel()

    def _forget_delayed(self) -> None:
        for timer in self.delayed.values():
            timer.cancel()
        self.delayed.clear()


def hold(lease: LeasedRun) -> HeldRun:
    """Take a run in hand before its items are read."""
    return HeldRun(lease=lease, queue=deque(), left=lease.count - len(lease.finished))


@dataclass(frozen=True, slots=True)
class Reading:
    """What was read of a run: the items that have no result yet, and how all its entries share prefixes."""

    queue: deque[Queued]
    shared: array[int]
    groups: array[int]


async def read_items(blobs: Blobs, lease: LeasedRun) -> Reading:
    """Read a run; `BlobError`, or `ValueError` for a damaged plan."""
    start = lease.first * PLAN_ENTRY.size
    packed = await blobs.read(plan_key(lease.batch_id), start=start, end=start + lease.count * PLAN_ENTRY.size)
    plan = list(unpack_plan(packed))
    places = [place for place, entry in enumerate(plan) if entry.item not in lease.finished]
    found = await _params_of(blobs, lease.batch_id, [plan[place] for place in places])
    queue = deque(
        _queued(lease.batch_id, lease.first + place, plan[place], params)
        for place, params in zip(places, found, strict=True)
    )
    return Reading(queue, array("L", (entry.shared for entry in plan)), array("L", (entry.group for entry in plan)))


async def _params_of(blobs: Blobs, batch_id: BatchId, entries: list[PlanEntry]) -> list[bytes]:
    """Read the params of entries that may lie far from each other, in one call."""
    by_place = sorted(range(len(entries)), key=lambda number: entries[number].offset)
    pieces = list(_pieces([entries[number] for number in by_place]))
    spans = [(piece[0].offset, max(entry.offset + entry.length for entry in piece)) for piece in pieces]
    datas = await blobs.read_many(items_key(batch_id), spans)
    params = [
        data[entry.offset - begin : entry.offset - begin + entry.length]
        for piece, (begin, _), data in zip(pieces, spans, datas, strict=True)
        for entry in piece
    ]
    return [found for _, found in sorted(zip(by_place, params, strict=True))]


def expected_cost(want: Want, output_tokens: int) -> int:
    """Return what an item will cost an engine in cost tokens, if its answer has so many tokens."""
    return cost_of(want.prompt_tokens - want.shared, want.shared, output_tokens)


def cost_of(uncached: int, cached: int, output: int) -> int:
    """Weigh tokens by the work that they are for an engine (scheduling (a) 4)."""
    return round(max(0, uncached) + cached / CACHED + OUTPUT * output)


def _queued(batch_id: BatchId, index: int, entry: PlanEntry, params: bytes) -> Queued:
    is_whole = zlib.crc32(params) == entry.crc
    named = _named_in(params) if is_whole else _Named()
    want = Want(
        batch_id=batch_id,
        index=index,
        group=entry.group,
        shared=entry.shared,
        prompt_tokens=max(entry.shared, entry.length // BYTES_A_TOKEN),
        model=named.model,
    )
    return Queued(entry=entry, want=want, params=params if is_whole else None, max_tokens=named.max_tokens)


class _Named(msgspec.Struct):
    """All that is looked at before an item's turn comes."""

    model: str = ""
    max_tokens: int = 0


_named = msgspec.json.Decoder(_Named)


def _named_in(params: bytes) -> _Named:
    try:
        return _named.decode(params)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _Named()  # its attempt will say what is wrong with it


def _pieces(entries: list[PlanEntry]) -> Iterator[list[PlanEntry]]:
    """Cut entries, in the order of their places, so that each piece lies close together in the items blob."""
    piece: list[PlanEntry] = []
    begin = end = wanted = 0
    for entry in entries:
        high = max(end, entry.offset + entry.length)
        if piece and high - begin > NEAR * (wanted + entry.length):
            yield piece
            piece = []
        if not piece:
            begin, high, wanted = entry.offset, entry.offset + entry.length, 0
        piece.append(entry)
        end, wanted = high, wanted + entry.length
    if piece:
        yield piece

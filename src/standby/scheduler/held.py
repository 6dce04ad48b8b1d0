"""A run in a worker's hands: what waits, what is in flight, what is not committed yet."""

from __future__ import annotations

import asyncio
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import msgspec

from standby.blobs.base import Blobs, items_key, plan_key, segment_key
from standby.records import PLAN_ENTRY, Bill, LeasedRun, PlanEntry, Tokens, unpack_plan
from standby.scheduler.retry import Tries
from standby.states import Outcome

NEAR = 2
"""Items are read in one piece if that reads at most this many times their bytes."""


@dataclass(slots=True, kw_only=True)
class Queued:
    """An item on its way to an attempt; `params` is None if its stored bytes do not match their checksum."""

    entry: PlanEntry
    params: bytes | None
    model: str = ""
    """The name that it asks for; empty if it names none."""
    tries: Tries = field(default_factory=Tries)

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


@dataclass(slots=True, kw_only=True, eq=False)
class HeldRun:
    """One leased run."""

    lease: LeasedRun
    queue: deque[Queued]
    in_flight: dict[int, asyncio.Task[None]] = field(default_factory=dict)
    delayed: dict[int, asyncio.Handle] = field(default_factory=dict)
    length: int = 0
    """Committed bytes of its segment."""
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

    def take(self, may_start: Callable[[Queued], bool]) -> Queued | None:
        """Take the first item that may be started out of the queue."""
        for place, item in enumerate(self.queue):
            if may_start(item):
                del self.queue[place]
                return item
        return None

    def stop(self, now_us: int) -> None:
        """Dispatch nothing more of it; what is in flight goes on."""
        if self.stopped_us is None:
            self.stopped_us = now_us
            self.queue.clear()
            self._forget_delayed()

    def abandon(self) -> None:
        """Stop everything at once: the lease is lost or the server is going down."""
        self.queue.clear()
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


async def read_items(blobs: Blobs, lease: LeasedRun) -> deque[Queued]:
    """Read the items of a run that have no result yet; `BlobError`, or `ValueError` for a damaged plan."""
    start = lease.first * PLAN_ENTRY.size
    packed = await blobs.read(plan_key(lease.batch_id), start=start, end=start + lease.count * PLAN_ENTRY.size)
    entries = [entry for entry in unpack_plan(packed) if entry.item not in lease.finished]
    queue: deque[Queued] = deque()
    for piece in _pieces(entries):
        begin = min(entry.offset for entry in piece)
        end = max(entry.offset + entry.length for entry in piece)
        data = await blobs.read(items_key(lease.batch_id), start=begin, end=end)
        queue.extend(_queued(entry, data, begin) for entry in piece)
    return queue


def _queued(entry: PlanEntry, data: bytes, begin: int) -> Queued:
    at = entry.offset - begin
    params = data[at : at + entry.length]
    if zlib.crc32(params) != entry.crc:
        return Queued(entry=entry, params=None)
    return Queued(entry=entry, params=params, model=_model_of(params))


class _Named(msgspec.Struct):
    """All that is looked at before an item's turn comes."""

    model: str = ""


_named = msgspec.json.Decoder(_Named)


def _model_of(params: bytes) -> str:
    try:
        return _named.decode(params).model
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""  # its attempt will say what is wrong with it


def _pieces(entries: list[PlanEntry]) -> Iterator[list[PlanEntry]]:
    """Cut the entries so that each piece lies close together in the items blob."""
    piece: list[PlanEntry] = []
    begin = end = wanted = 0
    for entry in entries:
        low, high = min(begin, entry.offset), max(end, entry.offset + entry.length)
        if piece and high - low > NEAR * (wanted + entry.length):
            yield piece
            piece = []
        if not piece:
            low, high, wanted = entry.offset, entry.offset + entry.length, 0
        piece.append(entry)
        begin, end, wanted = low, high, wanted + entry.length
    if piece:
        yield piece

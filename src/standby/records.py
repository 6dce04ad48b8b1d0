"""What the rooms say to each other: frozen records, and the few types that give them meaning.

Times are integer microseconds since 1970 (`_us`), as the wire shows microseconds (contract 1.5).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NewType

from standby.errors import Corrupt
from standby.states import BatchState, Outcome

BatchId = NewType("BatchId", str)
WorkspaceId = NewType("WorkspaceId", str)
KeyId = NewType("KeyId", str)
Clock = Callable[[], int]

SECOND = 1_000_000
HOUR = 3600 * SECOND
DAY = 24 * HOUR


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How many items of a batch are where; the five always add up to its size."""

    processing: int = 0
    succeeded: int = 0
    errored: int = 0
    canceled: int = 0
    expired: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """Token sums by the five columns of a price book (contract 10)."""

    input: int = 0
    write_5m: int = 0
    write_1h: int = 0
    read: int = 0
    output: int = 0

    def __add__(self, other: Tokens) -> Tokens:
        """Add column by column."""
        return Tokens(
            input=self.input + other.input,
            write_5m=self.write_5m + other.write_5m,
            write_1h=self.write_1h + other.write_1h,
            read=self.read + other.read,
            output=self.output + other.output,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Reuse:
    """What engines said of the prompts that they answered, whatever usage shows of it; both 0 if none of them tells."""

    prompt: int = 0
    """Tokens of these prompts."""
    reused: int = 0
    """Of these, taken out of the engine's cache instead of computed."""

    def __add__(self, other: Reuse) -> Reuse:
        """Add up."""
        return Reuse(prompt=self.prompt + other.prompt, reused=self.reused + other.reused)


NO_REUSE = Reuse()


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One batch as everybody outside the store sees it."""

    id: BatchId
    workspace_id: WorkspaceId
    state: BatchState
    size: int
    counts: Counts
    created_us: int
    expires_us: int
    ended_us: int | None
    cancel_initiated_us: int | None
    archived_us: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Who sent a create and how to recognise the same create again (design 4, "Create, safely")."""

    credential: str
    body_digest: bytes
    idempotency_key: str | None = None
    is_sdk_retry: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What the create call froze for every item of its batch (contract 7.6)."""

    version: str = "2023-06-01"
    betas: tuple[str, ...] = ()
    user_profile_id: str | None = None
    simulate: str = ""
    """What the header `standby-simulate` asks of the simulator, for every item."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """A run before it is stored: `count` entries of the plan from number `first`."""

    first: int
    count: int
    cost: int = 0
    """What its items are expected to cost an engine, in cost tokens (`PlanEntry.cost`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanFacts:
    """What the plan of a batch knows of it as a whole; tokens are estimates."""

    prompt_tokens: int = 0
    shared_tokens: int = 0
    """Of these, such as an item shares with the one before it in the best order: the most that a cache can reuse."""
    groups: int = 0
    """Groups of at least two items that share a prefix worth reusing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewBatch:
    """A create that passed every check and whose blobs are on disk; storing it accepts it."""

    id: BatchId
    workspace_id: WorkspaceId
    size: int
    runs: tuple[Slice, ...]
    created_us: int
    expires_us: int
    origin: Origin
    rules: Rules
    plan: PlanFacts = PlanFacts()


@dataclass(frozen=True, slots=True, kw_only=True)
class Created:
    """The answer to a create: the batch, and whether this call made it or an earlier twin did."""

    batch: Batch
    is_new: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One page of a list, newest first; `has_more` speaks of the direction that was asked for."""

    batches: tuple[Batch, ...]
    has_more: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """A batch that has runs to give, as the policy sees it."""

    batch_id: BatchId
    workspace_id: WorkspaceId
    size: int
    created_us: int
    expires_us: int
    pending_runs: bool
    leased_runs: int
    left_items: int = 0
    """Items of runs that are not done; those of leased runs count whole."""
    left_cost: int = 0
    """The same in cost tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeasedRun:
    """The right to work on one run until `until_us`; every commit must carry `epoch`."""

    batch_id: BatchId
    workspace_id: WorkspaceId
    number: int
    first: int
    count: int
    epoch: int
    until_us: int
    expires_us: int
    rules: Rules
    finished: frozenset[int]
    """Item numbers of this run that already have a committed result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bill:
    """What requests of one model cost, in pico-dollars. Only those that succeeded are on a bill.

    A request whose price nobody knew when it was done counts in `unpriced` and adds nothing to the three sums.
    """

    model: str
    requests: int
    tokens: Tokens
    plain_pico: int = 0
    """What they would have cost in real time without a prompt cache."""
    batch_pico: int = 0
    """What they would have cost in a batch without a prompt cache."""
    charge_pico: int = 0
    """What they are charged."""
    unpriced: int = 0

    def __add__(self, other: Bill) -> Bill:
        """Add up two bills of one model."""
        return Bill(
            model=self.model,
            requests=self.requests + other.requests,
            tokens=self.tokens + other.tokens,
            plain_pico=self.plain_pico + other.plain_pico,
            batch_pico=self.batch_pico + other.batch_pico,
            charge_pico=self.charge_pico + other.charge_pico,
            unpriced=self.unpriced + other.unpriced,
        )


def by_model(bills: Iterable[Bill]) -> dict[str, Bill]:
    """Add bills up, one a model."""
    sums: dict[str, Bill] = {}
    for bill in bills:
        sums[bill.model] = sums[bill.model] + bill if bill.model in sums else bill
    return sums


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveBill:
    """Live requests to charge to a credential of a workspace."""

    workspace_id: WorkspaceId
    credential: str
    bill: Bill


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What a workspace was charged on a day."""

    pico: int = 0
    unpriced: int = 0
    """Requests whose price nobody knew; they add nothing to the sum."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """What waits for a result: items, and the tokens of their prompts as estimated when they were taken in."""

    items: int = 0
    tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnLimits:
    """What one workspace may do. None: as everybody, by the settings; 0: any amount."""

    spend_per_day: int | None = None
    """Pico-dollars a day, UTC."""
    spend_per_month: int | None = None
    """Pico-dollars a month, UTC."""
    enqueued_items: int | None = None
    enqueued_tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageRow:
    """A sum of bills; what it was not grouped by is None."""

    workspace_id: WorkspaceId | None = None
    credential: str | None = None
    model: str | None = None
    day: int | None = None
    """Days since 1970, UTC."""
    kind: str | None = None
    """`batch` or `live`."""
    bill: Bill


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentCommit:
    """Results that are durable in a segment and now come into being.

    The segment `key` grows from `start` to `end` bytes; `records` are the packed `Record`s of the new
    rows, in file order. `is_last` says that the holder adds nothing more to this run.
    """

    batch_id: BatchId
    run: int
    epoch: int
    key: str
    start: int
    end: int
    records: bytes
    counts: Counts
    tokens: Tokens
    is_last: bool
    bills: tuple[Bill, ...] = ()
    """What the rows that succeeded cost, one bill a model; becomes the charge together with them."""
    reuse: Reuse = NO_REUSE
    """What the engine said of their prompts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """One row of the manifest: the first `length` bytes of blob `key` are results."""

    run: int
    epoch: int
    key: str
    length: int
    records: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Seal:
    """The end of a batch: rows for the items that never ran (if any), and nothing after it."""

    batch_id: BatchId
    key: str | None
    length: int
    records: bytes
    counts: Counts
    """Only the rows that sealing adds: canceled or expired."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workspace:
    """A tenant."""

    id: WorkspaceId
    name: str
    created_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """An API key without its secret."""

    id: KeyId
    workspace_id: WorkspaceId
    name: str
    hint: str
    created_us: int
    revoked_us: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """Where one row lies in its segment: 12 bytes, three little-endian u32."""

    item: int
    length: int
    crc: int


_RECORD = struct.Struct("<III")


def pack_records(records: Iterable[Record]) -> bytes:
    """Write records as they stand in a manifest row."""
    return b"".join(_RECORD.pack(r.item, r.length, r.crc) for r in records)


def unpack_records(packed: bytes) -> Iterator[Record]:
    """Read records back, in file order."""
    return (Record(item=i, length=n, crc=c) for i, n, c in _RECORD.iter_unpack(packed))


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanEntry:
    """One item of a plan: where its `params` lie in the items blob, and what they are worth.

    On disk: 100 bytes, `<QIIIIII64sI` - offset, length, item number, group, cost (tokens), shared (tokens),
    crc32 of the params, `custom_id` padded with NUL, crc32 of the 96 bytes before.
    """

    item: int
    offset: int
    length: int
    group: int
    """Items of one group share a prefix worth reusing and stand together in the plan; 0 is no group."""
    cost: int
    """Cost tokens: prompt tokens that nothing shares, a tenth of those that are shared, twice the expected answer."""
    crc: int
    custom_id: str
    shared: int = 0
    """Tokens of its prompt that it shares with the entry before it in the plan, as estimated."""


PLAN_ENTRY = struct.Struct("<QIIIIII64sI")
_PLAN_BODY = struct.Struct("<QIIIIII64s")


def pack_plan_entry(
    offset: int, length: int, item: int, group: int, cost: int, shared: int, crc: int, custom_id: str
) -> bytes:
    """Write one plan entry. Plain arguments: this runs 100,000 times while a client waits."""
    body = _PLAN_BODY.pack(offset, length, item, group, cost, shared, crc, custom_id.encode())
    return body + zlib.crc32(body).to_bytes(4, "little")


def unpack_plan(packed: bytes) -> Iterator[PlanEntry]:
    """Read plan entries back, in the order of the plan; raises `Corrupt` at the first bad checksum."""
    for at in range(0, len(packed), PLAN_ENTRY.size):
        offset, length, item, group, cost, shared, crc, custom_id, check = PLAN_ENTRY.unpack_from(packed, at)
        if zlib.crc32(packed[at : at + _PLAN_BODY.size]) != check:
            raise Corrupt(f"plan entry {at // PLAN_ENTRY.size} does not match its checksum")
        yield PlanEntry(
            item=item,
            offset=offset,
            length=length,
            group=group,
            cost=cost,
            shared=shared,
            crc=crc,
            custom_id=custom_id.rstrip(b"\0").decode(),
        )


def count_outcomes(outcomes: Iterable[Outcome]) -> Counts:
    """Count results by outcome; `processing` stays 0."""
    totals = dict.fromkeys(Outcome, 0)
    for outcome in outcomes:
        totals[outcome] += 1
    return Counts(
        succeeded=totals[Outcome.SUCCEEDED],
        errored=totals[Outcome.ERRORED],
        canceled=totals[Outcome.CANCELED],
        expired=totals[Outcome.EXPIRED],
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Who is asking: the workspace, and a name for the credential that is safe to store."""

    workspace_id: WorkspaceId
    credential: str
    key_id: KeyId | None = None


@dataclass(frozen=True, slots=True)
class Load:
    """What an endpoint is doing right now, as far as the gateway knows."""

    live: int = 0
    batch: int = 0
    slots: int = 0
    waiting: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """What one pass of the sweeper did."""

    sealed: int = 0
    archived: int = 0
    erased: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Eta:
    """When a batch will end: as early as that, most likely, as late as that; never after its expiry."""

    early_us: int
    likely_us: int
    late_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchView:
    """What a worker says of a batch that has work left."""

    in_flight: int
    held_runs: int
    items_per_s: float | None
    """Of the last minute; None before anything was done."""
    eta: Eta | None
    pressure: float | None
    """Work due by its deadline over the supply to rely on until then; None before that was judged."""
    is_urgent: bool
    will_miss: bool
    waits: str
    """Why it is not being worked on, or that it is, in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointView:
    """What admission says of an endpoint."""

    name: str
    engine: str
    cache: str
    is_ready: bool
    slots: int
    live: int
    batch: int
    most_batch: int
    """Batch items that may be in flight there now."""
    gap_s: float | None
    """Time between two tokens of an answer, as seen lately."""
    target_gap_s: float | None
    """What it may be; None if nothing is aimed at."""
    why: str
    """What bounds `most_batch`, in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerView:
    """The whole of it."""

    endpoints: tuple[EndpointView, ...]
    batches: int
    """Batches that have work left."""
    in_flight: int
    held_runs: int
    cost_tokens_per_s: float | None
    """What the endpoints give batches at present."""
    pressure: float
    """The highest of any batch that can still be done in time."""

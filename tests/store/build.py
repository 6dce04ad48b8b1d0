"""Batches, commits and seals made small: what tests of a store hand to its verbs."""

from __future__ import annotations

from collections.abc import Sequence

from standby.ids import make_id
from standby.records import (
    DAY,
    SECOND,
    Batch,
    BatchId,
    Bill,
    Counts,
    LeasedRun,
    NewBatch,
    Origin,
    PlanFacts,
    Record,
    Reuse,
    Rules,
    Seal,
    SegmentCommit,
    Slice,
    Tokens,
    WorkspaceId,
    pack_records,
    unpack_records,
)
from standby.store.base import Store

NOW = 1_800_000_000 * SECOND
LEASE_US = 30 * SECOND
WINDOW_US = DAY


def new_batch(
    workspace_id: WorkspaceId,
    runs: Sequence[int] = (3, 2),
    *,
    now_us: int = NOW,
    origin: Origin | None = None,
    rules: Rules | None = None,
    plan: PlanFacts | None = None,
) -> NewBatch:
    """Build a create with runs of these sizes, ten cost tokens an item; by default nobody's twin."""
    batch_id = BatchId(make_id("msgbatch", now_us=now_us))
    first = [sum(runs[:number]) for number in range(len(runs))]
    return NewBatch(
        id=batch_id,
        workspace_id=workspace_id,
        size=sum(runs),
        runs=tuple(Slice(first=f, count=n, cost=10 * n) for f, n in zip(first, runs, strict=True)),
        created_us=now_us,
        expires_us=now_us + WINDOW_US,
        origin=origin or Origin(credential="key-1", body_digest=batch_id.encode()),
        rules=rules or Rules(),
        plan=plan or PlanFacts(),
    )


async def created(store: Store, runs: Sequence[int] = (3, 2), *, now_us: int = NOW) -> Batch:
    """Create a batch in the default workspace."""
    workspace = (await store.list_workspaces())[0]
    return (await store.create_batch(new_batch(workspace.id, runs, now_us=now_us), now_us=now_us)).batch


async def leased(store: Store, batch_id: BatchId, *, holder: str = "worker", now_us: int = NOW) -> LeasedRun:
    """Lease the next run; there must be one."""
    run = await store.lease_run(batch_id, holder=holder, now_us=now_us, until_us=now_us + LEASE_US)
    assert run is not None
    return run


def records(items: Sequence[int], *, length: int = 10) -> bytes:
    """Pack a record for each item."""
    return pack_records(Record(item=item, length=length, crc=item) for item in items)


def commit(
    run: LeasedRun,
    items: Sequence[int],
    *,
    start: int = 0,
    is_last: bool = False,
    counts: Counts | None = None,
    tokens: Tokens | None = None,
    bills: tuple[Bill, ...] | None = None,
    reuse: Reuse | None = None,
) -> SegmentCommit:
    """Commit ten bytes for each item, all of them succeeded unless said otherwise."""
    return SegmentCommit(
        batch_id=run.batch_id,
        run=run.number,
        epoch=run.epoch,
        key=f"{run.batch_id}/segments/{run.number}-{run.epoch}",
        start=start,
        end=start + 10 * len(items),
        records=records(items),
        counts=counts or Counts(succeeded=len(items)),
        tokens=tokens or Tokens(input=2 * len(items), output=len(items)),
        is_last=is_last,
        bills=bills if bills is not None else free_of_charge(counts or Counts(succeeded=len(items)), tokens),
        reuse=reuse or Reuse(prompt=4 * len(items), reused=3 * len(items)),
    )


def free_of_charge(counts: Counts, tokens: Tokens | None = None) -> tuple[Bill, ...]:
    """Bill the results that succeeded at no known price, so that a commit is complete."""
    if not counts.succeeded:
        return ()
    used = tokens or Tokens(input=2 * counts.succeeded, output=counts.succeeded)
    return (Bill(model="m", requests=counts.succeeded, tokens=used, unpriced=counts.succeeded),)


def entries(run: LeasedRun) -> range:
    """Items of a run; in these tests the plan is the submit order."""
    return range(run.first, run.first + run.count)


async def work_off(store: Store, batch_id: BatchId, *, now_us: int = NOW) -> None:
    """Lease every run there is and commit all of its results."""
    while run := await store.lease_run(batch_id, holder="worker", now_us=now_us, until_us=now_us + LEASE_US):
        left = [item for item in entries(run) if item not in run.finished]
        assert await store.commit_segments([commit(run, left, is_last=True)], now_us=now_us) == [True]


async def items_in(store: Store, batch_id: BatchId) -> list[int]:
    """Items that have a result, in serving order."""
    return [record.item for segment in await store.manifest(batch_id) for record in unpack_records(segment.records)]


async def seal_of(store: Store, batch: Batch, *, outcome: str = "canceled") -> Seal:
    """Build the seal that gives every item without a result this outcome."""
    done = set(await items_in(store, batch.id))
    missing = [item for item in range(batch.size) if item not in done]
    return Seal(
        batch_id=batch.id,
        key=f"{batch.id}/segments/seal" if missing else None,
        length=10 * len(missing),
        records=records(missing),
        counts=Counts(**{outcome: len(missing)}),
    )


async def ended(store: Store, runs: Sequence[int] = (3, 2), *, now_us: int = NOW) -> Batch:
    """Create a batch and bring it to its end, every item succeeded."""
    batch = await created(store, runs, now_us=now_us)
    await work_off(store, batch.id, now_us=now_us)
    assert await store.seal_batch(await seal_of(store, batch), now_us=now_us + SECOND)
    return await store.get_batch(batch.workspace_id, batch.id)

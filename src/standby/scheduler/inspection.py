"""Look through a data folder: every checksum, one row an item, every row valid, every bill right (I1, I2, I7, I11)."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Iterator, Sequence

import msgspec

from standby.blobs.base import Blobs, items_key, plan_key
from standby.errors import BlobError, Corrupt
from standby.records import PLAN_ENTRY, Batch, Bill, PlanEntry, Segment, by_model, unpack_plan, unpack_records
from standby.states import BatchState, Outcome
from standby.store.base import Store
from standby.wire.messages import Usage, tokens_of

PAGE = 1000


class _Message(msgspec.Struct):
    model: str
    usage: Usage


class _Result(msgspec.Struct):
    type: Outcome
    message: _Message | None = None


class _Row(msgspec.Struct):
    custom_id: str
    result: _Result


async def inspect(store: Store, blobs: Blobs) -> list[str]:
    """Check the blobs of all batches against the store; one sentence a fault."""
    found: list[str] = []
    folders = await blobs.list_batches()
    known = await store.known_batches(folders)
    found += [
        f"{folder}: a folder that no batch names (the next start removes it)"
        for folder in folders
        if folder not in known
    ]
    async for batch in _all_batches(store):
        if batch.archived_us is None:
            found += [f"{batch.id}: {fault}" for fault in await _inspect_batch(store, blobs, batch)]
    return found


async def _all_batches(store: Store) -> AsyncIterator[Batch]:
    for workspace in await store.list_workspaces():
        after = None
        while True:
            page = await store.list_batches(workspace.id, limit=PAGE, after=after, before=None)
            for batch in page.batches:
                yield batch
            if not page.has_more:
                break
            after = page.batches[-1].id


async def _inspect_batch(store: Store, blobs: Blobs, batch: Batch) -> list[str]:
    try:
        packed = await blobs.read(plan_key(batch.id), start=0, end=batch.size * PLAN_ENTRY.size)
        plan = {entry.item: entry for entry in unpack_plan(packed)}
    except (BlobError, Corrupt) as error:
        return [f"plan: {error}"]
    found = [fault async for fault in _items(blobs, batch, list(plan.values()))]
    rows: dict[int, Outcome] = {}
    used: list[Bill] = []
    for segment in await store.manifest(batch.id):
        found += await _inspect_segment(blobs, segment, plan, rows, used)
    return [*found, *_totals(batch, rows), *_bills(await store.bills_of(batch.id), by_model(used))]


async def _items(blobs: Blobs, batch: Batch, plan: Sequence[PlanEntry]) -> AsyncIterator[str]:
    for entry in plan:
        try:
            raw = await blobs.read(items_key(batch.id), start=entry.offset, end=entry.offset + entry.length)
        except BlobError as error:
            yield str(error)
            return
        if zlib.crc32(raw) != entry.crc:
            yield f"items: item {entry.item} does not match its checksum"


async def _inspect_segment(
    blobs: Blobs, segment: Segment, plan: dict[int, PlanEntry], rows: dict[int, Outcome], used: list[Bill]
) -> list[str]:
    try:
        data = await blobs.read(segment.key, start=0, end=segment.length)
    except BlobError as error:
        return [str(error)]
    found, at = [], 0
    for record in unpack_records(segment.records):
        row = data[at : at + record.length]
        at += record.length
        fault = _row_fault(row, record.crc, plan.get(record.item)) or ("has two rows" if record.item in rows else None)
        if fault:
            found.append(f"{segment.key}: item {record.item}: {fault}")
        else:
            result = msgspec.json.decode(row, type=_Row).result
            rows[record.item] = result.type
            if result.message is not None:
                model, tokens = result.message.model, tokens_of(result.message.usage)
                used.append(Bill(model=model, requests=1, tokens=tokens))
    if at != segment.length:
        found.append(f"{segment.key}: its records name {at} bytes, the manifest {segment.length}")
    return found


def _row_fault(row: bytes, crc: int, entry: PlanEntry | None) -> str | None:
    if zlib.crc32(row) != crc:
        return "the row does not match its checksum"
    if entry is None:
        return "the plan does not name it"
    try:
        custom_id = msgspec.json.decode(row, type=_Row).custom_id
    except msgspec.DecodeError as error:
        return f"the row is not a result: {error}"
    if custom_id != entry.custom_id or not row.endswith(b"\n") or row.count(b"\n") != 1:
        return "the row is not one line with the item's custom_id"
    return None


def _bills(bills: list[Bill], used: dict[str, Bill]) -> Iterator[str]:
    """A bill names what the rows used, no more and no less (I11). Bills from before there were any name no model."""
    billed = {bill.model: bill for bill in bills}
    if "" in billed:
        return
    for model in sorted(billed.keys() | used.keys()):
        bill, use = billed.get(model), used.get(model)
        if bill is None or use is None or (bill.requests, bill.tokens) != (use.requests, use.tokens):
            yield f"its bill for {model} does not name what its rows used"


def _totals(batch: Batch, rows: dict[int, Outcome]) -> Iterator[str]:
    counts = dict.fromkeys(Outcome, 0)
    for outcome in rows.values():
        counts[outcome] += 1
    for outcome, count in counts.items():
        shown = getattr(batch.counts, outcome.value)
        if shown != count:
            yield f"counts say {shown} {outcome.value}, its rows {count}"
    if batch.state is BatchState.ENDED and len(rows) != batch.size:
        yield f"it ended with {len(rows)} rows for {batch.size} items"

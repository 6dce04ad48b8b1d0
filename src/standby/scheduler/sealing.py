"""The end of a batch: rows for the items that never ran, frozen counts, `ended`, all in one step.

Fence first, then read, then write: once `close_runs` returned, no worker can add a row, so what the manifest does not
name is missing for good. Every step can be repeated after a crash.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import structlog

from standby.blobs.base import Blobs, plan_key, segment_key
from standby.doors import door
from standby.errors import Corrupt
from standby.records import (
    PLAN_ENTRY,
    Batch,
    Clock,
    PlanEntry,
    Record,
    Seal,
    Segment,
    count_outcomes,
    pack_records,
    unpack_plan,
    unpack_records,
)
from standby.states import BatchState, Outcome
from standby.store.base import Store
from standby.wire.batches import canceled_row, errored_row, expired_row

SEALING_RUN = 99_999
LOST = "The server lost track of this request; submit it again"

log = structlog.get_logger("standby.sealing")


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """The rows that sealing adds."""

    outcome: Outcome
    data: bytes
    records: bytes
    count: int


async def seal(store: Store, blobs: Blobs, batch: Batch, *, clock: Clock) -> bool:
    """End `batch`; False if somebody else did or it is gone."""
    if not await store.close_runs(batch.id):
        return False
    finished = _finished(await store.manifest(batch.id))
    outcome = missing_outcome(batch, now_us=clock())
    if len(finished) == batch.size:
        added, key = Missing(outcome=outcome, data=b"", records=b"", count=0), None
    else:
        plan = await _read_plan(blobs, batch)
        added = await asyncio.to_thread(missing_rows, plan, finished, outcome)
        key = segment_key(batch.id, SEALING_RUN, clock())
        await blobs.append(key, added.data, at=0)
    door("sealing.before_seal")
    sealed = await store.seal_batch(
        Seal(
            batch_id=batch.id,
            key=key,
            length=len(added.data),
            records=added.records,
            counts=count_outcomes([outcome] * added.count),
        ),
        now_us=clock(),
    )
    if sealed:
        log.info(
            "batch ended", batch=batch.id, items=batch.size, **({outcome.value: added.count} if added.count else {})
        )
    return sealed


def missing_outcome(batch: Batch, *, now_us: int) -> Outcome:
    """Say what became of the items that never ran; a cancel that came before the expiry wins (contract 7.4)."""
    if batch.state is BatchState.CANCELING:
        return Outcome.CANCELED
    return Outcome.EXPIRED if now_us >= batch.expires_us else Outcome.ERRORED


def missing_rows(plan: bytes, finished: set[int], outcome: Outcome) -> Missing:
    """Write the row of every item of the plan that is not finished; raises `Corrupt` if the plan is damaged."""
    entries = [entry for entry in unpack_plan(plan) if entry.item not in finished]
    rows = [_row(entry.custom_id, outcome) for entry in entries]
    return Missing(outcome=outcome, data=b"".join(rows), records=_records(entries, rows), count=len(rows))


def _row(custom_id: str, outcome: Outcome) -> bytes:
    if outcome is Outcome.CANCELED:
        return canceled_row(custom_id)
    if outcome is Outcome.EXPIRED:
        return expired_row(custom_id)
    return errored_row(custom_id, "api_error", LOST)


def _records(entries: Sequence[PlanEntry], rows: Sequence[bytes]) -> bytes:
    return pack_records(
        Record(item=entry.item, length=len(row), crc=zlib.crc32(row)) for entry, row in zip(entries, rows, strict=True)
    )


def _finished(segments: Iterable[Segment]) -> set[int]:
    return {record.item for segment in segments for record in unpack_records(segment.records)}


async def _read_plan(blobs: Blobs, batch: Batch) -> bytes:
    packed = await blobs.read(plan_key(batch.id), start=0, end=batch.size * PLAN_ENTRY.size)
    if len(packed) != batch.size * PLAN_ENTRY.size:
        raise Corrupt(f"the plan of {batch.id} is cut short")
    return packed

"""The power goes at any moment: what was acknowledged is there, and nothing is there by half."""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
import tempfile
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from standby.blobs.base import items_key, plan_key, segment_key
from standby.blobs.local import LocalBlobs
from standby.errors import StandbyError, StoreError
from standby.records import (
    BatchId,
    Bill,
    Counts,
    LeasedRun,
    NewBatch,
    Record,
    Seal,
    SegmentCommit,
    Tokens,
    WorkspaceId,
    pack_records,
    unpack_records,
)
from standby.states import BatchState
from standby.store.sqlite import SqliteStore, connection
from tests.powerloss.disk import Disk
from tests.powerloss.recorder import Recorder, recording
from tests.store.build import LEASE_US, NOW, new_batch

pytestmark = pytest.mark.powerloss

Check = Callable[[SqliteStore, LocalBlobs], Awaitable[object]]
BODY = b'{"requests":[]}' * 300
NOWHERE = WorkspaceId("")
PLAN = bytes(range(96)) * 5


@dataclass
class Story:
    """A life on a recorded disk, and what was promised at which event."""

    recorder: Recorder
    store: SqliteStore
    blobs: LocalBlobs
    chance: random.Random
    promises: list[tuple[int, str, Check]] = field(default_factory=list)
    workspace_id: WorkspaceId = NOWHERE

    def promise(self, what: str, check: Check) -> None:
        """From now on this must survive."""
        self.promises.append((len(self.recorder.events), what, check))

    async def create(self, runs: tuple[int, ...]) -> NewBatch:
        """Upload, adopt, accept."""
        new = new_batch(self.workspace_id, runs)
        spool = await self.blobs.spool()
        await spool.write(BODY)
        plan = spool.path.parent / "plan"
        await asyncio.to_thread(plan.write_bytes, PLAN)
        await self.blobs.adopt(new.id, items=spool, plan=plan)
        await self.store.create_batch(new, now_us=NOW)

        async def is_there(store: SqliteStore, blobs: LocalBlobs) -> None:
            assert (await store.get_batch(new.workspace_id, new.id)).size == new.size
            assert await blobs.read(items_key(new.id), start=0, end=len(BODY)) == BODY
            assert await blobs.read(plan_key(new.id), start=0, end=len(PLAN)) == PLAN

        self.promise(f"create {new.id}", is_there)
        return new

    async def work(self, new: NewBatch, steps: int) -> None:
        """Lease a run and commit its items in some steps."""
        run = await self.store.lease_run(new.id, holder="w", now_us=NOW, until_us=NOW + LEASE_US)
        assert run is not None
        left, at = list(range(run.first, run.first + run.count)), 0
        share = max(1, len(left) // steps)
        while left:
            items, left = left[:share], left[share:]
            at = await self.commit(run, items, at=at, is_last=not left)

    async def commit(self, run: LeasedRun, items: list[int], *, at: int, is_last: bool) -> int:
        """Make rows durable, then make them exist."""
        rows = [row_of(run.batch_id, item) for item in items]
        key, data = segment_key(run.batch_id, run.number, run.epoch), b"".join(rows)
        await self.blobs.append(key, data, at=at)
        commit = SegmentCommit(
            batch_id=run.batch_id,
            run=run.number,
            epoch=run.epoch,
            key=key,
            start=at,
            end=at + len(data),
            records=packed(items, rows),
            counts=Counts(succeeded=len(items)),
            tokens=Tokens(input=len(items)),
            is_last=is_last,
            bills=(Bill(model="m", requests=len(items), tokens=Tokens(input=len(items)), charge_pico=len(items)),),
        )
        assert await self.store.commit_segments([commit], now_us=NOW) == [True]

        async def is_there(store: SqliteStore, blobs: LocalBlobs) -> None:
            assert set(items) <= set(await readable(store, blobs, run.batch_id))

        self.promise(f"results {items} of {run.batch_id}", is_there)
        return at + len(data)

    async def cancel(self, new: NewBatch) -> None:
        """Cancel."""
        await self.store.cancel_batch(new.workspace_id, new.id, now_us=NOW)

        async def is_canceled(store: SqliteStore, blobs: LocalBlobs) -> None:
            assert (await store.get_batch(new.workspace_id, new.id)).cancel_initiated_us == NOW

        self.promise(f"cancel {new.id}", is_canceled)

    async def seal(self, new: NewBatch) -> None:
        """Close the runs, write the missing rows, end the batch."""
        await self.store.close_runs(new.id)
        done = set(await readable(self.store, self.blobs, new.id))
        missing = [item for item in range(new.size) if item not in done]
        rows, key = [row_of(new.id, item) for item in missing], segment_key(new.id, 99999, 0)
        if missing:
            await self.blobs.append(key, b"".join(rows), at=0)
        seal = Seal(
            batch_id=new.id,
            key=key if missing else None,
            length=sum(map(len, rows)),
            records=packed(missing, rows),
            counts=Counts(canceled=len(missing)),
        )
        assert await self.store.seal_batch(seal, now_us=NOW)

        async def has_ended(store: SqliteStore, blobs: LocalBlobs) -> None:
            batch = await store.get_batch(new.workspace_id, new.id)
            assert batch.state is BatchState.ENDED
            assert sorted(await readable(store, blobs, new.id)) == list(range(new.size))

        self.promise(f"end of {new.id}", has_ended)


def row_of(batch_id: BatchId, item: int) -> bytes:
    """A row that nobody else writes."""
    return f'{{"custom_id":"{batch_id}-{item}","result":"{"x" * (item * 37 % 900)}"}}\n'.encode()


def packed(items: list[int], rows: list[bytes]) -> bytes:
    """Records of rows."""
    return pack_records(
        Record(item=item, length=len(row), crc=zlib.crc32(row)) for item, row in zip(items, rows, strict=True)
    )


async def readable(store: SqliteStore, blobs: LocalBlobs, batch_id: BatchId) -> list[int]:
    """Items whose rows are there byte for byte; every row that the manifest names must be."""
    items = []
    for segment in await store.manifest(batch_id):
        data, at = await blobs.read(segment.key, start=0, end=segment.length), 0
        for record in unpack_records(segment.records):
            row, at = data[at : at + record.length], at + record.length
            assert row == row_of(batch_id, record.item)
            assert zlib.crc32(row) == record.crc
            items.append(record.item)
        assert at == segment.length
    return items


async def tell(recorder: Recorder, seed: int) -> Story:
    """Three batches, with checkpoints of the database every few commits."""
    story = Story(recorder, SqliteStore(recorder.root / "standby.db"), LocalBlobs(recorder.root), random.Random(seed))
    await story.store.open()
    await story.blobs.open()
    writer = story.store._database._writer
    assert writer is not None
    writer.execute("PRAGMA wal_autocheckpoint = 12")
    story.workspace_id = (await story.store.list_workspaces())[0].id
    one, two = await story.create((6, 4)), await story.create((5,))
    await story.work(one, 3)
    await story.work(two, 5)
    await story.cancel(one)
    await story.seal(one)
    await story.seal(two)
    three = await story.create((40, 40))
    await story.work(three, 8)
    await story.store.close()
    return story


async def losses(story: Story, events: int, *, keep: str) -> list[str]:
    """Make the image after so many events, open it and list every promise that it breaks."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        Disk(story.recorder.events[:events]).image(place, story.chance, keep=keep)
        store, blobs = SqliteStore(place / "standby.db"), LocalBlobs(place)
        try:
            await store.open()
            await blobs.open()
            return [*await _broken(story, events, store, blobs), *await store.check()]
        except StandbyError as error:
            return [f"cannot be opened: {error}"]
        finally:
            await store.close()


async def _broken(story: Story, events: int, store: SqliteStore, blobs: LocalBlobs) -> list[str]:
    broken = []
    checks = [(what, check) for since, what, check in story.promises if since <= events]
    checks += [(f"rows of {batch_id}", _rows_of(batch_id)) for batch_id in batches_of(story)]
    for what, check in checks:
        try:
            await check(store, blobs)
        except (AssertionError, StandbyError) as error:
            broken.append(f"{what}: {type(error).__name__} {str(error)[:80]}")
    return broken


def _rows_of(batch_id: BatchId) -> Check:
    return lambda store, blobs: readable(store, blobs, batch_id)


def batches_of(story: Story) -> set[BatchId]:
    """Batches whose folders were ever made."""
    folders = [event.path.split("/") for event in story.recorder.events if event.kind == "make_folder"]
    return {BatchId(parts[1]) for parts in folders if len(parts) == 2 and parts[0] == "batches"}


def moments(story: Story, count: int) -> list[int]:
    """Every promise and every sync, just before and just after, and some moments between, up to a number."""
    events = story.recorder.events
    near = {since for since, _, _ in story.promises}
    near |= {n + d for n, event in enumerate(events) if event.kind.startswith("sync") for d in (0, 1)}
    near |= set(range(0, len(events), 7))
    return sorted(story.chance.sample(sorted(near), min(count, len(near))))


@pytest.mark.parametrize("seed", range(2))
async def test_what_was_acknowledged_survives_the_loss_of_power(tmp_path: Path, seed: int) -> None:
    """From images with only what was synced, with everything, and with torn parts, each promise is kept."""
    with recording(tmp_path) as recorder:
        story = await tell(recorder, seed)
    kinds = {(event.kind, Path(event.path).suffix) for event in recorder.events}
    assert {("write", ".db-wal"), ("sync", ".db-wal"), ("write", ".db"), ("sync", ".db"), ("sync", ".jsonl")} <= kinds

    for events in [*moments(story, 30), len(recorder.events)]:
        for keep in ("synced", "some", "all"):
            assert await losses(story, events, keep=keep) == [], (events, keep)


async def test_a_database_that_does_not_sync_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same checks fail with synchronous=OFF, so they can see a loss."""
    unsynced = ("synchronous = OFF", "journal_mode = WAL", "synchronous = OFF", "foreign_keys = ON")
    monkeypatch.setattr(connection, "WRITER_PRAGMAS", unsynced)
    with recording(tmp_path) as recorder:
        story = await tell(recorder, 0)
    monkeypatch.undo()

    found = [await losses(story, since, keep="synced") for since, _, _ in story.promises]

    assert any(found)


async def test_blobs_that_do_not_sync_are_found_out(tmp_path: Path) -> None:
    """The same checks fail if segments are not synced, so they can see a torn tail."""
    with recording(tmp_path) as recorder:
        story = await tell(recorder, 0)
    recorder.events = [e for e in recorder.events if not (e.kind == "sync" and e.path.endswith(".jsonl"))]

    assert await losses(story, len(recorder.events), keep="synced") != []


@pytest.mark.parametrize("code", [sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR])
@pytest.mark.parametrize("kind", ["write", "sync"])
async def test_a_failing_disk_is_reported_and_the_store_goes_on(tmp_path: Path, code: int, kind: str) -> None:
    """When any single write or sync fails, the verb fails in words and whole, and later verbs succeed."""
    with recording(tmp_path) as recorder:
        store = SqliteStore(tmp_path / "standby.db")
        await store.open()
        workspace_id = (await store.list_workspaces())[0].id
        for nth in range(4):
            new, left = new_batch(workspace_id, (1,) * 60), iter([0] * nth + [code])
            recorder.fault = lambda k, _path, left=left: next(left, 0) if k == kind else 0
            answer = await _outcome(store, new)
            recorder.fault = None

            known = await store.known_batches([new.id])
            assert known == (set() if answer else {new.id})
            assert answer is None or "disk" in answer
            await store.create_batch(new_batch(workspace_id), now_us=NOW)
            assert await store.check() == []
        await store.close()


async def _outcome(store: SqliteStore, new: NewBatch) -> str | None:
    try:
        await store.create_batch(new, now_us=NOW)
    except StoreError as error:
        return str(error)
    return None


async def test_flipped_bits_in_the_database_are_reported_or_change_no_answer(tmp_path: Path) -> None:
    """A flipped bit in any page is reported by opening, reading or the check, or batches and rows read as before."""
    with recording(tmp_path) as recorder:
        story = await tell(recorder, 0)
    sound = (tmp_path / "standby.db").read_bytes()
    truth = await answers(tmp_path / "standby.db", story)
    assert not isinstance(truth, str)
    chance, reported = random.Random(7), 0

    for _ in range(120):
        damaged = bytearray(sound)
        damaged[chance.randrange(len(sound))] ^= 1 << chance.randrange(8)
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder) / "standby.db"
            place.write_bytes(damaged)
            seen = await answers(place, story)
        reported += isinstance(seen, str)
        assert isinstance(seen, str) or seen == truth

    assert reported > 5


async def answers(path: Path, story: Story) -> object:
    """State, counts and rows of every batch as they are served, or what was reported instead."""
    store = SqliteStore(path)
    try:
        await store.open()
        if faults := await store.check():
            return "; ".join(faults)
        page = await store.list_batches(story.workspace_id, limit=100, after=None, before=None)
        return [(b.id, b.state, b.counts, sorted(await readable(store, story.blobs, b.id))) for b in page.batches]
    except (StandbyError, AssertionError) as error:
        return str(error)
    finally:
        await store.close()


def test_the_recorder_hears_nothing_elsewhere(tmp_path: Path) -> None:
    """Only what happens under the folder is recorded, and afterwards nothing is."""
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    outside.mkdir()
    with recording(inside) as recorder:
        for folder in (inside, outside):
            fd = os.open(folder / "file", os.O_CREAT | os.O_WRONLY)
            os.write(fd, b"x")
            os.close(fd)
    heard = list(recorder.events)
    fd = os.open(inside / "later", os.O_CREAT | os.O_WRONLY)
    os.close(fd)

    assert [(event.kind, event.path) for event in heard] == [("make", "file"), ("write", "file")]
    assert recorder.events == heard

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from standby.blobs.local import LocalBlobs
from standby.errors import BlobError
from standby.ids import make_id
from standby.records import BatchId


@pytest.fixture
async def blobs(tmp_path: Path) -> AsyncIterator[LocalBlobs]:
    """An open room in an empty folder."""
    room = LocalBlobs(tmp_path)
    await room.open()
    yield room
    await room.close()


async def adopted(blobs: LocalBlobs, body: bytes = b"0123456789") -> BatchId:
    """Spool a body and a plan and keep them."""
    spool = await blobs.spool()
    await spool.write(body)
    plan = spool.path.with_name("plan")
    plan.write_bytes(b"plan")
    batch_id = BatchId(make_id("msgbatch"))
    await blobs.adopt(batch_id, items=spool, plan=plan)
    await spool.discard()
    return batch_id


async def test_an_upload_becomes_the_batchs_items_and_leaves_the_spool(blobs: LocalBlobs, tmp_path: Path) -> None:
    """The body is moved, not copied; reads see any range of it."""
    batch_id = await adopted(blobs)

    assert await blobs.read(f"{batch_id}/items", start=2, end=5) == b"234"
    assert await blobs.read(f"{batch_id}/plan", start=0, end=4) == b"plan"
    assert list((tmp_path / "spool").iterdir()) == []


async def test_a_discarded_upload_leaves_nothing(blobs: LocalBlobs, tmp_path: Path) -> None:
    """Twice is as good as once."""
    spool = await blobs.spool()
    await spool.write(b"x")
    await spool.discard()
    await spool.discard()

    assert list((tmp_path / "spool").iterdir()) == []


async def test_uploads_cut_off_by_a_crash_are_gone_after_the_next_open(blobs: LocalBlobs, tmp_path: Path) -> None:
    """What was spooled and not adopted is removed when the room opens."""
    spool = await blobs.spool()
    await spool.write(b"half of a bo")
    again = LocalBlobs(tmp_path)
    await again.open()

    assert list((tmp_path / "spool").iterdir()) == []


async def test_appends_grow_a_segment_and_may_be_repeated(blobs: LocalBlobs) -> None:
    """The same append twice is one; a longer one at the same place replaces an uncommitted tail."""
    key = f"{await adopted(blobs)}/segments/00000-1.jsonl"
    await blobs.append(key, b"one\n", at=0)
    await blobs.append(key, b"two\n", at=4)
    await blobs.append(key, b"two\n", at=4)
    await blobs.append(key, b"TWO and three\n", at=4)

    assert await blobs.read(key, start=0, end=18) == b"one\nTWO and three\n"


async def test_a_segment_that_was_never_begun_cannot_be_continued(blobs: LocalBlobs) -> None:
    """A lost file is an error, not a hole."""
    key = f"{await adopted(blobs)}/segments/00000-1.jsonl"
    with pytest.raises(BlobError, match="No such file"):
        await blobs.append(key, b"x", at=9)


async def test_bytes_that_are_not_there_are_an_error(blobs: LocalBlobs) -> None:
    """A read or stream beyond the end never comes back short."""
    key = f"{await adopted(blobs)}/items"
    with pytest.raises(BlobError):
        await blobs.read(key, start=5, end=11)
    with pytest.raises(BlobError):
        await blobs.read(key, start=50, end=60)
    with pytest.raises(BlobError):
        [piece async for piece in blobs.stream("msgbatch_none/items", start=0, end=1)]


async def test_a_stream_gives_the_bytes_in_pieces(blobs: LocalBlobs) -> None:
    """Pieces of at most 1 MiB that add up."""
    body = bytes(range(256)) * 10_000
    key = f"{await adopted(blobs, body)}/items"

    pieces = [piece async for piece in blobs.stream(key, start=3, end=len(body) - 5)]

    assert b"".join(pieces) == body[3:-5]
    assert max(len(piece) for piece in pieces) <= 1 << 20


async def test_erasing_removes_all_of_a_batch_and_nothing_else(blobs: LocalBlobs) -> None:
    """Twice is as good as once."""
    first, second = await adopted(blobs), await adopted(blobs)
    await blobs.erase(first)
    await blobs.erase(first)

    assert await blobs.list_batches() == [second]
    assert await blobs.size(f"{second}/items") == 10

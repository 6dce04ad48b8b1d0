from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from standby.errors import ApiError, BlobError, EngineError, Failure, InvalidParams
from standby.records import BatchId, Queue
from standby.scheduler.inspection import inspect
from standby.states import BatchState


async def test_an_items_walk_ends_in_one_result_each(house: Any, make_item: Callable[..., Any]) -> None:
    """Good items succeed at the batch tier, a bad one is errored in the contract's words, counts add up."""
    items = [make_item(f"i{n}", text=f"number {n}") for n in range(50)]
    items.append({"custom_id": "bad", "params": {"model": "claude-haiku-4-5", "max_tokens": 5}})

    batch = await house.until_ended(await house.submit(items))

    rows = await house.rows(batch.id)
    assert (batch.counts.succeeded, batch.counts.errored, batch.counts.processing) == (50, 1, 0)
    assert set(rows) == {entry["custom_id"] for entry in items}
    assert rows["bad"]["error"]["error"]["message"] == "messages: Field required"
    assert {row["message"]["usage"]["service_tier"] for name, row in rows.items() if name != "bad"} == {"batch"}
    assert await inspect(house.store, house.blobs) == []


async def test_an_unknown_model_errs_only_its_own_item(house: Any, make_item: Callable[..., Any]) -> None:
    """`not_found_error`, `model: <name>`; its neighbours succeed."""
    batch = await house.until_ended(await house.submit([make_item("a"), make_item("b", model="gpt-x")]))

    rows = await house.rows(batch.id)
    assert rows["a"]["type"] == "succeeded"
    assert rows["b"]["error"]["error"] == {"type": "not_found_error", "message": "model: gpt-x"}


async def test_an_overloaded_engine_delays_and_fails_nobody(house: Any, make_item: Callable[..., Any]) -> None:
    """Every item is refused twice and then answered."""
    refused: Counter[str] = Counter()

    def fault(params: Any, attempt: int) -> EngineError | None:
        text = str(params.messages[0].content)
        refused[text] += 1
        return EngineError(Failure.OVERLOADED, "busy") if refused[text] <= 2 else None

    house.engine.fault = fault

    batch = await house.until_ended(await house.submit([make_item(f"i{n}", text=f"t{n}") for n in range(5)]))

    assert batch.counts.succeeded == 5
    assert set(refused.values()) == {3}


async def test_an_attempt_that_always_breaks_is_errored_in_the_end(house: Any, make_item: Callable[..., Any]) -> None:
    """After the set number of attempts, with `api_error`."""
    seen = 0

    def fault(params: Any, attempt: int) -> EngineError | None:
        nonlocal seen
        seen += 1
        return EngineError(Failure.BROKEN, "The engine broke off")

    house.engine.fault = fault
    batch = await house.until_ended(await house.submit([make_item("a")]))

    rows = await house.rows(batch.id)
    assert rows["a"]["error"]["error"] == {"type": "api_error", "message": "The engine broke off"}
    assert seen == house.worker_settings.attempts


async def test_cancel_keeps_what_is_finished(house: Any, make_item: Callable[..., Any]) -> None:
    """Finished items stay succeeded, all others become canceled, each exactly once."""
    batch_id = await house.submit([make_item(f"i{n}", text=f"t{n}") for n in range(200)])
    running = await house.until(lambda batch: batch.counts.succeeded >= 10, batch_id)
    assert running.state is BatchState.IN_PROGRESS

    await house.store.cancel_batch(house.workspace, batch_id, now_us=house.now_us())
    batch = await house.until_ended(batch_id)

    rows = await house.rows(batch_id)
    kinds = Counter(row["type"] for row in rows.values())
    assert len(rows) == 200
    assert kinds["succeeded"] == batch.counts.succeeded >= 10
    assert kinds["canceled"] == batch.counts.canceled == 200 - kinds["succeeded"]


async def test_what_has_not_run_by_the_end_of_the_window_is_expired(house: Any, make_item: Callable[..., Any]) -> None:
    """At 24 hours the batch ends; nothing is dispatched after it."""
    batch_id = await house.submit([make_item(f"i{n}", text=f"t{n}") for n in range(100)])
    await house.until(lambda batch: batch.counts.succeeded >= 10, batch_id)

    house.pass_s(24 * 3600)
    batch = await house.until_ended(batch_id)

    assert batch.counts.expired > 0
    assert batch.counts.expired + batch.counts.succeeded == 100
    assert Counter(row["type"] for row in (await house.rows(batch_id)).values())["expired"] == batch.counts.expired


async def test_a_worker_that_lost_its_lease_adds_nothing(house: Any, make_item: Callable[..., Any]) -> None:
    """Another takes over after the lease; the late one's rows are dropped, every item has one row."""
    batch_id = await house.submit([make_item(f"i{n}", text=f"t{n}") for n in range(40)])
    late = house.worker
    house.pass_s(1)
    await late.run_once()
    await asyncio.sleep(0)

    house.pass_s(house.worker_settings.lease_s + 1)
    house.worker = house.new_worker()
    batch = await house.until_ended(batch_id)
    before = await house.rows(batch_id)
    for _ in range(3):
        await late.committer.run_once()
        await late.run_once()

    assert batch.counts.succeeded == 40
    assert await house.rows(batch_id) == before
    assert await inspect(house.store, house.blobs) == []


async def test_renewal_keeps_a_run_and_notices_a_lost_one(house: Any, make_item: Callable[..., Any]) -> None:
    """With a heartbeat nobody else gets the run; without one it is taken and the holder lets go."""
    await house.submit([make_item(f"i{n}", text=f"t{n}") for n in range(10)])
    first, second = house.worker, house.new_worker()
    house.pass_s(1)
    await first.run_once()
    house.pass_s(house.worker_settings.lease_s - 1)
    await first.renew_once()
    house.pass_s(house.worker_settings.lease_s - 1)

    assert await house.store.backlogs(now_us=house.now_us()) == []

    house.pass_s(2)
    await second.run_once()
    await first.renew_once()
    await first.run_once()
    assert house.meters.leases_lost._value.get() == 1


async def test_a_disk_that_refuses_for_a_while_costs_nothing(house: Any, make_item: Callable[..., Any]) -> None:
    """Rows wait until the disk takes them; each stands there once."""
    real, refusals = house.blobs.append, 3

    async def append(key: str, data: bytes, *, at: int) -> None:
        nonlocal refusals
        if refusals:
            refusals -= 1
            raise BlobError("cannot write: No space left on device")
        await real(key, data, at=at)

    house.blobs.append = append
    batch_id = await house.submit([make_item(f"i{n}", text=f"t{n}") for n in range(20)])
    for _ in range(200):
        try:
            await house.turn()
        except BlobError:
            continue
        if not refusals:
            break

    batch = await house.until_ended(batch_id)
    assert batch.counts.succeeded == len(await house.rows(batch_id)) == 20


async def test_a_damaged_item_is_reported_and_never_sent(
    house: Any, make_item: Callable[..., Any], tmp_path: Path
) -> None:
    """A flipped bit in the stored request makes that item errored; the doctor names it."""
    batch_id = await house.submit([make_item("a", text="AAAA"), make_item("b", text="BBBB")])
    path = tmp_path / "batches" / batch_id / "items"
    path.write_bytes(path.read_bytes().replace(b"BBBB", b"BBBC"))

    await house.until_ended(batch_id)

    rows = await house.rows(batch_id)
    assert rows["a"]["type"] == "succeeded"
    assert rows["b"]["error"]["error"]["type"] == "api_error"
    assert any("item 1 does not match its checksum" in fault for fault in await inspect(house.store, house.blobs))


async def test_results_are_archived_after_their_time_and_erased(
    house: Any, make_item: Callable[..., Any], tmp_path: Path
) -> None:
    """29 days after `created_at` the batch stays readable, its bytes are gone."""
    batch = await house.until_ended(await house.submit([make_item("a")]))
    house.pass_s(29 * 24 * 3600)
    await house.turn()

    archived = await house.store.get_batch(house.workspace, batch.id)
    assert archived.archived_us is not None
    assert archived.counts == batch.counts
    assert list((tmp_path / "batches").iterdir()) == []


async def test_a_refused_create_leaves_no_trace(house: Any, make_item: Callable[..., Any], tmp_path: Path) -> None:
    """No row, no file, for a small body and for one that a child process splits."""
    twice = [make_item("a"), make_item("a")]
    large = [make_item(f"i{n}", text="x" * 4000) for n in range(400)] + twice
    for items in (twice, large):
        with pytest.raises(InvalidParams, match="Duplicate custom_id found: a"):
            await house.submit(items)

    assert (await house.store.list_batches(house.workspace, limit=10, after=None, before=None)).batches == ()
    assert [*(tmp_path / "batches").iterdir(), *(tmp_path / "spool").iterdir()] == []


async def test_a_large_body_goes_the_same_way(house: Any, make_item: Callable[..., Any]) -> None:
    """Several windows, split in a child process."""
    batch_id = await house.submit([make_item(f"i{n}", text=f"{n} " * 900) for n in range(2000)])

    assert (await house.until_ended(batch_id)).counts.succeeded == 2000


async def test_an_sdk_retry_returns_the_batch_of_the_first_try(house: Any, make_item: Callable[..., Any]) -> None:
    """Also while the first try is still on its way; a later create without the mark is a new batch."""
    items = [make_item("a")]
    trying = asyncio.ensure_future(house.submit(items))
    while not house.intake._twins:  # noqa: ASYNC110 - the turn that it takes is the signal
        await asyncio.sleep(0)
    retried = await house.submit(items, is_sdk_retry=True)
    first = await trying
    again = await house.submit(items)

    assert first == retried
    assert again != first


async def test_an_idempotency_key_makes_one_batch(house: Any, make_item: Callable[..., Any]) -> None:
    """The same key and body twice is one batch, and no orphan remains."""
    ids = {await house.submit([make_item("a")], idempotency_key="k") for _ in range(3)}

    assert len(ids) == 1
    assert await house.blobs.list_batches() == [BatchId(next(iter(ids)))]


async def test_orphans_are_removed(house: Any, make_item: Callable[..., Any], tmp_path: Path) -> None:
    """A folder that a crash left before its batch was accepted goes; others stay."""
    kept = await house.submit([make_item("a")])
    orphan = tmp_path / "batches" / ("msgbatch_01" + "A" * 22)
    orphan.mkdir()

    assert await house.sweeper.remove_orphans() == 1
    assert await house.blobs.list_batches() == [kept]


async def test_a_drained_worker_leaves_nothing_half_done(house: Any, make_item: Callable[..., Any]) -> None:
    """What is in flight is finished and committed, the rest given back and done by the next worker."""
    batch_id = await house.submit([make_item(f"i{n}", text=f"t{n}") for n in range(100)])
    house.pass_s(1)
    await house.worker.run_once()

    await house.worker.drain(grace_s=5)
    settled = len(await house.rows(batch_id))
    backlogs = await house.store.backlogs(now_us=house.now_us())
    house.worker = house.new_worker()
    await house.until_ended(batch_id)

    assert 0 < settled < 100
    assert [backlog.batch_id for backlog in backlogs] == [batch_id]
    assert len(await house.rows(batch_id)) == 100


async def test_the_queue_limit_holds_to_the_item(house: Any, make_item: Callable[..., Any], tmp_path: Path) -> None:
    """A batch that would overshoot is refused with 429 and leaves no trace; one that just fits is taken."""
    house.intake.room = Queue(items=5)
    await house.submit([make_item(f"i{n}") for n in range(3)])
    with pytest.raises(ApiError, match="3 are waiting, 3 more were sent, and the maximum is 5") as refused:
        await house.submit([make_item(f"i{n}") for n in range(3)])

    assert (refused.value.status, refused.value.type) == (429, "rate_limit_error")
    assert len(list((tmp_path / "batches").iterdir())) == 1
    await house.submit([make_item(f"i{n}") for n in range(2)])


async def test_a_new_idempotency_key_on_a_retry_means_another_batch(house: Any, make_item: Callable[..., Any]) -> None:
    """The key says more than the digest of the body."""
    first = await house.submit([make_item("a")], idempotency_key="one")
    second = await house.submit([make_item("a")], idempotency_key="two", is_sdk_retry=True)

    assert first != second


async def test_a_worker_that_slept_through_its_own_lease_goes_on(house: Any, make_item: Callable[..., Any]) -> None:
    """If nobody else took its runs meanwhile it keeps them, and no item is tried twice."""
    tried: Counter[str] = Counter()

    def count(params: Any, attempt: int) -> None:
        tried[str(params.messages[0].content)] += 1

    house.engine.fault = count
    batch_id = await house.submit([make_item(f"i{n}", text=f"t{n}") for n in range(40)])
    house.pass_s(1)
    await house.worker.run_once()
    held = list(house.worker._runs())
    house.pass_s(house.worker_settings.lease_s + 1)
    await house.worker.run_once()

    assert held
    assert not any(run.is_lost for run in held)
    assert (await house.until_ended(batch_id)).counts.succeeded == len(await house.rows(batch_id)) == 40
    assert set(tried.values()) == {1}

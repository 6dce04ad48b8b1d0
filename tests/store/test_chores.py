from __future__ import annotations

from dataclasses import replace

import pytest

from standby.errors import NotFound, StoreError
from standby.records import DAY, SECOND, Batch, BatchId, Counts, Reuse
from standby.states import BatchState, Outcome
from standby.store.base import Store
from tests.store.build import (
    LEASE_US,
    NOW,
    WINDOW_US,
    commit,
    created,
    ended,
    items_in,
    leased,
    records,
    seal_of,
    work_off,
)

GRACE_US = 10 * SECOND


async def closing(store: Store, now_us: int) -> set[BatchId]:
    """Ids of the batches that are to be sealed."""
    return {batch.id for batch in await store.batches_to_close(now_us=now_us, grace_us=GRACE_US)}


async def test_a_batch_is_closed_when_all_its_runs_are_done(store: Store) -> None:
    """A batch in progress is not to be closed until the last run is done."""
    batch = await created(store, (1, 1))
    one, two = await leased(store, batch.id), await leased(store, batch.id)
    await store.commit_segments([commit(one, [0], is_last=True), commit(two, [1])], now_us=NOW)
    before = await closing(store, NOW)
    await store.commit_segments([commit(two, [], start=10, is_last=True)], now_us=NOW)

    assert before == set()
    assert await closing(store, NOW) == {batch.id}


async def test_a_canceled_batch_waits_for_its_leases_or_the_grace(store: Store) -> None:
    """A canceling batch is closed when no lease is valid any more, at the latest when the grace is over."""
    idle, busy = await created(store), await created(store)
    await leased(store, busy.id)
    for batch in (idle, busy):
        await store.cancel_batch(batch.workspace_id, batch.id, now_us=NOW)

    assert await closing(store, NOW) == {idle.id}
    assert await closing(store, NOW + GRACE_US - 1) == {idle.id}
    assert await closing(store, NOW + GRACE_US) == {idle.id, busy.id}
    await store.release_runs(holder=None)
    assert await closing(store, NOW) == {idle.id, busy.id}


async def test_an_expired_batch_waits_for_its_leases_or_the_grace(store: Store) -> None:
    """From the moment of expiry a batch is closed by the same rule as a canceled one."""
    idle, busy = await created(store), await created(store)
    end = NOW + WINDOW_US
    await leased(store, busy.id, now_us=end - 1)

    assert await closing(store, end - 1) == set()
    assert await closing(store, end) == {idle.id}
    assert await closing(store, end + GRACE_US) == {idle.id, busy.id}


async def test_an_ended_batch_is_not_closed_again(store: Store) -> None:
    """Ended batches are no work for the sweeper."""
    await ended(store)

    assert await closing(store, NOW + WINDOW_US + GRACE_US) == set()


async def test_closed_runs_take_no_commit_and_no_lease(store: Store) -> None:
    """After the runs are closed the holder's results do not count, however they arrive."""
    batch = await created(store, (2, 1))
    run = await leased(store, batch.id)
    await store.commit_segments([commit(run, [0])], now_us=NOW)

    assert await store.close_runs(batch.id)

    assert await store.commit_segments([commit(run, [1], start=10)], now_us=NOW) == [False]
    fenced = replace(run, epoch=run.epoch + 1)
    assert await store.commit_segments([commit(fenced, [1])], now_us=NOW) == [False]
    assert await store.lease_run(batch.id, holder="w", now_us=NOW, until_us=NOW + 1) is None
    assert await store.renew_leases(holder="worker", now_us=NOW, until_us=NOW + 1) == set()
    assert await items_in(store, batch.id) == [0]
    assert await store.close_runs(batch.id)


async def test_runs_of_an_ended_or_unknown_batch_cannot_be_closed(store: Store) -> None:
    """Closing answers False when there is nothing to close."""
    batch = await ended(store)

    assert not await store.close_runs(batch.id)
    assert not await store.close_runs(BatchId("msgbatch_none"))


async def test_sealing_ends_a_finished_batch_with_its_counts(store: Store) -> None:
    """Sealing without rows freezes the sums of the manifest."""
    batch = await created(store, (2,))
    run = await leased(store, batch.id)
    await store.commit_segments([commit(run, [0, 1], counts=Counts(succeeded=1, errored=1), is_last=True)], now_us=NOW)

    assert await store.seal_batch(await seal_of(store, batch), now_us=NOW + 7)

    sealed = await store.get_batch(batch.workspace_id, batch.id)
    assert sealed.state is BatchState.ENDED
    assert sealed.ended_us == NOW + 7
    assert sealed.counts == Counts(succeeded=1, errored=1)


@pytest.mark.parametrize("outcome", ["canceled", "expired"])
async def test_sealing_adds_the_rows_of_items_that_never_ran(store: Store, outcome: str) -> None:
    """Rows, counts, state and ledger change in one step, and the added rows are served last."""
    batch = await created(store, (2, 2))
    run = await leased(store, batch.id)
    await store.commit_segments([commit(run, [1])], now_us=NOW)
    await store.close_runs(batch.id)
    seal = await seal_of(store, batch, outcome=outcome)

    assert await store.seal_batch(seal, now_us=NOW + 7)

    sealed = await store.get_batch(batch.workspace_id, batch.id)
    assert sealed.counts == Counts(succeeded=1, **{outcome: 3})
    assert await items_in(store, batch.id) == [1, 0, 2, 3]
    last = (await store.manifest(batch.id))[-1]
    assert (last.key, last.length, last.records) == (seal.key, seal.length, seal.records)
    assert (await store.count_results())[Outcome(outcome)] == 3


async def test_a_batch_is_sealed_once(store: Store) -> None:
    """A second seal answers False and changes nothing."""
    batch = await created(store, (2,))
    await store.close_runs(batch.id)
    seal = await seal_of(store, batch)
    await store.seal_batch(seal, now_us=NOW)
    before = await store.get_batch(batch.workspace_id, batch.id)

    assert not await store.seal_batch(replace(seal, key="other"), now_us=NOW + 9)
    assert not await store.seal_batch(replace(seal, batch_id=BatchId("msgbatch_none")), now_us=NOW)

    assert await store.get_batch(batch.workspace_id, batch.id) == before
    assert len(await store.manifest(batch.id)) == 1


async def test_a_batch_with_open_runs_is_not_sealed(store: Store) -> None:
    """As long as somebody could still commit, sealing is an error."""
    batch = await created(store, (2, 1))
    await leased(store, batch.id)

    with pytest.raises(StoreError, match="not done"):
        await store.seal_batch(await seal_of(store, batch), now_us=NOW)

    assert (await store.get_batch(batch.workspace_id, batch.id)).state is BatchState.IN_PROGRESS


@pytest.mark.parametrize("added", [0, 1, 3])
async def test_counts_that_do_not_add_up_are_not_sealed(store: Store, added: int) -> None:
    """Too few and too many rows are errors that change nothing."""
    batch = await created(store, (2,))
    await store.close_runs(batch.id)
    seal = replace(
        await seal_of(store, batch),
        records=records(range(added)),
        counts=Counts(canceled=added),
        key="k" if added else None,
    )

    with pytest.raises(StoreError, match="results for 2 items"):
        await store.seal_batch(seal, now_us=NOW)

    assert await store.manifest(batch.id) == []
    assert (await store.get_batch(batch.workspace_id, batch.id)).state is BatchState.IN_PROGRESS


@pytest.mark.parametrize("change", [{"key": None}, {"records": b""}, {"counts": Counts(canceled=1)}])
async def test_a_seal_that_contradicts_itself_is_an_error(store: Store, change: dict[str, object]) -> None:
    """Key, records and counts must speak of the same rows."""
    batch = await created(store, (2,))
    await store.close_runs(batch.id)

    with pytest.raises(StoreError):
        await store.seal_batch(replace(await seal_of(store, batch), **change), now_us=NOW)  # type: ignore[arg-type]


async def aged(store: Store) -> tuple[Batch, Batch, Batch]:
    """Make an old ended batch, a young ended one and an old one that still runs."""
    return await ended(store), await ended(store, now_us=NOW + DAY), await created(store)


async def test_archiving_takes_ended_batches_whose_time_is_over(store: Store) -> None:
    """The clock starts at the create; a batch is archived once, stays readable and owes its erasure."""
    old, young, running = await aged(store)

    assert await store.archive_due(now_us=NOW + 2 * DAY - 1, retention_us=2 * DAY) == []
    assert await store.archive_due(now_us=NOW + 2 * DAY, retention_us=2 * DAY) == [old.id]
    assert await store.archive_due(now_us=NOW + 2 * DAY, retention_us=2 * DAY) == []

    archived = await store.get_batch(old.workspace_id, old.id)
    assert archived == replace(old, archived_us=NOW + 2 * DAY)
    for other in (young, running):
        assert (await store.get_batch(other.workspace_id, other.id)).archived_us is None
    assert await store.erasures() == [old.id]


async def test_an_erased_archived_batch_keeps_its_row_and_counts(store: Store) -> None:
    """After the erasure an archived batch shows the same object; its manifest is gone, tokens and reuse are known."""
    old, *_ = await aged(store)
    tokens, reuse = await store.tokens_of(old.id), await store.reuse_of(old.id)
    await store.archive_due(now_us=NOW + 2 * DAY, retention_us=2 * DAY)

    await store.finish_erasure(old.id)

    assert await store.erasures() == []
    assert (await store.get_batch(old.workspace_id, old.id)).counts == old.counts
    assert await store.manifest(old.id) == []
    assert await store.tokens_of(old.id) == tokens
    assert await store.reuse_of(old.id) == reuse == Reuse(prompt=4 * old.size, reused=3 * old.size)
    assert await store.check() == []


async def test_an_erased_deleted_batch_is_forgotten_but_for_the_ledger(store: Store) -> None:
    """After the erasure nothing knows a deleted batch, and the totals still count it."""
    batch = await ended(store)
    await store.delete_batch(batch.workspace_id, batch.id)

    await store.finish_erasure(batch.id)

    assert await store.erasures() == []
    assert await store.known_batches([batch.id]) == set()
    assert (await store.count_results())[Outcome.SUCCEEDED] == batch.size
    assert await store.check() == []


async def test_an_archived_batch_can_be_deleted_and_erased_again(store: Store) -> None:
    """Deleting what was archived owes one more erasure, which removes the row."""
    old, *_ = await aged(store)
    await store.archive_due(now_us=NOW + 2 * DAY, retention_us=2 * DAY)
    await store.finish_erasure(old.id)

    await store.delete_batch(old.workspace_id, old.id)

    assert await store.erasures() == [old.id]
    assert await store.check() == []
    await store.finish_erasure(old.id)
    with pytest.raises(NotFound):
        await store.get_batch(old.workspace_id, old.id)
    assert await store.known_batches([old.id]) == set()


async def test_finishing_an_erasure_that_nobody_owes_changes_nothing(store: Store) -> None:
    """A stray call never takes results away."""
    batch = await ended(store)

    await store.finish_erasure(batch.id)
    await store.finish_erasure(BatchId("msgbatch_none"))

    assert len(await items_in(store, batch.id)) == batch.size


async def test_known_batches_tells_orphans_apart(store: Store) -> None:
    """Only ids with a row are known."""
    batch = await created(store)
    orphan = BatchId("msgbatch_orphan")

    assert await store.known_batches([batch.id, orphan]) == {batch.id}
    assert await store.known_batches([]) == set()


async def test_a_worked_off_store_is_sound(store: Store) -> None:
    """A check of a store in the middle of everything finds nothing wrong."""
    await aged(store)
    half = await created(store, (2, 2))
    run = await leased(store, half.id)
    await store.commit_segments([commit(run, [0])], now_us=NOW)
    done = await created(store, (2, 2))
    await work_off(store, done.id, now_us=NOW + LEASE_US)

    assert await store.check() == []

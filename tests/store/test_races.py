"""Two store objects on the same data, as two processes would be, at the same time."""

from __future__ import annotations

import asyncio

import pytest

from standby.errors import StoreError
from standby.records import Batch, Counts, LeasedRun, Origin, Workspace
from standby.states import BatchState
from standby.store.base import Store
from tests.store.build import (
    LEASE_US,
    NOW,
    commit,
    created,
    entries,
    items_in,
    leased,
    new_batch,
    seal_of,
    work_off,
)
from tests.store.conftest import Opener


@pytest.fixture
async def other(opener: Opener, store: Store) -> Store:
    """A second store object on the same data."""
    return await opener()


async def test_a_run_is_leased_to_one_of_many(store: Store, other: Store) -> None:
    """However many ask at once from two sides, every run has exactly one holder."""
    batch = await created(store, (1,) * 20)

    asked = [
        side.lease_run(batch.id, holder=f"w{n}", now_us=NOW, until_us=NOW + LEASE_US)
        for n in range(20)
        for side in (store, other)
    ]
    got = [run for run in await asyncio.gather(*asked) if run is not None]

    assert sorted(run.number for run in got) == list(range(20))
    assert {run.epoch for run in got} == {1}


async def test_two_workers_with_one_run_in_turn_never_both_count(store: Store, other: Store) -> None:
    """Old and new holder commit at the same moment: the new one counts, the old one never after the lease."""
    for _ in range(10):
        batch = await created(store, (2,))
        old = await leased(store, batch.id, holder="a")

        async def take(batch: Batch = batch) -> tuple[LeasedRun, list[bool]]:
            run = await leased(other, batch.id, holder="b", now_us=NOW + LEASE_US)
            left = [item for item in entries(run) if item not in run.finished]
            return run, await other.commit_segments([commit(run, left, is_last=True)], now_us=NOW)

        early, (new, late) = await asyncio.gather(
            store.commit_segments([commit(old, [0, 1], is_last=False)], now_us=NOW), take()
        )

        assert late == [True]
        assert (new.finished == {0, 1}) is early[0]
        assert sorted(await items_in(store, batch.id)) == [0, 1]


async def test_a_commit_races_the_closing_of_its_batch(store: Store, other: Store) -> None:
    """Either the commit came first and counts, or the fence did and the seal covers the item; never both."""
    for _ in range(10):
        batch = await created(store, (3,))
        run = await leased(store, batch.id)
        await store.cancel_batch(batch.workspace_id, batch.id, now_us=NOW)

        async def close(batch: Batch = batch) -> None:
            assert await other.close_runs(batch.id)
            assert await other.seal_batch(await seal_of(other, batch), now_us=NOW)

        (counted,), _ = await asyncio.gather(store.commit_segments([commit(run, [0, 1, 2])], now_us=NOW), close())

        sealed = await store.get_batch(batch.workspace_id, batch.id)
        assert sealed.counts == (Counts(succeeded=3) if counted else Counts(canceled=3))
        assert sorted(await items_in(store, batch.id)) == [0, 1, 2]
    assert await store.check() == []


async def test_a_cancel_races_the_seal(store: Store, other: Store) -> None:
    """A cancel that was answered before the seal is kept in the ended batch; one after it is a conflict."""
    for _ in range(10):
        batch = await created(store, (2,))
        await work_off(store, batch.id)
        seal = await seal_of(store, batch)

        canceled, sealed = await asyncio.gather(
            store.cancel_batch(batch.workspace_id, batch.id, now_us=NOW + 3),
            other.seal_batch(seal, now_us=NOW + 5),
            return_exceptions=True,
        )

        final = await store.get_batch(batch.workspace_id, batch.id)
        assert sealed is True
        assert final.state is BatchState.ENDED
        assert final.counts == Counts(succeeded=2)
        assert (final.cancel_initiated_us == NOW + 3) is not isinstance(canceled, StoreError)


async def test_one_batch_is_sealed_by_one(store: Store, other: Store) -> None:
    """Of two seals at once exactly one counts."""
    batch = await created(store, (2,))
    await store.close_runs(batch.id)
    seal = await seal_of(store, batch)

    answers = await asyncio.gather(store.seal_batch(seal, now_us=NOW), other.seal_batch(seal, now_us=NOW))

    assert sorted(answers) == [False, True]
    assert await store.check() == []


async def test_a_retry_beside_its_first_try_makes_one_batch(store: Store, other: Store, workspace: Workspace) -> None:
    """Creates with one idempotency key, all at once from two sides, make one batch."""
    origin = Origin(credential="key-1", body_digest=b"d", idempotency_key="k")

    made = await asyncio.gather(
        *(side.create_batch(new_batch(workspace.id, origin=origin), now_us=NOW) for side in [store, other] * 5)
    )

    assert len({answer.batch.id for answer in made}) == 1
    assert [answer.is_new for answer in made].count(True) == 1


async def test_a_canceled_task_leaves_no_half_of_a_verb(store: Store, workspace: Workspace) -> None:
    """Creates whose tasks are canceled at any moment are there with all their runs, or not at all."""
    news = [new_batch(workspace.id, (1,) * 50) for _ in range(20)]
    tasks = [asyncio.create_task(store.create_batch(new, now_us=NOW)) for new in news]
    for turns, task in enumerate(tasks):
        for _ in range(turns % 4):
            await asyncio.sleep(0)
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)

    known = await store.known_batches([new.id for new in news])
    assert await store.check() == []
    await created(store, (1,))
    for batch_id in known:
        await work_off(store, batch_id)
        assert len(await items_in(store, batch_id)) == 50


async def test_reads_go_on_beside_writes_and_see_whole_verbs(store: Store, other: Store) -> None:
    """Counts seen while results are committed always add up and only grow."""
    batch = await created(store, (1,) * 60)
    seen: list[Counts] = []

    async def watch() -> None:
        while not seen or seen[-1].processing:
            now = await other.get_batch(batch.workspace_id, batch.id)
            seen.append(now.counts)

    await asyncio.gather(work_off(store, batch.id), watch())

    assert all(counts.processing + counts.succeeded == 60 for counts in seen)
    assert [counts.succeeded for counts in seen] == sorted(counts.succeeded for counts in seen)

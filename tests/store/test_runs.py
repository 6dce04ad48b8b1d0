from __future__ import annotations

from dataclasses import replace

import pytest

from standby.errors import StoreError
from standby.records import DAY, SECOND, BatchId, Counts, Reuse, Tokens
from standby.states import Outcome
from standby.store.base import Store
from tests.store.build import (
    LEASE_US,
    NOW,
    WINDOW_US,
    commit,
    created,
    ended,
    entries,
    items_in,
    leased,
    records,
    seal_of,
    work_off,
)

ROWS = Counts(succeeded=1, errored=1, canceled=1)


async def test_runs_are_leased_in_plan_order_with_a_growing_epoch(store: Store) -> None:
    """Each lease takes the first free run; a run leased again has the next epoch."""
    batch = await created(store, (3, 2))

    first, second = await leased(store, batch.id), await leased(store, batch.id)
    none = await store.lease_run(batch.id, holder="other", now_us=NOW, until_us=NOW + LEASE_US)
    again = await leased(store, batch.id, now_us=NOW + LEASE_US)

    assert [(run.number, run.first, run.count, run.epoch) for run in (first, second, again)] == [
        (0, 0, 3, 1),
        (1, 3, 2, 1),
        (0, 0, 3, 2),
    ]
    assert none is None
    assert first.until_us == NOW + LEASE_US
    assert (first.workspace_id, first.expires_us) == (batch.workspace_id, batch.expires_us)


async def test_a_free_run_is_preferred_by_its_place_alone(store: Store) -> None:
    """Between a pending run and one whose lease is over, the earlier in the plan is leased first."""
    batch = await created(store, (1, 1, 1))
    await leased(store, batch.id, holder="a")
    await store.release_runs(holder="a")
    await leased(store, batch.id, holder="b")
    await leased(store, batch.id, holder="b")
    later = NOW + LEASE_US

    taken = [(await leased(store, batch.id, now_us=later)).number for _ in range(3)]

    assert taken == [0, 1, 2]


async def test_a_lease_tells_what_is_finished(store: Store) -> None:
    """Whoever leases a run again learns the items that earlier holders committed, over all epochs."""
    batch = await created(store, (5,))
    first = await leased(store, batch.id)
    await store.commit_segments([commit(first, [0, 3])], now_us=NOW)
    await store.commit_segments([commit(first, [1], start=20)], now_us=NOW)
    second = await leased(store, batch.id, now_us=NOW + LEASE_US)
    await store.commit_segments([commit(second, [4])], now_us=NOW)
    third = await leased(store, batch.id, now_us=NOW + 2 * LEASE_US)

    assert first.finished == frozenset()
    assert second.finished == {0, 1, 3}
    assert third.finished == {0, 1, 3, 4}


@pytest.mark.parametrize("what", ["canceling", "expired", "ended", "unknown"])
async def test_only_a_batch_in_progress_gives_runs(store: Store, what: str) -> None:
    """A batch that is canceling, expired, ended or unknown has nothing to lease, and no backlog."""
    batch = await (ended(store) if what == "ended" else created(store))
    now_us = NOW + WINDOW_US if what == "expired" else NOW
    if what == "canceling":
        await store.cancel_batch(batch.workspace_id, batch.id, now_us=NOW)
    batch_id = BatchId("msgbatch_none") if what == "unknown" else batch.id

    lease = await store.lease_run(batch_id, holder="w", now_us=now_us, until_us=now_us + LEASE_US)

    assert lease is None
    assert (await store.backlogs(now_us=now_us) == []) is (what != "unknown")
    assert await store.stopped_batches([batch_id], now_us=now_us) == {batch_id}


async def test_stopped_batches_names_only_those_that_stopped(store: Store) -> None:
    """Of several batches exactly those that must not be dispatched any more are named."""
    going, stopping = await created(store), await created(store)
    await store.cancel_batch(stopping.workspace_id, stopping.id, now_us=NOW)

    assert await store.stopped_batches([going.id, stopping.id], now_us=NOW) == {stopping.id}
    assert await store.stopped_batches([], now_us=NOW) == set()


async def test_a_batch_can_be_leased_until_the_moment_it_expires(store: Store) -> None:
    """The last microsecond still counts, the next does not."""
    batch = await created(store)
    end = batch.expires_us

    assert await store.lease_run(batch.id, holder="w", now_us=end, until_us=end + 1) is None
    assert await store.lease_run(batch.id, holder="w", now_us=end - 1, until_us=end + 1) is not None


async def test_backlogs_are_the_batches_with_something_to_lease_oldest_first(store: Store) -> None:
    """A batch is listed while a run is pending or its lease is over; only valid leases are counted."""
    young = await created(store, (1, 1, 1), now_us=NOW + SECOND)
    old = await created(store, (2,), now_us=NOW)
    busy = await created(store, (1,), now_us=NOW + 1)
    now_us = NOW + 2 * SECOND
    await leased(store, busy.id, now_us=now_us)
    await leased(store, young.id, now_us=now_us - LEASE_US)
    await leased(store, young.id, now_us=now_us)

    found = await store.backlogs(now_us=now_us)

    assert [(b.batch_id, b.leased_runs, b.pending_runs) for b in found] == [(old.id, 0, True), (young.id, 1, True)]
    assert (found[0].workspace_id, found[0].size) == (old.workspace_id, 2)
    assert (found[0].created_us, found[0].expires_us) == (old.created_us, old.expires_us)
    later = await store.backlogs(now_us=now_us + LEASE_US)
    assert [(b.batch_id, b.leased_runs) for b in later] == [(old.id, 0), (busy.id, 0), (young.id, 0)]


async def test_a_backlog_tells_what_is_left_of_its_runs(store: Store) -> None:
    """Items and cost of runs that are not done, leased ones included; a run counts whole until its last commit."""
    batch = await created(store, (3, 2, 4))
    run = await leased(store, batch.id)
    await store.commit_segments([commit(run, [0, 1])], now_us=NOW)

    (whole,) = await store.backlogs(now_us=NOW)
    await store.commit_segments([commit(run, [2], start=20, is_last=True)], now_us=NOW)
    (less,) = await store.backlogs(now_us=NOW)

    assert (whole.left_items, whole.left_cost) == (9, 90)
    assert (less.left_items, less.left_cost) == (6, 60)


async def test_a_finished_batch_has_no_backlog(store: Store) -> None:
    """With every run done there is nothing to lease."""
    batch = await created(store)
    await work_off(store, batch.id)

    assert await store.backlogs(now_us=NOW) == []


async def test_a_renewed_lease_lasts_and_names_what_is_still_held(store: Store) -> None:
    """Renewal extends all leases of the holder and of nobody else; the answer names them."""
    batch = await created(store, (1, 1, 1))
    await leased(store, batch.id, holder="a")
    await leased(store, batch.id, holder="a")
    await leased(store, batch.id, holder="b")
    later = NOW + LEASE_US

    held = await store.renew_leases(holder="a", now_us=later - 1, until_us=later + LEASE_US)
    taken = await leased(store, batch.id, holder="c", now_us=later)

    assert held == {(batch.id, 0), (batch.id, 1)}
    assert taken.number == 2
    assert await store.lease_run(batch.id, holder="c", now_us=later, until_us=later + 1) is None
    assert await store.renew_leases(holder="nobody", now_us=NOW, until_us=later) == set()


async def test_a_lease_that_ran_out_untaken_is_renewed_and_one_that_was_taken_is_lost(store: Store) -> None:
    """A late heartbeat saves the runs that nobody else leased meanwhile."""
    batch = await created(store, (1, 1))
    await leased(store, batch.id, holder="a")
    await leased(store, batch.id, holder="a")
    late = NOW + 2 * LEASE_US
    await leased(store, batch.id, holder="b", now_us=late)

    held = await store.renew_leases(holder="a", now_us=late, until_us=late + LEASE_US)

    assert held == {(batch.id, 1)}
    assert await store.lease_run(batch.id, holder="c", now_us=late, until_us=late + 1) is None


async def test_a_renewal_never_shortens_a_lease(store: Store) -> None:
    """A heartbeat that comes with an earlier end leaves the later one."""
    batch = await created(store, (1,))
    await leased(store, batch.id, holder="a")

    await store.renew_leases(holder="a", now_us=NOW, until_us=NOW + 1)

    assert await store.backlogs(now_us=NOW + LEASE_US - 1) == []


async def test_commits_make_results_counts_tokens_and_ledger_at_once(store: Store) -> None:
    """A commit is visible in manifest, counts, tokens and the ledger together, and adds to what was there."""
    batch = await created(store, (6,))
    run = await leased(store, batch.id)
    first = commit(run, [2, 0, 1], counts=ROWS, tokens=Tokens(input=1, write_5m=2, write_1h=3, read=4, output=5))
    second = replace(commit(run, [5], start=30), tokens=Tokens(input=10, output=20))

    assert await store.commit_segments([first], now_us=NOW) == [True]
    assert await store.commit_segments([second], now_us=NOW) == [True]

    (segment,) = await store.manifest(batch.id)
    assert (segment.run, segment.epoch, segment.key, segment.length) == (0, 1, first.key, 40)
    assert segment.records == first.records + second.records
    seen = await store.get_batch(batch.workspace_id, batch.id)
    assert seen.counts == Counts(processing=2, succeeded=2, errored=1, canceled=1)
    assert await store.tokens_of(batch.id) == {"input": 11, "write_5m": 2, "write_1h": 3, "read": 4, "output": 25}
    assert (await store.count_results())[Outcome.SUCCEEDED] == 2


async def test_what_engines_reused_is_committed_with_the_results(store: Store) -> None:
    """Sums grow with every commit that counts, also on another day or lease; one that does not count adds nothing."""
    batch = await created(store, (3, 2))
    one, two = await leased(store, batch.id), await leased(store, batch.id)
    first = commit(one, [0, 1], reuse=Reuse(prompt=1_000, reused=400))
    silent = commit(two, [3], reuse=Reuse())

    assert await store.reuse_of(batch.id) == Reuse()
    assert await store.commit_segments([first, silent], now_us=NOW) == [True, True]
    assert await store.commit_segments([first], now_us=NOW) == [False]
    assert await store.reuse_of(batch.id) == Reuse(prompt=1_000, reused=400)

    await store.release_runs(holder=None)
    again = await leased(store, batch.id, now_us=NOW + DAY // 2)
    late = commit(again, [2], reuse=Reuse(prompt=500, reused=499), is_last=True)
    lost = commit(one, [2], start=20, reuse=Reuse(prompt=7, reused=7))

    assert await store.commit_segments([late, lost], now_us=NOW + DAY) == [True, False]
    assert await store.reuse_of(batch.id) == Reuse(prompt=1_500, reused=899)
    assert await store.reuse_of(BatchId("msgbatch_none")) == Reuse()


async def test_a_commit_counts_once(store: Store) -> None:
    """The same commit a second time, or one with a gap, is refused by its start."""
    batch = await created(store, (3,))
    run = await leased(store, batch.id)
    once = commit(run, [0])

    answers = await store.commit_segments(
        [once, once, commit(run, [1], start=20), commit(run, [1], start=10)], now_us=NOW
    )

    assert answers == [True, False, False, True]
    assert await items_in(store, batch.id) == [0, 1]


async def test_a_commit_under_another_key_does_not_count(store: Store) -> None:
    """A segment never changes its blob."""
    batch = await created(store, (3,))
    run = await leased(store, batch.id)
    await store.commit_segments([commit(run, [0])], now_us=NOW)

    stray = replace(commit(run, [1], start=10), key="elsewhere")

    assert await store.commit_segments([stray], now_us=NOW) == [False]


async def test_one_refused_commit_does_not_hurt_the_others(store: Store) -> None:
    """Commits of one call are judged one by one."""
    stale_batch, batch = await created(store, (1,)), await created(store, (2, 2))
    stale = await leased(store, stale_batch.id)
    await leased(store, stale_batch.id, now_us=NOW + LEASE_US)
    one, two = await leased(store, batch.id), await leased(store, batch.id)

    answers = await store.commit_segments(
        [commit(one, [0, 1], is_last=True), commit(stale, [0]), commit(two, [2])], now_us=NOW
    )

    assert answers == [True, False, True]
    assert sorted(await items_in(store, batch.id)) == [0, 1, 2]
    assert await items_in(store, stale_batch.id) == []


async def test_a_stale_epoch_never_commits(store: Store) -> None:
    """After another worker leased the run, the first holder's results do not count, done or not."""
    batch = await created(store, (2,))
    old = await leased(store, batch.id, holder="a")
    new = await leased(store, batch.id, holder="b", now_us=NOW + LEASE_US)

    assert await store.commit_segments([commit(old, [0, 1], is_last=True)], now_us=NOW) == [False]
    assert await store.commit_segments([commit(new, [0, 1], is_last=True)], now_us=NOW) == [True]
    assert await store.commit_segments([commit(new, [0], start=20)], now_us=NOW) == [False]
    assert await items_in(store, batch.id) == [0, 1]


async def test_a_late_commit_counts_until_somebody_else_leases(store: Store) -> None:
    """After a run was given back its last holder may still commit, but not once it is leased again."""
    batch = await created(store, (3,))
    old = await leased(store, batch.id, holder="a")
    assert await store.release_runs(holder="a") == 1

    late = await store.commit_segments([commit(old, [0])], now_us=NOW)
    new = await leased(store, batch.id, holder="b")
    too_late = await store.commit_segments([commit(old, [1], start=10)], now_us=NOW)

    assert (late, too_late) == ([True], [False])
    assert new.finished == {0}
    assert new.epoch == old.epoch + 1


async def test_an_overdue_lease_still_commits_while_nobody_took_it(store: Store) -> None:
    """The end of a lease only allows others to take it."""
    batch = await created(store, (1,))
    run = await leased(store, batch.id)

    assert await store.commit_segments([commit(run, [0], is_last=True)], now_us=NOW + 5 * LEASE_US) == [True]


async def test_a_given_back_run_can_be_finished_by_its_last_commit(store: Store) -> None:
    """A last commit after the release makes the run done, so nobody leases it again."""
    batch = await created(store, (1,))
    run = await leased(store, batch.id, holder="a")
    await store.release_runs(holder="a")

    assert await store.commit_segments([commit(run, [0], is_last=True)], now_us=NOW) == [True]
    assert await store.backlogs(now_us=NOW) == []


async def test_nobody_commits_to_a_run_that_was_never_leased(store: Store) -> None:
    """A guess of epoch 0 is refused."""
    batch = await created(store, (1,))
    run = await leased(store, (await created(store, (1,))).id)

    guess = commit(replace(run, batch_id=batch.id, epoch=0), [0])

    assert await store.commit_segments([guess], now_us=NOW) == [False]


async def test_a_commit_without_rows_can_finish_a_run(store: Store) -> None:
    """A holder that finds everything done ends the run and leaves no empty segment."""
    batch = await created(store, (2,))
    first = await leased(store, batch.id)
    await store.commit_segments([commit(first, [0, 1])], now_us=NOW)
    second = await leased(store, batch.id, now_us=NOW + LEASE_US)

    assert await store.commit_segments([commit(second, [], is_last=True)], now_us=NOW) == [True]

    assert len(await store.manifest(batch.id)) == 1
    assert await store.backlogs(now_us=NOW + 9 * LEASE_US) == []


@pytest.mark.parametrize(
    "change",
    [
        {"records": records([0])},
        {"end": 0},
        {"start": 40, "end": 20},
        {"counts": Counts(succeeded=1)},
        {"records": b"x"},
    ],
)
async def test_a_commit_that_contradicts_itself_is_an_error(store: Store, change: dict[str, object]) -> None:
    """Counts, records and length must speak of the same rows; otherwise nothing of the call is stored."""
    batch = await created(store, (3,))
    run = await leased(store, batch.id)
    good = commit(run, [0, 1])

    with pytest.raises(StoreError):
        await store.commit_segments([good, replace(good, **change)], now_us=NOW)  # type: ignore[arg-type]

    assert await items_in(store, batch.id) == []


async def test_manifest_is_in_serving_order(store: Store) -> None:
    """Rows come by run, then epoch, whatever the order of the commits; what sealing added comes last."""
    batch = await created(store, (2, 2, 1))
    zero, one = await leased(store, batch.id), await leased(store, batch.id)
    await store.commit_segments([commit(one, [2]), commit(zero, [1])], now_us=NOW)
    later = NOW + LEASE_US
    zero_again = await leased(store, batch.id, now_us=later)
    await store.commit_segments([commit(zero_again, [0])], now_us=NOW)
    await store.close_runs(batch.id)
    assert await store.seal_batch(await seal_of(store, batch), now_us=later)

    order = [(segment.run, segment.epoch) for segment in await store.manifest(batch.id)]
    assert order[:3] == [(0, 1), (0, 2), (1, 1)]
    assert await items_in(store, batch.id) == [1, 0, 2, 3, 4]


async def test_release_gives_back_the_runs_of_one_holder_or_of_everybody(store: Store) -> None:
    """Given-back runs are pending at once and the answer counts them."""
    batch = await created(store, (1, 1, 1))
    for holder in ("a", "b", "b"):
        await leased(store, batch.id, holder=holder)

    assert await store.release_runs(holder="b") == 2
    assert (await store.backlogs(now_us=NOW))[0].leased_runs == 1
    assert await store.release_runs(holder=None) == 1
    assert await store.release_runs(holder=None) == 0
    assert (await store.backlogs(now_us=NOW))[0].leased_runs == 0


async def test_released_runs_keep_their_results(store: Store) -> None:
    """What was committed before the release is neither lost nor repeated."""
    batch = await created(store, (3,))
    run = await leased(store, batch.id, holder="a")
    await store.commit_segments([commit(run, [1])], now_us=NOW)
    await store.release_runs(holder=None)

    again = await leased(store, batch.id)

    assert again.finished == {1}
    assert set(entries(again)) == {0, 1, 2}

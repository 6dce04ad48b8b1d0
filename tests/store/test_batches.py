from __future__ import annotations

from dataclasses import replace

import pytest

from standby.errors import Conflict, NotFound, StoreError
from standby.ids import make_id
from standby.records import DAY, SECOND, BatchId, Counts, Origin, Rules, Slice, Workspace, WorkspaceId
from standby.states import BatchState
from standby.store.base import Store
from tests.store.build import NOW, created, ended, items_in, leased, new_batch, seal_of

MINUTE = 60 * SECOND
FIRST_TRY = Origin(credential="key-1", body_digest=b"body")
RETRY = replace(FIRST_TRY, is_sdk_retry=True)
KEYED = replace(FIRST_TRY, idempotency_key="order-7")


async def test_a_created_batch_is_what_was_asked_for_and_readable_at_once(store: Store, workspace: Workspace) -> None:
    """A new batch is in progress with every item in processing, and a read right after shows the same."""
    new = new_batch(workspace.id, (3, 2))

    made = await store.create_batch(new, now_us=NOW)

    assert made.is_new
    assert made.batch.state is BatchState.IN_PROGRESS
    assert made.batch.counts == Counts(processing=5)
    assert (made.batch.id, made.batch.size) == (new.id, 5)
    assert (made.batch.created_us, made.batch.expires_us) == (new.created_us, new.expires_us)
    assert made.batch.ended_us is made.batch.cancel_initiated_us is made.batch.archived_us is None
    assert await store.get_batch(workspace.id, new.id) == made.batch


async def test_the_rules_of_the_create_are_kept(store: Store, workspace: Workspace) -> None:
    """Version, betas and user profile come back as they were frozen."""
    rules = Rules(version="2026-10-21", betas=("b-1", 'quote"d'), user_profile_id="profile_1", simulate="doc-*=never")
    new = new_batch(workspace.id, rules=rules)
    await store.create_batch(new, now_us=NOW)

    assert await store.rules_of(new.id) == rules
    assert (await leased(store, new.id)).rules == rules


@pytest.mark.parametrize("runs", [(Slice(first=0, count=4),), (Slice(first=1, count=5),), ()])
async def test_runs_that_do_not_cover_the_batch_are_refused(
    store: Store, workspace: Workspace, runs: tuple[Slice, ...]
) -> None:
    """A create whose runs would leave items behind stores nothing."""
    new = replace(new_batch(workspace.id, (3, 2)), runs=runs)

    with pytest.raises(StoreError, match="runs: "):
        await store.create_batch(new, now_us=NOW)

    assert await store.known_batches([new.id]) == set()


async def test_an_unknown_workspace_gets_no_batch(store: Store) -> None:
    """A create for a workspace that does not exist is refused as a whole."""
    new = new_batch(WorkspaceId("wrkspc_none"))

    with pytest.raises(StoreError):
        await store.create_batch(new, now_us=NOW)

    assert await store.known_batches([new.id]) == set()


async def test_the_same_id_twice_is_refused_and_the_first_batch_stays(store: Store, workspace: Workspace) -> None:
    """A second create under a used id fails and changes nothing."""
    new = new_batch(workspace.id, (3, 2))
    await store.create_batch(new, now_us=NOW)

    with pytest.raises(StoreError):
        await store.create_batch(
            replace(new_batch(workspace.id, (1,)), id=new.id, origin=Origin(credential="x", body_digest=b"y")),
            now_us=NOW,
        )

    assert (await store.get_batch(workspace.id, new.id)).size == 5


@pytest.mark.parametrize(
    ("first", "second", "later_us", "is_twin"),
    [
        (KEYED, KEYED, 0, True),
        (KEYED, KEYED, DAY - 1, True),
        (KEYED, KEYED, DAY, False),
        (KEYED, replace(KEYED, credential="key-2"), 0, False),
        (KEYED, replace(KEYED, idempotency_key="order-8"), 0, False),
        (FIRST_TRY, FIRST_TRY, 0, False),
        (FIRST_TRY, RETRY, 0, True),
        (FIRST_TRY, RETRY, 10 * MINUTE - 1, True),
        (FIRST_TRY, RETRY, 10 * MINUTE, False),
        (FIRST_TRY, replace(RETRY, credential="key-2"), 0, False),
        (FIRST_TRY, replace(RETRY, body_digest=b"other"), 0, False),
        (RETRY, FIRST_TRY, 0, False),
    ],
)
async def test_twins(
    store: Store, workspace: Workspace, first: Origin, second: Origin, later_us: int, *, is_twin: bool
) -> None:
    """A create finds its twin by idempotency key for a day and, as an SDK's retry, by digest for ten minutes."""
    original = (await store.create_batch(new_batch(workspace.id, origin=first), now_us=NOW)).batch
    now_us = NOW + later_us
    again = new_batch(workspace.id, origin=second, now_us=now_us)

    found = await store.find_twin(workspace.id, again, now_us=now_us)
    answer = await store.create_batch(again, now_us=now_us)

    assert answer.is_new is not is_twin
    assert answer.batch.id == (original.id if is_twin else again.id)
    assert found == (original if is_twin else None)
    assert await store.known_batches([again.id]) == (set() if is_twin else {again.id})


async def test_an_idempotency_key_with_another_body_is_a_conflict(store: Store, workspace: Workspace) -> None:
    """The same key with another body is refused by the look-up and by the create, until the key is forgotten."""
    await store.create_batch(new_batch(workspace.id, origin=KEYED), now_us=NOW)
    other = new_batch(workspace.id, origin=replace(KEYED, body_digest=b"other", is_sdk_retry=True))

    with pytest.raises(Conflict, match="Idempotency-Key"):
        await store.find_twin(workspace.id, other, now_us=NOW)
    with pytest.raises(Conflict, match="Idempotency-Key"):
        await store.create_batch(other, now_us=NOW)

    assert (await store.create_batch(other, now_us=NOW + DAY)).is_new


async def test_another_workspace_has_no_twin_here(store: Store, workspace: Workspace) -> None:
    """Twins never cross a workspace, even with the same key and credential."""
    other = await store.create_workspace("other", now_us=NOW)
    await store.create_batch(new_batch(workspace.id, origin=replace(KEYED, is_sdk_retry=True)), now_us=NOW)
    new = new_batch(other.id, origin=replace(KEYED, is_sdk_retry=True))

    assert await store.find_twin(other.id, new, now_us=NOW) is None
    assert (await store.create_batch(new, now_us=NOW)).is_new


async def test_a_deleted_batch_is_nobodys_twin(store: Store, workspace: Workspace) -> None:
    """After its deletion a batch is not found again by key or digest."""
    origin = replace(KEYED, is_sdk_retry=True)
    new = new_batch(workspace.id, (1,), origin=origin)
    made = await store.create_batch(new, now_us=NOW)
    await store.close_runs(new.id)
    assert await store.seal_batch(await seal_of(store, made.batch), now_us=NOW)
    await store.delete_batch(workspace.id, new.id)
    again = new_batch(workspace.id, origin=origin)

    assert await store.find_twin(workspace.id, again, now_us=NOW) is None
    assert (await store.create_batch(again, now_us=NOW)).is_new


async def test_no_read_crosses_a_workspace(store: Store, workspace: Workspace) -> None:
    """Another workspace gets `NotFound` for reads, cancels and deletes, and does not see the batch in its list."""
    other = await store.create_workspace("other", now_us=NOW)
    batch = await created(store)

    with pytest.raises(NotFound, match=f"Message Batch {batch.id} not found"):
        await store.get_batch(other.id, batch.id)
    with pytest.raises(NotFound):
        await store.cancel_batch(other.id, batch.id, now_us=NOW)
    with pytest.raises(NotFound):
        await store.delete_batch(other.id, batch.id)
    page = await store.list_batches(other.id, limit=10, after=None, before=None)

    assert page.batches == ()
    assert (await store.get_batch(workspace.id, batch.id)).state is BatchState.IN_PROGRESS


async def test_cancel_keeps_its_first_time(store: Store) -> None:
    """The first cancel sets state and time, the second changes nothing."""
    batch = await created(store)

    first = await store.cancel_batch(batch.workspace_id, batch.id, now_us=NOW + 5)
    second = await store.cancel_batch(batch.workspace_id, batch.id, now_us=NOW + 9)

    assert first.state is BatchState.CANCELING
    assert first.cancel_initiated_us == NOW + 5
    assert second == first


async def test_an_ended_batch_cannot_be_canceled(store: Store) -> None:
    """Cancel after the end is a conflict and changes nothing."""
    batch = await ended(store)

    with pytest.raises(Conflict):
        await store.cancel_batch(batch.workspace_id, batch.id, now_us=NOW + 9)

    assert await store.get_batch(batch.workspace_id, batch.id) == batch


@pytest.mark.parametrize("is_canceled", [False, True])
async def test_only_an_ended_batch_can_be_deleted(store: Store, *, is_canceled: bool) -> None:
    """Deleting a batch that runs or is being canceled is a conflict in the contract's words."""
    batch = await created(store)
    if is_canceled:
        await store.cancel_batch(batch.workspace_id, batch.id, now_us=NOW)

    with pytest.raises(Conflict, match="In progress batches cannot be deleted"):
        await store.delete_batch(batch.workspace_id, batch.id)

    assert await store.erasures() == []


async def test_delete_hides_the_batch_and_owes_its_erasure(store: Store) -> None:
    """A deleted batch is gone from reads and lists, a second delete finds nothing, its folder is not an orphan yet."""
    batch = await ended(store)

    await store.delete_batch(batch.workspace_id, batch.id)

    with pytest.raises(NotFound):
        await store.get_batch(batch.workspace_id, batch.id)
    with pytest.raises(NotFound):
        await store.delete_batch(batch.workspace_id, batch.id)
    with pytest.raises(NotFound):
        await store.rules_of(batch.id)
    page = await store.list_batches(batch.workspace_id, limit=10, after=None, before=None)
    assert page.batches == ()
    assert await store.erasures() == [batch.id]
    assert await store.known_batches([batch.id]) == {batch.id}


async def test_lists_walk_down_and_up_without_gaps(store: Store, workspace: Workspace) -> None:
    """`after` walks to the oldest and `before` back to the newest, each page newest first and next to its cursor."""
    made = [(await created(store, (1,), now_us=NOW + n * SECOND)).id for n in range(7)]
    newest_first = made[::-1]

    down, cursor = [], None
    while True:
        page = await store.list_batches(workspace.id, limit=3, after=cursor, before=None)
        down.append([batch.id for batch in page.batches])
        if not page.has_more:
            break
        cursor = page.batches[-1].id
    up, cursor = [], made[0]
    while True:
        page = await store.list_batches(workspace.id, limit=3, after=None, before=cursor)
        up.append([batch.id for batch in page.batches])
        if not page.has_more:
            break
        cursor = page.batches[0].id

    assert down == [newest_first[0:3], newest_first[3:6], newest_first[6:]]
    assert up == [newest_first[3:6], newest_first[0:3]]


async def test_the_last_cursor_gives_an_empty_page(store: Store, workspace: Workspace) -> None:
    """After the oldest and before the newest there is nothing, and no more."""
    made = [(await created(store, (1,), now_us=NOW + n * SECOND)).id for n in range(2)]

    for page in (
        await store.list_batches(workspace.id, limit=5, after=made[0], before=None),
        await store.list_batches(workspace.id, limit=5, after=None, before=made[1]),
    ):
        assert page.batches == ()
        assert not page.has_more


async def test_before_wins_over_after(store: Store, workspace: Workspace) -> None:
    """With both cursors the page lies before `before`."""
    made = [(await created(store, (1,), now_us=NOW + n * SECOND)).id for n in range(3)]

    page = await store.list_batches(workspace.id, limit=5, after=made[2], before=made[1])

    assert [batch.id for batch in page.batches] == [made[2]]


async def test_a_deleted_cursor_still_marks_its_place(store: Store, workspace: Workspace) -> None:
    """Paging goes on from the id of a batch that was deleted, erased, or never was."""
    made = [await ended(store, (1,), now_us=NOW + n * SECOND) for n in range(4)]
    await store.delete_batch(workspace.id, made[1].id)
    await store.finish_erasure(made[1].id)
    between = BatchId(make_id("msgbatch", now_us=NOW + 3 * SECOND // 2))

    older = await store.list_batches(workspace.id, limit=5, after=made[1].id, before=None)
    newer = await store.list_batches(workspace.id, limit=1, after=None, before=made[1].id)
    around = await store.list_batches(workspace.id, limit=5, after=between, before=None)

    assert [batch.id for batch in older.batches] == [made[0].id]
    assert ([batch.id for batch in newer.batches], newer.has_more) == ([made[2].id], True)
    assert [batch.id for batch in around.batches] == [made[0].id]


async def test_lists_show_live_and_frozen_counts(store: Store, workspace: Workspace) -> None:
    """A page shows the same batches as single reads do."""
    await ended(store, now_us=NOW)
    running = await created(store, now_us=NOW + SECOND)
    await store.cancel_batch(workspace.id, running.id, now_us=NOW + SECOND)

    page = await store.list_batches(workspace.id, limit=5, after=None, before=None)

    assert [batch.counts for batch in page.batches] == [Counts(processing=5), Counts(succeeded=5)]
    assert list(page.batches) == [await store.get_batch(workspace.id, batch.id) for batch in page.batches]


async def test_an_ended_batch_has_every_item_in_its_manifest(store: Store) -> None:
    """The manifest of an ended batch names each item once."""
    batch = await ended(store, (4, 4, 2))

    assert sorted(await items_in(store, batch.id)) == list(range(10))

from __future__ import annotations

import pytest

from standby.errors import NotFound, StoreError
from standby.records import BatchId, PlanFacts, Queue, Workspace
from standby.states import Outcome
from standby.store.base import Store
from tests.store.build import NOW, commit, created, ended, leased, new_batch
from tests.store.conftest import Opener


async def test_batches_are_counted_by_state(store: Store) -> None:
    """Each state has its number, zero included; deleted batches are not counted."""
    await created(store)
    stopping = await created(store)
    await store.cancel_batch(stopping.workspace_id, stopping.id, now_us=NOW)
    gone = await ended(store)
    await store.delete_batch(gone.workspace_id, gone.id)

    assert await store.count_batches() == {"in_progress": 1, "canceling": 1, "ended": 0}


async def test_enqueued_items_are_those_without_a_result(store: Store, workspace: Workspace) -> None:
    """Only items of open batches of this workspace that have no result are counted."""
    batch = await created(store, (3, 2))
    run = await leased(store, batch.id)
    await store.commit_segments([commit(run, [0, 1])], now_us=NOW)
    stopping = await created(store, (4,))
    await store.cancel_batch(workspace.id, stopping.id, now_us=NOW)
    await ended(store)
    other = await store.create_workspace("other", now_us=NOW)

    assert (await store.queue_of(workspace.id)).items == 7
    assert await store.queue_of(other.id) == Queue()


async def test_results_are_counted_over_all_batches(store: Store) -> None:
    """A new store has none; afterwards every committed result counts once."""
    assert await store.count_results() == dict.fromkeys(Outcome, 0)

    await ended(store, (3,))
    await ended(store, (2, 2))

    assert await store.count_results() == dict.fromkeys(Outcome, 0) | {Outcome.SUCCEEDED: 7}


async def test_a_batch_without_results_has_no_tokens(store: Store) -> None:
    """The five columns are zero, not missing."""
    batch = await created(store)

    assert await store.tokens_of(batch.id) == {"input": 0, "write_5m": 0, "write_1h": 0, "read": 0, "output": 0}


async def test_rules_of_an_unknown_batch_are_not_found(store: Store) -> None:
    """There are no rules without a batch."""
    with pytest.raises(NotFound):
        await store.rules_of(BatchId("msgbatch_none"))


async def test_a_batch_keeps_what_its_plan_knows_until_it_is_deleted(store: Store, workspace: Workspace) -> None:
    """The facts of the plan come back as they were given; without a batch there are none."""
    facts = PlanFacts(prompt_tokens=1_000, shared_tokens=700, groups=3)
    new = new_batch(workspace.id, plan=facts)
    await store.create_batch(new, now_us=NOW)

    assert await store.plan_of(new.id) == facts
    gone = await ended(store)
    assert await store.plan_of(gone.id) == PlanFacts()
    await store.delete_batch(gone.workspace_id, gone.id)
    for batch_id in (gone.id, BatchId("msgbatch_none")):
        with pytest.raises(NotFound):
            await store.plan_of(batch_id)


async def test_everything_is_there_after_closing_and_opening_again(opener: Opener) -> None:
    """What a verb answered survives the end of the process; a closed store answers nothing."""
    store = await opener()
    batch = await ended(store)
    manifest = await store.manifest(batch.id)
    workspaces = await store.list_workspaces()
    await store.close()
    await store.close()

    with pytest.raises(StoreError):
        await store.get_batch(batch.workspace_id, batch.id)
    with pytest.raises(StoreError):
        await store.release_runs(holder=None)
    again = await opener()

    assert await again.get_batch(batch.workspace_id, batch.id) == batch
    assert await again.manifest(batch.id) == manifest
    assert await again.list_workspaces() == workspaces

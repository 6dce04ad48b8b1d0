"""Random walks through a store beside a reference model that holds each rule of the contract in one line."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import tempfile
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from standby.errors import Conflict, NotFound
from standby.records import SECOND, Batch, BatchId, Counts, LeasedRun, Seal, WorkspaceId
from standby.states import BATCH_MOVES, RUN_MOVES, BatchState, RunState
from standby.store.base import Store
from tests.store.build import NOW, commit, items_in, new_batch, records
from tests.store.conftest import STORES

T = TypeVar("T")
LEASE_US = 30 * SECOND
WINDOW_US = 500 * SECOND
RETENTION_US = 900 * SECOND
GRACE_US = 20 * SECOND
HOLDERS = ("a", "b")
SIZES = st.lists(st.integers(1, 3), min_size=1, max_size=3)
SELDOM = st.integers(0, 4).map(lambda n: (n + 3) % 5)


@dataclass
class ModelRun:
    """What should be true of a run."""

    first: int
    count: int
    state: RunState = RunState.PENDING
    epoch: int = 0
    holder: str | None = None
    until_us: int = 0

    def move(self, state: RunState) -> None:
        """Go to another state; the model itself obeys the table."""
        assert state in RUN_MOVES[self.state]
        self.state = state


@dataclass
class ModelBatch:
    """What should be true of a batch."""

    size: int
    created_us: int
    runs: list[ModelRun]
    state: BatchState = BatchState.IN_PROGRESS
    results: dict[int, str] = field(default_factory=dict)
    lengths: Counter[tuple[int, int]] = field(default_factory=Counter)
    canceled_us: int | None = None
    is_archived: bool = False
    is_deleted: bool = False

    def is_working(self, now_us: int) -> bool:
        """Whether it may be dispatched."""
        return self.state is BatchState.IN_PROGRESS and now_us < self.created_us + WINDOW_US

    def free_run(self, now_us: int) -> int | None:
        """The run that a lease must take."""
        return next(
            (
                number
                for number, run in enumerate(self.runs)
                if run.state is RunState.PENDING or (run.state is RunState.LEASED and run.until_us <= now_us)
            ),
            None,
        )

    def left(self) -> int:
        """Count the items of runs that are not done."""
        return sum(run.count for run in self.runs if run.state is not RunState.DONE)

    def is_closing(self, now_us: int) -> bool:
        """Whether the sweeper must close it."""
        if self.state is BatchState.ENDED:
            return False
        if self.is_working(now_us):
            return all(run.state is RunState.DONE for run in self.runs)
        stopped_us = min(self.canceled_us or self.created_us + WINDOW_US, self.created_us + WINDOW_US)
        leased = any(run.state is RunState.LEASED and run.until_us > now_us for run in self.runs)
        return now_us >= stopped_us + GRACE_US or not leased

    def counts(self) -> Counts:
        """Its counts."""
        totals = Counter(self.results.values())
        return Counts(processing=self.size - len(self.results), **totals)


class Walk(RuleBasedStateMachine):
    """Every rule calls one verb and says what it must answer; the invariants compare everything after each step."""

    kind = "sqlite"
    batches = Bundle("batches")
    leases = Bundle("leases")

    def __init__(self) -> None:
        """Open a new store on a loop of its own."""
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.loop = asyncio.new_event_loop()
        self.store: Store = STORES[self.kind](self.folder)
        self.now_us = NOW
        self.serial = itertools.count()
        self.model: dict[BatchId, ModelBatch] = {}
        self.owed: set[BatchId] = set()
        self.workspace_id = WorkspaceId("")

    def run(self, verb: Coroutine[Any, Any, T]) -> T:
        """Run one verb to its end."""
        return self.loop.run_until_complete(verb)

    @initialize(target=batches, sizes=SIZES)
    def open(self, sizes: list[int]) -> BatchId:
        """Begin with one batch, so that there is something to do."""
        self.run(self.store.open())
        self.workspace_id = self.run(self.store.list_workspaces())[0].id
        return self.create(sizes)

    def teardown(self) -> None:
        """Check the file once more and remove it."""
        try:
            assert self.run(self.store.check()) == []
        finally:
            self.run(self.store.close())
            self.run(self.loop.shutdown_default_executor())
            self.loop.close()
            shutil.rmtree(self.folder)

    @precondition(lambda self: sum(batch.state is not BatchState.ENDED for batch in self.model.values()) < 2)
    @rule(target=batches, sizes=SIZES)
    def create_another(self, sizes: list[int]) -> BatchId:
        """One more batch; few at a time, so that walks go deep."""
        return self.create(sizes)

    def create(self, sizes: list[int]) -> BatchId:
        """A create with the window of this model."""
        new = new_batch(self.workspace_id, sizes, now_us=self.now_us + next(self.serial) * 1000)
        created_us = self.now_us
        values = {name: getattr(new, name) for name in new.__slots__}
        new = type(new)(**values | {"created_us": created_us, "expires_us": created_us + WINDOW_US})
        assert self.run(self.store.create_batch(new, now_us=self.now_us)).is_new
        runs = [ModelRun(first=run.first, count=run.count) for run in new.runs]
        self.model[new.id] = ModelBatch(size=new.size, created_us=created_us, runs=runs)
        return new.id

    @rule(seconds=st.sampled_from([30, 10, 20, 29, 1, 30, 31, 470, 500]))
    def wait(self, seconds: int) -> None:
        """Time passes: leases run out, batches expire."""
        self.now_us += seconds * SECOND

    @rule(target=leases, batch_id=batches, holder=st.sampled_from(HOLDERS))
    def lease(self, batch_id: BatchId, holder: str) -> LeasedRun | MultipleResults[LeasedRun]:
        """I6: a lease takes the first free run with the next epoch, and tells what is finished."""
        batch = self.model.get(batch_id)
        number = batch.free_run(self.now_us) if batch and batch.is_working(self.now_us) else None
        until_us = self.now_us + LEASE_US
        got = self.run(self.store.lease_run(batch_id, holder=holder, now_us=self.now_us, until_us=until_us))
        if batch is None or number is None:
            assert got is None
            return multiple()
        run = batch.runs[number]
        run.move(RunState.LEASED)
        run.epoch, run.holder, run.until_us = run.epoch + 1, holder, until_us
        assert got is not None
        assert (got.number, got.first, got.count, got.epoch) == (number, run.first, run.count, run.epoch)
        assert got.finished == {item for item in batch.results if run.first <= item < run.first + run.count}
        return got

    @rule(
        held=leases, share=st.integers(0, 3), is_last=st.booleans(), outcome=st.sampled_from(["succeeded", "errored"])
    )
    def commit(self, held: LeasedRun, share: int, is_last: bool, outcome: str) -> None:  # noqa: FBT001
        """I6: a commit counts if and only if its epoch is the run's and its start is the segment's length."""
        batch = self.model.get(held.batch_id)
        done = set(batch.results) if batch else set()
        left = [item for item in range(held.first, held.first + held.count) if item not in done]
        items = left if is_last else left[:share]
        start = batch.lengths[held.number, held.epoch] if batch else 0
        wanted = commit(held, items, start=start, is_last=is_last, counts=Counts(**{outcome: len(items)}))
        (counted,) = self.run(self.store.commit_segments([wanted], now_us=self.now_us))
        run = batch.runs[held.number] if batch and batch.runs else None
        assert counted is (run is not None and run.state is not RunState.DONE and run.epoch == held.epoch)
        if counted and batch and run:
            batch.results |= dict.fromkeys(items, outcome)
            batch.lengths[held.number, held.epoch] += 10 * len(items)
            if is_last:
                run.move(RunState.DONE)

    @rule(
        target=leases,
        batch_id=batches,
        holder=st.sampled_from(HOLDERS),
        share=st.integers(0, 3),
        is_last=st.booleans(),
        overdue=st.sampled_from([0, LEASE_US, LEASE_US - 1]),
    )
    def work(
        self,
        batch_id: BatchId,
        holder: str,
        share: int,
        is_last: bool,  # noqa: FBT001
        overdue: int,
    ) -> LeasedRun | MultipleResults[LeasedRun]:
        """What workers do most: lease, commit something, and let time pass; the lease stays known for late commits."""
        held = self.lease(batch_id, holder)
        if not isinstance(held, LeasedRun):
            return held
        self.commit(held, share, is_last, "succeeded")
        self.now_us += overdue
        return held

    @rule(held=leases, start=st.integers(0, 40).filter(lambda n: n % 10))
    def commit_elsewhere(self, held: LeasedRun, start: int) -> None:
        """A commit that does not begin where the segment ends never counts."""
        wanted = commit(held, [held.first], start=start)
        assert self.run(self.store.commit_segments([wanted], now_us=self.now_us)) == [False]

    @rule(holder=st.sampled_from([*HOLDERS, None]))
    def release(self, holder: str | None) -> None:
        """Given-back runs are pending with the same epoch."""
        held = [run for run in self._runs(RunState.LEASED) if holder in (None, run.holder)]
        assert self.run(self.store.release_runs(holder=holder)) == len(held)
        for run in held:
            run.move(RunState.PENDING)

    @rule(holder=st.sampled_from(HOLDERS))
    def renew(self, holder: str) -> None:
        """A heartbeat keeps what nobody else took."""
        until_us = self.now_us + LEASE_US
        held = {
            (batch_id, number)
            for batch_id, batch in self.model.items()
            for number, run in enumerate(batch.runs)
            if run.state is RunState.LEASED and run.holder == holder
        }
        assert self.run(self.store.renew_leases(holder=holder, now_us=self.now_us, until_us=until_us)) == held
        for batch_id, number in held:
            self.model[batch_id].runs[number].until_us = until_us

    @rule(batch_id=batches, patience=SELDOM)
    def cancel(self, batch_id: BatchId, patience: int) -> None:
        """Only a visible batch that has not ended can be canceled."""
        batch = self._visible(batch_id)
        if batch is not None and patience:
            return
        if batch is None or batch.state is BatchState.ENDED:
            with pytest.raises(NotFound if batch is None else Conflict):
                self.run(self.store.cancel_batch(self.workspace_id, batch_id, now_us=self.now_us))
            return
        self.run(self.store.cancel_batch(self.workspace_id, batch_id, now_us=self.now_us))
        if batch.state is BatchState.IN_PROGRESS:
            self._move(batch, BatchState.CANCELING)
            batch.canceled_us = self.now_us

    @rule(batch_id=batches, patience=SELDOM)
    def close_at_once(self, batch_id: BatchId, patience: int) -> None:
        """Sometimes the runs of a batch are closed although it is not its time."""
        if not patience:
            self.close_runs(batch_id)

    def close_runs(self, batch_id: BatchId) -> None:
        """Closing fences everybody off."""
        batch = self.model.get(batch_id)
        is_open = batch is not None and batch.state is not BatchState.ENDED
        assert self.run(self.store.close_runs(batch_id)) is is_open
        if batch is not None and is_open:
            for run in batch.runs:
                run.state, run.epoch = RunState.DONE, run.epoch + 1

    @rule(batch_id=batches, outcome=st.sampled_from(["canceled", "expired"]), patience=SELDOM)
    def seal(self, batch_id: BatchId, outcome: str, patience: int) -> None:
        """The sweeper's two steps, close and seal what is missing; seldom before their time."""
        batch = self.model.get(batch_id)
        if batch is not None and patience and not batch.is_closing(self.now_us):
            return
        self.close_runs(batch_id)
        missing = [item for item in range(batch.size) if item not in batch.results] if batch else []
        seal = Seal(
            batch_id=batch_id,
            key="seal" if missing else None,
            length=10 * len(missing),
            records=records(missing),
            counts=Counts(**{outcome: len(missing)}),
        )
        is_open = batch is not None and batch.state is not BatchState.ENDED
        assert self.run(self.store.seal_batch(seal, now_us=self.now_us)) is is_open
        if batch is not None and is_open:
            self._move(batch, BatchState.ENDED)
            batch.results |= dict.fromkeys(missing, outcome)

    @rule(batch_id=batches)
    def delete(self, batch_id: BatchId) -> None:
        """Only a visible ended batch can be deleted."""
        batch = self._visible(batch_id)
        if batch is None or batch.state is not BatchState.ENDED:
            with pytest.raises(NotFound if batch is None else Conflict):
                self.run(self.store.delete_batch(self.workspace_id, batch_id))
            return
        self.run(self.store.delete_batch(self.workspace_id, batch_id))
        batch.is_deleted = True
        self.owed.add(batch_id)

    @rule()
    def archive(self) -> None:
        """Old ended batches are archived, once."""
        due = {
            batch_id
            for batch_id, batch in self.model.items()
            if batch.state is BatchState.ENDED
            and not (batch.is_archived or batch.is_deleted)
            and batch.created_us + RETENTION_US <= self.now_us
        }
        assert set(self.run(self.store.archive_due(now_us=self.now_us, retention_us=RETENTION_US))) == due
        for batch_id in due:
            self.model[batch_id].is_archived = True
        self.owed |= due

    @precondition(lambda self: self.owed)
    @rule()
    def erase(self) -> None:
        """An erased batch has no runs and no manifest; a deleted one no row either."""
        batch_id = min(self.owed)
        self.run(self.store.finish_erasure(batch_id))
        self.owed.discard(batch_id)
        if self.model[batch_id].is_deleted:
            del self.model[batch_id]
        else:
            self.model[batch_id].runs = []

    @invariant()
    def batches_agree(self) -> None:
        """I2: state and counts are those of the model, in the list as in single reads, and add up."""
        if not self.workspace_id:
            return
        page = self.run(self.store.list_batches(self.workspace_id, limit=1000, after=None, before=None))
        seen: dict[BatchId, Batch] = {batch.id: batch for batch in page.batches}
        assert [batch.id for batch in page.batches] == sorted(seen, reverse=True)
        assert set(seen) == {batch_id for batch_id, batch in self.model.items() if not batch.is_deleted}
        for batch_id, batch in seen.items():
            model = self.model[batch_id]
            assert (batch.state, batch.counts) == (model.state, model.counts())
            assert batch.cancel_initiated_us == model.canceled_us
            assert (batch.archived_us is not None) is model.is_archived

    @invariant()
    def manifests_agree(self) -> None:
        """I1: the manifest holds exactly the items that have a result, each once."""
        for batch_id, batch in self.model.items():
            if batch.runs:
                assert sorted(self.run(items_in(self.store, batch_id))) == sorted(batch.results)

    @invariant()
    def work_agrees(self) -> None:
        """Backlogs, closings, erasures and enqueued items are those of the model."""
        if not self.workspace_id:
            return
        now_us = self.now_us
        backlogs = {
            b.batch_id: (b.leased_runs, b.left_items, b.left_cost) for b in self.run(self.store.backlogs(now_us=now_us))
        }
        assert backlogs == {
            batch_id: (
                sum(run.state is RunState.LEASED and run.until_us > now_us for run in batch.runs),
                batch.left(),
                10 * batch.left(),
            )
            for batch_id, batch in self.model.items()
            if batch.is_working(now_us) and batch.free_run(now_us) is not None
        }
        closing = {batch.id for batch in self.run(self.store.batches_to_close(now_us=now_us, grace_us=GRACE_US))}
        assert closing == {batch_id for batch_id, batch in self.model.items() if batch.is_closing(now_us)}
        assert set(self.run(self.store.erasures())) == self.owed
        open_items = [b.size - len(b.results) for b in self.model.values() if b.state is not BatchState.ENDED]
        assert self.run(self.store.queue_of(self.workspace_id)).items == sum(open_items)

    def _runs(self, state: RunState) -> list[ModelRun]:
        return [run for batch in self.model.values() for run in batch.runs if run.state is state]

    def _visible(self, batch_id: BatchId) -> ModelBatch | None:
        batch = self.model.get(batch_id)
        return None if batch is None or batch.is_deleted else batch

    def _move(self, batch: ModelBatch, state: BatchState) -> None:
        assert state in BATCH_MOVES[batch.state]
        batch.state = state


@pytest.mark.parametrize("kind", sorted(STORES))
def test_a_store_does_what_the_model_says(kind: str) -> None:
    """No walk of creates, leases, commits, cancels, seals, deletes and archives leaves the reference model."""
    walk = type("Walk", (Walk,), {"kind": kind})
    quiet = settings(max_examples=40, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(walk, settings=quiet)
